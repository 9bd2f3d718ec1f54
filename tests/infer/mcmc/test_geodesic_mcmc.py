"""Geodesic kernels against exact moments, and as parts of Pyro: models, plates, enumeration, pickling,
errors."""

import math
import pickle
from contextlib import nullcontext

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC
from pyro.ops.stats import effective_sample_size, split_gelman_rubin

from pyro_manifold.distributions import ManifoldUniform, VonMisesFisher, WrappedCauchy, WrappedNormal
from pyro_manifold.geometry import geometry
from pyro_manifold.infer import GeodesicHMC, GeodesicNUTS, VectorizedMCMC, geodesic_ess
from pyro_manifold.infer.mcmc import InvalidStartError, StepSizeError

F64 = torch.float64
SPHERE = geoopt.Sphere()
MU = torch.tensor([0.0, 0.6, 0.8], dtype=F64)


def run(kernel, init=None, warmup=100, draws=100):
    mcmc = VectorizedMCMC(
        kernel, num_samples=draws, warmup_steps=warmup, initial_params=init, disable_progbar=True
    )
    mcmc.run()
    return mcmc


def check_moment(samples, expected, se=4.0):
    """Mean of ``samples`` (chains, draws) within ``se`` standard errors from the bulk ESS, and r_hat < 1.1
    (short chains)."""
    x = samples.double()
    ess = float(effective_sample_size(x.clone(), chain_dim=0, sample_dim=1))
    assert float(split_gelman_rubin(x.clone(), chain_dim=0, sample_dim=1)) < 1.1
    assert abs(float(x.mean()) - expected) < se * float(x.std()) / ess**0.5, (float(x.mean()), expected, ess)


@pytest.mark.parametrize("kernel", [pytest.param(GeodesicNUTS, marks=pytest.mark.slow), GeodesicHMC])
def test_flat_density(kernel):
    """Uniform on S^2, where a step is never refused: means 0 and second moments 1/3, all steps capped."""
    depth = {"max_tree_depth": 5} if kernel is GeodesicNUTS else {}  # slow momenta would take long turns
    k = kernel(potential_fn=lambda z: 0 * z["x"].sum(), manifolds={"x": SPHERE}, chains=16, **depth)
    mcmc = run(k, {"x": geometry(SPHERE).uniform_sample((16,), (3,), dtype=F64)})
    x = mcmc.get_samples(group_by_chain=True)["x"]
    assert ((x.norm(dim=-1) - 1).abs() < 1e-12).all()
    check_moment(x @ MU, 0.0)
    check_moment(x[..., 0].square(), 1 / 3)
    assert not any(mcmc.diagnostics()["divergences"].values())


def test_two_modes_mix_with_the_antipode():
    """Axial Bingham distribution exp(20 x_1^2): without the isometry chains stay in their mode, with it the
    sign averages out."""
    start = torch.tensor([1.0, 0.0, 0.0], dtype=F64).expand(16, 3)
    signs = {}
    for isometries in ({}, {"x": "antipode"}):
        k = GeodesicNUTS(
            potential_fn=lambda z: -20 * z["x"][0] ** 2,
            manifolds={"x": SPHERE},
            chains=16,
            isometries=isometries,
        )
        x = run(k, {"x": start}, 50, 50).get_samples(group_by_chain=True)["x"]
        signs[bool(isometries)] = float(x[..., 0].sign().mean())
    assert signs[False] == 1.0 and abs(signs[True]) < 4 / 800**0.5  # the sign is drawn anew each time


def conjugate(data=None):
    """A direction, a scale and a count in one model: manifold, positive and (enumerated) discrete sites, a
    plate."""
    z = pyro.sample("z", ManifoldUniform(SPHERE, 3, dtype=F64))
    s = pyro.sample("s", dist.LogNormal(torch.tensor(0.0, dtype=F64), 1.0))
    with pyro.plate("n", 3):
        y = pyro.sample("y", dist.Normal(z, s.unsqueeze(-1)).to_event(1).mask(True), obs=data)
        pyro.sample("b", WrappedNormal(SPHERE, z, 0.5))
    return y


