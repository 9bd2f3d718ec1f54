"""The Fisher-Bingham normaliser against high-precision references that share nothing with the contour."""

import math

import mpmath
import pytest
import torch
from torch import Tensor

from pyro_manifold.ops.bingham import matrix_normalizer
from pyro_manifold.ops.fisher_bingham import log_normalizer, normalizer_and_moments, square_products


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
    """Quadrature of a height with a Bessel function for the circle around it: exp(-lam.x^2 + k x_1)."""
    a, b = (mpmath.mpf(lam[1]) + lam[2]) / 2, (mpmath.mpf(lam[2]) - lam[1]) / 2
    f = lambda t: mpmath.exp(-lam[0] * t * t + k * t - a * (1 - t * t)) * mpmath.besseli(0, b * (1 - t * t))  # noqa: E731
    width = 1 / mpmath.sqrt(1 + k + 2 * abs(lam[0] - a) + 2 * abs(b))
    cuts = sorted({-1, 0, 1} | {s * (1 - min(m * width * width, mpmath.mpf(1))) for m in (1, 8, 64, 512) for s in (-1, 1)}
                  | {s * min(m * width, mpmath.mpf(1)) for m in (1, 4, 16) for s in (-1, 1)})  # fmt: skip
    return float(mpmath.log(2 * mpmath.pi * mpmath.quad(f, cuts)))


@pytest.fixture(autouse=True)
def _digits() -> None:
    mpmath.mp.dps = 30


@pytest.mark.parametrize("d", [2, 3, 4, 10, 50, 200])
@pytest.mark.parametrize("k", [1e-6, 0.5, 1.0, 20.0, 1000.0, 1e4])
def test_von_mises_fisher(d: int, k: float) -> None:
    mpmath.mp.dps = 60
    assert abs(float(log_normalizer(torch.zeros(d, dtype=torch.float64), first(d, k))) - vmf(d, k)) <= 1e-11


@pytest.mark.parametrize("d", [2, 3, 4, 10, 50, 200])
@pytest.mark.parametrize("z", [-1e4, -100.0, -1.0, 1e-6, 1.0, 100.0, 1e4])
def test_watson(d: int, z: float) -> None:
    assert abs(float(log_normalizer(first(d, -z))) - watson(d, z)) <= 1e-11


@pytest.mark.parametrize("lam", [(0.0, 1.0, 2.0), (0.0, 0.0, 50.0), (3.0, -40.0, 7.0), (0.0, 1000.0, 300.0)])
@pytest.mark.parametrize("k", [0.0, 3.0, 200.0])
def test_two_sphere(lam: tuple[float, float, float], k: float) -> None:
    assert abs(float(log_normalizer(tensor(*lam), first(3, k))) - on_two_sphere(lam, k)) <= 1e-11


@pytest.mark.parametrize("scale", [0.1, 10.0, 1000.0])
def test_circle(scale: float) -> None:
    """On the circle exp(z cos(2 phi)) is a Bessel function."""
    a, b = 2.3 * scale, -0.4 * scale
    expected = float(mpmath.log(2 * mpmath.pi * mpmath.besseli(0, (a - b) / 2)) - (mpmath.mpf(a) + b) / 2)
    assert abs(float(log_normalizer(tensor(a, b))) - expected) <= 1e-11


