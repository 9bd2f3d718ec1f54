r"""The logarithm of the regularised lower incomplete gamma function P, also where P underflows, and the
logarithmic derivative of P.

.. math::
    P(a, x) = \frac{x^a e^{-x}}{\Gamma(a+1)}\, M(x), \qquad M(x) = \sum_{n\ge0} \frac{x^n}{(a+1)\cdots(a+n)},
    \qquad \frac{d\log P}{d\log x} = \frac{x^a e^{-x}}{\Gamma(a)\,P(a,x)} = \frac{a}{M(x)}

All terms of M are positive. Up to :math:`x = a + 6\sqrt a`, about :math:`17\sqrt a + 50` of them give double
precision. Above, :math:`1 - P < 10^{-8}`, so the relative error of torch's 1 - P (1e-9 near x = a) is
negligible. P(d/2, r²/2) is the probability that a standard normal vector of size d has a norm below r.
References: DLMF 8.7.1, 8.11.4."""

import math
from typing import Any

import torch
from torch import Tensor

from .autograd import BatchFunction, save_tensors
from .tracing import maybe_any

__all__ = ["log_gammainc", "log_gammainc_slope"]


_FEW = 1 << 16  # number of terms that are computed at once
_HUGE = 1e200  # larger arguments are clamped, which keeps infinity out of the gradients; P is 1 there


def _end(a: float) -> float:
    return a + 6 * math.sqrt(a)


def _terms(a: float) -> int:
    """The number of terms that are above 1e-18 of the sum at the end of the range (counted for a from 0.5 to
    5e5)."""
    return math.ceil(17 * math.sqrt(a) + 50)


def _series(a: float, x: Tensor) -> Tensor:
    terms = _terms(a)
    if x.numel() * terms <= _FEW:  # all powers at once takes a tenth of the calls
        divisors = a + torch.arange(1, terms + 1, dtype=x.dtype, device=x.device)
        return 1 + (x.unsqueeze(-1) / divisors).cumprod(-1).sum(-1)
    out = torch.ones_like(x)
    for n in range(terms, 0, -1):
        out = 1 + out * x / (a + n)
    return out


def _log_power(a: float, x: Tensor) -> Tensor:
    r""":math:`\log(x^a e^{-x}/\Gamma(a+1))`, without cancellation of order a at x = a."""
    if a < 10:
        return a * x.log() - x - math.lgamma(a + 1)
    stirling = (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * a * a)) / (a * a)) / (a * a)) / a
    d = (x - a) / a
    log_ratio = torch.where(
        d.abs() < 0.5, torch.log1p(torch.where(d.abs() < 0.5, d, 0.0)), x.log() - math.log(a)
    )
    return a * (log_ratio - d) - 0.5 * math.log(2 * math.pi * a) - stirling


class _LogComplement(BatchFunction):
    """log(1 - Q(a, x)), where Q is torch's ``gammaincc``, which has no forward-mode derivative."""

    ranks = (0, None)

    @staticmethod
    def forward(x: Tensor, a: float) -> Tensor:
        return torch.log1p(-torch.special.gammaincc(torch.full_like(x, a), x))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        x, ctx.a = inputs
        save_tensors(ctx, x)

    @staticmethod
    def _slope(x: Tensor, a: float) -> Tensor:
        return torch.exp(_log_power(a, x) + math.log(a) - _LogComplement.apply(x, a)) / x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return grad * _LogComplement._slope(x, ctx.a), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return tangent * _LogComplement._slope(x, ctx.a)


def log_gammainc(a: float, x: Tensor) -> Tensor:
    """log P(a, x), in float64, differentiable in x.

    :param float a: a > 0.
    :param Tensor x: x > 0; infinity gives 0.

    >>> log_gammainc(75.0, torch.tensor(torch.pi**2 / 2))  # P underflows in float32
    tensor(-137.0347, dtype=torch.float64)
    """
    x = x.double().clamp_max(_HUGE)
    low = x <= _end(a)
    above = _LogComplement.apply(torch.where(low, 2 * _end(a), x), a)
    if not maybe_any(low):
        return above
    y = torch.where(low, x, a)
    return torch.where(low, _log_power(a, y) + _series(a, y).log(), above)


def log_gammainc_slope(a: float, x: Tensor) -> Tensor:
    r"""The log of :math:`d\log P/d\log x`, in float64. It decreases from log a at x = 0 to :math:`-\infty`.

    >>> log_gammainc_slope(3.0, torch.tensor(0.0)) - math.log(3)
    tensor(0., dtype=torch.float64)
    """
    x = x.double().clamp_max(_HUGE)
    low = x <= _end(a)
    y = torch.where(low, x, a)
    z = torch.where(low, 2 * _end(a), x)
    return torch.where(
        low, math.log(a) - _series(a, y).log(), _log_power(a, z) + math.log(a) - log_gammainc(a, z)
    )
