r"""Monotone rational-quadratic splines on an interval, the identity outside, and their derivatives.

On the k-th of K bins, of width w, height h and slope s = h/w, with derivatives :math:`\delta_0, \delta_1` at
its ends and
:math:`\theta = (x - x_k)/w`, let :math:`p = (1-\theta)\,\delta_0 + \theta s` and
:math:`q = (1-\theta)\,s + \theta\,\delta_1`. Then

.. math::
    y = y_k + h\,r, \qquad r = \frac{\theta p}{D}, \qquad D = \theta p + (1-\theta)\,q, \qquad
    \frac{dy}{dx} = \frac{s^2\,\big((1-\theta)\,p + \theta q\big)}{D^2}

and, with :math:`m = \theta(1-\theta)` and :math:`g = s\,m\,(\theta q - (1-\theta)\,p)/D^2`,

.. math::
    \frac{\partial y}{\partial x_k} = -\frac{dy}{dx}, \quad \frac{\partial y}{\partial w} =
    -\theta\,\frac{dy}{dx} - sg, \quad \frac{\partial y}{\partial h} = r + g, \quad
    \frac{\partial y}{\partial\delta_0} = \frac{hm}{D}(1-r), \quad \frac{\partial y}{\partial\delta_1} =
    -\frac{hm}{D}\,r.

No boolean indexing, so it works under ``torch.func`` (Pyro's does not). Reference: Durkan et al., *Neural
spline flows*, NeurIPS 2019, eqs. 4-8; the inverse is their eq. 29 in the form without cancellation.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["rational_quadratic", "spline_gradient", "spline_size"]

_MIN_BIN, _MIN_SLOPE = 2e-3, 1e-3
_ONE = math.log(
    math.expm1(1 - _MIN_SLOPE)
)  # softplus of it is a slope of 1: zero parameters are the identity


def spline_size(bins: int) -> int:
    """Parameters of one spline: K widths, K heights, K - 1 inner slopes."""
    return 3 * bins - 1


class _Bin(NamedTuple):
    """Where bin k begins and its size, for x and y, ``(2, ...)``, in units of the bound; slopes at its ends,
    their parameters and their numbers k and k + 1; of all bins the sizes less the least one, ``(2, K, ...)``,
    and which are before."""

    start: Tensor
    size: Tensor
    slopes: Tensor
    raw_slopes: Tensor
    ends: Tensor
    spare: Tensor
    before: Tensor


def _bin(t: Tensor, raw: Tensor, axis: int) -> _Bin:
    """The bin of the abscissae ``t`` (axis 0), or ordinates (1). Bins are the first axis: over a short last
    one torch's softmax takes ten times as long."""
    bins = (raw.shape[-1] + 1) // 3
    raw = raw.movedim(-1, 0)
    spare = raw[: 2 * bins].unflatten(0, (2, bins)).softmax(1) * (2 - _MIN_BIN * bins)
    sizes = spare + _MIN_BIN
    until = sizes.cumsum(1)
    before = t + 1 >= until[axis]
    k = before[:-1].sum(0, keepdim=True)
    both = k.expand(2, *k.shape)
    size = sizes.gather(1, both).squeeze(1)
    start = until.gather(1, both).squeeze(1) - size - 1
    ends, outermost = torch.cat([k, k + 1]), torch.zeros_like(raw[:1])
    raw_slopes = torch.cat([outermost, raw[2 * bins :], outermost]).gather(0, ends) + _ONE
    return _Bin(start, size, _MIN_SLOPE + softplus(raw_slopes), raw_slopes, ends, spare, before)


def rational_quadratic(
    x: Tensor, raw: Tensor, bound: float, *, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    """The spline with unconstrained parameters ``raw``, shape ``x.shape + (3K - 1,)``, and the log of its
    derivative.

    Zero parameters are the identity. With ``inverse``, the inverse and the log of *its* derivative.

    >>> y, log_slope = rational_quadratic(torch.tensor([0.5, 7.0]), torch.zeros(2, 23), bound=3.0)
    >>> y, log_slope.abs() < 1e-6
    (tensor([0.5000, 7.0000]), tensor([True, True]))
    """
    outside = x.abs() >= bound
    t = (x / bound).masked_fill(outside, -1.0)
    (x0, y0), (w, h), (d0, d1), *_ = _bin(t, raw, int(inverse))
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
    out = torch.addcmul(x0, w, theta) if inverse else torch.addcmul(y0, h, theta * p / den)
    return torch.where(outside, x, bound * out), (-log_slope if inverse else log_slope).masked_fill(
        outside, 0.0
    )


def spline_gradient(x: Tensor, raw: Tensor, bound: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""The spline, its derivative dy/dx, and :math:`\partial y/\partial`\ ``raw``, of the shape of ``raw``.

    >>> y, slope, gradient = spline_gradient(torch.tensor([0.5, 7.0]), torch.zeros(2, 23), bound=3.0)
    >>> slope, gradient.shape, gradient[1].any()
    (tensor([1.0000, 1.0000]), torch.Size([2, 23]), tensor(False))
    """
    outside = x.abs() >= bound
    t = (x / bound).masked_fill(outside, -1.0)  # there all of the gradient is exactly zero
    start, size, (d0, d1), raw_slopes, ends, spare, before = _bin(t, raw, 0)
    (x0, y0), (w, h) = start, size
    s, theta, bins = h / w, (t - x0) / w, spare.shape[1]
    rest, p, q = 1 - theta, torch.lerp(d0, s, theta), torch.lerp(s, d1, theta)
    tp, inverse_den = theta * p, 1 / torch.lerp(q, p, theta)
    r, part, steep = tp * inverse_den, theta * rest * inverse_den, s * inverse_den
    slope, bent = steep.square() * torch.lerp(p, q, theta), steep * part * torch.lerp(-p, q, theta)
    rise = h * part
    falls = rise * r
    # in sizes of bins before, in those of this one, for x and y; in the slopes at its ends
    rows = [-slope, torch.ones_like(r), -theta * slope - s * bent, r + bent, rise - falls, -falls]
    of_before, of_own, at_ends = (bound * torch.stack(rows)).unflatten(0, (3, 2))
    # less the mean over the shares, as with any softmax
    mean = (of_before * torch.sub(start + 1, ends[0], alpha=_MIN_BIN) + of_own * (size - _MIN_BIN)) / (
        2 - _MIN_BIN * bins
    )
    of_size = torch.addcmul(-mean.unsqueeze(1), before.to(x.dtype), of_before.unsqueeze(1))
    of_size = spare * of_size.scatter(1, ends[0].expand_as(mean).unsqueeze(1), (of_own - mean).unsqueeze(1))
    of_slope = r.new_zeros((bins + 1, *r.shape)).scatter(0, ends, at_ends * raw_slopes.sigmoid())[1:-1]
    gradient = torch.cat([of_size.flatten(0, 1), of_slope]).movedim(0, -1)
    return torch.where(outside, x, bound * torch.addcmul(y0, h, r)), slope.masked_fill(outside, 1.0), gradient
