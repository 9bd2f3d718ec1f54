"""Concentrations from 0 to the ends of the dtype: against mpmath, against limits, and float32 against
float64.

Statistical bounds are 5 standard errors (false alarm 6e-7 each).
"""

import math
from functools import cache
from typing import Any

import geoopt
import mpmath as mp
import pytest
import torch
from mpmath.calculus.quadrature import GaussLegendre
from torch import Tensor
from torch.distributions import kl_divergence

import pyro_manifold.distributions as mdist
from pyro_manifold.ops.gamma_ratio import power_divergence
from pyro_manifold.ops.parabolic_cylinder import log_radial_integral
from pyro_manifold.ops.special import bessel_divergence, bessel_ratio, log_bessel
from pyro_manifold.testing import check_precision

F64 = torch.float64
SPHERE, BALL = geoopt.Sphere(), geoopt.PoincareBall()
ORDERS = (0.0, 0.5, 1.5, 31.0, 511.0)  # spheres in R^2, R^3, R^5, R^64, R^1024
SIZES = (0.0, 1e-30, 1e-8, 1.0, 1e3, 83767.77, 2e7, 1e13, 1e15, 1e19, 1e30, 1e37)  # float32 holds them all


def relative(actual: Tensor, expected: list[Any], rtol: float) -> None:
    with mp.workdps(60):
        error = [
            abs((mp.mpf(a) - e) / e) if e else abs(mp.mpf(a))
            for a, e in zip(actual.tolist(), expected, strict=True)
        ]
    assert max(error) < rtol, [float(e) for e in error]


def scaled_log_bessel(k: float, v: float) -> Any:
    """log Gamma(v + 1) (2/k)^v I_v(k) - k; by Hankel's series where mpmath's own would need as many digits as
    k has."""
    x = mp.mpf(k)
    if x == 0:
        return x
    if x < 1e7 * (1 + v) ** 2:
        return mp.log(mp.besseli(v, x)) + mp.loggamma(v + 1) - v * mp.log(x / 2) - x
    term, total = mp.mpf(1), mp.mpf(1)
    for i in range(1, 12):
        term *= -(4 * mp.mpf(v) ** 2 - (2 * i - 1) ** 2) / (8 * i * x)
        total += term
    return mp.loggamma(v + 1) + v * mp.log(2 / x) - mp.log(2 * mp.pi * x) / 2 + mp.log(total)


def complement(k: float, v: float) -> Any:
    """1 - I_{v+1}(k)/I_v(k)."""
    x = mp.mpf(k)
    if x == 0:
        return mp.mpf(1)
    if x < 1e7 * (1 + v) ** 2:
        return 1 - mp.besseli(v + 1, x) / mp.besseli(v, x)
    return (v + mp.mpf(0.5)) / x - (4 * mp.mpf(v) ** 2 - 1) / (8 * x**2) * (1 + 1 / x)


@pytest.mark.parametrize("v", ORDERS)
def test_bessel_functions(v: float) -> None:
    mp.mp.dps = 60
    sizes = (1e-8, 0.5, 100.0, 1e8, 1e18, 1e19, 5e20, 1e30, 1e100, 1e155, 1e300)
    k = torch.tensor(sizes, dtype=F64)
    relative(log_bessel(k, v, scaled=True), [scaled_log_bessel(x, v) for x in sizes], 1e-13)
    ratio, rest, slope = bessel_ratio(k, v)
    relative(rest, [complement(x, v) for x in sizes], 3e-13)  # 1.6e-13 with torch 2.7
    relative(slope[4:-2] * k[4:-2].square(), [mp.mpf(v) + 0.5] * 5, 1e-11)
    assert bool((ratio <= 1).all()) and bool((slope >= 0).all())


@pytest.mark.parametrize("v", ORDERS)
def test_bessel_divergence(v: float) -> None:
    """However near the two arguments are: G(q) - G(p) - (q - p) A(p) with 80 digits."""
    mp.mp.dps = 80
    pairs = [
        (p, p * r)
        for p in (1e-8, 1e-3, 1.0, 50.0, 83767.77)
        for r in (0.0, 0.5, 0.999999, 1.0, 1.0 + 1e-9, 1.2, 1e4)
    ]
    pairs += [(p, p * r) for p in (1e15, 1e21, 1e37, 1e290) for r in (1e-3, 0.5, 3.0, 1e4)]
    p, q = torch.tensor(pairs, dtype=F64).unbind(-1)
    exact = [
        scaled_log_bessel(b, v) - scaled_log_bessel(a, v) + (mp.mpf(b) - mp.mpf(a)) * complement(a, v)
        for a, b in zip(p.tolist(), q.tolist(), strict=True)
    ]
    relative(bessel_divergence(p, q, v), exact, 1e-10)
    p, q = (x[:-5].float() for x in (p, q))  # what float32 can hold
    rounded = bessel_divergence(p.double(), q.double(), v).float()
    torch.testing.assert_close(bessel_divergence(p, q, v), rounded, rtol=3e-7, atol=1e-37)


