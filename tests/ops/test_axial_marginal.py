"""Draws of the height against its distribution function, its derivative against quadrature, and the minimal
rotation."""

import math

import mpmath
import pytest
import torch
from scipy import stats

from pyro_manifold.ops.axial_marginal import (
    one_minus_cosine_gradient,
    sample_one_minus_cosine,
)
from pyro_manifold.ops.axial_profile import EXPONENTIAL, POWER, AxialProfile
from pyro_manifold.ops.axis import squared_chord, tangent_normal_point
from pyro_manifold.ops.gamma_ratio import digamma_difference
from pyro_manifold.ops.special import bessel_ratio

PROFILES = {"exponential": EXPONENTIAL, "power": POWER}


def exact_gradient(s: torch.Tensor, k: float, n: int, kind: str) -> torch.Tensor:
    """ds/dk by tanh-sinh quadrature in the angle, on the side where the integrand has one sign."""
    angle, b = 2 * (s / 2).sqrt().asin(), (n - 1) / 2
    with mpmath.workdps(30):
        if kind == "exponential":
            mean = float(mpmath.besseli(b + 0.5, k) / mpmath.besseli(b - 0.5, k) - 1)
        else:
            mean = float(mpmath.digamma(mpmath.mpf(k) + b) - mpmath.digamma(mpmath.mpf(k) + 2 * b))

    def score(t: torch.Tensor) -> torch.Tensor:
        return -2 * (t / 2).sin().square() if kind == "exponential" else 2 * (t / 2).cos().log()

    def log_f(t: torch.Tensor) -> torch.Tensor:
        return k * score(t) + (n - 2) * t.sin().clamp_min(1e-300).log()

    reach = 14 / math.sqrt(k + n)
    end = torch.where(score(angle) < mean, (angle + reach).clamp_max(math.pi), (angle - reach).clamp_min(0.0))
    u = torch.linspace(-3.3, 3.3, 801, dtype=torch.float64).unsqueeze(-1)
    near, far = (torch.sigmoid(sign * math.pi * u.sinh()) for sign in (-1, 1))
    t, weight = (near * angle + far * end).clamp(0.0, math.pi), near * far * math.pi * u.cosh() * 6.6 / 800
    f = (score(t) - mean) * (log_f(t) - log_f(angle)).exp()
    return angle.sin() * (end - angle) * (weight * f).sum(0)


@pytest.mark.parametrize("kind", PROFILES)
@pytest.mark.parametrize("n", [2, 3, 4, 10, 50])
def test_gradient(kind: str, n: int) -> None:
    for k in (1e-6, 0.1, 1.0, 30.0, 1e6):
        kk = torch.full((30,), k, dtype=torch.float64)
        s = sample_one_minus_cosine(kk, n, PROFILES[kind])
        got = one_minus_cosine_gradient(s, kk, n, PROFILES[kind])
        expected = exact_gradient(s, k, n, kind)
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=0, msg=lambda m: f"k = {k}: {m}")  # noqa: B023


def mean_height(k: torch.Tensor, n: int, kind: str) -> torch.Tensor:
    return bessel_ratio(k, n / 2 - 1)[1] if kind == "exponential" else (n - 1) / (k + n - 1)


