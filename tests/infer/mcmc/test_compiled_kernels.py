"""Kernels that run a recorded or compiled graph make the draws that they make without it, or say why they cannot."""

import copy
import pickle
import random
import shutil
import warnings
from collections import Counter
from functools import partial

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import sbc_models
import torch
from cases import DISTRIBUTIONS, DistributionCase, tensors
from torch import Tensor
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

import pyro_manifold.distributions as mdist
from pyro_manifold.constraints import on
from pyro_manifold.geometry import ImplicitManifold, geometry
from pyro_manifold.infer import GeodesicHMC, GeodesicNUTS, recording
from pyro_manifold.infer.mcmc.transitions import nuts
from pyro_manifold.infer.recording import NotRecordableError, Recording

EYE = torch.eye(3, dtype=torch.float64)
QUICK = {"sphere", "rotations", "torus"}  # of the registry's models, in the default run
num = partial(torch.tensor, dtype=torch.float64)


def draws(kernel, *args, steps=3, warmup=3):
    """Of a few transitions, from a seed."""
    pyro.set_rng_seed(0)
    kernel.setup(warmup, *args)
    z, out = kernel.initial_params, []
    for _ in range(steps):
        z = kernel.sample(z)
        out.append(z)
    return {k: torch.stack([x[k] for x in out]) for k in z}


def nodes(kernel):
    """Nodes of the graph that the kernel runs; 0 without one."""
    recording = kernel._system.compiled._recording
    return 0 if recording is None else len(recording.graph.graph.nodes)


def compare(make, *args, tol=1e-9, whole=True, **kwargs):
    kernel = make(compile="trace", **kwargs)
    found, wanted = draws(kernel, *args), draws(make(**kwargs), *args)
    assert nodes(kernel) and kernel._system.compiled._whole == whole
    for k in wanted:
        torch.testing.assert_close(found[k], wanted[k], rtol=tol, atol=tol)
    return kernel


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in sbc_models.MODELS]
)
def test_models_of_the_registry(name):
    model = sbc_models.MODELS[name]
    y = pyro.poutine.trace(model).get_trace().nodes["y"]["value"]
    kind = GeodesicHMC if name in ("sphere", "rotations") else GeodesicNUTS
    compare(partial(kind, pyro.condition(model, {"y": y}), chains=3))


def mixture(y):
    """Two directions, which of them each datum has is enumerated; as many chains as there are are looped over."""
    with pyro.plate("components", 2):
        loc = pyro.sample("loc", mdist.ManifoldUniform(geoopt.Sphere(), 3, dtype=torch.float64))
    with pyro.plate("data", len(y)):
        which = pyro.sample("which", dist.Categorical(num([0.5, 0.5])), infer={"enumerate": "parallel"})
        pyro.sample("y", mdist.VonMisesFisher(loc[which], num(5.0)), obs=y)


def test_enumerated_sites_and_one_chain_at_a_time():
    kernel = compare(partial(GeodesicNUTS, mixture, chains=2, vectorize="loop"), EYE)
    assert kernel._system.compiled.rows == 1


