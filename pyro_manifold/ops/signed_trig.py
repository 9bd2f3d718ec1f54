r"""Trigonometric functions of a *signed squared length*, which are smooth through zero.

All functions of trigonometry in constant curvature :math:`K` depend on :math:`s = K r^2`. As functions of
:math:`s`

.. math::
    \cos\sqrt{s}, \quad \frac{\sin\sqrt s}{\sqrt s}, \quad \frac{\tan\sqrt s}{\sqrt s}, \quad
    \frac{\arctan\sqrt s}{\sqrt s}, \quad \frac{\arcsin\sqrt s}{\sqrt s}, \quad \log\Big|\frac{\sin\sqrt
    s}{\sqrt s}\Big|

are analytic on both sides of zero (for :math:`s<0` they are cosh, sinhc, tanhc, artanhc, arsinhc and log
sinhc). So one formula serves spheres, flat space and hyperbolic space, and gradients of every order are right
at coinciding points and at zero curvature. Values are computed in closed form; derivatives too, or by Taylor
series near zero."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .autograd import Function, save_tensors
from .components import replace_lanes
from .numerics import LONGEST, horner, long_vectors, norm
from .tracing import can_write_inplace, is_concrete

__all__ = [
    "SERIES_BELOW",
    "SLOPE_SERIES",
    "arcsinc_slope",
    "arcsinc_sqrt",
    "arctanc_sqrt",
    "arsinhc",
    "arsinhc_slope",
    "cos_sinc_sqrt",
    "cos_sqrt",
    "log_sinc_length",
    "log_sinc_sqrt",
    "log_sinhc",
    "sinc_slope",
    "sinc_sqrt",
    "tanc_sqrt",
]

# below this |s| derivatives use the Taylor series; the slowest (arctanc, 13 terms) is then accurate to 1e-16
SERIES_BELOW = 0.05

# Taylor coefficients of the derivatives in s.
# log(sin x / x) = -sum_k 2^{2k-1} |B_2k| x^{2k} / (k (2k)!);  tan x / x = sum_k 2^{2k}(2^{2k}-1)|B_2k|
# x^{2k-2} / (2k)!
_BERNOULLI = [
    1 / 6, 1 / 30, 1 / 42, 1 / 30, 5 / 66, 691 / 2730, 7 / 6, 3617 / 510, 43867 / 798, 174611 / 330,
    854513 / 138, 236364091 / 2730, 8553103 / 6,
]  # fmt: skip


def _diff(coefficients: Sequence[float]) -> list[float]:
    return [k * c for k, c in enumerate(coefficients)][1:]


_SLOPE: dict[str, list[float]] = {
    "sinc": _diff([(-1.0) ** k / math.factorial(2 * k + 1) for k in range(9)]),
    "tanc": _diff([4.0**k * (4.0**k - 1) * b / math.factorial(2 * k) for k, b in enumerate(_BERNOULLI, 1)]),
    "arctanc": _diff([(-1.0) ** k / (2 * k + 1) for k in range(14)]),
    "arcsinc": _diff([math.comb(2 * k, k) / (4.0**k * (2 * k + 1)) for k in range(14)]),
    "log_sinc": _diff(
        [0.0] + [-(4.0**k) * b / (2 * k * math.factorial(2 * k)) for k, b in enumerate(_BERNOULLI, 1)]
    ),
}
_ABOVE: dict[str, Callable[[Tensor], Tensor]] = {  # as functions of r = sqrt(|s|) > 0
    "cos": torch.cos,
    "sinc": lambda r: r.sin() / r,
    "tanc": lambda r: r.tan() / r,
    "arctanc": lambda r: r.atan() / r,
    "arcsinc": lambda r: r.asin() / r,
    "log_sinc": lambda r: (r.sin() / r).abs().log(),
}
_BELOW: dict[str, Callable[[Tensor], Tensor]] = {
    "cos": torch.cosh,
    "sinc": lambda r: r.sinh() / r,
    "tanc": lambda r: r.tanh() / r,
    "arctanc": lambda r: r.atanh() / r,
    "arcsinc": lambda r: torch.log1p(r + r * (r / (1 + torch.sqrt(1 + r * r)))) / r,
    "log_sinc": lambda r: r + torch.log(-torch.expm1(-2 * r) / (2 * r)),
}
_TWO_S_SLOPE: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {  # 2 s f'(s), as a function of s and f
    "sinc": lambda s, f, sign: _even("cos", s, sign) - f,
    "tanc": lambda s, f, sign: 1 + s * f * f - f,
    "arctanc": lambda s, f, sign: 1 / (1 + s) - f,
    "arcsinc": lambda s, f, sign: (1 - s).rsqrt() - f,
    "log_sinc": lambda s, f, sign: 1 / _even("tanc", s, sign) - 1,
}


def _series(c: list[float], eps: float) -> list[float]:
    """The coefficients whose terms matter at the end of the series' range, for a dtype with precision
    ``eps``."""
    return c[: max(2, sum(abs(x) * SERIES_BELOW**k > eps / 8 * abs(c[0]) for k, x in enumerate(c)))]


SLOPE_SERIES = {  # a dictionary, since torch.compile warns about cached functions
    (kind, dtype): _series(c, torch.finfo(dtype).eps)
    for kind, c in _SLOPE.items()
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
}


def _near(kind: str, s: Tensor) -> Tensor:
    return horner(SLOPE_SERIES[kind, s.dtype], s)


def _near_or(kind: str, s: Tensor, far: Tensor) -> Tensor:
    """The series where s is near 0, ``far`` elsewhere; not differentiable."""
    flat = s.reshape(-1)
    return replace_lanes(flat.abs() - SERIES_BELOW, far.reshape(-1), lambda s: _near(kind, s), flat).reshape(
        s.shape
    )


def _slope(kind: str, s: Tensor, f: Tensor, sign: int) -> Tensor:
    """f'(s), which can be differentiated again."""
    if kind == "cos":
        return -0.5 * _even("sinc", s, sign)
    if not torch.is_grad_enabled():  # without a graph, discarded values may be infinite
        return _near_or(kind, s, _TWO_S_SLOPE[kind](s, f, sign) / (2 * s))
    near = s.abs() < SERIES_BELOW
    series = _near(kind, torch.where(near, s, 0.0))
    s = torch.where(near, -0.5 if sign < 0 else 0.5, s)
    return torch.where(near, series, _TWO_S_SLOPE[kind](s, _even(kind, s, sign), sign) / (2 * s))


