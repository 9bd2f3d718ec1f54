"""The Bessel engine against mpmath at 40 digits."""

import math

import mpmath
import pytest
import torch

from pyro_manifold.ops.gamma_ratio import digamma_difference, log_gamma_ratio, power_divergence
from pyro_manifold.ops.special import bessel_divergence, bessel_ratio, log_bessel

DIMS = [2, 3, 4, 5, 8, 10, 16, 20, 32, 33, 50, 64, 100, 128, 512, 1000, 2000]
CONCENTRATIONS = [0.0, *(10.0**e for e in (-6, -5, -4, -3, -2, -1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6))]


def exact(k: float, v: float) -> tuple[mpmath.mpf, ...]:
    """G, G - k, A, 1 - A, A'."""
    k, v = mpmath.mpf(k), mpmath.mpf(v)

    def scaled(order: mpmath.mpf) -> mpmath.mpf:  # Gamma(u + 1) (2/k)^u I_u(k)
        if k < 2000:
            return mpmath.hyp0f1(order + 1, k * k / 4)
        return mpmath.besseli(order, k) * mpmath.gamma(order + 1) * (2 / k) ** order

    f = scaled(v)
    a = scaled(v + 1) / f * k / (2 * (v + 1))
    return mpmath.log(f), mpmath.log(f) - k, a, 1 - a, 1 - a * a - (2 * v + 1) * a / k


def relative(x: float, y: mpmath.mpf) -> float:
    return float(abs((mpmath.mpf(x) - y) / y))


@pytest.mark.parametrize("n", DIMS)
def test_engine(n: int) -> None:
    """G and its derivative to 1e-14, also the cancellation-free 1 - A and A'; every cell finite, 0 a regular
    point."""
    k, v = torch.tensor(CONCENTRATIONS, dtype=torch.float64, requires_grad=True), n / 2 - 1
    g, scaled, (ratio, complement, slope) = (
        log_bessel(k, v),
        log_bessel(k, v, scaled=True),
        bessel_ratio(k, v),
    )
    (dg,) = torch.autograd.grad(g.sum(), k)
    assert (
        g[0] == scaled[0] == ratio[0] == dg[0] == 0 and complement[0] == 1 and abs(slope[0] - 1 / n) < 1e-16
    )
    with mpmath.workdps(40):
        for i, x in enumerate(CONCENTRATIONS[1:], 1):
            expected = exact(x, v)
            for name, value, y, bound in zip(
                ("G", "G - k", "A", "1 - A", "A'", "dG/dk"),
                (g[i], scaled[i], ratio[i], complement[i], slope[i], dg[i]),
                (*expected, expected[2]),
                (1e-14, 1e-14, 1e-14, 3e-13, 3e-13, 1e-14),
                strict=True,
            ):
                assert relative(value.item(), y) <= bound, f"{name} at n = {n}, k = {x}"


@pytest.mark.parametrize("n", [2, 3, 10, 1000])
def test_engine_float32(n: int) -> None:
    """float32 in and out: one rounding."""
    k = torch.tensor(CONCENTRATIONS, requires_grad=True)
    double = k.detach().double().requires_grad_()
    for scaled in (False, True):
        g, g64 = log_bessel(k, n / 2 - 1, scaled), log_bessel(double, n / 2 - 1, scaled)
        assert g.dtype == torch.float32
        torch.testing.assert_close(g, g64.float(), rtol=1e-6, atol=0)
        d, d64 = torch.autograd.grad(g.sum(), k)[0], torch.autograd.grad(g64.sum(), double)[0]
        torch.testing.assert_close(d, d64.float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_second_derivative(n: int) -> None:
    """Double backward gives A', gradcheck agrees; a third derivative raises."""
    v = n / 2 - 1
    k = torch.tensor([0.0, 0.3, 2.0, 40.0, 1e4], dtype=torch.float64, requires_grad=True)
    (d,) = torch.autograd.grad(log_bessel(k, v, scaled=True).sum(), k, create_graph=True)
    (dd,) = torch.autograd.grad(d.sum(), k)
    torch.testing.assert_close(dd, bessel_ratio(k, v)[2], rtol=1e-13, atol=0)
    inner = k.detach()[1:4].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: log_bessel(x, v), inner)
    assert torch.autograd.gradcheck(lambda x: bessel_ratio(x, v)[:2], inner)
    (d,) = torch.autograd.grad((k * bessel_ratio(k, v)[0]).sum(), k, create_graph=True)
    with pytest.raises(NotImplementedError, match="last order"):
        torch.autograd.grad(d.sum(), k)
    with pytest.raises(NotImplementedError, match="slope|second derivative"):
        torch.autograd.grad(bessel_ratio(k, v)[2].sum(), k)