DATA = torch.tensor([[1.0, 0.2, 0.1], [0.9, -0.1, 0.2], [1.1, 0.0, -0.3]], dtype=F64)


def test_mixed_model_under_pyros_own_driver():
    mcmc = MCMC(
        GeodesicNUTS(conjugate, max_tree_depth=4), num_samples=12, warmup_steps=6, disable_progbar=True
    )
    mcmc.run(DATA)
    s = mcmc.get_samples()
    assert s["z"].shape == (12, 3) and s["b"].shape == (12, 3, 3) and (s["s"] > 0).all()
    mcmc.summary()
    mcmc.run(DATA)  # a kernel can be used again
    assert mcmc.kernel.model is conjugate and set(mcmc.kernel.transforms or s) >= set(s)


@pytest.mark.parametrize("how", ["auto", "plates", "vmap", "loop"])
def test_batched_potentials_agree(how):
    kernel = GeodesicHMC(conjugate, chains=3, vectorize=how)
    kernel.setup(0, DATA)
    z = kernel._state.z
    loop = kernel._system.potential._loop(z)
    assert torch.allclose(kernel._system.potential(z), loop, atol=1e-8)
    if how == "auto":
        assert kernel._system.potential.how == "plates"


def test_auto_falls_back_where_plates_would_be_wrong():
    def model():
        z = pyro.sample("z", ManifoldUniform(SPHERE, 3, dtype=F64))
        pyro.sample(
            "y", dist.Normal(z[0], 0.1), obs=torch.tensor(0.5, dtype=F64)
        )  # z[0] is a chain under plates

    kernel = GeodesicNUTS(model, chains=3)
    kernel.setup(0)
    assert kernel._system.potential.how == "vmap"


@pytest.mark.parametrize(
    "potential, same, how",
    [
        (lambda z: -2 * z["x"][..., 0], False, "plates"),
        (lambda z: -2 * z["x"][0], False, "vmap"),  # of a batch: the coordinates of its first chain
        (lambda z: -2 * z["x"][..., 0], True, "vmap"),  # from one start one cannot tell
        (lambda z: -2 * z["x"][0] * (z["x"].tolist() != []), False, "loop"),
    ],
)
def test_a_potential_of_one_chain_is_called_with_all_where_that_is_right(potential, same, how):
    start = geometry(SPHERE).uniform_sample((1 if same else 3,), (3,), dtype=F64).expand(3, 3)
    kernel = GeodesicHMC(potential_fn=potential, manifolds={"x": SPHERE}, chains=3)
    kernel.initial_params = {"x": start}
    with pytest.warns(UserWarning, match="one after another") if how == "loop" else nullcontext():
        kernel.setup(0)
    batch = kernel._system.potential
    assert batch.how == how
    assert torch.allclose(batch({"x": start}), batch._loop({"x": start}))


def test_enumeration():
    def model():
        k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.3, dtype=F64)), infer={"enumerate": "parallel"})
        z = pyro.sample("z", ManifoldUniform(SPHERE, 3, dtype=F64))
        loc = torch.where(k.bool().unsqueeze(-1), z, -z)
        pyro.sample("x", WrappedNormal(SPHERE, loc, 0.3, validate_args=False), obs=MU)

    mcmc = MCMC(GeodesicNUTS(model), num_samples=10, warmup_steps=10, disable_progbar=True)
    mcmc.run()
    assert mcmc.get_samples()["z"].shape == (10, 3)


