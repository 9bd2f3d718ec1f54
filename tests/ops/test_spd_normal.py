"""The normal on SPD matrices: normaliser against 60-digit determinants and quadrature, draws against both."""

import math

import mpmath
import pytest
import torch

from pyro_manifold.ops.linalg import sym_eigenvalues, vec_to_sym
from pyro_manifold.ops.signed_trig import log_sinhc
from pyro_manifold.ops.spd_normal import acceptance, sample_tangent
from pyro_manifold.ops.spd_normalizer import log_normalizer, normalizer_table

F64 = torch.float64


def reference(n, s):
    """log Z from the determinant of M (= Pf^2) with LU pivoting, another algorithm than the table's."""
    with mpmath.workdps(60 + int(n * n * max(1.0, -math.log10(s)))):
        s, m = mpmath.mpf(s), n + n % 2
        a = mpmath.matrix(m, m)
        f = [mpmath.erf(s * k / 2) for k in range(n)]
        for j in range(n):
            for k in range(n):
                a[j, k] = f[k - j] if k >= j else -f[j - k]
            if n % 2:
                a[j, n], a[n, j] = 1, -1
        log_pf = mpmath.log(mpmath.det(a)) / 2
        half = mpmath.mpf(1) / 2
        log_c = (mpmath.mpf(n * (n + 1)) / 4 - n * half) * mpmath.log(2 * mpmath.pi)
        log_c -= sum(mpmath.loggamma(1 + j * half) - mpmath.loggamma(3 * half) for j in range(1, n + 1))
        flat = n * half * mpmath.log(2 * mpmath.pi * s * s) + mpmath.loggamma(n + 1)
        return log_c + flat + s * s * mpmath.mpf(n * (n * n - 1)) / 24 + log_pf


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 10, 15])
def test_normaliser_against_mpmath(n):
    """The bar is 1e-10 for n <= 10 and sigma in [.05, 3]; the table is held to 1e-12, and far beyond that
    range."""
    scales = [1e-3, 0.05, 0.1, 0.3, 0.7, 1.0, 1.0001, 2.0, 3.0, 3.4999, 3.5001, 8.0, 11.99, 12.01, 30.0]
    s = torch.tensor(scales, dtype=F64)
    got = log_normalizer(s, normalizer_table(n), n)
    for scale, z in zip(scales, got.tolist(), strict=True):
        expected = float(reference(n, scale))
        assert abs(z - expected) <= 1e-12 * max(1.0, abs(expected)), f"sigma = {scale}"


@pytest.mark.parametrize(
    "scale", [pytest.param(0.3, marks=pytest.mark.slow), pytest.param(1.0, marks=pytest.mark.slow), 2.5]
)
def test_normaliser_of_the_largest(scale):
    got = float(log_normalizer(torch.tensor(scale, dtype=F64), normalizer_table(32), 32))
    assert got == pytest.approx(float(reference(32, scale)), rel=1e-12)


@pytest.mark.parametrize("n", [2, 5, 10])
def test_derivative_in_sigma(n):
    s = torch.tensor([0.05, 0.4, 1.0, 1.8, 3.0, 5.0], dtype=F64, requires_grad=True)
    (g,) = torch.autograd.grad(log_normalizer(s, normalizer_table(n), n).sum(), s)
    for scale, slope in zip(s.tolist(), g.tolist(), strict=True):
        with mpmath.workdps(60):
            h = mpmath.mpf(scale) * mpmath.mpf(10) ** -12
            expected = (reference(n, mpmath.mpf(scale) + h) - reference(n, mpmath.mpf(scale) - h)) / (2 * h)
        assert slope == pytest.approx(float(expected), rel=1e-10)
    assert torch.autograd.gradgradcheck(
        lambda x: log_normalizer(x, normalizer_table(n), n), s[1:4].detach().requires_grad_()
    )


def test_two_by_two_by_quadrature():
    """An independent route: polar coordinates of the traceless part of W, radius q = (l1 - l2)/sqrt 2."""

    def mass(q, s):
        x = q / mpmath.sqrt(2)
        return 2 * mpmath.pi * q * mpmath.exp(-q * q / (2 * s * s)) * mpmath.sinh(x) / x

    for s in (0.2, 1.0, 2.5):
        pieces = [0, s, 4 * s, 8 * s + 4 * s * s, 60 * s]
        expected = mpmath.log(mpmath.sqrt(2 * mpmath.pi) * s * mpmath.quad(lambda q, s=s: mass(q, s), pieces))
        got = log_normalizer(torch.tensor(s, dtype=F64), normalizer_table(2), 2)
        assert float(got) == pytest.approx(float(expected), abs=1e-12)