@pytest.mark.parametrize("n", [2, 5, 31, 32, 33, 34, 200])
def test_continuous(n: int) -> None:
    """No jump of value or slope anywhere along k, in particular at the k where the formula for A' changes."""
    k = torch.linspace(max(n / 2 - 3, 0.1), n / 2 + 3, 4001, dtype=torch.float64)
    ratio, _, slope = bessel_ratio(k, n / 2 - 1)
    step = k[1] - k[0]
    trapezoid = (slope[1:] + slope[:-1]) / 2 * step
    assert ((ratio[1:] - ratio[:-1]) - trapezoid).abs().max() < 1e-9
    assert (slope[1:] - slope[:-1]).abs().max() < 2 * (slope[0] - slope[-1]).abs() / 1000


@pytest.mark.parametrize("b", [0.5, 1.0, 4.5, 500.0])
def test_gamma_ratios(b: float) -> None:
    xs = [0.5, 1.0, 9.5, 10.0, 30.0, 1e3, 1e6, 1e9]
    x = torch.tensor(xs, dtype=torch.float64, requires_grad=True)
    value, slope = log_gamma_ratio(x, b), digamma_difference(x, b)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    with mpmath.workdps(40):
        for i, y in enumerate(map(mpmath.mpf, xs)):
            expected = mpmath.loggamma(y + b) - mpmath.loggamma(y)
            assert abs(value[i].item() - expected) <= 1e-13 * max(1, abs(expected))
            d = mpmath.digamma(y + b) - mpmath.digamma(y)
            assert relative(slope[i].item(), d) <= 1e-13
            assert math.isclose(gradient[i].item(), float(d), rel_tol=1e-9)


def test_forward_and_reverse_derivatives_of_the_divergence():
    """One argument at a time and both; G' = A, so the slope in q is A(q) - A(p), in p -(q - p) A'(p)."""
    p, q = (
        torch.tensor([0.3, 5.0, 40.0], dtype=torch.float64),
        torch.tensor([0.9, 4.9, 300.0], dtype=torch.float64),
    )
    h = 1e-6
    ratio, up, down = (bessel_ratio(x, 0.5)[0] for x in (p, p + h, p - h))
    slopes = -(q - p) * (up - down) / (2 * h), bessel_ratio(q, 0.5)[0] - ratio
    leaves = [x.clone().requires_grad_() for x in (p, q)]
    reverse = torch.autograd.grad(bessel_divergence(*leaves, 0.5).sum(), leaves)
    one = torch.ones_like(p)
    forward = (
        torch.func.jvp(lambda x: bessel_divergence(x, q, 0.5), (p,), (one,))[1],
        torch.func.jvp(lambda x: bessel_divergence(p, x, 0.5), (q,), (one,))[1],
    )
    both = torch.func.jvp(lambda x, y: bessel_divergence(x, y, 0.5), (p, q), (one, one))[1]
    for a, b, wanted in zip(forward, reverse, slopes, strict=True):
        torch.testing.assert_close(a, wanted, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(b, wanted, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(both, sum(forward))


@pytest.mark.parametrize("b", [0.5, 1.0, 8.0])
def test_divergence_of_a_power_spherical_distribution(b):
    """On both sides of k = b, where the integral takes over from the formula."""
    ks = [1e-8, 1e-3, 0.4, 0.99 * b, 1.01 * b, 30.0, 1e5]
    ours = power_divergence(torch.tensor(ks, dtype=torch.float64), b)
    with mpmath.workdps(50):
        for k, seen in zip(map(mpmath.mpf, ks), ours.tolist(), strict=True):
            value = mpmath.loggamma(k + 2 * b) - mpmath.loggamma(k + b)
            value -= mpmath.loggamma(2 * b) - mpmath.loggamma(b)
            value -= k * (mpmath.digamma(k + 2 * b) - mpmath.digamma(k + b))
            assert relative(seen, value) <= 1e-12
