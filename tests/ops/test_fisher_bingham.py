"""The Fisher-Bingham normaliser against high-precision references that share nothing with the contour."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor

from pyro_manifold.ops.bingham import matrix_divergence, matrix_normalizer
from pyro_manifold.ops.fisher_bingham import (
    log_normalizer,
    relative_moments,
    relative_normalizer,
    square_products,
    uniform_divergence,
)
from pyro_manifold.ops.special import bessel_divergence, bessel_ratio, log_bessel
from pyro_manifold.ops.spherical import log_sphere_area


def tensor(*x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def first(d: int, k: float) -> Tensor:
    return torch.nn.functional.pad(tensor(k), (0, d - 1))


def vmf(d: int, k: float) -> float:
    v = mpmath.mpf(d) / 2 - 1
    return float(mpmath.log(2 * mpmath.pi) * d / 2 - v * mpmath.log(k) + mpmath.log(mpmath.besseli(v, k)))


def watson(d: int, z: float) -> float:
    """The log integral of exp(z x_1^2): Kummer's function."""
    area = 2 * mpmath.pi ** (mpmath.mpf(d) / 2) / mpmath.gamma(mpmath.mpf(d) / 2)
    return float(mpmath.log(area * mpmath.hyp1f1(0.5, mpmath.mpf(d) / 2, z, maxterms=10**6)))


def on_two_sphere(lam: tuple[float, float, float], k: float) -> float:
    """Quadrature of a height with a Bessel function for the circle around it: exp(-lam.x^2 + k x_1). Gauss's rule of
    64 nodes between points as close as the integrand is narrow, to 1e-13 of the exponent."""
    a, b = (lam[1] + lam[2]) / 2, abs(lam[2] - lam[1]) / 2
    width = 1 / math.sqrt(1 + k + 2 * abs(lam[0] - a) + 2 * b)
    near_poles = {s * (1 - min(m * width**2, 1.0)) for m in (1, 8, 64, 512) for s in (-1, 1)}
    cuts = np.array(
        sorted({-1.0, 0.0, 1.0} | near_poles | {s * min(m * width, 1.0) for m in (1, 4, 16) for s in (-1, 1)})
    )
    x, w = np.polynomial.legendre.leggauss(64)
    half = np.diff(cuts)[:, None] / 2
    t = cuts[:-1, None] + half * (1 + x)
    exponent = -lam[0] * t * t + k * t + (b - a) * (1 - t * t)
    return float(special.logsumexp(exponent, b=2 * math.pi * half * w * special.ive(0, b * (1 - t * t))))


@pytest.fixture(autouse=True)
def _digits() -> None:
    mpmath.mp.dps = 30


@pytest.mark.parametrize("d", [2, 3, 4, 10, 50, 200])
@pytest.mark.parametrize("k", [1e-6, 0.5, 1.0, 20.0, 1000.0, 1e4])
def test_von_mises_fisher(d: int, k: float) -> None:
    mpmath.mp.dps = 60
    assert abs(float(log_normalizer(torch.zeros(d, dtype=torch.float64), tensor(k)[0])) - vmf(d, k)) <= 1e-11


@pytest.mark.parametrize("d", [2, 3, 4, 10, 50, 200])
@pytest.mark.parametrize("z", [-1e4, -100.0, -1.0, 1e-6, 1.0, 100.0, 1e4])
def test_watson(d: int, z: float) -> None:
    assert abs(float(log_normalizer(first(d, -z))) - watson(d, z)) <= 1e-11


@pytest.mark.parametrize("lam", [(0.0, 1.0, 2.0), (0.0, 0.0, 50.0), (3.0, -40.0, 7.0), (0.0, 1000.0, 300.0)])
@pytest.mark.parametrize("k", [0.0, 3.0, 200.0])
def test_two_sphere(lam: tuple[float, float, float], k: float) -> None:
    assert abs(float(log_normalizer(tensor(*lam), tensor(k)[0])) - on_two_sphere(lam, k)) <= 1e-11


@pytest.mark.parametrize("scale", [0.1, 10.0, 1000.0])
def test_circle(scale: float) -> None:
    """On the circle exp(z cos(2 phi)) is a Bessel function."""
    a, b = 2.3 * scale, -0.4 * scale
    expected = float(mpmath.log(2 * mpmath.pi * mpmath.besseli(0, (a - b) / 2)) - (mpmath.mpf(a) + b) / 2)
    assert abs(float(log_normalizer(tensor(a, b))) - expected) <= 1e-11


