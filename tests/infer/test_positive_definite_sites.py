"""Sites of positive definite and of correlation matrices with Pyro's own distributions. Tests of draws compare the
means of chains that share nothing with exact moments: 5 standard errors of t with 31 degrees of freedom, false
alarm 2e-5 each."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor
from torch.distributions import biject_to, constraints

import pyro_manifold.distributions as mdist
from pyro_manifold.infer import (
    AutoManifoldDelta,
    AutoManifoldMultivariateNormal,
    AutoManifoldNormal,
    GeodesicNUTS,
    VectorizedMCMC,
)
from pyro_manifold.infer.mcmc.start import prepare
from pyro_manifold.transforms import SymmetricVolume

F64 = torch.float64
SCALE = torch.tensor([[0.3, 0.15], [0.15, 0.6]], dtype=F64)
DF = torch.tensor(7.0, dtype=F64)
pytestmark = pytest.mark.filterwarnings("ignore:Singular sample detected")  # torch warns of good ones


def wishart() -> Tensor:
    return pyro.sample("S", dist.Wishart(DF, SCALE))


def chains(model: Callable[..., Any], draws: int = 60, **options: Any) -> dict[str, Tensor]:
    """Draws of 32 chains, ``(32, draws) + shape``."""
    kernel = GeodesicNUTS(model, chains=32, **options)
    mcmc = VectorizedMCMC(kernel, draws, warmup_steps=100, disable_progbar=True)
    mcmc.run()
    return mcmc.get_samples(group_by_chain=True)


def within_5_se(draws: Tensor, expected: Tensor) -> None:
    means = draws.mean(1)
    error = (means.mean(0) - expected).abs() / (means.std(0) / math.sqrt(len(means)) + 1e-12)
    assert float(error.max()) < 5, f"{float(error.max()):.1f} standard errors off"


def spd(*batch: int) -> Tensor:
    a = torch.randn(*batch, 2, 2, dtype=F64)
    return a @ a.mT + 0.2 * torch.eye(2, dtype=F64)


def test_potential_has_the_riemannian_density() -> None:
    """Also in a plate, as an event of several matrices, and beside an enumerated site."""

    def plain() -> None:
        with pyro.plate("n", 3):
            pyro.sample("S", dist.Wishart(DF, SCALE))
        pyro.sample("T", dist.Wishart(DF + 1, SCALE).expand([2]).to_event(1))

    def enumerated() -> None:
        plain()
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5, dtype=F64)))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros((), dtype=F64))

    s, t = spd(3), spd(2)
    expected = 0.0
    for x, d in ((s, dist.Wishart(DF, SCALE)), (t, dist.Wishart(DF + 1, SCALE))):
        expected = expected - (d.log_prob(x) - SymmetricVolume().log_volume(x)).sum()
    init = pyro.infer.autoguide.init_to_uniform
    setup = prepare(plain, (), {}, init, None)
    assert {k: m.name for k, m in setup.manifolds.items()} == dict.fromkeys("ST", "SymmetricPositiveDefinite")
    torch.testing.assert_close(setup.potential(dict(S=s, T=t)), expected)
    both = prepare(enumerated, (), {}, init, None)
    likelihood = math.log(0.5 * (1 + math.exp(-0.5)) / math.sqrt(2 * math.pi))
    torch.testing.assert_close(both.potential(dict(S=s, T=t)), expected - likelihood)


@pytest.mark.parametrize("make", [AutoManifoldNormal, AutoManifoldMultivariateNormal])
def test_guides_have_the_measure_of_the_model(make: Any) -> None:
    """The weight p/q is that of both densities with respect to Riemannian volume: with two other measures the
    mean weight would not be 1. Importance weights of 4000 draws, to 5 standard errors."""
    guide = make(
        wishart, init_loc_fn=pyro.infer.autoguide.init_to_value(values={"S": DF * SCALE}), init_scale=0.9
    )
    guide()
    many = pyro.plate("particles", 4000, dim=-1)
    trace = poutine.trace(many(guide)).get_trace()
    s = trace.nodes["S"]["value"]
    model = poutine.trace(poutine.condition(many(wishart), {"S": s})).get_trace()
    trace.compute_log_prob()
    model.compute_log_prob()
    log_q = sum(n["log_prob"] for n in trace.nodes.values() if "log_prob" in n and n["type"] == "sample")
    weight = (model.nodes["S"]["log_prob"] - log_q).exp().detach()
    assert abs(float(weight.mean()) - 1) < 5 * float(weight.std()) / math.sqrt(4000)
    assert float(weight.std()) < 3


@pytest.mark.parametrize("make", [AutoManifoldNormal, AutoManifoldMultivariateNormal, AutoManifoldDelta])
def test_guides_in_every_form(make: Any) -> None:
    """Alone, in plates, as an event, masked."""

    def model() -> None:
        fn = dist.Wishart(DF, SCALE)
        pyro.sample("alone", fn)
        pyro.sample("event", fn.expand([2]).to_event(1))
        with pyro.plate("n", 2):
            pyro.sample("row", fn)
            pyro.sample("masked", fn.mask(torch.tensor([True, False])))

    pyro.clear_param_store()
    guide = make(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    assert all(math.isfinite(svi.step()) for _ in range(2))
    drawn = pyro.infer.Predictive(model, guide=guide, num_samples=3)()
    assert {k: v.shape[-3:] for k, v in drawn.items() if k != "alone"} == dict.fromkeys(
        ("event", "row", "masked"), (2, 2, 2)
    )
    for name in ("alone", "event", "row", "masked"):
        assert bool(constraints.positive_definite.check(drawn[name]).all())


@pytest.mark.filterwarnings("ignore:Low df values detected")
def test_singular_draws_are_no_starts() -> None:
    """Wishart draws with few degrees of freedom are singular in float32; guides start elsewhere then."""
    torch.manual_seed(0)

    def model() -> None:
        with pyro.plate("n", 50):
            pyro.sample("S", dist.Wishart(torch.tensor(1.05), torch.eye(2)).expand([50]))

    guide = AutoManifoldNormal(model, init_scale=0.01)
    assert bool(constraints.positive_definite.check(guide()["S"]).all())


@pytest.mark.parametrize("make", [AutoManifoldNormal, AutoManifoldMultivariateNormal, AutoManifoldDelta])
@pytest.mark.parametrize("dim", [2, 3])
def test_guides_of_correlations(dim: int, make: Any) -> None:
    def model() -> None:
        r = pyro.sample("R", dist.LKJ(dim, torch.tensor(1.5, dtype=F64)))
        factor = pyro.sample("L", dist.LKJCholesky(dim, torch.tensor(1.5, dtype=F64)))
        pyro.sample("x", dist.Normal(r[..., 0, 1] + factor[..., 1, 0], 1.0), obs=torch.ones((), dtype=F64))

    pyro.clear_param_store()
    guide = make(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    assert all(math.isfinite(svi.step()) for _ in range(3))
    drawn = guide()
    assert bool(dist.constraints.corr_matrix.check(drawn["R"])) and drawn["L"].shape == (dim, dim)


def test_maximum_with_respect_to_riemannian_volume() -> None:
    """Of Wishart's density it is df V, not (df - n - 1) V."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    start = pyro.infer.autoguide.init_to_value(values={"S": 0.6 * DF * SCALE})  # about the other mode
    guide = AutoManifoldDelta(wishart, start)
    svi = SVI(wishart, guide, pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.96}), Trace_ELBO())
    for _ in range(100):
        svi.step()
    torch.testing.assert_close(guide.median()["S"], DF * SCALE, rtol=1e-2, atol=1e-2)


