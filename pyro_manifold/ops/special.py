r"""Modified Bessel functions of real order :math:`v \ge 0` at machine precision for every argument: one
algorithm, no branches.

.. math::
    G_v(k) = \log\frac{\Gamma(v+1)\,I_v(k)}{(k/2)^v} \ge 0, \qquad
    G_v' = A_v = \frac{I_{v+1}}{I_v}, \qquad G_v(0) = A_v(0) = 0

:math:`G` is the log-normaliser of the von Mises-Fisher distribution less its value at ``k = 0``, which is so
a regular point, and :math:`A` its mean resultant length. At order :math:`V \ge 16` both follow from Debye's
expansion in powers of :math:`1/V`, polynomials in :math:`p = V/\sqrt{V^2+k^2}` (economised; :math:`V \ge 10`
and fewer terms for float32); the downward recurrences

.. math:: G_v = G_{v+1} + \log\Big(1 + \frac{\rho_{v+1}}{2(v+1)}\Big), \qquad
          \rho_v = k A_v = \frac{k^2}{2(v+1) + \rho_{v+1}}, \qquad
          \tau_v = k(1 - A_v) = \frac{k\,(2(v+1) - \tau_{v+1})}{2(v+1) + \rho_{v+1}}

are stable and lead down to v. Beyond :math:`k = 10^{18}(v+1)^2`, where products of the :math:`\rho` would
overflow, the first terms of Hankel's expansion are exact: :math:`G - k` falls by :math:`(v+\frac12)\log k`,
:math:`1 - A` is :math:`(v+\frac12)/k`. :math:`\rho` keeps relative accuracy for small k, :math:`\tau` for
large k. All arithmetic is float64. References: DLMF 10.41.3 (Debye), 10.29.1 (recurrence), 5.11.1 (log
gamma).
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .autograd import BatchFunction, last_order_gradient, minus, plus
from .chunks import slices
from .quadrature import legendre
from .tracing import constant_result, is_concrete

__all__ = [
    "bessel_divergence",
    "bessel_ratio",
    "digamma_difference",
    "log_bessel",
    "log_gamma_ratio",
    "power_divergence",
    "ratio_complement",
]

_RULES = {
    False: (16, 14, 5e-16),
    True: (10, 8, 1e-8),
}  # for float64 and float32 results: lowest V, terms, tolerance
_TERMS = 14
_DEGREE = 32
_CHUNK = 1 << 14  # elements worked on together: they and their temporaries stay in the cache


@lru_cache
def _debye_slopes() -> list[list[Fraction]]:
    r"""D_k', k = 1, ..., as polynomials in p, where :math:`\sum_k D_k(p) V^{-k}` is the log of Debye's
    series:

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


def _economise(coefficients: list[float], tolerance: float) -> list[float]:
    """A polynomial in p on [0, 1], as one of least degree in z = 2p - 1 (powers, lowest first), by its
    Chebyshev series."""
    f = np.polynomial.Polynomial(coefficients)
    series: Any = np.polynomial.chebyshev.chebinterpolate(lambda z: f((z + 1) / 2), _DEGREE)  # type: ignore[type-var]
    return np.polynomial.chebyshev.cheb2poly(np.polynomial.chebyshev.chebtrim(series, tolerance)).tolist()


@lru_cache(maxsize=256)
def _debye(order: float, single: bool) -> tuple[list[float], list[float]]:
    """T = 1/2 + p sum D_k'/V^k and Q = sum (D_k(p) - D_k(1)) / (p - 1) / V^k at order V, in powers of 2p -
    1."""
    _, terms, tolerance = _RULES[single]
    total = [Fraction(0)] * (3 * _TERMS)
    scale = Fraction(1)
    for d in _debye_slopes()[:terms]:
        scale /= Fraction(order)
        if scale * max(map(abs, d)) < 1e-19:  # large orders need few terms
            break
        for m, x in enumerate(d):
            total[m] += scale * x
    q = [x / (m + 1) for m, x in enumerate(total)]
    for m in range(len(q) - 1, 0, -1):
        q[m - 1] += q[m]
    return _economise([0.5, *map(float, total)], tolerance), _economise([*map(float, q)], tolerance)


@constant_result  # compilers must not trace the exact arithmetic
def _coefficients(order: float, single: bool) -> tuple[list[float], list[float]]:
    return _debye(order, single)


def _polynomial(coefficients: list[float], z: Tensor) -> Tensor:
    if len(coefficients) == 1:
        return torch.full_like(z, coefficients[0])
    out = z * coefficients[-1]
    for c in reversed(coefficients[1:-1]):
        out = out.add_(c).mul_(z)
    return out.add_(coefficients[0])


class _Bessel(NamedTuple):
    """At one order: G (or G - k), A, 1 - A and A'; what was not asked for is None."""

    g: Tensor | None
    ratio: Tensor | None
    complement: Tensor | None
    slope: Tensor | None


