"""von Mises-Fisher: what the generic checks of tests/cases do not say."""

import math
import warnings

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch.distributions import kl_divergence

from pyro_manifold.distributions import ManifoldUniform, PowerSpherical, VonMisesFisher
from pyro_manifold.ops.special import bessel_ratio

UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("n", [3, 5, 20])
def test_scipy(n: int) -> None:
    """log_prob and entropy where scipy's are finite."""
    mu = torch.nn.functional.normalize(torch.randn(n, dtype=torch.float64), dim=0)
    x = torch.nn.functional.normalize(torch.randn(20, n, dtype=torch.float64), dim=-1)
    for k in (1.0, 20.0, 500.0):
        theirs, ours = scipy.stats.vonmises_fisher(mu.numpy(), k), VonMisesFisher(mu, k)
        expected = torch.from_numpy(theirs.logpdf(x.numpy()))
        torch.testing.assert_close(ours.log_prob(x), expected, rtol=1e-10, atol=1e-10)
        assert math.isclose(float(ours.entropy()), float(theirs.entropy()), rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize("distribution", [VonMisesFisher, PowerSpherical])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_moments(distribution: type, n: int) -> None:
    """mean, variance and entropy against draws, five standard errors (false alarm 6e-7 per comparison)."""
    mu = torch.nn.functional.normalize(torch.randn(n, dtype=torch.float64), dim=0)
    for k in (0.0, 3.0, 200.0):
        d = distribution(mu, k)
        x = d.sample((40_000,))
        torch.testing.assert_close(d.covariance_matrix.diagonal(), d.variance)
        for name, draws, expected in (
            ("mean", x, d.mean),
            ("variance", (x - d.mean) ** 2, d.variance),
            ("entropy", -d.log_prob(x), d.entropy()),
        ):
            error = (draws.mean(0) - expected).abs() / (draws.std(0) / 200 + 1e-12)
            assert bool((error < 5).all()), f"{name} at k = {k}"


def test_float32_at_large_concentration() -> None:
    mu = torch.nn.functional.normalize(torch.randn(1000, 10), dim=-1)
    for k in (1e3, 1e6):
        d = VonMisesFisher(mu, k)
        x = d.sample()
        expected = VonMisesFisher(mu.double(), k, validate_args=False).log_prob(x.double())
        assert (d.log_prob(x) - expected).abs().max() <= 5e-4


@pytest.mark.parametrize("n", [2, 3, 4, 10])
def test_draws_stay_on_the_sphere(n: int) -> None:
    """Every axis, the coordinate axes and their neighbours included (a Householder reflection of zero
    elsewhere)."""
    e = torch.eye(n)
    for tilt in (0.0, 1e-7, 1e-5, 1e-4):
        mu = torch.nn.functional.normalize(torch.cat([e, -e]) + tilt * torch.randn(2 * n, n), dim=-1)
        for k in (0.0, 1.0, 1e6):
            x = VonMisesFisher(mu, k).sample((500,))
            assert (x.double().norm(dim=-1) - 1).abs().max() <= 1e-6


@pytest.mark.parametrize("n, k", [(2, 1.0), (3, 2.0), (5, 2.0), (5, 5.0), (10, 20.0), (50, 100.0)])
def test_concentration_gradient_is_unbiased(n: int, k: float) -> None:
    """E d(mu.x)/dk = A'(k), and E dx/d(angle of mu) is the turned mean; five standard errors (false alarm
    6e-7)."""
    mu = torch.eye(n, dtype=torch.float64)[0]
    kk = torch.full((40_000,), k, dtype=torch.float64, requires_grad=True)
    t = (VonMisesFisher(mu, kk).rsample() * mu).sum(-1)
    (g,) = torch.autograd.grad(t.sum(), kk)
    slope = bessel_ratio(torch.tensor(k, dtype=torch.float64), n / 2 - 1)[2]
    assert (g.mean() - slope).abs() < 5 * g.std() / 200


def test_uniform_limit_and_divergences() -> None:
    """KL >= 0, 0 at equality, that of a Monte Carlo estimate, and quadratic in k near 0 without
    cancellation."""
    uniform = ManifoldUniform(geoopt.Sphere(), (3,), dtype=torch.float64)
    for distribution in (VonMisesFisher, PowerSpherical):
        assert float(kl_divergence(distribution(UP, 0.0), uniform)) == pytest.approx(0, abs=1e-15)
        for k in (0.5, 30.0):
            d = distribution(UP, k)
            x = d.sample((40_000,))
            r = d.log_prob(x) - uniform.log_prob(x)
            assert (r.mean() - kl_divergence(d, uniform)).abs() < 5 * r.std() / 200  # false alarm 6e-7
    small = kl_divergence(VonMisesFisher(UP, 1e-6), uniform)
    assert float(small) == pytest.approx(1e-12 / 6, rel=1e-9)  # k^2 / 2n
    tilted = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
    for a, b in ((0.3, 0.7), (2.0, 50.0), (1e5, 1e6)):
        p, q = VonMisesFisher(UP, a), VonMisesFisher(tilted, b)
        x = p.sample((40_000,))
        r = p.log_prob(x) - q.log_prob(x)
        assert (r.mean() - kl_divergence(p, q)).abs() < 5 * r.std() / 200 + 1e-9
        assert float(kl_divergence(p, p)) == pytest.approx(0, abs=1e-12)
    with pytest.raises(NotImplementedError, match="different manifolds"):
        kl_divergence(VonMisesFisher(UP, 1.0), VonMisesFisher(UP[1:], 1.0))


@pytest.mark.parametrize("distribution", [VonMisesFisher, PowerSpherical])
def test_bad_input(distribution: type) -> None:
    with pytest.raises(ValueError, match=r"loc: got 0, 0, 2, expected unit vectors. Normalise it"):
        distribution(2 * UP, 1.0)
    with pytest.raises(ValueError, match=r"loc: got nan"):
        distribution(math.nan * UP, 1.0)
    with pytest.raises(ValueError, match=r"loc: got shape \(\).*Add the coordinate axis"):
        distribution(torch.tensor(1.0), 1.0)
    with pytest.raises(ValueError, match=r"loc: got shape \(1,\), expected .* n >= 2"):
        distribution(torch.ones(1), 1.0)
    for bad, seen in ((-1.0, "-1"), (math.nan, "nan"), (math.inf, "inf")):
        with pytest.raises(ValueError, match=f"concentration: got {seen}, expected finite numbers.*softplus"):
            distribution(UP, bad)
    with pytest.raises(ValueError, match=r"batch shapes do not broadcast: loc \(4,\), concentration \(3,\)"):
        distribution(UP.expand(4, 3), torch.ones(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="concentration: got dtype"):
        distribution(UP, torch.ones(3))
    with pytest.warns(UserWarning, match=r"concentration.squeeze\(-1\)"):
        distribution(UP.expand(4, 3), torch.ones(4, 1, dtype=torch.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert distribution(UP.expand(4, 3), torch.ones(4, dtype=torch.float64)).batch_shape == (4,)


def test_second_order_of_a_draw_raises() -> None:
    k = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    x = VonMisesFisher(UP, k).rsample()
    (g,) = torch.autograd.grad((x[0] * k).sum(), k, create_graph=True)
    with pytest.raises(NotImplementedError, match="last order"):
        torch.autograd.grad(g, k)


def test_jit_elbo_with_a_learned_concentration() -> None:
    """Traced and plain ELBO agree, gradients included: under torch.jit.trace sizes are tensors."""
    loc = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
    x = VonMisesFisher(loc, 4.0).sample((20,))

    def model() -> None:
        k = pyro.param("k", torch.tensor(1.5, dtype=torch.float64), constraint=dist.constraints.positive)
        with pyro.plate("n", 20):
            pyro.sample("x", VonMisesFisher(loc, k), obs=x)

    seen = []
    for elbo in (pyro.infer.Trace_ELBO(), pyro.infer.JitTrace_ELBO(ignore_jit_warnings=True)):
        pyro.clear_param_store()
        loss = elbo.loss_and_grads(model, lambda: None)
        seen.append((float(loss), float(pyro.param("k").unconstrained().grad)))
    assert seen[0] == pytest.approx(seen[1], rel=1e-6)
