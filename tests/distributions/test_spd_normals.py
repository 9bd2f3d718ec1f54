"""Wrapped and Riemannian normals on SPD matrices: change of measure, draws, gradients, inference, bad
input."""

import math
import warnings

import geoopt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch.distributions import kl_divergence

from pyro_manifold.constraints import on
from pyro_manifold.distributions import RiemannianNormal, WrappedNormal
from pyro_manifold.geometry import geometry
from pyro_manifold.testing import check_distribution

F64 = torch.float64
AIM = geoopt.SymmetricPositiveDefinite()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    LEM = geoopt.SymmetricPositiveDefinite("LEM")
LOC2 = torch.tensor([[1.5, 0.4], [0.4, 0.8]], dtype=F64)
LOC3 = torch.tensor([[1.5, 0.4, 0.1], [0.4, 0.8, -0.2], [0.1, -0.2, 1.0]], dtype=F64)


@pytest.mark.slow
@pytest.mark.parametrize("distribution", [WrappedNormal, RiemannianNormal])
def test_contract_of_the_log_euclidean_distributions(distribution):
    """Total mass by quadrature, draws against density, Pyro's protocol; the affine-invariant distributions
    are in tests/cases."""
    scale = torch.tensor([0.5, 0.3, 0.7] if distribution is WrappedNormal else 0.7, dtype=F64)
    skip = [
        "infer_shapes",
        "one_graph",
    ]  # shapes of matrices need the manifold; the radial engine breaks the graph
    check_distribution(
        lambda loc, scale: distribution(LEM, loc, scale), dict(loc=LOC2, scale=scale), skip=skip
    )


