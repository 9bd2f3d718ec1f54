"""Geodesic kernels against exact moments, and as parts of Pyro: models, plates, enumeration, pickling, errors."""

import math
import pickle

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from scipy import special

from pyro_manifold.distributions import ManifoldUniform, WrappedNormal
from pyro_manifold.geometry import geometry
from pyro_manifold.infer import GeodesicHMC, GeodesicNUTS, VectorizedMCMC
from pyro_manifold.infer.mcmc import InvalidStartError

F64 = torch.float64
SPHERE = geoopt.Sphere()
MU = torch.tensor([0.0, 0.6, 0.8], dtype=F64)


def run(kernel, init=None, warmup=100, draws=100):
    mcmc = VectorizedMCMC(kernel, num_samples=draws, warmup_steps=warmup, initial_params=init, disable_progbar=True)
    mcmc.run()
    return mcmc


def check_moment(samples, expected, se=4.0):
    """Mean of ``samples`` (chains, draws) within ``se`` standard errors from the bulk ESS, and r_hat < 1.03."""
    x = samples.double()
    ess = float(effective_sample_size(x.clone(), chain_dim=0, sample_dim=1))
    assert float(split_gelman_rubin(x.clone(), chain_dim=0, sample_dim=1)) < 1.03
    assert abs(float(x.mean()) - expected) < se * float(x.std()) / ess**0.5, (float(x.mean()), expected, ess)


@pytest.mark.parametrize("kernel", [GeodesicNUTS, GeodesicHMC])
@pytest.mark.parametrize("dim,kappa", [(3, 0.0), (3, 1.0), (3, 100.0), (10, 10.0)])
def test_von_mises_fisher_moments(kernel, dim, kappa):
    """Mean cosine against the Bessel ratio, one transverse second moment against (1 - E cos^2)/(d - 1)."""
    mu = torch.nn.functional.pad(MU, (0, dim - 3))
    depth = {"max_tree_depth": 5} if kernel is GeodesicNUTS else {}  # slow momenta on a flat target would take long turns
    k = kernel(potential_fn=lambda z: -kappa * (z["x"] @ mu), manifolds={"x": SPHERE}, chains=16, **depth)
    start = geometry(SPHERE).uniform_sample((16,), (dim,), dtype=F64)
    mcmc = run(k, {"x": start})
    x = mcmc.get_samples(group_by_chain=True)["x"]
    assert ((x.norm(dim=-1) - 1).abs() < 1e-12).all()
    v = dim / 2 - 1
    a = float(special.ive(v + 1, kappa) / special.ive(v, kappa)) if kappa else 0.0
    t2 = 1 - (dim - 1) * a / kappa if kappa else 1 / dim
    check_moment(x @ mu, a)
    check_moment(x[..., 0].square(), (1 - t2) / (dim - 1))
    assert mcmc.diagnostics()["divergences"]["chain 0"] == []


def test_two_modes_mix_with_the_antipode():
    """Axial Bingham law exp(20 x_1^2): without the isometry chains stay in their mode, with it the sign averages out."""
    start = torch.tensor([1.0, 0.0, 0.0], dtype=F64).expand(16, 3)
    signs = {}
    for isometries in ({}, {"x": "antipode"}):
        k = GeodesicNUTS(potential_fn=lambda z: -20 * z["x"][0] ** 2, manifolds={"x": SPHERE}, chains=16, isometries=isometries)
        x = run(k, {"x": start}, 100, 100).get_samples(group_by_chain=True)["x"]
        signs[bool(isometries)] = float(x[..., 0].sign().mean())
    assert (
        signs[False] == 1.0 and abs(signs[True]) < 4 / 1600**0.5
    )  # every jump is accepted: draws of the sign are independent


def test_wrapped_normal_on_the_hyperboloid():
    """E d(x, mu)^2 = d sigma^2: the tangent vector is normal."""
    m = geoopt.Lorentz(k=torch.tensor(1.0, dtype=F64))
    geo = geometry(m)
    mu = geo.exp_frame(geo.origin(2, dtype=F64), torch.tensor([2.0, 1.0], dtype=F64))

    def model():
        pyro.sample("x", WrappedNormal(m, mu, 0.7))

    x = run(GeodesicNUTS(model, chains=16)).get_samples(group_by_chain=True)["x"]
    check_moment(geo.dist(x, mu.expand_as(x)).square(), 2 * 0.49)