def test_global_chart() -> None:
    """``biject_to`` of Pyro's constraint, for plain NUTS and Pyro's own guides: its log-determinant is autodiff's."""
    t = biject_to(constraints.positive_definite)
    v = torch.randn(3, dtype=F64)
    i, j = torch.triu_indices(2, 2)
    jacobian = torch.autograd.functional.jacobian(lambda v: t(v)[i, j], v)
    torch.testing.assert_close(t.log_abs_det_jacobian(v, t(v)), torch.linalg.slogdet(jacobian).logabsdet)
    torch.testing.assert_close(t.inv(t(v)), v)
    guide = pyro.infer.autoguide.AutoMultivariateNormal(wishart)
    assert guide()["S"].shape == (2, 2)


@pytest.mark.slow
def test_wishart() -> None:
    torch.manual_seed(0)
    s = chains(wishart)["S"]
    within_5_se(s, DF * SCALE)
    log_det = torch.digamma(DF / 2) + torch.digamma(DF / 2 - 0.5) + 2 * math.log(2) + torch.logdet(SCALE)
    within_5_se(torch.logdet(s), log_det)
    within_5_se(torch.linalg.inv(s), torch.linalg.inv(SCALE) / (DF - 3))


@pytest.mark.slow
def test_flat_prior() -> None:
    """With Lebesgue measure as the prior of a precision matrix and m observations the posterior is a Wishart
    distribution of m + n + 1 degrees of freedom."""
    torch.manual_seed(0)
    y = torch.randn(12, 2, dtype=F64)

    def model() -> None:
        s = pyro.sample("S", dist.ImproperUniform(constraints.positive_definite, (), (2, 2)))
        with pyro.plate("data", 12):
            pyro.sample(
                "y", dist.MultivariateNormal(torch.zeros(2, dtype=F64), precision_matrix=s.to(F64)), obs=y
            )

    within_5_se(chains(model)["S"].to(F64), 15 * torch.linalg.inv(y.T @ y))


