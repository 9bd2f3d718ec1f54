"""Compiled ELBOs train as the ELBOs they are made of, or say why they cannot."""

import copy
import pickle
import random
import shutil
import warnings
from functools import partial

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule

import pyro_manifold.distributions as mdist
from pyro_manifold.infer import AutoManifoldNormal, CompiledELBO, RiemannianAdam, recording
from pyro_manifold.models import ManifoldVAE, PoincareVAE

num = partial(torch.tensor, dtype=torch.float64)
X = mdist.VonMisesFisher(num([0.0, 0.6, 0.8]), num(5.0)).sample((6,))


def adam():
    return pyro.optim.Adam({"lr": 0.05})


def recordings(elbo):
    """How many recordings the ELBO holds and has made."""
    return len(elbo._recorded), elbo._made


def train(model, guide, elbo, batches, optimiser=adam):
    """Losses and last parameters, from a seed."""
    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    svi = SVI(model, guide, optimiser(), elbo)
    losses = [svi.step(*x) if isinstance(x, tuple) else svi.step(x) for x in batches]
    return losses, {k: v.detach().clone() for k, v in pyro.get_param_store().items()}


def compare(make, batches, inner=Trace_ELBO, made=1, tol=1e-9, optimiser=adam, **options):
    """``make`` gives model and guide, each time new ones."""
    elbo = CompiledELBO(inner(), **{"compile": "trace", **options})
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "CompiledELBO")
        found = train(*make(), elbo, batches, optimiser)
    assert recordings(elbo) == (made, made)
    torch.testing.assert_close(found, train(*make(), inner(), batches, optimiser), rtol=tol, atol=tol)
    return elbo


def directions(x):
    """A direction, a scale and rows about it."""
    z = pyro.sample("z", mdist.ManifoldUniform(geoopt.Sphere(), 3, dtype=x.dtype))
    s = pyro.sample("s", dist.LogNormal(x.new_tensor(-1.0), 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(z, s.unsqueeze(-1)).to_event(1), obs=x)


def guided(model=directions, guide=AutoManifoldNormal):
    return model, guide(model)


def rejecting(x):
    """The guide has a von Mises-Fisher distribution in five dimensions, whose draws are made by rejection."""
    z = pyro.sample("z", mdist.ManifoldUniform(geoopt.Sphere(), 5, dtype=torch.float64))
    pyro.factor("f", 3 * z[..., 0])


def by_hand():
    """A guide with constrained parameters, of names that the model has too."""

    def model(x):
        scale = pyro.param("scale", num(1.0), constraint=dist.constraints.positive)
        z = pyro.sample("z", dist.Normal(num(0.0), scale))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0).expand([3]).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", num(0.3))
        scale = pyro.param("scale", num(1.0), constraint=dist.constraints.positive)
        pyro.sample("z", dist.Normal(loc, scale))

    return model, guide


def choices():
    """A discrete site in the guide, by its score; a subsample of the rows, drawn in the step."""

    def model(x):
        which = pyro.sample("which", dist.Bernoulli(num(0.5)))
        with pyro.plate("rows", len(x), subsample_size=2) as i:
            pyro.sample("x", mdist.VonMisesFisher(num([0.0, 0.0, 1.0]), 1 + which), obs=x[i])

    def guide(x):
        pyro.sample("which", dist.Bernoulli(logits=pyro.param("logit", num(0.2))))
        pyro.plate("rows", len(x), subsample_size=2)

    return model, guide


def clusters():
    """Two directions; which of them a row has is summed over."""

    def model(x):
        with pyro.plate("components", 2):
            z = pyro.sample("z", mdist.ManifoldUniform(geoopt.Sphere(), 3, dtype=x.dtype))
        with pyro.plate("rows", len(x)):
            which = pyro.sample("which", dist.Categorical(num([0.5, 0.5])), infer={"enumerate": "parallel"})
            pyro.sample("x", mdist.VonMisesFisher(z[which], num(5.0)), obs=x)

    return model, AutoManifoldNormal(pyro.poutine.block(model, hide=["which"]))


def vae(**options):
    torch.manual_seed(0)
    made = PoincareVAE(geoopt.PoincareBall(), 2, 3, hidden=4, likelihood="normal", **options).double()
    return made.model, made.guide