def regression(x, y):
    """A direction, a dense pair of ordinary sites, plates in both orders."""
    z = pyro.sample("z", mdist.VonMisesFisher(EYE[0], num(2.0)))
    a = pyro.sample("a", dist.Normal(num(0.0), 1.0))
    s = pyro.sample("s", dist.LogNormal(num(0.0), 1.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(a[..., None] + (z.unsqueeze(-2) * x).sum(-1), s[..., None]), obs=y)


X, Y = (
    torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    num([0.1, 1, -1, 0.5, 2]),
)


@pytest.mark.parametrize(
    "options",
    [{"full_mass": True}, {"vectorize": "vmap"}, {"chains": 1}, {"isometries": {"z": "antipode"}}],
    ids=lambda o: next(iter(o)),
)
def test_options(options):
    compare(partial(GeodesicNUTS, regression, **{"chains": 3, **options}), X, Y)


def directed(x):
    """A direction with the density exp(z . sum of x)."""
    z = pyro.sample("z", mdist.ManifoldUniform(geoopt.Sphere(), 3, dtype=torch.float64))
    pyro.factor("f", (z.unsqueeze(-2) * x).sum((-1, -2)))


def test_data_of_the_next_run_are_not_those_of_the_last():
    """Nor are tensors that the model finds outside, changed in place or replaced."""
    kernel, outside = GeodesicHMC(directed, chains=2, compile="trace"), {"x": X.clone()}
    for x in (X, 2 * X, X[:2]):
        torch.testing.assert_close(draws(kernel, x), draws(GeodesicHMC(directed, chains=2), x))
        assert nodes(kernel)
    kernel.cleanup()

    def closed():
        directed(outside["x"])

    kernel = GeodesicHMC(closed, chains=2, compile="trace")
    before = draws(kernel)
    for change in (lambda: outside["x"].mul_(2), lambda: outside.update(x=-X)):
        change()
        after = draws(kernel)
        torch.testing.assert_close(after, draws(GeodesicHMC(closed, chains=2)))
        assert not torch.allclose(after["z"], before["z"])


def test_within_a_run_a_new_density_is_announced():
    """``clear_cache``, as Gibbs steps call it, records anew."""
    outside = {}

    def model():
        directed(20 * outside["loc"])

    kernels = [GeodesicNUTS(model, compile=how) for how in (False, "trace")]
    ends = []
    for kernel in kernels:
        outside["loc"] = num([0.0, 0.0, 1.0])
        draws(kernel)
        outside["loc"] = num([1.0, 0.0, 0.0])
        kernel.clear_cache()
        z = kernel.sample({"z": num([0.8, 0.6, 0.0])})
        ends.append(kernel.sample(z)["z"])
    torch.testing.assert_close(*ends)
    assert nodes(kernels[1])


def test_copies_and_pickles_in_the_middle_of_a_run():
    kernel = GeodesicNUTS(directed, chains=2, compile="trace")
    z = {k: v[-1] for k, v in draws(kernel, X).items()}
    found = []
    for other in (copy.deepcopy(kernel), pickle.loads(pickle.dumps(kernel)), kernel):
        pyro.set_rng_seed(1)
        found.append(other.sample(z)["z"])
        assert nodes(other) and torch.equal(found[-1], found[0])


# --- trees and trajectories as fixed shapes
def funnel(z):
    """A narrow neck: some chains diverge, some have deep trees."""
    return 0.5 * z["a"] ** 2 + 0.5 * z["x"].square().sum(-1) * (-2 * z["a"]).exp() + 3 * z["a"]


def toward(x):
    return lambda z: -3 * (z["x"] * x).sum(-1)


def centred(z):
    return z["x"][..., 0].acosh().square()


TARGETS = {
    "sphere": (toward(EYE[0]), {"x": geoopt.Sphere()}),
    "hyperbolic": (centred, {"x": geoopt.Lorentz()}),
    "funnel": (funnel, {}),
}


def start_of(name):
    potential, manifolds = TARGETS[name]
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5, 4 if name == "funnel" else 3, generator=g, dtype=torch.float64)
    if name == "funnel":
        return potential, manifolds, {"a": torch.randn(5, generator=g, dtype=torch.float64), "x": x}
    return potential, manifolds, {"x": geometry(manifolds["x"]).project(x)}


def kernels_of(name, kind, **options):
    """The same kernel without a graph and with one, set up."""
    potential, manifolds, start = start_of(name)
    kernels = []
    for how in (False, "trace"):
        kernel = kind(potential_fn=potential, manifolds=manifolds, chains=5, compile=how, **options)
        kernel.initial_params = start
        pyro.set_rng_seed(0)
        kernel.setup(30)
        kernels.append(kernel)
    return kernels


@pytest.mark.parametrize("kind", [GeodesicNUTS, GeodesicHMC], ids=lambda k: k.__name__)
@pytest.mark.parametrize("name", TARGETS)
def test_draws_and_figures_of_every_chain_are_those_without_a_graph(name, kind):
    """Through warm-up, with its windows, early ends and divergences, and after it."""
    found = []
    for kernel in kernels_of(name, kind):
        pyro.set_rng_seed(1)
        z, out = kernel.initial_params, []
        for _ in range(34):
            z = kernel.sample(z)
            out.append(z)
        found.append(({k: torch.stack([x[k] for x in out]) for k in z}, kernel.diagnostics()))
    assert nodes(kernel)
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-6, atol=1e-6)
    assert found[1][1]["gradients"] == found[0][1]["gradients"] > 5 * 34
    assert found[1][1]["divergences"] == found[0][1]["divergences"]


@pytest.mark.parametrize("early", [0.0, 0.9])
def test_trees_in_fixed_shapes_are_those_of_the_rows_that_grow(early):
    """One graph serves every leaf; with one call of it, and one look at a number, a leaf."""
    plain, traced = kernels_of("funnel", GeodesicNUTS, max_tree_depth=6)
    seen = []
    for step in (0.02, 0.3, 30.0):  # trees that are full, of several depths, of divergences
        for kernel in (plain, traced):
            pyro.set_rng_seed(2)
            counts = Counts()
            with counts:
                out = nuts(kernel._system, kernel._system.state(kernel._state.z), step, 6, early)
            if kernel is traced:
                assert counts["_local_scalar_dense"] == int(out.steps.max())
            seen.append(out)
        a, b = seen[-2:]
        torch.testing.assert_close(a.state.table, b.state.table)
        torch.testing.assert_close(a.accept_prob, b.accept_prob)
        assert torch.equal(a.steps, b.steps) and torch.equal(a.diverging, b.diverging)
    assert early or int(seen[0].steps.max()) == 63
    assert len(seen[2].steps.unique()) > 1 and seen[4].diverging.any()