def test_bessel_divergence_gradients() -> None:
    p = torch.tensor([1e-3, 3.0, 40.0, 50.0], dtype=F64, requires_grad=True)
    q = torch.tensor([1.1e-3, 9.0, 45.0, 0.1], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p, q: bessel_divergence(p, q, 0.5), (p, q), eps=1e-8, atol=1e-8)
    big = torch.tensor([1e21, 1e100, 1e300], dtype=F64, requires_grad=True)
    (g,) = torch.autograd.grad(bessel_divergence(torch.full_like(big, 1.0), big, 0.5).sum(), big)
    torch.testing.assert_close(
        g, bessel_ratio(big, 0.5)[0].detach() - bessel_ratio(torch.ones_like(big), 0.5)[0].detach()
    )


@pytest.mark.parametrize("b", [0.5, 1.0, 2.0, 31.5, 511.5])
def test_power_divergence(b: float) -> None:
    sizes = (1e-30, 1e-8, 1e-3, 0.3 * b, b, 1e3, 1e13, 1e37)
    with mp.workdps(200):
        f = lambda t: mp.loggamma(t + 2 * b) - mp.loggamma(t + b)  # noqa: E731
        exact = [
            f(mp.mpf(x)) - f(0) - x * (mp.digamma(mp.mpf(x) + 2 * b) - mp.digamma(mp.mpf(x) + b))
            for x in sizes
        ]
    k = torch.tensor(sizes, dtype=F64)
    relative(power_divergence(k, b), exact, 1e-12)
    k = k.float()
    torch.testing.assert_close(
        power_divergence(k, b), power_divergence(k.double(), b).float(), atol=1e-38, rtol=1e-7
    )


@pytest.mark.parametrize("n", [2, 3, 5, 64, 1024])
def test_float32_is_float64_rounded(n: int) -> None:
    axis = torch.eye(n)[n - 1]
    for k in SIZES:
        for family in (mdist.VonMisesFisher, mdist.PowerSpherical):
            check_precision(family, dict(loc=axis, concentration=torch.tensor(k)))
    for k in (0.0, 1e-30, 1.0, 1e4, 1e15, 1e37):
        check_precision(mdist.ProjectedNormal, dict(concentration=k * axis))


def test_float32_is_float64_rounded_elsewhere() -> None:
    for rho in (0.0, 1e-8, 0.5, 0.999, 0.999999, 1 - 2.0**-24):
        check_precision(mdist.WrappedCauchy, dict(loc=torch.tensor(0.3), concentration=torch.tensor(rho)))
    for spread in ([1e-6, 1.0, 1e3], [1.0, 1.0, 1e-30], [1e-20, 1.0, 1e15], [1e-36, 1e-30, 1e-33]):
        check_precision(mdist.AngularCentralGaussian, dict(scale_tril=torch.diag(torch.tensor(spread))))
    for manifold, loc, scales in (
        (SPHERE, torch.eye(3)[0], (1e-15, 1e-3, 1.0, 10.0)),
        (BALL, torch.zeros(2), (1e-15, 0.1)),
    ):
        for s in scales:
            make = lambda loc, scale, manifold=manifold: mdist.RiemannianNormal(manifold, loc, scale)  # noqa: E731
            check_precision(make, dict(loc=loc, scale=torch.tensor(s)))


@pytest.mark.parametrize(
    "dtype, sizes", [(torch.float32, (2e7, 1e13, 1e19, 1e30, 1e37)), (F64, (2e7, 1e19, 5e20, 1e155, 1e300))]
)
@pytest.mark.parametrize("n", [2, 3, 5])
def test_concentrated_draws(n: int, dtype: torch.dtype, sizes: tuple[float, ...]) -> None:
    """None at the antipode (139 of a million were, on the circle at 2e7), none stuck at loc; kappa |x -
    loc|^2 is chi^2_{n-1}."""
    for family, factor in ((mdist.VonMisesFisher, 1.0), (mdist.PowerSpherical, 0.5)):
        for k in sizes:
            concentration = torch.tensor(k, dtype=dtype, requires_grad=True)
            d = family(torch.eye(n, dtype=dtype)[0], concentration)
            x = d.rsample((100_000 if k == sizes[0] else 20_000,))
            assert bool((x[:, 0] > 0).all()) and bool(d.log_prob(x.detach()).isfinite().all())
            square = (x[:, 1:].detach().double() * math.sqrt(factor * k)).square().sum(-1)
            assert abs(float(square.mean()) - (n - 1)) < 5 * math.sqrt(2 * (n - 1) / len(x))
            torch.testing.assert_close(
                d.variance[1].detach().double() * factor * k, torch.ones((), dtype=F64), rtol=1e-5, atol=0
            )
            (g,) = torch.autograd.grad(x.sum(), concentration)
            assert bool(g.isfinite())