def test_pyros_sphere_support_and_float32():
    def model():
        pyro.sample("x", dist.ProjectedNormal(torch.tensor([1.0, 0.0, 0.0])))

    x = run(GeodesicNUTS(model, chains=4), None, 30, 30).get_samples()["x"]
    assert x.dtype == torch.float32 and (x.norm(dim=-1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_starts_have_the_dtype_of_the_model(dtype):
    """Also where no tensor lies at the surface of the distribution."""
    eye, one = torch.eye(3, dtype=dtype), torch.ones((), dtype=dtype)
    parts = VonMisesFisher(eye, one)
    for fn in (
        dist.MixtureSameFamily(dist.Categorical(torch.ones(3, dtype=dtype)), parts),
        parts.to_event(1),
        dist.VonMises3D(eye).to_event(1),  # has no sampler
        parts.mask(True).expand((2, 3)),
        ManifoldUniform(SPHERE, 3, dtype=dtype),
    ):
        kernel = GeodesicNUTS(lambda: pyro.sample("x", fn))  # noqa: B023
        kernel.setup(0)
        assert kernel.initial_params["x"].dtype == dtype


def test_kernels_pickle():
    k = pickle.loads(pickle.dumps(GeodesicNUTS(conjugate, isometries={"z": "antipode"})))
    k.setup(5, DATA)
    assert k.sample(k.initial_params)["z"].shape == (3,)


@pytest.mark.parametrize(
    "make,error,message",
    [
        (lambda: GeodesicNUTS(), ValueError, "exactly one of model and potential_fn"),
        (
            lambda: GeodesicNUTS(conjugate, compile="inductor"),
            ValueError,
            "compile: got 'inductor', expected True",
        ),
        (lambda: GeodesicNUTS(conjugate, chains=0), ValueError, "chains: got 0"),
        (
            lambda: GeodesicNUTS(conjugate, trajectory_length=1.0),
            ValueError,
            "trajectory_length: NUTS finds it",
        ),
        (lambda: GeodesicHMC(conjugate, vectorize="fast"), ValueError, "vectorize: got 'fast'"),
        (lambda: GeodesicHMC(conjugate, trajectory_length=-1.0), ValueError, "trajectory_length: got -1.0"),
        (lambda: GeodesicNUTS(conjugate, step_size=math.inf), ValueError, "step_size: got inf"),
        (lambda: GeodesicNUTS(conjugate, target_accept_prob=1.5), ValueError, "target_accept_prob: got 1.5"),
        (lambda: GeodesicNUTS(conjugate, full_mass=[("s",)]), ValueError, "full_mass: got"),
        (
            lambda: GeodesicNUTS(conjugate, manifolds={"z": SPHERE}),
            ValueError,
            "manifolds: only with potential_fn",
        ),
        (
            lambda: GeodesicNUTS(conjugate, isometries={"z": "mirror"}),
            ValueError,
            "isometries: got 'mirror'.*'antipode'",
        ),
        (lambda: VectorizedMCMC(pyro.infer.NUTS(conjugate), 5), ValueError, "kernel: NUTS has no chains"),
        (
            lambda: VectorizedMCMC(GeodesicNUTS(conjugate), 5, num_chains=2),
            ValueError,
            "set chains in the kernel",
        ),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "start,message",
    [
        ({"x": 2 * MU}, "'x' is not on Sphere; project it first"),
        ({"y": MU}, "'x' is not a continuous latent site"),
        ({"x": -MU}, "not finite at the start of chain 0"),
    ],
)
def test_bad_starts(start, message):
    k = GeodesicNUTS(
        potential_fn=lambda z: -(z["x"] @ MU).log() if "x" in z else z["y"].sum(), manifolds={"x": SPHERE}
    )
    mcmc = MCMC(k, num_samples=5, warmup_steps=5, initial_params=start, disable_progbar=True)
    with pytest.raises(ValueError, match=message):
        mcmc.run()


def test_points_inside_to_event():
    """E cos of von Mises-Fisher points that are one event: 5 standard errors of each, 6e-7 false alarms for
    both."""
    loc = torch.stack([MU, -MU])

    def model():
        pyro.sample("pair", VonMisesFisher(loc, loc.new_tensor([2.0, 8.0])).to_event(1))

    mcmc = VectorizedMCMC(
        GeodesicNUTS(model, chains=24), num_samples=50, warmup_steps=50, disable_progbar=True
    )
    mcmc.run()
    x = mcmc.get_samples(group_by_chain=True)["pair"]
    assert x.shape == (24, 50, 2, 3) and (x.norm(dim=-1) - 1).abs().max() < 1e-6
    cos, k = (x * loc).sum(-1), loc.new_tensor([2.0, 8.0])
    error = cos.std((0, 1)) / geodesic_ess(SPHERE, x).sqrt()
    assert ((cos.mean((0, 1)) - (1 / torch.tanh(k) - 1 / k)).abs() < 5 * error).all()


class Wedge(torch.distributions.constraints.Constraint):
    event_dim = 1


@pytest.mark.parametrize(
    "distribution,message",
    [
        (lambda: WrappedCauchy(torch.tensor(0.0), torch.tensor(0.5)), r"CircularReparam\(\)"),
        (lambda: dist.Poisson(3.0), "Poisson.*sum it out"),
        (
            lambda: dist.Delta(torch.zeros(2), event_dim=1).has_rsample_(True),
            "poutine.reparam with a reparametriser",
        ),
    ],
)
def test_unsupported_supports_name_the_remedy(distribution, message):
    def model():
        fn = distribution()
        if isinstance(fn, dist.Delta):
            fn = type("Half", (dist.Delta,), {"support": Wedge()})(torch.zeros(2), event_dim=1)
        pyro.sample("c", fn)

    with pytest.raises(ValueError, match=f"site 'c'.*{message}"):
        GeodesicNUTS(model).setup(0)


def test_model_without_finite_start():
    def model():
        z = pyro.sample("z", ManifoldUniform(SPHERE, 3, dtype=F64))
        pyro.factor("never", 0 * z.sum() - math.inf)

    with pytest.raises(InvalidStartError, match="init_to_value"):
        GeodesicNUTS(model).setup(0)


@pytest.mark.parametrize(
    "isometry,message",
    [
        (lambda x: 2 * x, "leaves Sphere"),
        (lambda x: x.roll(1, -1), "not its own inverse"),
        (
            lambda x: torch.where(x[..., :1].abs() < 0.9, -x, x),
            None,
        ),  # piecewise, and an isometry at this start
        (lambda x: geometry(SPHERE).project(x * torch.tensor([1.0, 1.0, -1.0], dtype=F64)), None),
    ],
)
def test_isometries_are_checked(isometry, message):
    k = GeodesicNUTS(potential_fn=lambda z: z["x"][0], manifolds={"x": SPHERE}, isometries={"x": isometry})
    k.initial_params = {"x": MU}
    if message is None:
        return k.setup(5)
    with pytest.raises(ValueError, match=message):
        k.setup(5)


def test_isometries_need_a_manifold_site():
    with pytest.raises(ValueError, match="'s' is not a manifold site"):
        GeodesicNUTS(conjugate, isometries={"s": "antipode"}).setup(5, DATA)


def test_one_axis_of_a_plate_is_flipped_at_a_time():
    """Four independent axes in one site: each mixes its sign. Exact probability of 4 SE under independent
    signs: 6e-5 each."""

    def model():
        with pyro.plate("n", 4):
            x = pyro.sample("x", ManifoldUniform(SPHERE, 3, dtype=F64))
            pyro.factor("axial", 20 * x[..., 0].square())

    x = run(GeodesicHMC(model, chains=32, isometries={"x": "antipode"}), None, 60, 60).get_samples()["x"]
    n_eff = (
        32 * 60 / 7
    )  # one of four axes is drawn anew each time: autocorrelation (3/4)^t, so 7 draws for one
    assert (x[..., 0].sign().mean(0).abs() < 4 / n_eff**0.5).all()


def test_a_discontinuous_density_is_told_from_a_large_step():
    """The gradient points the wrong way by design: no step is ever accepted."""

    def cliff(z):
        return torch.where(z["x"][0] == 0.6, 0.0, 1e9) + 0 * z["x"].sum()

    k = GeodesicNUTS(potential_fn=cliff, manifolds={"x": SPHERE})
    k.initial_params = {"x": torch.tensor([0.6, 0.0, 0.8], dtype=F64)}
    with pytest.raises(StepSizeError, match="no step size down to .* is accepted"):
        k.setup(10)


def test_a_fixed_step_that_always_diverges():
    fixed = {"step_size": 1.0, "adapt_step_size": False, "trajectory_length": 4}
    k = GeodesicHMC(potential_fn=lambda z: 1e12 * z["y"].square().sum(), **fixed)
    mcmc = MCMC(
        k,
        num_samples=300,
        warmup_steps=0,
        initial_params={"y": torch.ones(2, dtype=F64)},
        disable_progbar=True,
    )
    with pytest.raises(StepSizeError, match="every trajectory of the last 100 transitions diverged.*smaller"):
        mcmc.run()


def test_patience_while_scales_are_learned():
    """Transitions that all diverge are no error before the scales are known, after 100 of 150; then a hundred
    of them are."""
    seen = []
    k = GeodesicHMC(potential_fn=cliff_but_flat, step_size=1.0, adapt_step_size=False)
    mcmc = MCMC(
        k,
        num_samples=300,
        warmup_steps=150,
        initial_params={"y": torch.zeros(2, dtype=F64)},
        disable_progbar=True,
        hook_fn=lambda *args: seen.append(args[-1]),
    )
    with pytest.raises(StepSizeError, match="every trajectory of the last 100 transitions diverged"):
        mcmc.run()
    assert len(seen) == 199


def cliff_but_flat(z):
    """No move is ever accepted."""
    return torch.where((z["y"] == 0).all(), 0.0, 1e12) + 0 * z["y"].sum()


def test_a_kernel_says_that_it_falls_back_to_the_loop():
    def branches(z):
        return z["y"].square().sum() * (1.0 if z["y"].tolist() else 2.0)

    def enumerated():
        c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5, dtype=F64)), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(c, torch.tensor(1.0, dtype=F64)))

    start = {"y": torch.randn(3, 2, dtype=F64)}
    k = GeodesicHMC(potential_fn=branches, chains=3)
    k.initial_params = start
    with pytest.warns(
        UserWarning, match=r"the 3 chains are evaluated one after another, .*vmap: .*vectorize=\"loop\""
    ):
        k.setup(10)
    k = GeodesicHMC(potential_fn=branches, chains=3, vectorize="loop")
    k.initial_params = start
    k.setup(10)  # no warning
    k = GeodesicHMC(enumerated, chains=3)
    with pytest.warns(UserWarning, match="the model has enumerated sites"):
        k.setup(10)
    assert k.vectorize == "auto"