@pytest.mark.parametrize("dtype_", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", PROFILES)
@pytest.mark.parametrize("n", [2, 3, 4, 10, 100])
def test_moments(kind: str, n: int, dtype_: torch.dtype) -> None:
    """E s, and E ds/dk = d(E s)/dk, at five standard errors each (false alarm 6e-7 per comparison)."""
    for k in (0.0, 0.5, 20.0, 1e6):
        kk = torch.tensor(k, dtype=dtype_)
        s = sample_one_minus_cosine(kk, n, PROFILES[kind], (40_000,))
        d = one_minus_cosine_gradient(s, kk, n, PROFILES[kind])
        exact = torch.tensor(k, dtype=torch.float64, requires_grad=True)
        mean = mean_height(exact, n, kind)
        (slope,) = torch.autograd.grad(mean, exact)
        for x, expected in ((s.double(), mean), (d, slope)):
            assert bool(x.isfinite().all())
            error = (x.mean() - expected).abs() / (x.std() / 200)
            assert error < 5, f"k = {k}: {error:.1f} standard errors"


@pytest.mark.parametrize("n", [2, 4, 10])
def test_distribution(n: int) -> None:
    """Kolmogorov-Smirnov against the distribution function by quadrature; false alarm 1e-4 each."""
    for kind, k in (("exponential", 0.5), ("exponential", 30.0), ("power", 0.5), ("power", 30.0)):
        s = (
            sample_one_minus_cosine(torch.tensor(k, dtype=torch.float64), n, PROFILES[kind], (20_000,))
            .sort()
            .values
        )
        t = torch.linspace(0, math.pi, 20_001, dtype=torch.float64)
        g = k * (t.cos() - 1) if kind == "exponential" else 2 * k * (t / 2).cos().clamp_min(1e-300).log()
        f = g.exp() * t.sin().clamp_min(0) ** (n - 2)
        cdf = torch.cat([f.new_zeros(1), ((f[1:] + f[:-1]) / 2).cumsum(0)])
        angle = 2 * (s / 2).sqrt().asin()
        at = (angle / math.pi * 20_000).long().clamp_max(19_999)
        below = (cdf[at] + (cdf[at + 1] - cdf[at]) * (angle / math.pi * 20_000 - at)) / cdf[-1]
        ecdf = torch.arange(1, 20_001, dtype=torch.float64) / 20_000
        assert (below - ecdf).abs().max() < 2.23 / math.sqrt(20_000)


def test_small_concentration_on_s2() -> None:
    """The closed form and the series of the S^2 gradient agree where they meet."""
    s = torch.linspace(0.01, 1.99, 50, dtype=torch.float64)
    below, above = (EXPONENTIAL.invert_gradient(s, torch.full_like(s, k)) for k in (0.25 - 1e-13, 0.25))
    torch.testing.assert_close(below, above, rtol=1e-11, atol=0)


def test_bounded() -> None:
    with pytest.raises(RuntimeError, match="concentration for NaN"):
        sample_one_minus_cosine(torch.tensor([math.nan, 1.0]), 5, EXPONENTIAL)


@pytest.mark.parametrize("axis", [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [0.6, -0.48, -0.64], [1e-9, 0.0, -1.0]])
@pytest.mark.parametrize("shared", [True, False])
def test_directions_on_s2_are_uniform(axis: list[float], shared: bool) -> None:
    """KS of the angle about the axis; 8 tests at p > 1e-3 with fixed seed."""
    torch.manual_seed(3)
    p = torch.tensor(axis, dtype=torch.float64)
    p = p / p.norm()
    x = tangent_normal_point(
        p if shared else p.repeat(5000, 1), torch.full((5000,), 0.8, dtype=torch.float64)
    )
    e = torch.linalg.cross(p, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    e = e / e.norm()
    turn = torch.atan2(x @ torch.linalg.cross(p, e), x @ e) / (2 * math.pi) + 0.5
    assert stats.kstest(turn.numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("n", [2, 3, 5])
def test_around_axis(n: int) -> None:
    """On the sphere at the right height for every axis, and the gradient is that of the minimal rotation."""
    eye = torch.eye(n, dtype=torch.float64)
    mu = torch.cat([eye, -eye, torch.nn.functional.normalize(eye[:1] + 1e-5, dim=-1)])
    s = torch.linspace(0, 2, len(mu), dtype=torch.float64)
    x = tangent_normal_point(mu, s)
    torch.testing.assert_close(x.norm(dim=-1), torch.ones_like(s), rtol=0, atol=1e-15)
    torch.testing.assert_close(1 - (mu * x).sum(-1), s, rtol=0, atol=1e-14)
    p, s = mu[-1].clone().requires_grad_(), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x = tangent_normal_point(p, s)
    jacobian = torch.stack([torch.autograd.grad(x[i], p, retain_graph=True)[0] for i in range(n)])
    tangent = torch.randn(n, dtype=torch.float64)
    tangent = tangent - (tangent @ p.detach()) * p.detach()
    rotation = torch.outer(tangent, p.detach()) - torch.outer(
        p.detach(), tangent
    )  # turns mu towards the tangent
    torch.testing.assert_close(jacobian @ tangent, rotation @ x.detach())
    ds = torch.stack([torch.autograd.grad(x[i], s, retain_graph=True)[0] for i in range(n)])
    v = (x - (1 - s) * p).detach()
    torch.testing.assert_close(ds, -p.detach() + (1 - s.detach()) / (v @ v) * v)


@pytest.mark.parametrize("n", [2, 3, 10, 300])
def test_squared_chord(n: int) -> None:
    """Value and derivatives to second order, with broadcasting on either side and over more than one
    piece."""
    x, y = (torch.randn(*shape, n, dtype=torch.float64, requires_grad=True) for shape in ((5, 1), (4,)))
    torch.testing.assert_close(squared_chord(x, y), (x - y).square().sum(-1))
    if n < 100:
        assert torch.autograd.gradcheck(squared_chord, (x, y))
        assert torch.autograd.gradgradcheck(squared_chord, (x, y))
    x, y = torch.randn(70_000, 3), torch.randn(3, requires_grad=True)
    out = squared_chord(x, y)
    torch.testing.assert_close(out, (x - y).square().sum(-1))
    (g,) = torch.autograd.grad(out.mean(), y)
    torch.testing.assert_close(g, 2 * (y - x.mean(0)), atol=1e-4, rtol=1e-4)


def test_profiles_are_profiles() -> None:
    """digamma difference as mean score: E log(1 - s/2) by draws, five standard errors (false alarm 6e-7)."""
    profile: AxialProfile = POWER
    k = torch.tensor(3.0, dtype=torch.float64)
    x = torch.log1p(-sample_one_minus_cosine(k, 6, profile, (40_000,)) / 2)
    assert (x.mean() + digamma_difference(k + 2.5, 2.5)).abs() < 5 * x.std() / 200