@pytest.mark.slow
def test_wishart_of_five_in_float32() -> None:
    """Starts are spread over the manifold: Pyro's, spread over Cholesky factors, have condition numbers that float32
    cannot hold."""
    torch.manual_seed(0)
    scale = torch.eye(5) + 0.5
    s = chains(lambda: pyro.sample("S", dist.Wishart(torch.tensor(9.0), scale)))["S"]
    assert s.dtype == torch.float32
    within_5_se(s, 9 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("precision", [True, False], ids=["Wishart", "InverseWishart"])
def test_conjugate_posteriors(precision: bool) -> None:
    torch.manual_seed(0)
    y = torch.randn(12, 2, dtype=F64) @ torch.linalg.cholesky(SCALE).T
    zero = torch.zeros(2, dtype=F64)

    def model() -> None:
        if precision:
            s = pyro.sample("S", dist.Wishart(DF, SCALE))
            likelihood = dist.MultivariateNormal(zero, precision_matrix=s)
        else:
            s = pyro.sample("S", mdist.InverseWishart(DF, SCALE))
            likelihood = dist.MultivariateNormal(zero, covariance_matrix=s)
        with pyro.plate("data", 12):
            pyro.sample("y", likelihood, obs=y)

    s = chains(model)["S"]
    scatter = y.T @ y
    if precision:
        scale = torch.linalg.inv(torch.linalg.inv(SCALE) + scatter)
        within_5_se(s, (DF + 12) * scale)
        within_5_se(torch.linalg.inv(s), torch.linalg.inv(scale) / (DF + 12 - 3))
    else:
        posterior = mdist.InverseWishart(DF + 12, SCALE + scatter)
        within_5_se(s, posterior.mean)
        within_5_se(torch.linalg.inv(s), (DF + 12) * torch.linalg.inv(SCALE + scatter))


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("cholesky", [True, False], ids=["LKJCholesky", "LKJ"])
def test_correlation_matrices(dim: int, cholesky: bool) -> None:
    """Each correlation r has (1 + r)/2 ~ Beta(a, a) with a = eta - 1 + dim/2, so E r^2 = 1/(2a + 1)."""
    torch.manual_seed(0)
    eta = torch.tensor(1.5, dtype=F64)

    def model() -> None:
        pyro.sample("R", (dist.LKJCholesky if cholesky else dist.LKJ)(dim, eta))

    r = chains(model)["R"]
    if cholesky:
        r = r @ r.mT
    i, j = torch.triu_indices(dim, dim, 1)
    off = r[..., i, j]
    within_5_se(off, torch.zeros((), dtype=F64))
    within_5_se(off.square(), 1 / (2 * (eta - 1 + dim / 2) + 1))


@pytest.mark.slow
def test_guides_reach_the_evidence() -> None:
    """ELBOs of the conjugate model of a precision matrix: within 0.15 nat of the evidence, and never above it by
    more than 5 standard errors."""
    torch.manual_seed(0)
    y = torch.randn(12, 2, dtype=F64) @ torch.linalg.cholesky(SCALE).T
    zero = torch.zeros(2, dtype=F64)

    def model() -> None:
        s = pyro.sample("S", dist.Wishart(DF, SCALE))
        with pyro.plate("data", 12):
            pyro.sample("y", dist.MultivariateNormal(zero, precision_matrix=s), obs=y)

    posterior = dist.Wishart(DF + 12, precision_matrix=torch.linalg.inv(SCALE) + y.T @ y)
    s = DF * SCALE
    evidence = dist.Wishart(DF, SCALE).log_prob(s) - posterior.log_prob(s)
    evidence = evidence + dist.MultivariateNormal(zero, precision_matrix=s).log_prob(y).sum()
    for make in (AutoManifoldNormal, AutoManifoldMultivariateNormal):
        pyro.clear_param_store()
        guide = make(model)
        elbo = Trace_ELBO(num_particles=20, vectorize_particles=True)
        svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.985}), elbo)
        for _ in range(250):
            svi.step()
        losses = torch.tensor([svi.evaluate_loss() for _ in range(50)])
        gap = float(losses.mean() + evidence)
        assert -5 * float(losses.std()) / math.sqrt(50) < gap < 0.15, f"{make.__name__}: {gap:.3f} nat"