def far_scales(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Coefficients over six decades, and kappa near 2 l_1, where a second saddle nearly competes, or of any
    size."""
    lam = (10 ** (7 * torch.rand(n, d, dtype=torch.float64) - 3)).clamp(max=1e4) * (torch.rand(n, d) < 0.7)
    near = 2 * lam[:, 0] * (1 + 0.1 * torch.randn(n, dtype=torch.float64))
    kappa = torch.where(torch.rand(n) < 0.5, near, 10 ** (7 * torch.rand(n, dtype=torch.float64) - 3))
    return lam, kappa.clamp(0, 1e4)


def quadrature_on_circle(lam: Tensor, kappa: Tensor, n: int = 20_000) -> Tensor:
    phi = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    x = torch.stack([phi.cos(), phi.sin()], -1)
    exponent = kappa.unsqueeze(-1) * x[:, 0] - lam @ x.square().mT
    return torch.logsumexp(exponent, -1) + math.log(2 * math.pi / n)


def test_unlike_scales_on_the_circle() -> None:
    """Where the parabolic contour overflows: against the trapezoidal rule on the circle itself."""
    lam, kappa = far_scales(100, 2)
    torch.testing.assert_close(
        log_normalizer(lam, kappa), quadrature_on_circle(lam, kappa), rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("d", [3, 10, 100])
def test_unlike_scales(d: int) -> None:
    """Finite everywhere, and E|x|^2 = 1: an identity of the exact integral, not of each node's weights.
    Bingham's and others'."""
    lam, kappa = far_scales(300, d)
    rates = lam - lam[:, :1] + (kappa / 2).unsqueeze(-1)
    log, moments = relative_moments(rates)
    assert bool(log.isfinite().all())
    bingham = lam.sort(-1).values
    log, moments = relative_moments(bingham - bingham[:, :1])
    assert bool(log.isfinite().all())
    torch.testing.assert_close(
        moments.sum(-1), torch.full((len(lam),), 2.0, dtype=torch.float64), rtol=0, atol=1e-11
    )


def test_against_the_next_dimensions() -> None:
    """dC/dl_i = -C E[x_i^2], and E[x_i^2] C_d is C_{d+2} with l_i three times, over 2 pi: an identity across
    d."""
    lam = tensor(0.0, 3.0, 40.0, 500.0)
    log, moments = relative_moments(lam)
    moments = moments - tensor(1.0, 0.0, 0.0, 0.0)
    for i in range(4):
        more = log_normalizer(torch.cat([lam, lam[i : i + 1], lam[i : i + 1]]))
        assert abs(float(log + moments[i].log() - (more - math.log(2 * math.pi)))) < 1e-12


def test_gradients() -> None:
    c = (5 * torch.rand(3, 4, dtype=torch.float64)).requires_grad_()
    kappa = torch.rand(3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(log_normalizer, (c, kappa))
    assert torch.autograd.gradgradcheck(relative_normalizer, c)
    assert torch.autograd.gradcheck(relative_moments, c)
    assert torch.autograd.gradcheck(uniform_divergence, c)
    assert torch.autograd.gradcheck(uniform_divergence, (0.1 * c).detach().requires_grad_())


def test_third_derivative_raises() -> None:
    c = torch.rand(3, dtype=torch.float64, requires_grad=True)
    (one,) = torch.autograd.grad(relative_normalizer(c), c, create_graph=True)
    (two,) = torch.autograd.grad(one[0], c, create_graph=True)
    with pytest.raises((RuntimeError, NotImplementedError), match="once_differentiable|third"):
        torch.autograd.grad(two[0], c)


def test_matrix_gradients_at_repeated_eigenvalues() -> None:
    a = torch.randn(2, 4, 4, dtype=torch.float64)
    a[0] = torch.diag(tensor(1.0, 1.0, 1.0, 3.0))
    a.requires_grad_()
    assert torch.autograd.gradcheck(matrix_normalizer, a)
    assert torch.autograd.gradgradcheck(lambda a: matrix_normalizer(a)[0], a)
    assert torch.autograd.gradcheck(matrix_divergence, a)


def test_square_products() -> None:
    lam = tensor(0.0, 2.0, 5.0)
    n = square_products(lam)
    fourth = n + 2 * torch.diag(n.diagonal())
    torch.testing.assert_close(fourth.sum(-1), relative_moments(lam)[1] - tensor(1.0, 0.0, 0.0))


def test_uniform_limit_and_float32() -> None:
    log = log_normalizer(torch.full((5,), 3.0))
    area = math.log(2) + 2.5 * math.log(math.pi) - math.lgamma(2.5)
    assert log.dtype == torch.float32 and abs(float(log) - (area - 3.0)) < 1e-6
    torch.testing.assert_close(relative_moments(torch.zeros(5))[1], tensor(1.2, 0.2, 0.2, 0.2, 0.2))


CONCENTRATIONS = [
    1e-300,
    1e-30,
    1e-8,
    1e-3,
    1.0,
    10.0,
    1e3,
    83767.77,
    1e6,
    1e13,
    1e15,
    1e30,
    1e100,
    1e155,
    1e300,
]


@pytest.mark.parametrize("d", [2, 3, 5, 64, 1024])
def test_equal_rates_at_every_concentration(d: int) -> None:
    """Von Mises-Fisher through Bessel functions (which are held against mpmath): S, moments, divergence and
    its gradient."""
    k = tensor(*CONCENTRATIONS)
    v = d / 2 - 1
    c = (k / 2).unsqueeze(-1).repeat(1, d).requires_grad_()
    log, moments = relative_moments(c)
    ratio, fall, slope = bessel_ratio(k, v)
    torch.testing.assert_close(
        log, log_bessel(k, v, scaled=True) + log_sphere_area(d - 1), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(moments[:, 0], slope + fall.square(), rtol=1e-10, atol=0)
    torch.testing.assert_close(moments[:, 1], (fall * (1 + ratio) - slope) / (d - 1), rtol=1e-11, atol=0)
    value = uniform_divergence(c)
    torch.testing.assert_close(value, bessel_divergence(k, torch.zeros_like(k), v), rtol=1e-10, atol=0)
    (g,) = torch.autograd.grad(value.sum(), c)
    slope = torch.where(k > 1e150, (d - 1) / (2 * k), k * slope)
    torch.testing.assert_close(0.5 * g.sum(-1), slope, rtol=1e-9, atol=0)  # d/dk
    (g,) = torch.autograd.grad(bessel_divergence(k.requires_grad_(), torch.zeros_like(k), v).sum(), k)
    torch.testing.assert_close(g, slope, rtol=1e-9, atol=0)


@pytest.mark.parametrize("d", [3, 10])
def test_flat_ridges_at_every_concentration(d: int) -> None:
    """2 beta = kappa: the second coordinate has the density exp(-kappa x^4/8) in the limit, and the others
    are normal."""
    k = tensor(1e9, 1e12, 1e20, 1e50, 1e150, 1e300)
    c = (k / 2).unsqueeze(-1).repeat(1, d)
    c[:, 1] = 0.0
    log, moments = relative_moments(c)
    quartic = math.log(2) + math.lgamma(1.25) - 0.25 * (k / 8).log()
    torch.testing.assert_close(
        log, quartic + (d - 2) / 2 * (math.log(2 * math.pi) - k.log()), rtol=1e-4, atol=0
    )
    expected = math.exp(math.lgamma(0.75) - math.lgamma(0.25)) * (8 / k).sqrt()
    torch.testing.assert_close(moments[1:, 1], expected[1:], rtol=1e-5, atol=0)
    torch.testing.assert_close(
        (c * moments).sum(-1)[1:], torch.full_like(k[1:], 0.25 + (d - 2) / 2), rtol=1e-5, atol=0
    )


def test_batches_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    c = 3 * torch.rand(7, 5, 3, dtype=torch.float64)
    whole = relative_moments(c)
    assert whole[0].shape == (7, 5) and whole[1].shape == (7, 5, 3)
    monkeypatch.setattr("pyro_manifold.ops.fisher_bingham._CHUNK", 2000)
    for a, b in zip(whole, relative_moments(c), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)
    assert relative_normalizer(torch.zeros(0, 3)).shape == (0,) and uniform_divergence(
        torch.zeros(2, 0, 3)
    ).shape == (2, 0)


def test_error_names_the_shape() -> None:
    with pytest.raises(ValueError, match=r"rates: got shape \(1,\), expected \(..., d\)"):
        log_normalizer(torch.zeros(1))


@pytest.mark.parametrize("d", [2, 3, 8])
def test_few_rows_are_those_of_many(d: int) -> None:
    """NumPy computes few rows, torch many: the same algorithm."""
    scale = torch.tensor([0.0, 1e-8, 1e-3, 1.0, 30.0, 1e6, 1e300], dtype=torch.float64)
    rates = scale.unsqueeze(-1) * torch.rand(len(scale), d, dtype=torch.float64)
    rates[::3, 0] = 0
    many = rates.repeat(40, 1)
    for few, all_ in zip(relative_moments(rates), relative_moments(many), strict=True):
        torch.testing.assert_close(few, all_[: len(rates)], rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(
        relative_normalizer(rates), relative_normalizer(many)[: len(rates)], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("d", [2, 3, 7])
def test_one_row_as_among_many(d: int) -> None:
    """Whose saddle is found in Python's numbers."""
    rows = 10 ** torch.empty(40, d, dtype=torch.float64).uniform_(-9, 9)
    rows[torch.rand(40, d) < 0.2] = 0
    together = relative_moments(rows)
    alone = [torch.stack(x) for x in zip(*map(relative_moments, rows), strict=True)]
    torch.testing.assert_close(together, tuple(alone), rtol=1e-13, atol=1e-13)
