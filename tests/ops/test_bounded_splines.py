"""Splines of an interval and of the circle: against the splines of an interval of ``ops.splines``, which have the
same formula, against autodiff, and digit by digit next to the ends."""

import math

import pytest
import torch

from pyro_manifold.ops.bounded_splines import (
    IntervalPoint,
    circular_move,
    circular_size,
    circular_spline,
    interval_size,
    interval_spline,
)
from pyro_manifold.ops.circular import wrap
from pyro_manifold.ops.splines import rational_quadratic

F64 = torch.float64
PI = math.pi


def interval(rows: int, bins: int = 8, dtype: torch.dtype = F64) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    raw = torch.randn(rows, interval_size(bins), generator=draws, dtype=F64)
    return raw.to(dtype), torch.randn(rows, 2, generator=draws, dtype=F64).to(dtype)


def test_formula() -> None:
    """The spline through the same knots, by the monotone rational-quadratic formula written out."""
    raw, ends = interval(1, 4)
    width, height = (1e-4 + r.softmax(-1) * (2 - 4e-4) for r in (raw[0, :4], raw[0, 4:8]))
    slopes = 1e-3 + torch.nn.functional.softplus(
        torch.cat([ends[0, :1], raw[0, 8:], ends[0, 1:]]) + math.log(math.expm1(1 - 1e-3))
    )
    z = torch.linspace(-0.999, 0.999, 301, dtype=F64)
    out = interval_spline(IntervalPoint(1 + z, 1 - z), raw.expand(301, -1), ends.expand(301, -1))[0].height
    knots = torch.cat([torch.zeros(1, dtype=F64), width.cumsum(0)]) - 1
    images = torch.cat([torch.zeros(1, dtype=F64), height.cumsum(0)]) - 1
    k = torch.searchsorted(knots, z, right=True) - 1
    t, s = (z - knots[k]) / width[k], height[k] / width[k]
    a, b = slopes[k], slopes[k + 1]
    wanted = images[k] + height[k] * (s * t**2 + a * t * (1 - t)) / (s + (a + b - 2 * s) * t * (1 - t))
    torch.testing.assert_close(out, wanted, rtol=0, atol=1e-13)


def test_derivative_and_factors() -> None:
    raw, ends = interval(200)
    z = torch.linspace(-0.99, 0.99, 200, dtype=F64).requires_grad_()
    new, log_slope, factors = interval_spline(IntervalPoint(1 + z, 1 - z), raw, ends)
    (slope,) = torch.autograd.grad(new.height.sum(), z)
    torch.testing.assert_close(log_slope, slope.log())
    torch.testing.assert_close(factors.lower, (1 + new.height) / (1 + z))
    torch.testing.assert_close(factors.upper, (1 - new.height) / (1 - z))


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("side", [0, 1])
def test_digits_next_to_the_ends(inverse: bool, side: int) -> None:
    """In float32 the distance from an end is right to a few units of its last digit, from 1 down to 1e-30, although
    the height itself rounds to 1; and at the end the factor is the slope."""
    near = 10.0 ** -torch.arange(0.0, 31.0)
    near[-1] = 0.0
    raw, ends = interval(len(near))
    points = IntervalPoint(*((near, 2 - near) if side == 0 else (2 - near, near)))
    exact = IntervalPoint(*(p.double() for p in points))
    want, _, want_factors = interval_spline(exact, raw, ends, inverse=inverse)
    got, _, factors = interval_spline(points, raw.float(), ends.float(), inverse=inverse)
    torch.testing.assert_close(got[side].double(), want[side], rtol=1e-5, atol=0)
    torch.testing.assert_close(factors[side].double(), want_factors[side], rtol=1e-5, atol=0)
    slope = 1e-3 + torch.nn.functional.softplus(ends[-1, side] + math.log(math.expm1(1 - 1e-3)))
    torch.testing.assert_close(want_factors[side][-1], 1 / slope if inverse else slope)


def test_inverse() -> None:
    raw, ends = interval(500)
    z = torch.linspace(-1, 1, 500, dtype=F64)
    at = IntervalPoint(1 + z, 1 - z)
    new, log_slope, factors = interval_spline(at, raw, ends)
    back, log_inverse, inverse_factors = interval_spline(new, raw, ends, inverse=True)
    torch.testing.assert_close(back.lower, at.lower)
    torch.testing.assert_close(back.upper, at.upper)
    torch.testing.assert_close(log_inverse, -log_slope)
    torch.testing.assert_close(factors.lower * inverse_factors.lower, torch.ones_like(z))


def test_circle() -> None:
    """Onto the circle, once around; value, slope and distance moved are those of the other side of the seam; the
    inverse undoes it; the slope is autodiff's."""
    raw = torch.randn(circular_size(7), generator=torch.Generator().manual_seed(1), dtype=F64)

    def f(x: torch.Tensor, inverse: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        return circular_spline(x, raw.expand(*x.shape, -1), inverse=inverse)

    x = torch.linspace(-PI, PI, 1000, dtype=F64)[:-1].requires_grad_()
    y, log_slope = f(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(log_slope, slope.log())
    x = x.detach()
    torch.testing.assert_close(wrap(f(y.detach(), True)[0] - x), torch.zeros_like(x), rtol=0, atol=1e-12)
    steps = wrap(y.detach().roll(-1) - y.detach())
    assert bool((steps > 0).all())
    torch.testing.assert_close(steps.sum(), torch.tensor(2 * PI, dtype=F64))
    sides = torch.tensor([-PI, PI - 1e-9], dtype=F64)
    (a, b), (la, lb) = f(sides)
    torch.testing.assert_close(wrap(a - b), torch.zeros((), dtype=F64), rtol=0, atol=1e-7)
    torch.testing.assert_close(la, lb, rtol=0, atol=1e-6)
    move = circular_move(sides, raw.expand(2, -1))[0]
    torch.testing.assert_close(move[0], move[1], rtol=0, atol=1e-7)


@pytest.mark.parametrize("size", [3.0, 300.0, 1e4])
@pytest.mark.parametrize("inverse", [False, True])
def test_extreme_parameters(size: float, inverse: bool) -> None:
    """In float32, values and all gradients are finite, at the ends too."""
    torch.manual_seed(0)
    rows = 20_000
    raw = (size * torch.randn(rows, interval_size(8))).requires_grad_()
    ends = (size * torch.randn(rows, 2)).requires_grad_()
    z = 2 * torch.rand(rows) - 1
    z[:2] = torch.tensor([-1.0, 1.0])
    lower, upper = (1 + z).requires_grad_(), (1 - z).requires_grad_()
    out, log_slope, factors = interval_spline(IntervalPoint(lower, upper), raw, ends, inverse=inverse)
    total = out.height.sum() + log_slope.sum() + (factors.lower * factors.upper).sqrt().sum()
    around = (size * torch.randn(rows, circular_size(8))).requires_grad_()
    angle = (3.14 * z.detach()).requires_grad_()
    turned, log_turn = circular_spline(angle, around, inverse=inverse)
    inside = (3 * z.detach()).requires_grad_()
    plain, log_plain = rational_quadratic(inside, raw, 3.0, inverse=inverse)
    gradients = torch.autograd.grad(
        total + turned.sum() + log_turn.sum() + plain.sum() + log_plain.sum(),
        [raw, ends, lower, upper, around, angle, inside],
    )
    assert all(bool(g.isfinite().all()) for g in (total, turned, log_turn, plain, *gradients))