class Counts(TorchDispatchMode):
    """How often each operator is called."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __getitem__(self, name):
        return self.calls[name]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_calls_of_graphs(monkeypatch):
    """One a leaf of NUTS or a step of HMC, and one where a transition begins."""
    calls = []
    plain = Recording.__call__
    monkeypatch.setattr(
        Recording, "__call__", lambda self, *inputs: calls.append(self) or plain(self, *inputs)
    )
    for kind in (GeodesicNUTS, GeodesicHMC):
        _, kernel = kernels_of("sphere", kind)
        calls.clear()
        with torch.no_grad():
            out = kernel._transition(kernel._state, 0.3)
        assert len(calls) == 1 + int(out.steps.max()) and len(set(map(id, calls))) == 2


def test_deeper_trees_than_there_was_room_for():
    plain, traced = kernels_of("sphere", GeodesicNUTS, max_tree_depth=1)
    for kernel in (plain, traced):
        kernel.max_tree_depth = 5
    ends = []
    for kernel in (plain, traced):
        pyro.set_rng_seed(3)
        ends.append(kernel._transition(kernel._state, 0.05))
    torch.testing.assert_close(ends[0].state.table, ends[1].state.table)
    assert int(ends[1].steps.max()) > 7 and traced._system.compiled.depth == 5


def test_projected_steps_compile_the_potential_alone():
    axes = torch.tensor([1.0, 2.0, 3.0])
    ellipsoid = ImplicitManifold(lambda x: (x.square() * axes).sum(-1) - 1, near=torch.eye(3)[0])

    def model():
        x = pyro.sample("x", dist.ImproperUniform(on(ellipsoid), (), (3,)))
        pyro.factor("f", x[..., 0])

    fixed = {"step_size": 0.2, "trajectory_length": 0.4, "adapt_step_size": False}
    compare(partial(GeodesicHMC, model, chains=2, **fixed), whole=False, tol=1e-3)  # float32


def test_matrices_that_do_not_factorise():
    """The chain whose matrix does not is alone."""

    def potential(z):
        return -torch.linalg.cholesky(EYE * z["x"][..., None, None]).diagonal(dim1=-2, dim2=-1).log().sum(-1)

    kernel = GeodesicHMC(potential_fn=potential, chains=3, compile="trace", vectorize="plates")
    kernel.initial_params = {"x": num([1.0, 2.0, 3.0])}
    kernel.setup(0)
    kernel.sample(kernel.initial_params)
    u, grad = kernel._system.evaluate({"x": num([1.0, -1.0, 2.0])})
    assert u.isfinite().tolist() == [True, False, True] and grad.isfinite().all() and nodes(kernel)


def test_failed_factorisations_of_a_recording():
    """They raise, without an operator that has effects, whose code torch's compiler does not keep on disk."""

    def log_det_and_solution(x, y):
        low, matrix = torch.linalg.cholesky(EYE * x), EYE * y
        return 2 * low.diagonal().log().sum(), torch.linalg.solve(matrix, EYE[0]), torch.linalg.inv(matrix)

    r = Recording(log_det_and_solution, (num(2.0), num(1.0)))
    assert not [n for n in r.graph.graph.nodes if "check_errors" in str(n.target)]
    torch.testing.assert_close(r(num(3.0), num(2.0)), log_det_and_solution(num(3.0), num(2.0)))
    for bad in ((num(-1.0), num(1.0)), (num(1.0), num(0.0))):
        with pytest.raises(RuntimeError, match="a matrix could not be factorised"):
            r(*bad)


# --- what cannot be had
def branching():
    z = pyro.sample("z", mdist.VonMisesFisher(EYE[0], num(2.0)))
    pyro.factor("f", z[..., 0] if bool((z[..., 0] > 0).all()) else z[..., 1])


def noisy():
    z = pyro.sample("z", mdist.VonMisesFisher(EYE[0], num(2.0)))
    pyro.factor("f", torch.rand((), dtype=z.dtype) * z[..., 0])


def wavering():
    z = pyro.sample("z", mdist.VonMisesFisher(EYE[0], num(2.0)))
    pyro.factor("f", 1e-3 * random.random() * z[..., 0])  # noqa: S311


