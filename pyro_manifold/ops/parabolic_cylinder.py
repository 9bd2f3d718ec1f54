r"""The radial integral of a projected normal distribution, a parabolic cylinder function, to machine
precision for every real argument.

.. math:: F_n(a) = \log\int_0^\infty r^{n-1} e^{ar - r^2/2}\,dr \;-\; \tfrac12\max(a,0)^2, \qquad
          M_k = \int_0^\infty r^k e^{ar - r^2/2} dr, \qquad M_{k+1} = a M_k + k M_{k-1}

With :math:`\mu = k + 1/2` and :math:`S^2 = a^2 + 4\mu`, the ratio :math:`R = M_{k+1}/M_k` is
:math:`(a + y)/2`, where y solves :math:`y^2 + 2y' = S^2`. So :math:`y = S \sum_j Y_j(a/S) S^{-2j}` with
polynomials :math:`Y_j`, and integrating this series gives one for :math:`\log M_k`. Both are exact to
rounding for :math:`k \ge 17`. Smaller orders follow by recurrences in which all terms are positive: for a <=
0 downwards from k = 17, :math:`R_k = k/(R_{k+1} - a)`; for a > 0 upwards from :math:`M_0`. All arithmetic is
float64. Reference: DLMF 12.2 (:math:`M_k = k!\,e^{a^2/4}\,U(k+\frac12, -a)`), 12.10 (uniform expansions)."""

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .autograd import BatchFunction, last_order_gradient, save_tensors
from .components import extremes
from .numerics import horner
from .tracing import constant_result, is_concrete

__all__ = ["log_radial_integral", "log_radial_integral_and_slope"]

_K0, _TERMS = 17, 14
_TOLERANCE = 1e-17


def _multiply(a: list[Fraction], b: list[Fraction]) -> list[Fraction]:
    out = [Fraction(0)] * (len(a) + len(b) - 1)
    for m, x in enumerate(a):
        for n, y in enumerate(b):
            out[m + n] += x * y
    return out


def _add(total: list[Fraction], part: list[Fraction], factor: Fraction) -> list[Fraction]:
    longest = max(len(total), len(part))
    pad = [Fraction(0)] * longest
    return [a + factor * b for a, b in zip((total + pad)[:longest], (part + pad)[:longest], strict=True)]


@lru_cache
def _series() -> tuple[list[list[Fraction]], list[list[Fraction]]]:
    r"""The coefficients of :math:`Y_j` and of :math:`W_j = \int_0^p Y_j (1-q^2)^{j-2} dq` (j >= 2), lowest
    power of p first.

    :math:`Y_j = -(1-p^2) Y_{j-1}' - (3-2j)\,p\,Y_{j-1} - \frac12 \sum_{0<i<j} Y_i Y_{j-i}`.
    """
    ys, ws = [[Fraction(1)]], []
    falling = [Fraction(1), Fraction(0), Fraction(-1)]
    weight = [Fraction(1)]
    for j in range(1, _TERMS):
        last = ys[-1]
        new = [Fraction(0)] * (j + 1)
        for m, x in enumerate(last):
            new[m + 1] += (m - 3 + 2 * j) * x
            if m:
                new[m - 1] -= m * x
        for i in range(1, j):
            for m, x in enumerate(_multiply(ys[i], ys[j - i])):
                new[m] -= x / 2
        ys.append(new)
        if j >= 2:
            ws.append([Fraction(0)] + [x / (m + 1) for m, x in enumerate(_multiply(new, weight))])
            weight = _multiply(weight, falling)
    return ys, ws


def _economised(polynomial: list[Fraction]) -> list[float]:
    """The polynomial of least degree, lowest power first, that agrees on [-1, 1] to rounding; from its
    Chebyshev series."""
    series = np.polynomial.chebyshev.poly2cheb([float(x) for x in polynomial])
    return np.polynomial.chebyshev.cheb2poly(np.polynomial.chebyshev.chebtrim(series, _TOLERANCE)).tolist()


@lru_cache(maxsize=256)
def _at_order(k: int) -> tuple[list[float], list[float]]:
    r"""At :math:`4\mu = 4k+2`, where :math:`S^{-2} = (1-p^2)/4\mu`, the polynomials in p
    :math:`\tfrac12\sum_{j\ge2} W_j (4\mu)^{1-j}` and :math:`\sum_{j\ge1} Y_j S^{2-2j}`."""
    ys, ws = _series()
    step = Fraction(1, 4 * k + 2)
    falling = [step, Fraction(0), -step]
    integral, slope, power = [Fraction(0)], [Fraction(0)], [Fraction(1)]
    for j, w in enumerate(ws, 2):
        integral = _add(integral, w, step ** (j - 1) / 2)
    for y in ys[1:]:
        slope = _add(slope, _multiply(y, power), Fraction(1))
        power = _multiply(power, falling)
    return _economised(integral), _economised(slope)