def _bessel(k: Tensor, order: float, single: bool, value: str = "", slope: bool = False) -> _Bessel:
    """The module's algorithm on one chunk of float64 arguments.

    :param single: the precision of float32 is enough.
    :param value: "G" (with A), "G - k" (with 1 - A) or nothing (with both).
    :param slope: with A'.
    """
    steps = max(1, math.ceil(_RULES[single][0] - order))  # the last step divides by k without a 0/0
    top = order + steps
    k2 = k * k
    s = (k2 + top**2).sqrt_()
    p = s.reciprocal().mul_(top)
    z = p * 2
    z -= 1
    t_coefficients, q_coefficients = _coefficients(top, single)
    t = _polynomial(t_coefficients, z)
    r = (s + top).reciprocal_()
    g = product = tau = d_tau = ratio = complement = dratio = None
    if value:
        g = _polynomial(q_coefficients, z).mul_(p)
        w = (k2 * r).mul_(1 / top)
        g.mul_(w).neg_()
        if value == "G":
            g.add_(w, alpha=top)
        else:
            g.addcdiv_(k, (s + k).add_(top), value=-2 * top)
        g.sub_((w / 2).log1p_(), alpha=top)
        g.sub_(w.log1p_(), alpha=0.5)
    if value != "G":
        h = (s + k).reciprocal_().mul_(top**2).add_(top)
        c2t = (k / s).square_().mul_(t)
        tau = (k * h).mul_(r).add_(c2t)
    if slope:
        c = k / s
        dt = _polynomial([2 * m * x for m, x in enumerate(t_coefficients)][1:] or [0.0], z)
        d_tau = (h * top * (1 + p) * r - k * top**2 * (1 + c) / (s + k) ** 2) * r
        d_tau = d_tau + (2 * p * p * c * t - c * c * c * p * dt) / s
    rho = t.mul_(p).mul_(p).mul_(-1 / top**2).add_(r).mul_(k2)
    for i in reversed(range(steps)):
        b = 2.0 * (order + i + 1)
        if value:
            product = rho / b if product is None else product.addcmul_(rho, product + 1, value=1 / b)
        inverse = (rho + b).reciprocal_()
        if tau is not None:
            left = b - tau
        if i == 0:
            break
        if tau is not None:
            tau = (k * left).mul_(inverse)
            if d_tau is not None:
                d_tau = (left - tau - (k - tau) * d_tau) * inverse
        rho = torch.mul(k2, inverse, out=rho)
    if g is not None and product is not None:
        g += product.log1p_()
    if tau is not None:
        complement = left * inverse
    if value != "G - k":
        ratio = k * inverse
    if d_tau is not None and ratio is not None and complement is not None:
        # A' = tau/k^2 - tau'/k loses digits for small k, A (1/k + A_{v+1} - A_v) for large k
        small = k < order + 1
        safe = torch.where(small, order + 1.0, k)
        d_tau = (left - k * complement - (k - k * complement) * d_tau) * inverse
        dratio = torch.where(small, inverse * (1 + rho - k * ratio), (complement - d_tau) / safe)
    return _Bessel(g, ratio, complement, dratio)


def _columns(
    k: Tensor, order: float, fields: Sequence[str], value: str = "", slope: bool = False
) -> tuple[Tensor, ...]:
    """Some fields of :class:`_Bessel` for any shape and dtype, chunk by chunk."""
    flat = k.detach().reshape(-1)
    out = tuple(torch.empty_like(flat) for _ in fields)
    for part in slices(len(flat), 1, _CHUNK):
        found = _anywhere(flat[part].double(), order, k.dtype != torch.float64, value, slope)
        for column, name in zip(out, fields, strict=True):
            column[part] = getattr(found, name)
    return tuple(column.view(k.shape) for column in out)


def _last(order: float) -> float:
    """The argument from which Hankel's first terms are exact, and up to which no product of :func:`_bessel`
    overflows."""
    return 1e18 * (1 + order) ** 2


def _anywhere(k: Tensor, order: float, single: bool, value: str, slope: bool) -> _Bessel:
    """:func:`_bessel` for arguments of any size."""
    last = _last(order)
    if is_concrete(k) and not bool((k > last).any()):
        return _bessel(k, order, single, value, slope)
    near = k.clamp_max(last)
    b = _bessel(near, order, single, value, slope)
    beyond = (k / last).clamp_min(1)
    g = b.g
    if g is not None:
        g = g - (order + 0.5) * beyond.log()
        g = g + (k - near) if value == "G" else g
    complement = None if b.complement is None else b.complement / beyond
    dratio = None if b.slope is None else b.slope / beyond / beyond
    return _Bessel(g, b.ratio, complement, dratio)


