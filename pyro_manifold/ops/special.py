r"""Modified Bessel functions of real order :math:`v \ge 0` at machine precision for every argument: one algorithm, no branches.

.. math::
    G_v(k) = \log\frac{\Gamma(v+1)\,I_v(k)}{(k/2)^v} \ge 0, \qquad
    G_v' = A_v = \frac{I_{v+1}}{I_v}, \qquad G_v(0) = A_v(0) = 0

:math:`G` is the log-normaliser of the von Mises-Fisher law less its value at ``k = 0``, which is so a regular point, and
:math:`A` its mean resultant length. At order :math:`V \ge 16` both follow from Debye's expansion in powers of
:math:`1/V`, polynomials in :math:`p = V/\sqrt{V^2+k^2}`; the downward recurrences

.. math:: G_v = G_{v+1} + \log\Big(1 + \frac{\rho_{v+1}}{2(v+1)}\Big), \qquad
          \rho_v = k A_v = \frac{k^2}{2(v+1) + \rho_{v+1}}, \qquad
          \tau_v = k(1 - A_v) = \frac{k\,(2(v+1) - \tau_{v+1})}{2(v+1) + \rho_{v+1}}

are stable and lead down to v. :math:`\rho` keeps relative accuracy for small k, :math:`\tau` for large k. All arithmetic is
float64. References: DLMF 10.41.3 (Debye), 10.29.1 (recurrence), 5.11.1 (log gamma).
"""

import math
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["bessel_ratio", "digamma_difference", "first_order", "log_bessel", "log_gamma_ratio"]

_V0, _TERMS = 16, 14  # truncation error of 14 terms at order 16: below 1e-16
_CHUNK = 1 << 13  # elements worked on together: they and their temporaries stay in the cache


@lru_cache
def _debye_slopes() -> list[list[Fraction]]:
    r"""D_k', k = 1, ..., as polynomials in p, where :math:`\sum_k D_k(p) V^{-k}` is the log of Debye's series:

    :math:`D_1' = (1 - 5p^2)/8,\quad 2 D_{k+1}' = (p^2(1-p^2) D_k')' + p^2(1-p^2) \sum_{i+j=k} D_i' D_j'`.
    """
    out = [[Fraction(1, 8), Fraction(0), Fraction(-5, 8)]]
    for k in range(1, _TERMS):
        inner = [Fraction(0)] * (3 * k + 5)  # p^2 (1 - p^2) sum_{i+j=k} D_i' D_j'
        for a, b in ((out[i], out[k - 2 - i]) for i in range(k - 1)):
            for m, x in enumerate(a):
                if x:
                    for n, y in enumerate(b):
                        inner[m + n + 2] += x * y
                        inner[m + n + 4] -= x * y
        for m, x in enumerate(out[-1]):  # (p^2 (1 - p^2) D_k')'
            inner[m + 1] += (m + 2) * x
            inner[m + 3] -= (m + 4) * x
        out.append([x / 2 for x in inner[: 3 * k + 3]])
    return out


@lru_cache(maxsize=256)
def _debye(order: float) -> tuple[list[float], list[float]]:
    """Coefficients, lowest power first, of T = p sum D_k'/V^k and Q = sum (D_k(p) - D_k(1)) / (p - 1) / V^k at order V."""
    slopes = _debye_slopes()
    total = [Fraction(0)] * (3 * _TERMS)
    scale = Fraction(1)
    for d in slopes:
        scale /= Fraction(order)
        if scale * max(map(abs, d)) < 1e-19:  # large orders need few terms
            break
        for m, x in enumerate(d):
            total[m] += scale * x
    while total[-1] == 0:
        total.pop()
    q = [x / (m + 1) for m, x in enumerate(total)]
    for m in range(len(q) - 1, 0, -1):
        q[m - 1] += q[m]
    return [0.0, *map(float, total)], [*map(float, q)]


@torch.compiler.assume_constant_result  # compilers must not trace the exact arithmetic
def _coefficients(order: float) -> tuple[list[float], list[float]]:
    return _debye(order)