def test_von_mises_fisher_limits() -> None:
    """KL at 1e6 and 3e6 is 2 - log 3 to 1e-6 (the order-kappa terms gave .978), of equals 0; the entropy is 1
    + log 2 pi/k."""
    axis = torch.eye(3)[0]
    one = [mdist.VonMisesFisher(axis, k) for k in (1e6, 3e6, 83767.77)]
    torch.testing.assert_close(
        kl_divergence(one[0], one[1]), torch.tensor(2 - math.log(3)), rtol=1e-6, atol=0
    )
    assert float(kl_divergence(one[2], mdist.VonMisesFisher(axis, 83767.77))) == 0
    for k in (5e20, 1e100, 1e300):
        d = mdist.VonMisesFisher(axis.double(), torch.tensor(k, dtype=F64))
        torch.testing.assert_close(
            d.entropy(), torch.tensor(1 + math.log(2 * math.pi) - math.log(k), dtype=F64)
        )
        torch.testing.assert_close(
            d.log_prob(axis.double()), torch.tensor(math.log(k / (2 * math.pi)), dtype=F64)
        )
        other = mdist.VonMisesFisher(axis.double(), torch.tensor(k / 2, dtype=F64))
        torch.testing.assert_close(kl_divergence(d, other), torch.tensor(math.log(2) - 0.5, dtype=F64))


def test_power_spherical_at_the_antipode_and_at_zero() -> None:
    axis = torch.eye(3, dtype=F64)[0]
    k = torch.tensor(0.0, dtype=F64, requires_grad=True)
    x = torch.stack([-axis, torch.eye(3, dtype=F64)[1]]).requires_grad_()
    lp = mdist.PowerSpherical(axis, k).log_prob(x)
    torch.testing.assert_close(lp, torch.full_like(lp, -math.log(4 * math.pi)))
    (g,) = torch.autograd.grad(lp[0], x, retain_graph=True)
    assert not g.any()
    # d/dk [log(k + 1) + k log((1 + t)/2)] at k = 0, t = 0
    torch.testing.assert_close(torch.autograd.grad(lp[1], k)[0], torch.tensor(1 - math.log(2), dtype=F64))
    far = mdist.PowerSpherical(axis, torch.tensor(2.0, dtype=F64)).log_prob(x)[0]
    assert float(far.detach()) == -math.inf and not torch.autograd.grad(far, x)[0].isnan().any()


@pytest.mark.parametrize("n", [2, 3, 5, 17, 18, 64, 1024])
def test_radial_integral_at_the_ends(n: int) -> None:
    """One power of a: sqrt(2 pi) a^(n-1) to the right, (n-1)! / |a|^n to the left, and the first
    correction."""
    sizes = [f * n for f in (1e5, 1e8, 1e11, 1e20, 1e100, 1e155, 1e290)]
    a = torch.tensor(sizes + [-x for x in sizes], dtype=F64, requires_grad=True)
    value = log_radial_integral(a, n)
    (slope,) = torch.autograd.grad(value.sum(), a)
    with mp.workdps(40):
        right = [
            (n - 1) * mp.log(x) + mp.log(2 * mp.pi) / 2 + mp.mpf((n - 1) * (n - 2)) / (2 * mp.mpf(x) ** 2)
            for x in sizes
        ]
        left = [mp.loggamma(n) - n * mp.log(x) - mp.mpf(n * (n + 1)) / (2 * mp.mpf(x) ** 2) for x in sizes]
    relative(value.detach(), right + left, 1e-12)
    power = torch.where(a.detach() > 0, n - 1.0, float(n)).double()
    torch.testing.assert_close(slope * a.detach().abs(), power, rtol=1e-8, atol=0)