_NO_SECOND = "the second derivative of a Bessel ratio is not implemented; detach the concentration."


class _Ratio(BatchFunction):
    """A, 1 - A and the slope A'; the first two have a derivative, once."""

    ranks = (0,)

    @staticmethod
    def forward(k: Tensor, order: float, with_slope: bool) -> tuple[Tensor, ...]:
        return _columns(k, order, ("ratio", "complement", "slope"), slope=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, bool], output: tuple[Tensor, ...]) -> None:
        ctx.with_slope = inputs[2]
        ctx.save_for_backward(inputs[0], output[2])
        ctx.save_for_forward(inputs[0], output[2])
        ctx.set_materialize_grads(False)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        if ctx.with_slope:
            raise NotImplementedError(_NO_SECOND)
        k, slope = ctx.saved_tensors
        ratio = last_order_gradient(tangent * slope, k, tangent)
        return ratio, -ratio, torch.zeros_like(ratio)  # the caller uses two

    @staticmethod
    def backward(
        ctx: Any, g_ratio: Tensor | None, g_complement: Tensor | None, g_slope: Tensor | None
    ) -> Any:
        if g_slope is not None:
            raise NotImplementedError(_NO_SECOND)
        g = minus(g_ratio, g_complement)
        k, slope = ctx.saved_tensors
        return (None if g is None else last_order_gradient(g * slope, k, g)), None, None


