r"""Functions of a *signed squared length* that are smooth through zero, and safe norms.

Trigonometry in constant curvature :math:`K` only ever meets :math:`s = K r^2`. As functions of :math:`s`

.. math::
    \cos\sqrt{s}, \quad \frac{\sin\sqrt s}{\sqrt s}, \quad \frac{\tan\sqrt s}{\sqrt s}, \quad
    \frac{\arctan\sqrt s}{\sqrt s}, \quad \frac{\arcsin\sqrt s}{\sqrt s}, \quad \log\Big|\frac{\sin\sqrt
    s}{\sqrt s}\Big|

are analytic on both sides of zero (:math:`s<0` gives cosh, sinhc, tanhc, artanhc, arsinhc, log sinhc), so one
formula serves spheres, flat space and hyperbolic space, and gradients of every order are right at coinciding
points and at zero curvature. Each is evaluated in closed form; its derivative is a closed form too, with the
Taylor series near zero.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .autograd import Function
from .components import extremes, replace_lanes
from .tracing import can_write_inplace, is_concrete, maybe_any

__all__ = [
    "arsinhc",
    "arsinhc_slope",
    "arcsinc_slope",
    "arcsinc_sqrt",
    "arctanc_sqrt",
    "cos_sinc_sqrt",
    "cos_sqrt",
    "cut_short",
    "fewer_turns",
    "horner",
    "log_sinc_length",
    "log_sinc_sqrt",
    "log_sinhc",
    "long_vectors",
    "norm",
    "safe_sqrt",
    "scalar",
    "sinc_slope",
    "sinc_sqrt",
]

_LONG = {
    torch.float64: 1e150,
    torch.float32: 1e15,
    torch.bfloat16: 1e15,
}  # squares up to here add up without overflow
# below this |s| derivatives use the Taylor series; the slowest (arctanc, 13 terms) is then good to 1e-16
_SERIES = 0.05


def norm(x: Tensor, dim: int = -1, keepdim: bool = False) -> Tensor:
    """Euclidean norm with gradient 0 (not NaN) at 0, and no under- or overflow of the squares."""
    if x.device.type == "cpu" and x.dtype in _LONG and is_concrete(x) and x.numel():
        if x.stride(dim) == 1:
            r = torch.linalg.vector_norm(x, dim=dim, keepdim=keepdim)
        else:  # where torch's norm takes 25 times as long
            r = x.square().sum(dim, keepdim=keepdim).sqrt()
        low, high = extremes(r)
        if low >= 1 / _LONG[x.dtype] and high <= _LONG[x.dtype]:
            return r
    scale = x.detach().abs().amax(dim, keepdim=True)
    zero = scale == 0
    scale = torch.where(zero, torch.ones_like(scale), scale)
    q = (x / scale).square().sum(dim, keepdim=True)
    r = torch.where(zero, torch.zeros_like(q), torch.where(zero, 1.0, q).sqrt() * scale)
    return r if keepdim else r.squeeze(dim)


def scalar(value: float, like: Tensor) -> Tensor:
    """A constant in the dtype and on the device of ``like``; ``like.new_full`` would be mapped over with
    it."""
    return torch.full((), value, dtype=like.dtype, device=like.device)


def long_vectors(v: Tensor) -> Tensor | None:
    """Where vectors (last axis) are so long that their squared length may overflow, ``batch + (1,)``; None if
    nowhere."""
    limit = _LONG.get(v.dtype, 1e2)
    if v.numel() and v.device.type == "cpu" and is_concrete(v):
        low, high = extremes(v)
        if high <= limit and low >= -limit:
            return None
    long = v.detach().abs().amax(-1, keepdim=True) > limit
    return long if v.numel() and maybe_any(long) else None


def fewer_turns(v: Tensor, half_turn: Tensor | float = math.pi) -> Tensor:
    """``v``, but vectors whose squared length would overflow less their whole turns, of length
    ``2 * half_turn``."""
    long = long_vectors(v)
    if long is None:
        return v
    far = torch.where(long, v, 1.0)
    far = far / far.detach().abs().amax(-1, keepdim=True)
    axis = far / norm(far, keepdim=True)
    r = (torch.where(long, v, 1.0) * axis.detach()).sum(
        -1, keepdim=True
    )  # the length, with the axis as its gradient
    angle = r * (math.pi / half_turn)
    rest = torch.atan2(
        angle.sin(), angle.cos()
    )  # sine and cosine reduce by the exact pi, remainder() by a rounded one
    return torch.where(long, axis * (rest * (half_turn / math.pi)), v)


def cut_short(v: Tensor) -> Tensor:
    """``v``, but vectors whose squared length would overflow shortened to about the longest whose does
    not."""
    long = long_vectors(v)
    if long is None:
        return v
    far = torch.where(long, v, 1.0)
    return torch.where(long, far / far.detach().abs().amax(-1, keepdim=True) * _LONG.get(v.dtype, 1e2), v)


def log_sinc_length(v: Tensor, curvature: Tensor | float, sign: int = 0) -> Tensor:
    r"""``log|sin(r)/r|`` at :math:`r = \sqrt K|v|`, for vectors (last axis) of any length; a known sign of K
    halves the work."""
    q = v.square().sum(-1)
    if q.numel() and q.device.type == "cpu" and is_concrete(q):
        long = None if float(q.detach().amax()) <= _LONG.get(v.dtype, 1e2) else long_vectors(v)
    else:
        long = long_vectors(v)
    if long is None:
        return log_sinc_sqrt(curvature * q, sign)
    near = log_sinc_sqrt(curvature * torch.where(long, 1.0, v).square().sum(-1), sign)
    k = torch.as_tensor(curvature, dtype=v.dtype, device=v.device)
    r = k.abs().sqrt() * norm(torch.where(long, v, 1.0))
    bent = (
        torch.where(k > 0, torch.sin(r).abs().clamp_min(torch.finfo(v.dtype).tiny).log(), r - math.log(2))
        - r.log()
    )
    return torch.where(long.squeeze(-1), bent, near)


def safe_sqrt(s: Tensor) -> Tensor:
    """Square root with derivatives 0 (not infinite), of every order, at 0."""
    zero = s <= 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, s).sqrt())


def horner(coefficients: Sequence[float], s: Tensor) -> Tensor:
    """The polynomial with these coefficients, lowest first."""
    if len(coefficients) == 1:
        return torch.full_like(s, coefficients[0])
    out = coefficients[-1] * s + coefficients[-2]
    for c in reversed(coefficients[:-2]):
        out = out * s + c
    return out


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
_TWO_S_SLOPE: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {  # 2 s f'(s), from s and f
    "sinc": lambda s, f, sign: _even("cos", s, sign) - f,
    "tanc": lambda s, f, sign: 1 + s * f * f - f,
    "arctanc": lambda s, f, sign: 1 / (1 + s) - f,
    "arcsinc": lambda s, f, sign: (1 - s).rsqrt() - f,
    "log_sinc": lambda s, f, sign: 1 / _even("tanc", s, sign) - 1,
}


def _series(c: list[float], eps: float) -> list[float]:
    """As many coefficients as a dtype can tell apart at the edge of the series' range."""
    return c[: max(2, sum(abs(x) * _SERIES**k > eps / 8 * abs(c[0]) for k, x in enumerate(c)))]


