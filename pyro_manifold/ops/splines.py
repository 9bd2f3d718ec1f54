r"""Monotone rational-quadratic splines on an interval, the identity outside, and their derivatives.

On the k-th of K bins, of width w, height h and slope s = h/w, with derivatives :math:`\delta_0, \delta_1` at its ends,
:math:`\theta = (x - x_k)/w` and :math:`m = \theta(1-\theta)`,

.. math::
    y = y_k + h\,r, \quad r = \frac ND = \frac{s\theta^2 + \delta_0m}{s + (\delta_0+\delta_1-2s)\,m}, \qquad
    \frac{dy}{dx} = \frac{s^2(\delta_1\theta^2 + 2sm + \delta_0(1-\theta)^2)}{D^2}

and, where :math:`r_s = m\,(\delta_1\theta^2 - \delta_0(1-\theta)^2)/D^2`,

.. math::
    \frac{\partial y}{\partial x_k} = -\frac{dy}{dx}, \quad \frac{\partial y}{\partial w} = -\theta\,\frac{dy}{dx} - s^2r_s, \quad
    \frac{\partial y}{\partial h} = r + s\,r_s, \quad
    \frac{\partial y}{\partial\delta_0} = \frac{hm(1-r)}{D}, \quad \frac{\partial y}{\partial\delta_1} = -\frac{hmr}{D}

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
    """Where a bin begins, its size, the slopes at its ends; its number k, ``(..., 1)``; the bins' shares, ``(..., 2, K)``."""

    x0: Tensor
    y0: Tensor
    w: Tensor
    h: Tensor
    d0: Tensor
    d1: Tensor
    k: Tensor
    share: Tensor


def _bin(t: Tensor, raw: Tensor, bound: float, axis: int) -> _Bin:
    """The bin of the abscissae ``t`` (axis 0), or ordinates (1)."""
    bins = (raw.shape[-1] + 1) // 3
    share = raw[..., : 2 * bins].unflatten(-1, (2, bins)).softmax(-1)
    ends = (_MIN_BIN + (1 - _MIN_BIN * bins) * share).cumsum(-1)
    knots = pad(2 * bound * ends - bound, (1, 0), value=-bound)
    slopes = pad(_MIN_SLOPE + softplus(raw[..., 2 * bins :] + _ONE), (1, 1), value=1.0)
    k = (t.unsqueeze(-1) >= knots[..., axis, 1:-1]).sum(-1, keepdim=True)
    table = torch.cat([knots, slopes.unsqueeze(-2)], -2)
    pair = torch.cat([k, k + 1], -1).unsqueeze(-2).expand(table.shape[:-1] + (2,))
    (x0, x1), (y0, y1), (d0, d1) = (row.unbind(-1) for row in table.gather(-1, pair).unbind(-2))
    return _Bin(x0, y0, x1 - x0, y1 - y0, d0, d1, k, share)


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
    bend = d0 + d1 - 2 * s
    if inverse:
        z = t - y0
        a, b, c = h * (s - d0) + z * bend, h * d0 - z * bend, -s * z
        theta = 2 * c / (-b - (b * b - 4 * a * c).clamp_min(0.0).sqrt())
    else:
        theta = (t - x0) / w
    mid = theta * (1 - theta)
    q = s / (s + bend * mid)
    log_slope = (q * q * (d1 * theta * theta + 2 * s * mid + d0 * (1 - theta) ** 2)).log()
    out = x0 + w * theta if inverse else y0 + w * q * (s * theta * theta + d0 * mid)
    return torch.where(outside, x, out), torch.where(outside, 0.0, -log_slope if inverse else log_slope)


def spline_gradient(x: Tensor, raw: Tensor, bound: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""The spline, its derivative dy/dx, and :math:`\partial y/\partial`\ ``raw``, of the shape of ``raw``.

    >>> y, slope, gradient = spline_gradient(torch.tensor([0.5, 7.0]), torch.zeros(2, 23), bound=3.0)
    >>> slope, gradient.shape, gradient[1].any()
    (tensor([1.0000, 1.0000]), torch.Size([2, 23]), tensor(False))
    """
    outside = x.abs() >= bound
    t = torch.where(outside, 0.0, x)
    x0, y0, w, h, d0, d1, k, share = _bin(t, raw, bound, 0)
    bins = share.shape[-1]
    s, theta = h / w, (t - x0) / w
    rest = 1 - theta
    mid, up, down = theta * rest, d1 * theta * theta, d0 * rest * rest
    den = s + (d0 + d1 - 2 * s) * mid
    q, part = s / den, mid / den
    slope, bent = q * q * (up + 2 * s * mid + down), q * part * (up - down)  # the second is s r_s
    r = q * theta * theta + d0 * part
    # knots before, the bin's own size, the slopes at its ends: of x and of y, or left and right
    parts = [-slope, torch.ones_like(r), -theta * slope - s * bent, r + bent, h * part * (1 - r), -h * part * r]
    before, own, ends = torch.where(outside.unsqueeze(-1), 0.0, torch.stack(parts, -1)).unflatten(-1, (3, 2)).unbind(-2)
    place = torch.arange(bins, device=raw.device)
    of_size = (place < k).unsqueeze(-2) * before.unsqueeze(-1) + (place == k).unsqueeze(-2) * own.unsqueeze(-1)
    of_share = 2 * bound * (1 - _MIN_BIN * bins) * share * (of_size - (share * of_size).sum(-1, keepdim=True))
    of_slope = (place[1:] == k) * ends[..., :1] + (place[1:] == k + 1) * ends[..., 1:]
    gradient = torch.cat([of_share.flatten(-2), of_slope * (raw[..., 2 * bins :] + _ONE).sigmoid()], -1)
    return torch.where(outside, x, y0 + h * r), torch.where(outside, 1.0, slope), gradient