def far_scales(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Coefficients over six decades, half of them with g near 2 l, where a second saddle nearly competes."""
    lam = (10 ** (7 * torch.rand(n, d, dtype=torch.float64) - 3)).clamp(max=1e4) * (torch.rand(n, d) < 0.7)
    near = 2 * lam * (1 + 0.1 * torch.randn(n, 1, dtype=torch.float64))
    g = torch.where(torch.rand(n, 1) < 0.5, near, 10 * torch.randn_like(lam))
    return lam, (g * (torch.rand(n, d) < 0.5)).clamp(-1e4, 1e4)


def quadrature_on_circle(lam: Tensor, g: Tensor, n: int = 200_000) -> Tensor:
    phi = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    x = torch.stack([phi.cos(), phi.sin()], -1)
    exponent = g @ x.mT - lam @ x.square().mT
    return torch.logsumexp(exponent, -1) + math.log(2 * math.pi / n)


def test_unlike_scales_on_the_circle() -> None:
    """Where the parabolic contour overflows: against the trapezoidal rule on the circle itself."""
    lam, g = far_scales(100, 2)
    torch.testing.assert_close(log_normalizer(lam, g), quadrature_on_circle(lam, g), rtol=0, atol=1e-11)


@pytest.mark.parametrize("d", [3, 10, 100])
def test_unlike_scales(d: int) -> None:
    """Finite everywhere, and E|x|^2 = 1: an identity of the exact integral, not of each node's weights."""
    lam, g = far_scales(300, d)
    log_c, second, mean = normalizer_and_moments(lam, g)
    assert bool(log_c.isfinite().all())
    torch.testing.assert_close(second.sum(-1), torch.ones(len(lam), dtype=torch.float64), rtol=0, atol=1e-11)
    assert bool((second >= mean.square() - 1e-12).all())


def test_against_the_next_dimensions() -> None:
    """dC/dl_i = -C E[x_i^2], and E[x_i^2] C_d is C_{d+2} with l_i three times, over 2 pi (g = 0): an identity across d."""
    lam = tensor(0.0, 3.0, 40.0, 500.0)
    log_c, second, _ = normalizer_and_moments(lam)
    for i in range(4):
        more = log_normalizer(torch.cat([lam, lam[i : i + 1], lam[i : i + 1]]))
        assert abs(float(log_c + second[i].log() - (more - math.log(2 * math.pi)))) < 1e-12


def test_gradients() -> None:
    lam, g = (x.requires_grad_() for x in (5 * torch.rand(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)))
    assert torch.autograd.gradcheck(log_normalizer, (lam, g))
    assert torch.autograd.gradgradcheck(log_normalizer, (lam, g))
    assert torch.autograd.gradcheck(normalizer_and_moments, (lam, g))


def test_third_derivative_raises() -> None:
    lam = torch.rand(3, dtype=torch.float64, requires_grad=True)
    (one,) = torch.autograd.grad(log_normalizer(lam), lam, create_graph=True)
    (two,) = torch.autograd.grad(one[0], lam, create_graph=True)
    with pytest.raises((RuntimeError, NotImplementedError), match="once_differentiable|third"):
        torch.autograd.grad(two[0], lam)


def test_matrix_gradients_at_repeated_eigenvalues() -> None:
    a = torch.randn(2, 4, 4, dtype=torch.float64)
    a[0] = torch.diag(tensor(1.0, 1.0, 1.0, 3.0))
    a.requires_grad_()
    assert torch.autograd.gradcheck(matrix_normalizer, a)
    assert torch.autograd.gradgradcheck(lambda a: matrix_normalizer(a)[0], a)


def test_square_products() -> None:
    lam = tensor(0.0, 2.0, 5.0)
    n = square_products(lam)
    fourth = n + 2 * torch.diag(n.diagonal())
    torch.testing.assert_close(fourth.sum(-1), normalizer_and_moments(lam)[1])


def test_uniform_limit_and_float32() -> None:
    log_c, second, mean = normalizer_and_moments(torch.full((5,), 3.0), torch.zeros(5))
    area = math.log(2) + 2.5 * math.log(math.pi) - math.lgamma(2.5)
    assert log_c.dtype == torch.float32 and abs(float(log_c) - (area - 3.0)) < 1e-6
    torch.testing.assert_close(second, torch.full((5,), 0.2))
    assert not mean.any()


def test_batches_chunks_and_broadcast(monkeypatch: pytest.MonkeyPatch) -> None:
    lam, g = torch.rand(7, 1, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    whole = normalizer_and_moments(lam, g)
    assert whole[0].shape == (7, 5) and whole[1].shape == (7, 5, 3)
    monkeypatch.setattr("pyro_manifold.ops.fisher_bingham._CHUNK", 2000)
    for a, b in zip(whole, normalizer_and_moments(lam, g), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)
    assert log_normalizer(torch.zeros(0, 3)).shape == (0,)


def test_error_names_the_shape() -> None:
    with pytest.raises(ValueError, match=r"lam: got shape \(1,\), expected \(..., d\)"):
        log_normalizer(torch.zeros(1))