class _LogBessel(BatchFunction):
    """G or G - k, with its slope as a second output that the backward pass uses."""

    ranks = (0,)

    @staticmethod
    def forward(k: Tensor, order: float, scaled: bool) -> tuple[Tensor, Tensor]:
        if scaled:
            g, complement = _columns(k, order, ("g", "complement"), "G - k")
            return g, complement.neg_()
        g, ratio = _columns(k, order, ("g", "ratio"), "G")
        return g, ratio

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, bool], output: tuple[Tensor, Tensor]) -> None:
        k, ctx.order, ctx.scaled = inputs
        ctx.save_for_backward(k, output[1])
        ctx.save_for_forward(k, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def _slope(ctx: Any) -> Tensor:
        k, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative may be asked for
            ratio, complement, _ = _Ratio.apply(k, ctx.order, False)
            return -complement if ctx.scaled else ratio
        return slope

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return grad * _LogBessel._slope(ctx), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> tuple[Tensor, None]:  # type: ignore[override]
        return tangent * _LogBessel._slope(ctx), None


def log_bessel(k: Tensor, order: float, scaled: bool = False) -> Tensor:
    r""":math:`G_v(k) = \log[\Gamma(v+1)(2/k)^v I_v(k)]`, or :math:`G_v(k) - k`, which stays of the size of
    log k.

    :param k: argument, non-negative, any shape.
    :param order: :math:`v \ge 0`, a multiple of 1/2 for the sphere :math:`S^{2v+1}`.
    :param scaled: subtract k, without cancellation.

    Twice differentiable in k; a third derivative raises.

    >>> k = torch.tensor([0.0, 1.0, 1e6], dtype=torch.float64)
    >>> torch.exp(log_bessel(k, 0.5, scaled=True)) * 2 * k  # sinh(k) exp(-k) * 2, at order 1/2
    tensor([0.0000, 0.8647, 1.0000], dtype=torch.float64)
    """
    return _LogBessel.apply(k, float(order), scaled)[0]  # under torch.jit.trace sizes are tensors


def bessel_ratio(k: Tensor, order: float) -> tuple[Tensor, Tensor, Tensor]:
    r""":math:`A_v(k) = I_{v+1}(k)/I_v(k)`, :math:`1 - A_v(k)` without cancellation, and the derivative
    :math:`A_v'(k)`.

    The first two are differentiable once; a gradient through the third raises.

    >>> ratio, complement, slope = bessel_ratio(torch.tensor(0.0), 0.5)
    >>> ratio, complement, slope
    (tensor(0.), tensor(1.), tensor(0.3333))
    """
    return _Ratio.apply(k, float(order), True)


def ratio_complement(k: Tensor, order: float) -> Tensor:
    """1 - A alone, without a derivative."""
    return _columns(k, order, ("complement",))[0]


_NEAR = 0.25  # relative difference below which a divergence is integrated: 8 nodes are then exact to rounding


class _Divergence(BatchFunction):
    """G(q) - G(p) - (q - p) A(p), and its derivatives in p and q as outputs that the gradient is made of."""

    ranks = (0, 0)

    @staticmethod
    def forward(p: Tensor, q: Tensor, order: float) -> tuple[Tensor, ...]:
        dtype, shape = p.dtype, p.shape
        p, q = p.detach().double().reshape(-1), q.detach().double().reshape(-1)
        a, b = (_anywhere(x, order, False, "", False) for x in (p, q))
        own = _bessel(p.clamp_max(_last(order)), order, False, "", True).slope
        assert a.ratio is not None and a.complement is not None and own is not None
        assert b.ratio is not None and b.complement is not None
        small = torch.maximum(p, q) < order + 1
        d = q - p
        plain = [_columns(x, order, ("g",), "G")[0] for x in (p, q)]
        scaled = [_columns(x, order, ("g",), "G - k")[0] for x in (p, q)]  # stays small for large k
        value = torch.where(
            small, plain[1] - plain[0] - d * a.ratio, scaled[1] - scaled[0] + d * a.complement
        )
        slope_q = torch.where(small, b.ratio - a.ratio, a.complement - b.complement)
        beyond = (p / _last(order)).clamp_min(1)
        slope_p = -(d / beyond) * own / beyond
        # where p and q are close, all of these cancel: integrals of A' over the segment between them
        i = (d.abs() < _NEAR * torch.maximum(p, q)).nonzero(as_tuple=True)
        unit = (torch.maximum(p[i], q[i]) / _last(order)).clamp_min(
            1
        )  # beyond that only the ratio of p and q counts
        start, step = p[i] / unit, d[i] / unit
        u, w = legendre(8, p.device)
        slopes = _bessel((start + u * step).reshape(-1), order, False, "", True).slope
        assert slopes is not None
        slopes = slopes.reshape(len(u), -1) * step
        value[i] = (w * (1 - u) * slopes).sum(0) * step
        slope_q[i] = (w * slopes).sum(0) / unit
        return tuple(x.reshape(shape).to(dtype) for x in (value, slope_p, slope_q))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[:2], *output[1:])
        ctx.save_for_forward(*inputs[:2], *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def jvp(
        ctx: Any, p_tangent: Tensor | None, q_tangent: Tensor | None, *_: Any
    ) -> tuple[Tensor, None, None]:  # type: ignore[override]
        p, q, slope_p, slope_q = ctx.saved_tensors
        parts = [
            None if t is None else last_order_gradient(t * s, p, q, t)
            for t, s in ((p_tangent, slope_p), (q_tangent, slope_q))
        ]
        return plus(*parts), None, None

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        p, q, slope_p, slope_q = ctx.saved_tensors
        return (
            last_order_gradient(grad * slope_p, p, q, grad),
            last_order_gradient(grad * slope_q, p, q, grad),
            None,
        )


def bessel_divergence(p: Tensor, q: Tensor, order: float) -> Tensor:
    r""":math:`G_v(q) - G_v(p) - (q-p)A_v(p) \ge 0`, relatively exact however near p is to q, or to 0;
    differentiable once.

    It is the Kullback-Leibler divergence of von Mises-Fisher distributions with concentrations p and q and
    equal axes.

    :param p, q: arguments, non-negative, of shapes that broadcast.

    >>> bessel_divergence(torch.tensor(1e6), torch.tensor(3e6), 0.5)  # 2 - log 3
    tensor(0.9014)
    """
    p, q = torch.broadcast_tensors(p, q)
    return _Divergence.apply(p, q, float(order))[0]


_STIRLING = [1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400]


def log_gamma_ratio(x: Tensor, b: float) -> Tensor:
    r""":math:`\log[\Gamma(x+b)/\Gamma(x)]` for :math:`x > 0, b \ge 0`, without the cancellation of two large
    log-gammas.

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


def power_divergence(k: Tensor, b: float) -> Tensor:
    r""":math:`f(k) - f(0) - k f'(k) \ge 0` for :math:`f(k) = \log[\Gamma(k+2b)/\Gamma(k+b)]`, relatively
    exact near k = 0 too.

    That is the divergence of a power spherical distribution on :math:`S^{2b}` from the uniform one. Near 0 it
    is taken as
    :math:`\int_0^k t\,[\psi'(t+b) - \psi'(t+2b)]\,dt`. Differentiable; float64 inside.

    >>> power_divergence(torch.tensor(1e-8), 1.0)  # k^2 / 2
    tensor(5.0000e-17)
    """
    x = k.double()
    near = x < b
    large = torch.where(near, b, x)
    direct = (
        log_gamma_ratio(large + b, b)
        - (math.lgamma(2 * b) - math.lgamma(b))
        - large * digamma_difference(large + b, b)
    )
    small = torch.where(near, x, 0.0).unsqueeze(-1)
    u, w = (t.squeeze(-1) for t in legendre(12, k.device))
    t = small * u
    two = t.new_full((), 2.0)
    rate = torch.special.zeta(two, t + b) - torch.special.zeta(
        two, t + 2 * b
    )  # trigamma; torch.polygamma(1, .) has 10 digits
    return torch.where(near, (small * (w * t * rate)).sum(-1), direct).to(k.dtype)