@constant_result  # a compiler cannot trace arithmetic with fractions
def _coefficients(k: int) -> tuple[list[float], list[float]]:
    return _at_order(k)


def _asymptotic(a: Tensor, k: int) -> tuple[Tensor, Tensor]:
    r""":math:`\log M_k - \max(a,0)^2/2` and :math:`M_{k+1}/M_k - \max(a,0)`, for large k."""
    integral, slope = _coefficients(k)
    mu = k + 0.5
    s = (a * a + 4 * mu).sqrt()
    p = a / s
    at_zero = math.lgamma((k + 1) / 2) + (k - 1) / 2 * math.log(2)
    log_m = (
        at_zero
        + a * mu / (s + a.abs())
        + mu * torch.asinh(a / (2 * math.sqrt(mu)))
        + torch.log(4 * mu / (s * s)) / 4
    )
    return log_m + horner(integral, p), 2 * mu / (s + a.abs()) + horner(slope, p) / (2 * s)


def _downwards(a: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """F and its derivative for a <= 0, by recurrence from the asymptotic order."""
    log_m, ratio = _asymptotic(a, _K0)
    product = torch.ones_like(a)
    for k in range(_K0, n - 1, -1):
        ratio = k / (ratio - a)  # M_k / M_{k-1}
        product = product * ratio
    return log_m - product.log(), ratio


def _upwards(a: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """F and its derivative for a > 0, by recurrence from the error function. Moments are scaled by
    exp(-a^2/2)."""
    last = math.sqrt(math.pi / 2) * torch.erfc(-a / math.sqrt(2))
    m = torch.exp(-a * a / 2) + a * last
    for k in range(1, n - 1):
        last, m = m, a * m + k * last
    return m.log(), (n - 1) * last / m


def log_radial_integral_and_slope(a: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """F and its derivative, not differentiable. Beyond 1e10 n, where powers of a would overflow,
    :math:`M_{n-1}` is a power of a to rounding."""
    last = 1e10 * n
    if is_concrete(a) and a.device.type == "cpu" and a.numel():
        low, high = extremes(a)
        if low >= -last and high <= last:
            return _within(a, n)
    beyond = (a.abs() / last).clamp_min(1)
    value, slope = _within(a.clamp(-last, last), n)
    return value + torch.where(a > 0, n - 1.0, -float(n)) * beyond.log(), slope / beyond


def _within(a: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """:func:`log_radial_integral_and_slope` for arguments up to 1e10 n."""
    if n - 1 >= _K0:
        return _asymptotic(a, n - 1)
    up = a > 0
    down = _downwards(a.clamp_max(0), n)
    return tuple(torch.where(up, x, y) for x, y in zip(_upwards(a.clamp_min(0), n), down, strict=True))  # type: ignore[return-value]


class _Slope(BatchFunction):
    """F' and its derivative F'' = R' = n + aR - R^2 (minus 1 for a > 0)."""

    ranks = (0,)

    @staticmethod
    def forward(a: Tensor, n: int) -> Tensor:
        return log_radial_integral_and_slope(a, n)[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        a, ctx.n = inputs
        save_tensors(ctx, a, output)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:  # type: ignore[override]
        a, slope = ctx.saved_tensors
        top = a.clamp_min(0)  # slope = R - top
        second = ctx.n - (slope + top) * (slope + (top - a)) - (a > 0).to(a.dtype)
        return last_order_gradient(tangent * second, a, tangent)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Slope.jvp(ctx, grad), None  # the operator is elementwise, so its derivative is symmetric


class _LogRadialIntegral(BatchFunction):
    ranks = (0,)

    @staticmethod
    def forward(a: Tensor, n: int) -> tuple[Tensor, Tensor]:
        return log_radial_integral_and_slope(a, n)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
        a, ctx.n = inputs
        save_tensors(ctx, a, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: Any) -> tuple[Tensor, None]:  # type: ignore[override]
        a, slope = ctx.saved_tensors
        return tangent * (_Slope.apply(a, ctx.n) if torch.is_grad_enabled() else slope), None

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None]:  # type: ignore[override]
        return _LogRadialIntegral.jvp(ctx, grad, None)


def log_radial_integral(a: Tensor, n: int) -> Tensor:
    r""":math:`F_n(a)`, elementwise; twice differentiable, a third derivative raises.

    :param a: any real numbers, float64.
    :param n: ambient dimension, at least 2.

    >>> log_radial_integral(torch.zeros(1, dtype=torch.float64), 2)  # int r exp(-r^2/2) = 1
    tensor([0.], dtype=torch.float64)
    """
    return _LogRadialIntegral.apply(a, n)[0]