def _root(s: Tensor, sign: int) -> Tensor:
    return (s if sign > 0 else s.abs()).clamp_min(torch.finfo(s.dtype).tiny).sqrt()


class _Even(Function):
    """f(s) in closed form from r = sqrt(|s|); the derivative is :func:`_slope`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(s: Tensor, kind: str, sign: int) -> Tensor:
        r = _root(s, sign)
        if sign:
            return (_ABOVE if sign > 0 else _BELOW)[kind](r)
        return torch.where(s > 0, _ABOVE[kind](r), _BELOW[kind](r))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, str, int], output: Tensor) -> None:
        s, ctx.kind, ctx.sign = inputs
        save_tensors(ctx, s, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        s, f = ctx.saved_tensors
        return grad * _slope(ctx.kind, s, f, ctx.sign), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:  # type: ignore[override]
        s, f = ctx.saved_tensors
        return tangent * _slope(ctx.kind, s, f, ctx.sign)


def _even(kind: str, s: Tensor, sign: int) -> Tensor:
    return _Even.forward(s, kind, sign) if can_write_inplace(s) else _Even.apply(s, kind, sign)


class _CosSinc(Function):
    """cos sqrt(s) and sinc sqrt(s) together; if s is known to be negative, both from one expm1."""

    generate_vmap_rule = True

    @staticmethod
    def forward(s: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        r = _root(s, sign)
        if sign < 0:
            e = torch.expm1(r)
            f = e / (e + 1)
            return (e * f).mul_(0.5).add_(1), f.add_(e).div_(r).mul_(0.5)
        cos, sinc = r.cos(), r.sin() / r
        if sign:
            return cos, sinc
        return torch.where(s > 0, cos, r.cosh()), torch.where(s > 0, sinc, r.sinh() / r)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
        s, ctx.sign = inputs
        save_tensors(ctx, s, *output)

    @staticmethod
    def _slopes(s: Tensor, cos: Tensor, sinc: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled():
            return _slope("cos", s, cos, sign), _slope("sinc", s, sinc, sign)
        return -0.5 * sinc, sinc_slope(s, cos, sinc)

    @staticmethod
    def backward(ctx: Any, g_cos: Tensor, g_sinc: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        s, cos, sinc = ctx.saved_tensors
        a, b = _CosSinc._slopes(s, cos, sinc, ctx.sign)
        return g_cos * a + g_sinc * b, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        s, cos, sinc = ctx.saved_tensors
        a, b = _CosSinc._slopes(s, cos, sinc, ctx.sign)
        return tangent * a, tangent * b


def cos_sinc_sqrt(s: Tensor, sign: int = 0) -> tuple[Tensor, Tensor]:
    """:func:`cos_sqrt` and :func:`sinc_sqrt` of the same argument."""
    return _CosSinc.forward(s, sign) if can_write_inplace(s) else _CosSinc.apply(s, sign)


def cos_sqrt(s: Tensor, sign: int = 0) -> Tensor:
    r"""``cos(sqrt(s))``, that is ``cosh(sqrt(-s))`` for negative ``s``. Here and below, give ``sign`` = +1 or
    -1 if all of ``s`` is known to have that sign: this halves the work."""
    return _even("cos", s, sign)


def sinc_sqrt(s: Tensor, sign: int = 0) -> Tensor:
    r"""``sin(r)/r`` at ``r = sqrt(s)``, that is ``sinh(r)/r`` at ``r = sqrt(-s)`` for negative ``s``."""
    return _even("sinc", s, sign)


def tanc_sqrt(s: Tensor, sign: int = 0) -> Tensor:
    r"""``tan(r)/r`` at ``r = sqrt(s)`` (``s`` < pi^2/4), that is ``tanh(r)/r`` at ``r = sqrt(-s)`` for negative
    ``s``."""
    return _even("tanc", s, sign)


def arctanc_sqrt(s: Tensor, sign: int = 0) -> Tensor:
    r"""``arctan(r)/r`` at ``r = sqrt(s)``, that is ``artanh(r)/r`` at ``r = sqrt(-s)`` for negative ``s``
    (> -1)."""
    return _even("arctanc", s, sign)


def arcsinc_sqrt(s: Tensor, sign: int = 0) -> Tensor:
    r"""``arcsin(r)/r`` at ``r = sqrt(s)`` (``s`` < 1), that is ``arsinh(r)/r`` at ``r = sqrt(-s)`` for negative
    ``s``."""
    return _even("arcsinc", s, sign)


def sinc_slope(s: Tensor, cos: Tensor, sinc: Tensor) -> Tensor:
    """Derivative of :func:`sinc_sqrt` in s, from the values of :func:`cos_sqrt` and :func:`sinc_sqrt`."""
    if torch.is_grad_enabled():
        return _slope("sinc", s, sinc, 0)
    return _near_or("sinc", s, (cos - sinc) / (2 * s))


def arcsinc_slope(s: Tensor, f: Tensor, sign: int = -1) -> Tensor:
    """Derivative of :func:`arcsinc_sqrt` in s, from its value ``f``."""
    return _slope("arcsinc", s, f, sign)


def arsinhc(q: Tensor) -> tuple[Tensor, Tensor]:
    r"""``arsinh(r)/r`` and ``sqrt(1 + r^2)`` at ``r = sqrt(q)``, q >= 0; not differentiable."""
    r, c = _root(q, 1), (1 + q).sqrt_()
    return (q / (1 + c)).add_(r).log1p_().div_(r), c


def arsinhc_slope(q: Tensor, c: Tensor, f: Tensor) -> Tensor:
    r"""Derivative of :func:`arsinhc` in c = sqrt(1 + q), from its value ``f``."""
    if torch.is_grad_enabled():
        return -2 * c * _slope("arcsinc", -q, f, -1)
    far = torch.addcmul(torch.ones_like(c[..., :1]), c, f, value=-1).div_(q)
    return replace_lanes(q - SERIES_BELOW, far, lambda q, c: -2 * c * _near("arcsinc", -q), q, c)


def log_sinc_sqrt(s: Tensor, sign: int = 0) -> Tensor:
    r"""``log|sin(r)/r|`` at ``r = sqrt(s)``, that is ``log(sinh(r)/r)`` at ``r = sqrt(-s)`` for negative ``s``;
    never overflows."""
    return _even("log_sinc", s, sign)


def log_sinhc(r: Tensor) -> Tensor:
    r"""``log(sinh(r)/r)``, smooth at 0, without overflow for large ``r``."""
    return log_sinc_sqrt(-r * r, -1)


def log_sinc_length(v: Tensor, curvature: Tensor | float, sign: int = 0) -> Tensor:
    r"""``log|sin(r)/r|`` at :math:`r = \sqrt K|v|`, for vectors (last axis) of any length, also where their
    squared length overflows; ``sign`` as for :func:`cos_sqrt`, that of K."""
    q = v.square().sum(-1)
    if q.numel() and q.device.type == "cpu" and is_concrete(q):
        long = None if float(q.detach().amax()) <= LONGEST.get(v.dtype, 1e2) else long_vectors(v)
    else:
        long = long_vectors(v)
    if long is None:
        return log_sinc_sqrt(curvature * q, sign)
    near = log_sinc_sqrt(curvature * torch.where(long, 1.0, v).square().sum(-1), sign)
    k = torch.as_tensor(curvature, dtype=v.dtype, device=v.device)
    r = k.abs().sqrt() * norm(torch.where(long, v, 1.0))
    log_sine = torch.sin(r).abs().clamp_min(torch.finfo(v.dtype).tiny).log()
    far = torch.where(k > 0, log_sine, r - math.log(2)) - r.log()
    return torch.where(long.squeeze(-1), far, near)