def test_float32_and_shapes():
    s = torch.rand(2, 3)
    z = log_normalizer(s, normalizer_table(4), 4)
    assert z.shape == (2, 3) and z.dtype == torch.float32
    torch.testing.assert_close(
        z.double(), log_normalizer(s.double(), normalizer_table(4), 4), rtol=1e-6, atol=1e-5
    )


GRID = [0.1, 0.3, 0.5, 0.7, 1.0, 1.3, 1.5, 1.7, 2.0, 3.0, 10.0]


@pytest.mark.parametrize(
    "n, least", [(1, 1.0), (2, 0.85), (3, 0.65), (4, 0.45), (5, 0.25), (8, 0.03), (10, 0.005)]
)
def test_acceptance_is_bounded_below(n, least):
    """The bar is .25 for n <= 5, at every sigma."""
    a = acceptance(torch.logspace(-3, 1.5, 181, dtype=F64), n)
    assert float(a.min()) >= least and float(a.max()) <= 1 + 1e-9


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("scale", [1e-3, 0.5, 1.0, 1.5, 3.0])
def test_mean_square_of_draws(n, scale):
    """E|W|^2 = sigma^3 d log Z/d sigma, both envelopes; a 5-sigma z-test, false alarm 6e-7 each."""
    s = torch.tensor(scale, dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(log_normalizer(s, normalizer_table(n), n), s)
    square = sample_tangent(s.detach(), n, (20_000,)).square().sum(-1)
    assert abs(float((square.mean() - scale**3 * slope) / (square.std() / math.sqrt(len(square))))) < 5


@pytest.mark.parametrize(
    "n, scale",
    [(2, 1.0), (2, 3.0), (3, 1.0), (3, 2.5), pytest.param(5, 1.4, marks=pytest.mark.slow), (5, 2.0)],
)
def test_draws_against_importance_sampling(n, scale):
    """Moments of the eigenvalue gaps and of one entry against weighted flat draws; z < 5 in both errors
    combined."""
    x = sample_tangent(torch.tensor(scale, dtype=F64), n, (10_000,))
    wide = scale * (1 + 0.5 * scale)
    y = wide * torch.randn(80_000, n * (n + 1) // 2, dtype=F64)

    def statistics(v):
        e = sym_eigenvalues(vec_to_sym(v, n))
        gap = e[:, -1] - e[:, 0]
        return torch.stack([gap, gap.square(), v[:, 0].square(), v[:, -1].square(), v[:, 0].abs()], -1)

    e = sym_eigenvalues(vec_to_sym(y, n))
    i, j = torch.triu_indices(n, n, 1)
    log_w = log_sinhc((e[:, j] - e[:, i]) / 2).sum(-1) - y.square().sum(-1) / 2 * (scale**-2 - wide**-2)
    w = (log_w - log_w.max()).exp()
    w = w / w.sum()
    f, g = statistics(y), statistics(x)
    mean = (w[:, None] * f).sum(0)
    variance = (w[:, None].square() * (f - mean).square()).sum(0) + g.var(0) / len(g)
    assert float(1 / w.square().sum()) > 1000, "the reference is too poor"
    assert bool(((g.mean(0) - mean).abs() / variance.sqrt() < 5).all())


def test_one_call_for_many_scales():
    """Both envelopes in one batch; each column has its own scale."""
    scales = torch.tensor(GRID, dtype=F64)
    v = sample_tangent(scales, 3, (3000, len(GRID)))
    s = scales.clone().requires_grad_()
    (slope,) = torch.autograd.grad(log_normalizer(s, normalizer_table(3), 3).sum(), s)
    square = v.square().sum(-1)
    z = (square.mean(0) - scales**3 * slope) / (square.std(0) / math.sqrt(len(v)))
    assert v.shape == (3000, len(GRID), 6) and float(z.abs().max()) < 5


def test_worst_corner_returns_and_too_large_a_matrix_is_named():
    v = sample_tangent(torch.tensor(1.047, dtype=F64), 10, (20,))
    assert v.shape == (20, 55) and bool(v.isfinite().all())
    assert bool(sample_tangent(torch.tensor(0.05), 16, (1,)).isfinite().all())
    with pytest.raises(ValueError, match="loc: got matrices of size 33"):
        normalizer_table(33)


def test_no_draws():
    assert sample_tangent(torch.tensor(1.0), 3, (0,)).shape == (0, 6)
