r"""Functions of a *signed squared length* that are smooth through zero, and safe norms.

Trigonometry in constant curvature :math:`K` only ever meets :math:`s = K r^2`. As functions of :math:`s`

.. math::
    \mathrm{cos}\sqrt{s}, \qquad \frac{\sin\sqrt s}{\sqrt s}, \qquad \frac{\arctan\sqrt s}{\sqrt s}

are analytic on both sides of zero (:math:`s<0` gives cosh, sinhc and artanhc), so one formula serves spheres, flat space
and hyperbolic space, and gradients of every order are right at coinciding points and at zero curvature.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = [
    "arctanc_sqrt",
    "asinh",
    "cos_sqrt",
    "log_sinc_sqrt",
    "log_sinhc",
    "norm",
    "sinc_sqrt",
    "tanc_sqrt",
]

_SERIES = 0.05  # below this |s| the Taylor series is used; the slowest (arctanc, 13 terms) is then good to 1e-18


def norm(x: Tensor, dim: int = -1, keepdim: bool = False) -> Tensor:
    """Euclidean norm with gradient 0 (not NaN) at 0, and no under- or overflow of the squares."""
    scale = x.detach().abs().amax(dim, keepdim=True)
    zero = scale == 0
    scale = torch.where(zero, torch.ones_like(scale), scale)
    q = (x / scale).square().sum(dim, keepdim=True)
    r = torch.where(zero, torch.zeros_like(q), torch.where(zero, 1.0, q).sqrt() * scale)
    return r if keepdim else r.squeeze(dim)


def asinh(x: Tensor) -> Tensor:
    """Inverse hyperbolic sine through log1p: relative accuracy near 0, several times faster than torch's."""
    flip = x < 0
    a = torch.where(flip, -x, x)
    big = a > (1e8 if x.dtype == torch.float64 else 1e4)  # there asinh(a) = log(2a) to rounding, and a * a may overflow
    b = torch.where(big, 1.0, a)
    out = torch.log1p(b + b * b / (1 + torch.sqrt(1 + b * b)))
    out = torch.where(big, torch.where(big, a, 1.0).log() + math.log(2.0), out)
    return torch.where(flip, -out, out)


def _horner(coefficients: Sequence[float], s: Tensor) -> Tensor:
    out = torch.full_like(s, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        out = out * s + c
    return out


def _piecewise(
    s: Tensor,
    coefficients: Sequence[float],
    positive: Callable[[Tensor], Tensor],
    negative: Callable[[Tensor], Tensor],
) -> Tensor:
    """Series near 0, ``positive(sqrt(s))`` above, ``negative(sqrt(-s))`` below; inputs are guarded, so gradients are finite."""
    near, above = s.abs() < _SERIES, s > 0
    series = _horner(coefficients, torch.where(near, s, 0.0))
    up = positive(torch.where(~near & above, s, 1.0).sqrt())
    down = negative(torch.where(~near & ~above, -s, 1.0).sqrt())
    return torch.where(near, series, torch.where(above, up, down))


_COS = [(-1.0) ** k / math.factorial(2 * k) for k in range(8)]
_SINC = [(-1.0) ** k / math.factorial(2 * k + 1) for k in range(8)]
# log(sin x / x) = -sum_k 2^{2k-1} |B_2k| x^{2k} / (k (2k)!);  tan x / x = sum_k 2^{2k}(2^{2k}-1)|B_2k| x^{2k-2} / (2k)!
_BERNOULLI = [
    1 / 6, 1 / 30, 1 / 42, 1 / 30, 5 / 66, 691 / 2730, 7 / 6, 3617 / 510, 43867 / 798, 174611 / 330,
    854513 / 138, 236364091 / 2730,
]  # fmt: skip
_LOG_SINC = [0.0] + [
    -(2.0 ** (2 * k - 1)) * b / (k * math.factorial(2 * k)) for k, b in enumerate(_BERNOULLI, 1)
]
_TANC = [
    2.0 ** (2 * k) * (2.0 ** (2 * k) - 1) * b / math.factorial(2 * k) for k, b in enumerate(_BERNOULLI, 1)
]
_ARCTANC = [(-1.0) ** k / (2 * k + 1) for k in range(13)]


def cos_sqrt(s: Tensor) -> Tensor:
    r"""``cos(sqrt(s))``, that is ``cosh(sqrt(-s))`` for negative ``s``."""
    return _piecewise(s, _COS, torch.cos, torch.cosh)


def sinc_sqrt(s: Tensor) -> Tensor:
    r"""``sin(r)/r`` at ``r = sqrt(s)``, that is ``sinh(r)/r`` at ``r = sqrt(-s)`` for negative ``s``."""
    return _piecewise(s, _SINC, lambda r: r.sin() / r, lambda r: r.sinh() / r)


def tanc_sqrt(s: Tensor) -> Tensor:
    r"""``tan(r)/r`` at ``r = sqrt(s)``, that is ``tanh(r)/r`` at ``r = sqrt(-s)`` for negative ``s``."""
    return _piecewise(s, _TANC, lambda r: r.tan() / r, lambda r: r.tanh() / r)


def arctanc_sqrt(s: Tensor) -> Tensor:
    r"""``arctan(r)/r`` at ``r = sqrt(s)``, that is ``artanh(r)/r`` at ``r = sqrt(-s)`` for negative ``s`` (> -1)."""
    return _piecewise(s, _ARCTANC, lambda r: r.atan() / r, lambda r: r.atanh() / r)


def log_sinc_sqrt(s: Tensor) -> Tensor:
    r"""``log|sin(r)/r|`` at ``r = sqrt(s)``, ``log(sinh(r)/r)`` at ``r = sqrt(-s)``; never overflows."""
    return _piecewise(s, _LOG_SINC, lambda r: (r.sin() / r).abs().log(), _log_sinhc_direct)


def log_sinhc(r: Tensor) -> Tensor:
    r"""``log(sinh(r)/r)``, smooth at 0, no overflow for large ``r``."""
    return log_sinc_sqrt(-r * r)


def _log_sinhc_direct(r: Tensor) -> Tensor:
    return r + torch.log(-torch.expm1(-2 * r) / (2 * r))