_NEAR = {  # made once: torch.compile warns of cached functions
    (kind, dtype): _series(c, torch.finfo(dtype).eps)
    for kind, c in _SLOPE.items()
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
}


def _near(kind: str, s: Tensor) -> Tensor:
    return horner(_NEAR[kind, s.dtype], s)


def _near_or(kind: str, s: Tensor, far: Tensor) -> Tensor:
    """``far``, and the series where it holds; for values alone."""
    flat = s.reshape(-1)
    return replace_lanes(flat.abs() - _SERIES, far.reshape(-1), lambda s: _near(kind, s), flat).reshape(
        s.shape
    )


def _slope(kind: str, s: Tensor, f: Tensor, sign: int) -> Tensor:
    """f'(s), itself differentiable to the right second derivative."""
    if kind == "cos":
        return -0.5 * _even("sinc", s, sign)
    if not torch.is_grad_enabled():  # no graph, so what the mask discards may be infinite
        return _near_or(kind, s, _TWO_S_SLOPE[kind](s, f, sign) / (2 * s))
    near = s.abs() < _SERIES
    series = _near(kind, torch.where(near, s, 0.0))
    s = torch.where(near, -0.5 if sign < 0 else 0.5, s)
    return torch.where(near, series, _TWO_S_SLOPE[kind](s, _even(kind, s, sign), sign) / (2 * s))