def vae_of_classes():
    torch.manual_seed(0)
    made = ManifoldVAE(geoopt.Sphere(), 2, 3, hidden=4, likelihood="categorical", classes=2).double()
    return (lambda x: made.model((x > 0).double())), (lambda x: made.guide((x > 0).double()))


@pytest.mark.parametrize(
    "make, inner, optimiser",
    [
        (guided, Trace_ELBO, adam),
        (guided, partial(Trace_ELBO, num_particles=2, vectorize_particles=True, max_plate_nesting=1), adam),
        pytest.param(
            guided,
            partial(Trace_ELBO, num_particles=2),
            partial(RiemannianAdam, {"lr": 0.05}),
            marks=pytest.mark.slow,
        ),
        (by_hand, Trace_ELBO, partial(pyro.optim.ClippedAdam, {"lr": 0.05})),
        (choices, Trace_ELBO, adam),
        (clusters, partial(TraceEnum_ELBO, max_plate_nesting=1), adam),
        (vae, Trace_ELBO, adam),
        (partial(vae, prior="riemannian", posterior="riemannian"), Trace_ELBO, adam),
        (partial(guided, rejecting), Trace_ELBO, adam),
        pytest.param(partial(vae, prior="riemannian"), TraceMeanField_ELBO, adam, marks=pytest.mark.slow),
        pytest.param(vae_of_classes, TraceMeanField_ELBO, adam, marks=pytest.mark.slow),
    ],
    ids=[
        "guide",
        "particles",
        "riemannian",
        "by hand",
        "score",
        "enumeration",
        "vae",
        "riemannian vae",
        "rejection",
        "mean field",
        "classes",
    ],
)
def test_training_takes_the_same_path(make, inner, optimiser):
    """So draws and subsamples are new at each step, and those that the seed gives."""
    compare(make, [X] * 4, inner, optimiser=optimiser)


def test_rounding_is_told_from_another_computation():
    """A large network in float32 puts points at the rim of the ball, where gradients differ by 7e-4 between ways to
    compute them, and parameters that are moved for a comparison must not put them further."""
    pyro.set_rng_seed(0)
    ball = geoopt.PoincareBall(1.4)
    made = PoincareVAE(
        ball, 10, 784, hidden=600, prior="riemannian", posterior="riemannian", decoder="wrapped"
    )
    elbo = CompiledELBO(compile="trace")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of points at the rim
        warnings.filterwarnings("error", "CompiledELBO")
        elbo.differentiable_loss(made.model, made.guide, (torch.rand(128, 784) < 0.3).float())
    assert recordings(elbo) == (1, 1)


def test_batches_are_arguments_and_their_sizes_are_recorded_once():
    batches = [X[:4], X[2:], X[:3], X[1:5], X[3:], (X.flip(0)[:3],)]
    compare(guided, batches, made=2)


def test_numbers_among_the_arguments():
    """Each value is recorded; True is not 1, and one tensor given twice is two arguments."""

    def make():
        def model(x, y, options, power=1.0):
            z = pyro.param("z", x.new_zeros(3))
            with (
                pyro.poutine.scale(scale=power if options["flag"] is not True else 2.0),
                pyro.plate("n", len(x)),
            ):
                pyro.sample("x", dist.Normal(z, 2.0).to_event(1), obs=x)
                pyro.sample("y", dist.Normal(z, 3.0).to_event(1), obs=y)

        return model, lambda *_: None

    other = X.flip(-1)
    batches = [
        (X, X, {"flag": 1}),
        (X, other, {"flag": 1}),
        (X, X, {"flag": True}),
        (other, X, {"flag": True}, 0.5),
    ]
    compare(make, [*batches, *batches], made=3)


def test_too_many_kinds_of_arguments():
    elbo = CompiledELBO(compile="trace", max_recordings=2)
    with pytest.warns(UserWarning, match="without compilation: 2 recordings have been made, max_recordings"):
        found = train(*by_hand(), elbo, [X[:n] for n in (1, 2, 3, 4, 5)])
    torch.testing.assert_close(found, train(*by_hand(), Trace_ELBO(), [X[:n] for n in (1, 2, 3, 4, 5)]))
    assert recordings(elbo) == (2, 2)