def conjugate(data=None):
    """A direction, a scale and a count in one model: manifold, positive and (enumerated) discrete sites, a plate."""
    z = pyro.sample("z", ManifoldUniform(SPHERE, 3, dtype=F64))
    s = pyro.sample("s", dist.LogNormal(torch.tensor(0.0, dtype=F64), 1.0))
    with pyro.plate("n", 3):
        y = pyro.sample("y", dist.Normal(z, s.unsqueeze(-1)).to_event(1).mask(True), obs=data)
        pyro.sample("b", WrappedNormal(SPHERE, z, 0.5))
    return y


DATA = torch.tensor([[1.0, 0.2, 0.1], [0.9, -0.1, 0.2], [1.1, 0.0, -0.3]], dtype=F64)


def test_mixed_model_under_pyros_own_driver():
    mcmc = MCMC(GeodesicNUTS(conjugate), num_samples=12, warmup_steps=12, disable_progbar=True)
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
        pyro.sample("y", dist.Normal(z[0], 0.1), obs=torch.tensor(0.5, dtype=F64))  # z[0] is a chain under plates

    kernel = GeodesicNUTS(model, chains=3)
    kernel.setup(0)
    assert kernel._system.potential.how == "vmap"


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


def test_kernels_pickle():
    k = pickle.loads(pickle.dumps(GeodesicNUTS(conjugate, isometries={"z": "antipode"})))
    k.setup(5, DATA)
    assert k.sample(k.initial_params)["z"].shape == (3,)


def test_two_processes():
    mcmc = MCMC(GeodesicNUTS(conjugate), num_samples=5, warmup_steps=5, num_chains=1, disable_progbar=True)
    mcmc.run(DATA)
    assert math.isfinite(float(mcmc.get_samples()["s"].mean()))


@pytest.mark.parametrize(
    "make,error,message",
    [
        (lambda: GeodesicNUTS(), ValueError, "exactly one of model and potential_fn"),
        (lambda: GeodesicNUTS(conjugate, jit_compile=True), ValueError, "jit_compile: not supported.*chains=64"),
        (lambda: GeodesicNUTS(conjugate, chains=0), ValueError, "chains: got 0"),
        (lambda: GeodesicNUTS(conjugate, trajectory_length=1.0), ValueError, "trajectory_length: NUTS finds it"),
        (lambda: GeodesicHMC(conjugate, vectorize="fast"), ValueError, "vectorize: got 'fast'"),
        (lambda: VectorizedMCMC(pyro.infer.NUTS(conjugate), 5), ValueError, "kernel: NUTS has no chains"),
        (lambda: VectorizedMCMC(GeodesicNUTS(conjugate), 5, num_chains=2), ValueError, "set chains in the kernel"),
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
    k = GeodesicNUTS(potential_fn=lambda z: -(z["x"] @ MU).log() if "x" in z else z["y"].sum(), manifolds={"x": SPHERE})
    mcmc = MCMC(k, num_samples=5, warmup_steps=5, initial_params=start, disable_progbar=True)
    with pytest.raises(ValueError, match=message):
        mcmc.run()


def test_unsupported_support_names_the_remedy():
    def model():
        pyro.sample("x", dist.Normal(0.0, 1.0).has_rsample_(True))
        pyro.sample("c", dist.CorrCholesky(3) if hasattr(dist, "CorrCholesky") else dist.Empirical(torch.ones(2), torch.ones(2)))

    with pytest.raises((ValueError, NotImplementedError), match="c"):
        GeodesicNUTS(model).setup(0)


def test_model_without_finite_start():
    def model():
        z = pyro.sample("z", ManifoldUniform(SPHERE, 3, dtype=F64))
        pyro.factor("never", 0 * z.sum() - math.inf)

    with pytest.raises(InvalidStartError, match="init_to_value"):
        GeodesicNUTS(model).setup(0)