def _polynomial(coefficients: list[float], p: Tensor) -> Tensor:
    out = torch.full_like(p, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        out = out.mul_(p).add_(c)
    return out


class _Bessel(NamedTuple):
    """At one order: G (or G - k), A, 1 - A and A'; what was not asked for is None."""

    g: Tensor | None
    ratio: Tensor
    complement: Tensor
    slope: Tensor | None


def _bessel(k: Tensor, order: float, scaled: bool = False, value: bool = True, slope: bool = False) -> _Bessel:
    """The module's algorithm on one chunk of float64 arguments."""
    steps = max(1, math.ceil(_V0 - order))  # the last step divides by k without a 0/0
    top = order + steps
    k2 = k * k
    s = (k2 + top**2).sqrt_()
    p = top / s
    t_coefficients, q_coefficients = _coefficients(top)
    t = _polynomial(t_coefficients, p).add_(0.5)
    reciprocal = 1 / (s + top)
    c = k / s
    g = product = None
    if value:
        w = k2 * reciprocal / top
        rate = -2 * top * k / (s + top + k) if scaled else w * top
        g = rate - top * torch.log1p(w / 2) - torch.log1p(w) / 2 - w * p * _polynomial(q_coefficients, p)
        product = torch.zeros_like(k)
    rho = k2 * reciprocal - c * c * t
    h = top + top**2 / (s + k)
    tau = k * h * reciprocal + c * c * t
    d_tau = None
    if slope:
        dt = _polynomial([m * x for m, x in enumerate(t_coefficients)][1:], p)
        d_tau = (h * top * (1 + p) * reciprocal - k * top**2 * (1 + c) / (s + k) ** 2) * reciprocal
        d_tau = d_tau + (2 * p * p * c * t - c * c * c * p * dt) / s
    for i in reversed(range(steps)):
        b = 2.0 * (order + i + 1)
        if product is not None:
            product.addcmul_(rho, product + 1, value=1 / b)
        inverse = 1 / (rho + b)
        left = b - tau
        if i == 0:
            break
        new = k * left * inverse
        if d_tau is not None:
            d_tau = (left - new - (k - new) * d_tau) * inverse
        rho, tau = k2 * inverse, new
    ratio, complement = k * inverse, left * inverse
    if g is not None and product is not None:
        g = g + torch.log1p(product)
    dratio = None
    if d_tau is not None:
        # A' = tau/k^2 - tau'/k loses digits for small k, A (1/k + A_{v+1} - A_v) for large k
        small = k < order + 1
        safe = torch.where(small, order + 1.0, k)
        d_tau = (left - k * complement - (k - k * complement) * d_tau) * inverse
        dratio = torch.where(small, inverse * (1 + rho - k * ratio), (complement - d_tau) / safe)
    return _Bessel(g, ratio, complement, dratio)


def _chunks(k: Tensor) -> Iterator[Tensor]:
    return iter(k.detach().double().reshape(-1).split(_CHUNK))


class _FirstOrder(torch.autograd.Function):
    @staticmethod
    def forward(value: Tensor, *depends: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None: ...

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Any:
        raise NotImplementedError("this derivative is of the last order implemented; detach its arguments to use it as a number.")


def first_order(value: Tensor, *depends: Tensor) -> Tensor:
    """``value``, the result of a backward pass, such that differentiating it again in what it depends on raises.

    torch's ``once_differentiable`` does not do: ``torch.autograd.grad(..., inputs)`` prunes its error and is silently wrong.
    """
    return _FirstOrder.apply(value.detach(), *depends) if torch.is_grad_enabled() else value


class _Ratio(torch.autograd.Function):
    """A, 1 - A and the slope A'; the first two have a derivative, once."""

    @staticmethod
    def forward(k: Tensor, order: float) -> tuple[Tensor, ...]:
        parts = [_bessel(x, order, value=False, slope=True) for x in _chunks(k)]
        columns = ([b.ratio for b in parts], [b.complement for b in parts], [b.slope for b in parts])
        return tuple(torch.cat(x).reshape(k.shape).to(k.dtype) for x in columns)  # type: ignore[arg-type]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(inputs[0], output[2])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g_ratio: Tensor | None, g_complement: Tensor | None, g_slope: Tensor | None) -> Any:
        if g_slope is not None:
            raise NotImplementedError("the second derivative of a Bessel ratio is not implemented; detach the concentration.")
        if g_ratio is None or g_complement is None:
            g = g_ratio if g_complement is None else -g_complement
        else:
            g = g_ratio - g_complement
        k, slope = ctx.saved_tensors
        return None if g is None else first_order(g * slope, k, g), None


class _LogBessel(torch.autograd.Function):
    """G or G - k, with its slope as a second output that the backward pass uses."""

    @staticmethod
    def forward(k: Tensor, order: float, scaled: bool) -> tuple[Tensor, Tensor]:
        parts = [_bessel(x, order, scaled) for x in _chunks(k)]
        slope = [-b.complement if scaled else b.ratio for b in parts]
        value: list[Any] = [b.g for b in parts]
        return torch.cat(value).reshape(k.shape).to(k.dtype), torch.cat(slope).reshape(k.shape).to(k.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, bool], output: tuple[Tensor, Tensor]) -> None:
        k, ctx.order, ctx.scaled = inputs
        ctx.save_for_backward(k, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None, None]:  # type: ignore[override]
        k, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative may be asked for
            ratio, complement, _ = bessel_ratio(k, ctx.order)
            slope = -complement if ctx.scaled else ratio
        return grad * slope, None, None


def log_bessel(k: Tensor, order: float, scaled: bool = False) -> Tensor:
    r""":math:`G_v(k) = \log[\Gamma(v+1)(2/k)^v I_v(k)]`, or :math:`G_v(k) - k`, which stays of the size of log k.

    :param k: argument, non-negative, any shape.
    :param order: :math:`v \ge 0`, a multiple of 1/2 for the sphere :math:`S^{2v+1}`.
    :param scaled: subtract k, without cancellation.

    Twice differentiable in k; a third derivative raises.

    >>> k = torch.tensor([0.0, 1.0, 1e6], dtype=torch.float64)
    >>> torch.exp(log_bessel(k, 0.5, scaled=True)) * 2 * k  # sinh(k) exp(-k) * 2, at order 1/2
    tensor([0.0000, 0.8647, 1.0000], dtype=torch.float64)
    """
    return _LogBessel.apply(k, order, scaled)[0]


def bessel_ratio(k: Tensor, order: float) -> tuple[Tensor, Tensor, Tensor]:
    r""":math:`A_v(k) = I_{v+1}(k)/I_v(k)`, :math:`1 - A_v(k)` without cancellation, and the derivative :math:`A_v'(k)`.

    The first two are differentiable once; a gradient through the third raises.

    >>> ratio, complement, slope = bessel_ratio(torch.tensor(0.0), 0.5)
    >>> ratio, complement, slope
    (tensor(0.), tensor(1.), tensor(0.3333))
    """
    return _Ratio.apply(k, order)


_STIRLING = [1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400]


def log_gamma_ratio(x: Tensor, b: float) -> Tensor:
    r""":math:`\log[\Gamma(x+b)/\Gamma(x)]` for :math:`x > 0, b \ge 0`, without the cancellation of two large log-gammas.

    Built from differentiable operations: derivatives of every order (digamma and polygamma differences).

    >>> log_gamma_ratio(torch.tensor(1e6), 1.0)  # log x
    tensor(13.8155)
    """
    large = x >= 10
    y = torch.where(large, x, 10.0)
    z = y + b
    out = (y - 0.5) * torch.log1p(b / y) + b * z.log() - b
    for m, c in enumerate(_STIRLING):
        out = out + c * (z ** -(2 * m + 1) - y ** -(2 * m + 1))
    small = torch.where(large, 1.0, x)
    return torch.where(large, out, torch.lgamma(small + b) - torch.lgamma(small))


def digamma_difference(x: Tensor, b: float) -> Tensor:
    r""":math:`\psi(x+b) - \psi(x)`, the derivative of :func:`log_gamma_ratio`, likewise.

    >>> digamma_difference(torch.tensor(1e6), 1.0)  # 1/x
    tensor(1.0000e-06)
    """
    large = x >= 10
    y = torch.where(large, x, 10.0)
    z = y + b
    out = torch.log1p(b / y) + b / (2 * y * z)
    for m, c in enumerate(_STIRLING):
        out = out - (2 * m + 1) * c * (z ** -(2 * m + 2) - y ** -(2 * m + 2))
    small = torch.where(large, 1.0, x)
    return torch.where(large, out, torch.digamma(small + b) - torch.digamma(small))