class Network(PyroModule):
    """A mean by a network that keeps running means, its rows dropped out at random."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(
            torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5), torch.nn.Linear(3, 3)
        ).double()

    def forward(self, x):
        pyro.module("net", self.net)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(self.net(x), 1.0).to_event(1), obs=x)


def test_buffers_and_modes_of_modules():
    """Running means go on; another mode is another graph."""
    means, losses = [], []
    for elbo in (CompiledELBO(compile="trace"), Trace_ELBO()):
        model = Network()
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        svi = SVI(model, lambda x: None, adam(), elbo)
        losses.append([svi.step(x) for x in (X, 2 * X, 3 * X)])
        model.net.eval()
        losses[-1] += [svi.step(x) for x in (X, X)]
        model.net[0].running_mean.mul_(2.0)
        losses[-1].append(svi.step(X))
        means.append([model.net[0].running_mean, model.net[0].num_batches_tracked])
        if isinstance(elbo, CompiledELBO):
            assert recordings(elbo) == (1, 2)
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(means[0], means[1])
    assert means[0][1] == 3


def test_parameters_that_are_replaced():
    """By another store, or by a module with other weights."""
    ends = []
    for elbo in (CompiledELBO(compile="trace"), Trace_ELBO()):
        model, guide = by_hand()
        svi = SVI(model, guide, adam(), elbo)
        losses = []
        for _ in range(2):
            pyro.clear_param_store()
            pyro.set_rng_seed(0)
            losses.append([svi.step(X) for _ in range(3)])
        assert losses[0] == losses[1]
        pyro.param("loc").data.fill_(3.0)  # in place
        ends.append([*losses[0], svi.step(X)])
    torch.testing.assert_close(*ends)


def test_as_a_module():
    """``elbo(model, guide)`` has a loss that torch can differentiate."""
    ends = []
    with pyro.settings.context(module_local_params=True):
        for elbo in (CompiledELBO(compile="trace"), Trace_ELBO()):
            pyro.set_rng_seed(0)
            guide = AutoManifoldNormal(directions)
            guide(X)
            module = elbo(directions, guide)
            optimiser = torch.optim.Adam(module.parameters(), lr=0.1)
            for _ in range(3):  # the first of which records
                optimiser.zero_grad()
                (2 * module(X)).backward()
                optimiser.step()
            ends.append([p.detach() for p in guide.parameters()])
            if isinstance(elbo, CompiledELBO):
                assert recordings(elbo) == (1, 1)
    torch.testing.assert_close(*ends)


def test_copies_and_pickles_in_the_middle_of_training():
    elbo, (model, guide) = CompiledELBO(TraceMeanField_ELBO(), compile="trace"), by_hand()
    train(model, guide, elbo, [X] * 3)
    found = []
    for other in (copy.deepcopy(elbo), pickle.loads(pickle.dumps(elbo)), elbo):
        svi = SVI(model, guide, pyro.optim.SGD({"lr": 0.0}), other)
        for evaluate in (svi.evaluate_loss, svi.step, svi.step):
            pyro.set_rng_seed(2)
            found.append(evaluate(X))
        assert recordings(other)[0] == 1
    torch.testing.assert_close(found, found[:1] * 9)


def test_a_guide_is_copied_and_saved_with_what_it_has_learned():
    model, guide = guided()
    train(model, guide, CompiledELBO(compile="trace"), [X] * 3)
    other = AutoManifoldNormal(model)
    with pyro.get_param_store().scope():
        other(X)
        other.load_state_dict(pickle.loads(pickle.dumps(guide.state_dict())))
        for again in (other, copy.deepcopy(guide), pickle.loads(pickle.dumps(guide))):
            torch.testing.assert_close(again.median(), guide.median())


def test_what_is_remembered_of_parameters_is_computed_again():
    """A value that is remembered until a parameter changes is no constant of the graph."""
    memory = {}

    def make():
        memory.clear()

        def model(x):
            loc = pyro.param("loc", num(0.5))
            if memory.get("version") != (id(loc), loc._version):
                memory.update(version=(id(loc), loc._version), value=loc.detach().exp())
            pyro.sample("x", dist.Normal(memory["value"] * loc, 1.0).expand(x.shape).to_event(2), obs=x)

        return model, lambda x: None

    compare(make, [X] * 3)


def test_parameters_far_from_where_they_were_recorded():
    """The draws of a von Mises-Fisher distribution have another derivative when it becomes wide."""
    gradients = []
    for elbo in (CompiledELBO(compile="trace"), Trace_ELBO()):
        model, guide = guided()
        train(model, guide, elbo, [X])
        scale = guide.scales.z_unconstrained
        with torch.no_grad():
            scale.fill_(3.0)
        pyro.set_rng_seed(0)
        scale.grad = None
        elbo.loss_and_grads(model, guide, X)
        gradients.append(scale.grad)
    torch.testing.assert_close(*gradients)


# --- what cannot be had
def branching(x):
    z = pyro.sample("z", mdist.VonMisesFisher(num([0.0, 0.0, 1.0]), 1.0))
    pyro.factor("f", z[..., 0] if bool((z[..., 0] > 0).all()) else z[..., 1])


def wavering(x):
    z = pyro.sample("z", mdist.VonMisesFisher(num([0.0, 0.0, 1.0]), 1.0))
    pyro.factor("f", random.random() * z[..., 0])  # noqa: S311


def selecting(x):
    """Counts the rows of one half."""
    z = pyro.sample("z", mdist.ManifoldUniform(geoopt.Sphere(), 3, dtype=torch.float64))
    pyro.factor("f", -(x[x[:, 0] > 0] - z).square().sum())


@pytest.mark.parametrize(
    "model, reason",
    [
        (branching, "Python code branches on the value of a tensor at .*test_compiled_elbo.py:"),
        (wavering, "differs by"),
        (selecting, "sizes depend on the values of a tensor"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_models_without_a_graph_are_trained_as_they_are(model, reason):
    elbo = CompiledELBO(compile="trace")
    with pytest.warns(UserWarning, match=f"steps run as without compilation: .*{reason}"):
        found = train(*guided(model), elbo, [X] * 3)
    assert recordings(elbo) == (0, 1)
    if model is not wavering:
        torch.testing.assert_close(found, train(*guided(model), Trace_ELBO(), [X] * 3))


def test_handlers_and_gradients_of_arguments():
    elbo, (model, guide) = CompiledELBO(compile="trace"), guided()
    with pytest.warns(UserWarning, match="handlers around the call"), pyro.poutine.scale(scale=0.5):
        train(model, guide, elbo, [X])
    x = X.clone().requires_grad_()
    with pytest.warns(UserWarning, match="an argument requires a gradient"):
        train(model, guide, elbo, [x])
    assert x.grad is not None and recordings(elbo) == (0, 0)


def test_a_compiler_that_fails_leaves_the_graph(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(recording, "BACKEND", broken)
    elbo = CompiledELBO()
    with pytest.warns(UserWarning, match="recorded, but not compiled: .*no C.. compiler found"):
        found = train(*guided(guide=AutoNormal, model=by_hand()[0]), elbo, [X] * 3)
    assert recordings(elbo) == (1, 1)
    torch.testing.assert_close(
        found, train(*guided(guide=AutoNormal, model=by_hand()[0]), Trace_ELBO(), [X] * 3)
    )


def test_arguments():
    with pytest.raises(ValueError, match="elbo: got RenyiELBO; expected Trace_ELBO"):
        CompiledELBO(RenyiELBO())
    with pytest.raises(ValueError, match="compile: got False; expected True, or 'trace'"):
        CompiledELBO(compile=False)


# --- the real compiler
@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
@pytest.mark.parametrize(
    "make, inner",
    [
        (guided, Trace_ELBO),
        (choices, Trace_ELBO),
        (vae, TraceMeanField_ELBO),
        (lambda: (Network(), lambda x: None), Trace_ELBO),
    ],
    ids=["guide", "score and subsample", "vae", "dropout and buffers"],
)
def test_inductor(make, inner):
    """The same path, with the same random numbers."""
    elbo = compare(make, [X] * 4, inner, compile=True, tol=1e-7)
    assert all(r.recording.run is not r.recording.graph for r in elbo._recorded.values())
