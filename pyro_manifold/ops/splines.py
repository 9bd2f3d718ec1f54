r"""Monotone rational-quadratic splines on an interval, the identity outside, and their derivatives.

On the k-th of K bins, of width w, height h and slope s = h/w, with derivatives :math:`\delta_0, \delta_1` at its ends and
:math:`\theta = (x - x_k)/w`, let :math:`p = (1-\theta)\,\delta_0 + \theta s` and
:math:`q = (1-\theta)\,s + \theta\,\delta_1`. Then

.. math::
    y = y_k + h\,r, \qquad r = \frac{\theta p}{D}, \qquad D = \theta p + (1-\theta)\,q, \qquad
    \frac{dy}{dx} = \frac{s^2\,\big((1-\theta)\,p + \theta q\big)}{D^2}

and, with :math:`m = \theta(1-\theta)` and :math:`g = s\,m\,(\theta q - (1-\theta)\,p)/D^2`,

.. math::
    \frac{\partial y}{\partial x_k} = -\frac{dy}{dx}, \quad \frac{\partial y}{\partial w} = -\theta\,\frac{dy}{dx} - sg, \quad
    \frac{\partial y}{\partial h} = r + g, \quad
    \frac{\partial y}{\partial\delta_0} = \frac{hm}{D}(1-r), \quad \frac{\partial y}{\partial\delta_1} = -\frac{hm}{D}\,r.

No boolean indexing, so it works under ``torch.func`` (Pyro's does not). Reference: Durkan et al., *Neural spline flows*,
NeurIPS 2019, eqs. 4-8; the inverse is their eq. 29 in the form without cancellation.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

__all__ = ["rational_quadratic", "spline_gradient", "spline_size"]

_MIN_BIN, _MIN_SLOPE = 1e-3, 1e-3
_ONE = math.log(math.expm1(1 - _MIN_SLOPE))  # softplus of it is a slope of 1: zero parameters are the identity


def spline_size(bins: int) -> int:
    """Parameters of one spline: K widths, K heights, K - 1 inner slopes."""
    return 3 * bins - 1


class _Bin(NamedTuple):
    """Where a bin begins, its size, the slopes at its ends; its number k, ``(..., 1)``; the slopes' parameters, ``(..., 2)``, and
    the bins' shares of the interval, ``(..., 2, K)``."""

    x0: Tensor
    y0: Tensor
    w: Tensor
    h: Tensor
    d0: Tensor
    d1: Tensor
    k: Tensor
    raw_slopes: Tensor
    share: Tensor


def _bin(t: Tensor, raw: Tensor, bound: float, axis: int) -> _Bin:
    """The bin of the abscissae ``t`` (axis 0), or ordinates (1)."""
    bins = (raw.shape[-1] + 1) // 3
    share = raw[..., : 2 * bins].unflatten(-1, (2, bins)).softmax(-1)
    size = _MIN_BIN + (1 - _MIN_BIN * bins) * share
    end = size.cumsum(-1)
    k = ((t / (2 * bound) + 0.5).unsqueeze(-1) >= end[..., axis, :-1]).sum(-1, keepdim=True)
    own = torch.cat([end, size], -2).gather(-1, k.unsqueeze(-2).expand(k.shape[:-1] + (4, 1))).squeeze(-1)
    (x0, y0), (w, h) = (2 * bound * (own[..., :2] - own[..., 2:]) - bound).unbind(-1), (2 * bound * own[..., 2:]).unbind(-1)
    raw_slopes = pad(raw[..., 2 * bins :], (1, 1)).gather(-1, torch.cat([k, k + 1], -1)) + _ONE
    d0, d1 = (_MIN_SLOPE + softplus(raw_slopes)).unbind(-1)
    return _Bin(x0, y0, w, h, d0, d1, k, raw_slopes, share)


def rational_quadratic(x: Tensor, raw: Tensor, bound: float, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """The spline with unconstrained parameters ``raw``, shape ``x.shape + (3K - 1,)``, and the log of its derivative.

    Zero parameters are the identity. With ``inverse``, the inverse and the log of *its* derivative.

    >>> y, log_slope = rational_quadratic(torch.tensor([0.5, 7.0]), torch.zeros(2, 23), bound=3.0)
    >>> y, log_slope.abs() < 1e-6
    (tensor([0.5000, 7.0000]), tensor([True, True]))
    """
    outside = x.abs() >= bound
    t = torch.where(outside, 0.0, x)
    x0, y0, w, h, d0, d1, *_ = _bin(t, raw, bound, int(inverse))
    s = h / w
    if inverse:
        share = (t - y0) / h
        b, c = d0 - share * (d0 + d1 - 2 * s), s * share  # of (s - b) theta^2 + b theta - c = 0
        theta = 2 * c / (b + (b * b + 4 * (s - b) * c).clamp_min(0.0).sqrt())
    else:
        theta = (t - x0) / w
    p, q = torch.lerp(d0, s, theta), torch.lerp(s, d1, theta)
    den = torch.lerp(q, p, theta)
    log_slope = ((s / den).square() * torch.lerp(p, q, theta)).log()
    out = x0 + w * theta if inverse else y0 + h * (theta * p / den)
    return torch.where(outside, x, out), torch.where(outside, 0.0, -log_slope if inverse else log_slope)


def spline_gradient(x: Tensor, raw: Tensor, bound: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""The spline, its derivative dy/dx, and :math:`\partial y/\partial`\ ``raw``, of the shape of ``raw``.

    >>> y, slope, gradient = spline_gradient(torch.tensor([0.5, 7.0]), torch.zeros(2, 23), bound=3.0)
    >>> slope, gradient.shape, gradient[1].any()
    (tensor([1.0000, 1.0000]), torch.Size([2, 23]), tensor(False))
    """
    outside = x.abs() >= bound
    t = torch.where(outside, 0.0, x)
    x0, y0, w, h, d0, d1, k, raw_slopes, share = _bin(t, raw, bound, 0)
    bins = share.shape[-1]
    s, theta = h / w, (t - x0) / w
    rest, p, q = 1 - theta, torch.lerp(d0, s, theta), torch.lerp(s, d1, theta)
    inverse_den = 1 / torch.lerp(q, p, theta)
    part, steep, r = theta * rest * inverse_den, s * inverse_den, theta * p * inverse_den
    slope, bent = steep.square() * torch.lerp(p, q, theta), steep * part * (theta * q - rest * p)
    zero, rise = torch.zeros_like(r), h * part
    # sizes of the bins before, of this one, of those behind, for x and y; slopes at the ends
    parts = [-slope, -theta * slope - s * bent, zero, torch.ones_like(r), r + bent, zero, rise * (1 - r), -rise * r]
    table = torch.where(outside.unsqueeze(-1), 0.0, torch.stack(parts, -1))
    place = (torch.arange(bins, device=k.device) - k).clamp(-1, 1) + 1
    of_size = table[..., :6].unflatten(-1, (2, 3)).gather(-1, place.unsqueeze(-2).expand(share.shape))
    moved = 2 * bound * (1 - _MIN_BIN * bins) * share * of_size
    of_share = moved - share * moved.sum(-1, keepdim=True)
    at_ends = table[..., 6:] * raw_slopes.sigmoid()
    of_slope = raw.new_zeros(k.shape[:-1] + (bins + 1,)).scatter(-1, torch.cat([k, k + 1], -1), at_ends)[..., 1:-1]
    gradient = torch.cat([of_share.flatten(-2), of_slope], -1)
    return torch.where(outside, x, y0 + h * r), torch.where(outside, 1.0, slope), gradient