def test_a_wrapped_normal_with_a_full_covariance_against_lebesgue_measure():
    """Mass over the entries (a, b, c) of X, plain Lebesgue measure: the density times det(X)^{-3/2} 2^{1/2}
    integrates to 1."""
    tril = 0.3 * torch.tensor([[1.0, 0, 0], [0.4, 0.8, 0], [-0.5, 0.3, 0.6]], dtype=F64)
    d = WrappedNormal(AIM, LOC2, scale_tril=tril)
    x, w = (torch.from_numpy(y) for y in np.polynomial.legendre.leggauss(64))
    # a, c by their logarithms around loc, b = r sqrt(ac) with r = tanh(t)
    log_a, log_c, t = (m + 2.5 * x for m in (math.log(1.5), math.log(0.8), 0.38))
    la, lc, tt = torch.meshgrid(log_a, log_c, t, indexing="ij")
    a, c, r = la.exp(), lc.exp(), tt.tanh()
    b = r * (a * c).sqrt()
    points = torch.stack([torch.stack([a, b], -1), torch.stack([b, c], -1)], -1)
    entries = a * c * (a * c).sqrt() * (1 - r * r) * 2.5**3 * (w[:, None, None] * w[:, None] * w)  # da db dc
    volume = entries * math.sqrt(2) * torch.linalg.det(points) ** -1.5
    assert float((d.log_prob(points).exp() * volume).sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_wrapped_log_prob_against_the_autodiff_jacobian(n):
    dim = n * (n + 1) // 2
    geo = geometry(AIM)
    loc = geo.chart(0.5 * torch.randn(dim, dtype=F64))
    d = WrappedNormal(AIM, loc, torch.linspace(0.5, 1.0, dim, dtype=F64))
    v = d.base_dist.sample()
    x = geo.exp_frame(loc, v)
    jacobian = torch.autograd.functional.jacobian(lambda y: geo.exp_frame(loc, y), v)  # (n, n, dim)
    columns = torch.stack([geo.from_tangent(x, c) for c in jacobian.unbind(-1)], -1)
    expected = d.base_dist.log_prob(v) - torch.linalg.slogdet(columns).logabsdet
    torch.testing.assert_close(d.log_prob(x), expected, rtol=1e-10, atol=1e-10)


def test_log_euclidean_is_a_normal_distribution_of_the_logarithm():
    d = RiemannianNormal(LEM, LOC3, torch.tensor(0.7, dtype=F64))
    same = WrappedNormal(LEM, LOC3, torch.tensor([0.7], dtype=F64))
    x = d.sample((5,))
    flat = dist.Normal(0.0, 0.7).log_prob(geometry(LEM).log_frame(LOC3.expand_as(x), x)).sum(-1)
    torch.testing.assert_close(d.log_prob(x), flat)
    torch.testing.assert_close(same.log_prob(x), flat)


def test_mixed_size_one_is_the_log_normal():
    x = torch.tensor([0.5, 1.0, 3.0], dtype=F64)
    d = RiemannianNormal(AIM, torch.tensor([[2.0]], dtype=F64), torch.tensor(0.6, dtype=F64))
    expected = dist.LogNormal(math.log(2.0), 0.6).log_prob(x) + x.log()  # dvol = dx / x
    torch.testing.assert_close(d.log_prob(x[:, None, None]), expected)


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
def test_draws_follow_the_log_likelihood(scale):
    """E d^2 from draws at a location far from the identity, by the distance itself; z < 5, false alarm
    6e-7."""
    d = RiemannianNormal(AIM, LOC3, torch.tensor(scale, dtype=F64))
    x = d.sample((10_000,))
    square = geometry(AIM).dist(LOC3, x).square()
    expected = 2 * scale**2 * (d.entropy() + d.log_prob(LOC3))
    assert abs(float((square.mean() - expected) / (square.std() / 100))) < 5
    assert abs(float((-d.log_prob(x).mean() - d.entropy()) / (d.log_prob(x).std() / 100))) < 5


def test_pathwise_gradient_in_loc():
    """d E f(X) / d loc by draws against the score function of the same draws' distribution; 5 standard
    errors."""
    step = torch.zeros(60_000, 3, dtype=F64, requires_grad=True)
    loc = geometry(AIM).exp_frame(LOC2.expand(60_000, 2, 2), step)
    d = RiemannianNormal(AIM, loc, torch.tensor(0.6, dtype=F64))
    assert d.has_rsample
    f = lambda x: (x[:, 0, 0] * 1.3 + x[:, 0, 1] + 0.5 * x[:, 1, 1]).log()  # noqa: E731
    x = d.rsample()
    (pathwise,) = torch.autograd.grad(f(x).sum(), step, retain_graph=True)
    y = x.detach()
    (score,) = torch.autograd.grad(d.log_prob(y).sum(), step)
    score = score * (f(y) - f(y).mean()).unsqueeze(-1)
    error = (pathwise - score).mean(0) / ((pathwise - score).std(0) / math.sqrt(len(y)))
    assert float(error.abs().max()) < 5


def test_a_scale_that_is_learned_is_not_reparametrised():
    scale = torch.tensor(0.6, dtype=F64, requires_grad=True)
    d = RiemannianNormal(AIM, LOC2, scale)
    assert not d.has_rsample and not d.expand((3,)).has_rsample
    assert not d.sample((2,)).requires_grad
    with pytest.raises(NotImplementedError, match="scale: requires a gradient.*WrappedNormal"):
        d.rsample()
    (g,) = torch.autograd.grad(d.log_prob(LOC2), scale)
    assert bool(g.isfinite())


def test_entropy_and_divergence():
    scales = torch.tensor([0.5, 0.9], dtype=F64, requires_grad=True)
    p, q = (RiemannianNormal(AIM, LOC3, s) for s in scales)
    x = p.sample((20_000,))
    ratio = p.log_prob(x) - q.log_prob(x)
    error = (ratio.mean() - kl_divergence(p, q)) / (ratio.std() / math.sqrt(20_000))
    assert abs(float(error.detach())) < 5
    torch.testing.assert_close(kl_divergence(p, p).detach(), torch.zeros((), dtype=F64), atol=1e-12, rtol=0)
    assert torch.autograd.gradcheck(
        lambda s: RiemannianNormal(AIM, LOC3, s).entropy(), scales[:1].detach()[0].requires_grad_()
    )


def test_maximum_likelihood_recovers_the_parameters():
    """Location and scale of 4000 draws by SVI of the point estimates; 5 standard errors of the scale, Fréchet
    error 0.05."""
    truth = RiemannianNormal(AIM, LOC2, torch.tensor(0.5, dtype=F64))
    data = truth.sample((4000,))

    def model():
        loc = pyro.param("loc", torch.eye(2, dtype=F64), constraint=on(AIM))
        scale = pyro.param("scale", torch.tensor(1.0, dtype=F64), constraint=dist.constraints.positive)
        with pyro.plate("n", len(data)):
            pyro.sample("x", RiemannianNormal(AIM, loc, scale), obs=data)

    svi = SVI(model, lambda: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(70):
        svi.step()
    loc, scale = pyro.param("loc").detach(), pyro.param("scale").detach()
    assert float(geometry(AIM).dist(loc, LOC2)) < 0.05
    assert float(scale) == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(2 * 3 * 4000))


@pytest.mark.parametrize("distribution", [WrappedNormal, RiemannianNormal])
def test_a_latent_matrix_under_an_autoguide(distribution):
    scale = torch.tensor([0.5] if distribution is WrappedNormal else 0.5, dtype=F64)

    def model():
        x = pyro.sample("x", distribution(AIM, LOC2, scale))
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(2, dtype=F64), x), obs=torch.ones(2, dtype=F64))

    guide = AutoNormal(model)
    svi = SVI(
        model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO(num_particles=8, vectorize_particles=True)
    )
    losses = [svi.step() for _ in range(60)]
    assert all(math.isfinite(x) for x in losses) and sum(losses[-10:]) < sum(losses[:10])
    assert guide()["x"].shape == (2, 2)


@pytest.mark.parametrize("distribution", [WrappedNormal, RiemannianNormal])
def test_bad_input(distribution):
    one = torch.ones(1) if distribution is WrappedNormal else 1.0
    for bad in (
        torch.tensor([[1.0, 0.5], [0.0, 1.0]]),
        torch.tensor([[1.0, 2.0], [2.0, 1.0]]),
        torch.ones(2, 2) * math.nan,
    ):
        with pytest.raises(
            ValueError, match="loc: got .*expected points of SymmetricPositiveDefinite.*project"
        ):
            distribution(AIM, bad, one)
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        distribution(AIM, torch.ones(2, 3), one)
    with pytest.raises(ValueError, match="scale"):
        distribution(AIM, torch.eye(2), -one)
    with pytest.raises(ValueError, match="within the support|support"):
        distribution(AIM, torch.eye(2), one, validate_args=True).log_prob(
            torch.tensor([[1.0, 2.0], [2.0, 1.0]])
        )


def test_shapes_with_the_manifold():
    assert RiemannianNormal.infer_shapes(AIM, (3, 2, 2), (5, 1)) == ((5, 3), (2, 2))
    assert WrappedNormal.infer_shapes(AIM, (3, 2, 2), (5, 1, 3)) == ((5, 3), (2, 2))