@pytest.mark.parametrize("n", [3, 5, 64])
def test_projected_normal_limit(n: int) -> None:
    """Normal about the direction, with precision |mu|^2, to the end of the dtype; where they can be told, off
    the axes too."""
    eye = torch.eye(n, dtype=F64)
    turned = 0.6 * eye[0] + 0.8 * eye[1], 0.6 * eye[1] - 0.8 * eye[0]
    for k, axes, tol in (
        (1e8, turned, 1e-7),
        (1e12, turned, 1e-3),
        (1e16, eye, 1e-11),
        (1e100, eye, 1e-11),
        (1e300, eye, 1e-11),
    ):
        d = mdist.ProjectedNormal(k * axes[0])
        x = torch.nn.functional.normalize(axes[0] + 0.7 / k * axes[1], dim=-1)
        expected = (n - 1) * (math.log(k) - math.log(2 * math.pi) / 2) - 0.7**2 / 2
        torch.testing.assert_close(d.log_prob(x), torch.tensor(expected, dtype=F64), rtol=tol, atol=0)
        torch.testing.assert_close(d.mean, axes[0], rtol=1e-9, atol=1e-12)
    far = mdist.ProjectedNormal(1e30 * torch.eye(n)[0]).sample((4000,))
    assert bool((far[:, 0] == 1).all())
    assert float(((far[:, 1] * 1e30).square().mean() - 1).abs()) < 5 * math.sqrt(
        2 / 4000
    )  # 5 standard errors


def test_wrapped_cauchy_divergence() -> None:
    """Near concentration 1 in float32, where 1 - ab has lost its digits; and equal distributions."""
    rho = (0.0, 0.5, 0.999, 0.9999999, 1 - 2.0**-24)
    a, b = (torch.tensor(rho)[i] for i in torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij"))
    got = kl_divergence(mdist.WrappedCauchy(torch.tensor(0.3), a), mdist.WrappedCauchy(torch.tensor(0.3), b))
    with mp.workdps(40):
        f = lambda p, q: mp.log((1 - p * q) ** 2 / ((1 - p * p) * (1 - q * q)))  # noqa: E731
        exact = [
            [float(f(mp.mpf(p), mp.mpf(q))) for q in torch.tensor(rho).tolist()]
            for p in torch.tensor(rho).tolist()
        ]
    torch.testing.assert_close(got, torch.tensor(exact), rtol=1e-6, atol=0)


def test_riemannian_divergence_of_narrow_distributions() -> None:
    """Scales whose inverse squares overflow float32: d [log(b/a) + (a^2/b^2 - 1)/2]."""
    loc = torch.eye(3)[0]
    for a, b in ((1e-25, 3e-25), (3e-12, 1e-12), (1e-3, 1e-3)):
        p, q = (mdist.RiemannianNormal(SPHERE, loc, s) for s in (a, b))
        exact = 2 * (math.log(b / a) + (a * a / (b * b) - 1) / 2)
        torch.testing.assert_close(kl_divergence(p, q), torch.tensor(exact), rtol=1e-5, atol=1e-12)


@cache
def gauss() -> list[tuple[Any, Any]]:
    """96 nodes on (-1, 1) and their weights, with 150 digits."""
    return GaussLegendre(mp.mp).calc_nodes(6, 520)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_riemannian_normals_near_the_uniform_distribution(n: int) -> None:
    """log V - log Z - E[r^2]/2 sigma^2 with 150 digits, by Gauss's rule of 96 nodes; in float64 it has none beyond a
    scale of 1e4."""
    scales = (0.5, 2.9, 3.1, 1e2, 1e5, 1e12, 1e30)
    scale = torch.tensor(scales, dtype=F64, requires_grad=True)
    p = mdist.RiemannianNormal(SPHERE, torch.eye(n, dtype=F64)[0].expand(7, n), scale)
    got = kl_divergence(p, mdist.ManifoldUniform(SPHERE, (n,), dtype=F64))
    exact = []
    with mp.workdps(150):
        nodes = [((1 + x) * mp.pi / 2, w) for x, w in gauss()]
        radii, weights = zip(*((r, w * mp.sin(r) ** (n - 2)) for r, w in nodes), strict=True)
        for s in scales:
            density = [
                w * mp.exp(-(r**2) / (2 * mp.mpf(s) ** 2)) for r, w in zip(radii, weights, strict=True)
            ]
            z, square = mp.fsum(density), mp.fsum(r**2 * f for r, f in zip(radii, density, strict=True))
            exact.append(mp.log(mp.fsum(weights) / z) - square / z / (2 * mp.mpf(s) ** 2))
    relative(got.detach(), exact, 1e-11)
    (g,) = torch.autograd.grad(got[:4].sum(), scale)
    torch.testing.assert_close(g[3] * 1e2, -4 * got[3].detach(), rtol=1e-3, atol=0)  # of order sigma^-4
    single = mdist.RiemannianNormal(SPHERE, torch.eye(n)[0].expand(7, n), scale.detach().float())
    rounded = kl_divergence(single, mdist.ManifoldUniform(SPHERE, (n,)))
    torch.testing.assert_close(rounded, got.detach().float(), rtol=1e-5, atol=1e-37)