@pytest.mark.parametrize(
    "model, args, reason",
    [
        (branching, (), "Python code branches on the value of a tensor at .*test_compiled_kernels.py:"),
        (noisy, (), "the model draws random numbers"),
        (wavering, (), "differs by"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_model_without_a_graph_is_evaluated_as_it_is(model, args, reason):
    kernel = GeodesicNUTS(model, compile="trace")
    with pytest.warns(
        UserWarning, match=f"compile: the potential is evaluated as without compile: .*{reason}"
    ):
        found = draws(kernel, *args)
    assert kernel._system.compiled._recording is None
    if model is branching:
        torch.testing.assert_close(found, draws(GeodesicNUTS(model)))


def test_a_compiler_that_fails_leaves_the_graph(monkeypatch):
    def broken(*_):
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(recording, "BACKEND", broken)
    kernel = GeodesicNUTS(directed, compile=True)
    with pytest.warns(UserWarning, match="recorded, but not compiled: .*no C.. compiler found"):
        found = draws(kernel, X)
    assert nodes(kernel)
    torch.testing.assert_close(found, draws(GeodesicNUTS(directed), X))


# --- recordings
def test_outputs_are_flat_for_the_compiler():
    """Inductor refuses graphs with lists within their outputs; callers get what the function returns."""
    r = Recording(lambda x: (x.sum(), [2 * x, 3 * x], {"a": x + 1}), (num([1.0, 2.0]),))
    (outputs,) = r.graph.graph.output_node().args
    assert isinstance(outputs, tuple) and all(isinstance(x, torch.fx.Node) for x in outputs)
    total, (double, triple), rest = r(num([1.0, 3.0]))
    assert (float(total), double.tolist(), triple.tolist(), rest["a"].tolist()) == (
        4.0,
        [2, 6],
        [3, 9],
        [2, 4],
    )


def test_tensors_from_outside_are_arguments():
    """So that one compiled function serves other data, and what is changed in place is changed each time anew."""
    a = num([1.0, 2.0])
    r = Recording(
        lambda x: torch.nn.Parameter(num([0.0, 1.0]), requires_grad=False).exp_() * x + a, (num([0.0, 0.0]),)
    )
    for _ in range(2):
        torch.testing.assert_close(r(num([1.0, 1.0])), num([2.0, 2.0 + torch.e]))
    a.add_(1)
    torch.testing.assert_close(r(num([1.0, 1.0])), num([3.0, 3.0 + torch.e]))
    with (
        pytest.raises(NotRecordableError),
        pyro.validation_enabled(False),
    ):  # the import of the compiler turns it off
        Recording(lambda x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)), (a,))
    with pytest.raises(NotRecordableError, match="random numbers"):
        Recording(lambda x: x + torch.randn(2), (a,))
    with pytest.raises(NotRecordableError, match="sizes depend on the values of a tensor"):
        Recording(lambda x: x[x > 0], (a,))
    assert Recording(lambda x: x[torch.tensor([1, 1, 0])], (a,))(num([5.0, 6.0])).tolist() == [6, 6, 5]


NOT_RECORDABLE: dict[str, str] = {}  # cases whose log_prob branches on values, and why


@pytest.mark.slow
@pytest.mark.parametrize("case", DISTRIBUTIONS, ids=lambda c: c.name)
def test_densities_are_recordable(case: DistributionCase, dtype: torch.dtype) -> None:
    """Value and gradient of every density as a graph, its parameters made within, are right for other values."""
    params = tensors(case.params, dtype=dtype)

    def potential(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            u = case.make(**params).log_prob(x)
            g = torch.autograd.grad(u.sum(), x, materialize_grads=True)[0] if u.requires_grad else x
        return u.detach(), g

    with pyro.validation_enabled(False):
        x, y = case.make(**params).sample((2, 3))
        if case.name in NOT_RECORDABLE:
            with pytest.raises(NotRecordableError):
                Recording(potential, (x,))
        else:
            torch.testing.assert_close(Recording(potential, (x,))(y), potential(y), rtol=1e-9, atol=1e-9)
    assert NOT_RECORDABLE.keys() <= {c.name for c in DISTRIBUTIONS}


# --- the real compiler
needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler"
)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    "kind, name", [(GeodesicHMC, "sphere"), *((GeodesicNUTS, n) for n in sbc_models.MODELS)]
)
def test_inductor_on_models_of_the_registry(kind, name):
    model = sbc_models.MODELS[name]
    y = pyro.poutine.trace(model).get_trace().nodes["y"]["value"]
    model = pyro.condition(model, {"y": y})
    kernel = kind(model, chains=3, compile=True)
    counters.clear()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "compile:")
        found = draws(kernel)
    assert not counters["inductor"]["fxgraph_cache_bypass"]  # later processes find the code on disk
    torch.testing.assert_close(found, draws(kind(model, chains=3)), rtol=1e-5, atol=1e-5)
    assert kernel._system.compiled._recording.run is not kernel._system.compiled._recording.graph