def _root(s: Tensor, sign: int) -> Tensor:
    return (s if sign > 0 else s.abs()).clamp_min(torch.finfo(s.dtype).tiny).sqrt()


class _Even(Function):
    """f(s) in closed form from r = sqrt(|s|), which no rounding hurts; the derivative is :func:`_slope`."""

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
        ctx.save_for_backward(s, output)
        ctx.save_for_forward(s, output)

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
    """cos sqrt(s) and sinc sqrt(s) together, from one expm1 where the sign is known to be negative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(s: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        r = _root(s, sign)
        if sign < 0:
            e = torch.expm1(r)
            f = e / (e + 1)
            return (e * f).mul_(0.5).add_(1), f.add_(e).div_(r).mul_(0.5)
        cos, sinc = r.cos(), r.sin() / r
        return (
            (cos, sinc)
            if sign
            else (torch.where(s > 0, cos, r.cosh()), torch.where(s > 0, sinc, r.sinh() / r))
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
        s, ctx.sign = inputs
        ctx.save_for_backward(s, *output)
        ctx.save_for_forward(s, *output)

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
    r"""``cos(sqrt(s))``, that is ``cosh(sqrt(-s))`` for negative ``s``; a known sign of ``s`` (+1, -1) halves
    the work."""
    return _even("cos", s, sign)


def sinc_sqrt(s: Tensor, sign: int = 0) -> Tensor:
    r"""``sin(r)/r`` at ``r = sqrt(s)``, that is ``sinh(r)/r`` at ``r = sqrt(-s)`` for negative ``s``."""
    return _even("sinc", s, sign)


def arctanc_sqrt(s: Tensor, sign: int = 0) -> Tensor:
    r"""``arctan(r)/r`` at ``r = sqrt(s)``, that is ``artanh(r)/r`` at ``r = sqrt(-s)`` for negative ``s`` (>
    -1)."""
    return _even("arctanc", s, sign)


def arcsinc_sqrt(s: Tensor, sign: int = 0) -> Tensor:
    r"""``arcsin(r)/r`` at ``r = sqrt(s)`` (< 1), that is ``arsinh(r)/r`` at ``r = sqrt(-s)`` for negative
    ``s``."""
    return _even("arcsinc", s, sign)


def sinc_slope(s: Tensor, cos: Tensor, sinc: Tensor) -> Tensor:
    """Derivative in s of :func:`sinc_sqrt`, from the values of both."""
    if torch.is_grad_enabled():
        return _slope("sinc", s, sinc, 0)
    return _near_or("sinc", s, (cos - sinc) / (2 * s))


def arcsinc_slope(s: Tensor, f: Tensor, sign: int = -1) -> Tensor:
    """Derivative in s of :func:`arcsinc_sqrt`, from its value ``f``."""
    return _slope("arcsinc", s, f, sign)


def arsinhc(q: Tensor) -> tuple[Tensor, Tensor]:
    r"""``arsinh(r)/r`` and ``sqrt(1 + r^2)`` at ``r = sqrt(q)``, q >= 0: values, not to be differentiated."""
    r, c = _root(q, 1), (1 + q).sqrt_()
    return (q / (1 + c)).add_(r).log1p_().div_(r), c


def arsinhc_slope(q: Tensor, c: Tensor, f: Tensor) -> Tensor:
    r"""Derivative of :func:`arsinhc` in c = sqrt(1 + q), from its value ``f``."""
    if torch.is_grad_enabled():
        return -2 * c * _slope("arcsinc", -q, f, -1)
    far = torch.addcmul(torch.ones_like(c[..., :1]), c, f, value=-1).div_(q)
    return replace_lanes(q - _SERIES, far, lambda q, c: -2 * c * _near("arcsinc", -q), q, c)


def log_sinc_sqrt(s: Tensor, sign: int = 0) -> Tensor:
    r"""``log|sin(r)/r|`` at ``r = sqrt(s)``, ``log(sinh(r)/r)`` at ``r = sqrt(-s)``; never overflows."""
    return _even("log_sinc", s, sign)


def log_sinhc(r: Tensor) -> Tensor:
    r"""``log(sinh(r)/r)``, smooth at 0, no overflow for large ``r``."""
    return log_sinc_sqrt(-r * r, -1)