def test_a_chain_whose_matrix_does_not_factorise_diverges_alone():
    def potential(z):
        return (
            torch.linalg.cholesky(torch.eye(2, dtype=F64) * (1 - z["y"].square().sum())).logdet().neg()
            + z["y"].square().sum()
        )

    k = GeodesicHMC(potential_fn=potential, chains=3, vectorize="vmap")
    k.initial_params = {"y": torch.zeros(3, 1, dtype=F64)}
    k.setup(0)
    u, grad = k._system.evaluate({"y": torch.tensor([[0.1], [2.0], [0.3]], dtype=F64)})
    assert u.isfinite().tolist() == [True, False, True] and grad.isfinite().all()


def test_divergences_belong_to_their_chain() -> None:
    """A log density that is NaN beyond a border which one chain of two starts beside."""

    def model() -> None:
        x = pyro.sample("x", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        pyro.factor("cliff", torch.where(x > 3.0, math.nan, 0.0 * x))

    kernel = GeodesicHMC(
        model, chains=2, step_size=0.05, trajectory_length=0.1, adapt_step_size=False, adapt_mass_matrix=False
    )
    pyro.set_rng_seed(0)
    mcmc = VectorizedMCMC(
        kernel,
        20,
        warmup_steps=0,
        disable_progbar=True,
        initial_params={"x": torch.tensor([-2.0, 2.999], dtype=torch.float64)},
    )
    mcmc.run()
    told = mcmc.diagnostics()["divergences"]
    assert told["chain 0"] == [] and len(told["chain 1"]) > 0


def test_improper_ordinary_site_finds_a_start():
    """Pyro's ImproperUniform has no sampler; the start is uniform in unconstrained space, as
    init_to_uniform's."""

    def model():
        x = pyro.sample("x", dist.ImproperUniform(dist.constraints.positive, (), (2,)))
        pyro.factor("f", dist.Gamma(2.0, 1.0).log_prob(x).sum(-1))

    mcmc = run(GeodesicHMC(model, chains=16), draws=50)
    check_moment(mcmc.get_samples(group_by_chain=True)["x"][..., 0], 2.0)
