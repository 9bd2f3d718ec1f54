r"""Monotone rational-quadratic splines on an interval, which are the identity outside of it, and their
derivatives.

On the k-th of K bins, with width w, height h, slope s = h/w, derivatives :math:`\delta_0, \delta_1` at its
ends and :math:`\theta = (x - x_k)/w`, let :math:`p = (1-\theta)\,\delta_0 + \theta s` and
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

The implementation has no boolean indexing, so unlike Pyro's it works under ``torch.func``. Reference: Durkan
et al., *Neural spline flows*, NeurIPS 2019, eqs. 4-8; the inverse is their eq. 29 in a form without
cancellation."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["rational_quadratic", "spline_gradient", "spline_size"]

_MIN_BIN, _MIN_SLOPE = 2e-3, 1e-3
_ONE = math.log(math.expm1(1 - _MIN_SLOPE))  # added to raw slopes, so that zero parameters give a slope of 1


def spline_size(bins: int) -> int:
    """The number of parameters of one spline: K widths, K heights and K - 1 slopes."""
    return 3 * bins - 1


class _Bin(NamedTuple):
    """Bin k, in which a point lies. Lengths are in units of the bound."""

    start: Tensor  # x_k and y_k, (2, ...)
    size: Tensor  # w and h, (2, ...)
    slopes: Tensor  # the derivatives at its ends, (2, ...)
    raw_slopes: Tensor  # the parameters of these
    ends: Tensor  # k and k + 1
    spare: Tensor  # the sizes of all bins minus the smallest allowed size, (2, K, ...)
    before: Tensor  # whether each bin is before bin k


def _bin(t: Tensor, raw: Tensor, axis: int) -> _Bin:
    """The bin that contains ``t``, an abscissa (``axis`` 0) or an ordinate (1). The bins are along the first
    axis, since torch's softmax is ten times slower over a short last axis."""
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
    derivative. With ``inverse``, the inverse of the spline and the log of the derivative of the inverse. Zero
    parameters give the identity.

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
        b, c = d0 - share * (d0 + d1 - 2 * s), s * share  # coefficients of (s - b) theta^2 + b theta - c = 0
        root = (b * b + 4 * (s - b) * c).clamp_min(1e-30).sqrt()
        rises = b >= 0  # of the two forms of the root, the one that subtracts nothing
        theta = torch.where(rises, 2 * c, root - b) / torch.where(rises, b + root, 2 * (s - b))
    else:
        theta = (t - x0) / w
    p, q = torch.lerp(d0, s, theta), torch.lerp(s, d1, theta)
    den = torch.lerp(q, p, theta)
    log_slope = ((s / den).square() * torch.lerp(p, q, theta)).log()
    out = torch.addcmul(x0, w, theta) if inverse else torch.addcmul(y0, h, theta * p / den)
    log_slope = -log_slope if inverse else log_slope
    return torch.where(outside, x, bound * out), log_slope.masked_fill(outside, 0.0)


def spline_gradient(x: Tensor, raw: Tensor, bound: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""The spline, its derivative dy/dx, and :math:`\partial y/\partial`\ ``raw``, with the shape of ``raw``.

    >>> y, slope, gradient = spline_gradient(torch.tensor([0.5, 7.0]), torch.zeros(2, 23), bound=3.0)
    >>> slope, gradient.shape, gradient[1].any()
    (tensor([1.0000, 1.0000]), torch.Size([2, 23]), tensor(False))
    """
    outside = x.abs() >= bound
    t = (x / bound).masked_fill(outside, -1.0)  # at -1 the gradient in ``raw`` is exactly zero
    start, size, (d0, d1), raw_slopes, ends, spare, before = _bin(t, raw, 0)
    (x0, y0), (w, h) = start, size
    s, theta, bins = h / w, (t - x0) / w, spare.shape[1]
    rest, p, q = 1 - theta, torch.lerp(d0, s, theta), torch.lerp(s, d1, theta)
    tp, inverse_den = theta * p, 1 / torch.lerp(q, p, theta)
    r, part, steep = tp * inverse_den, theta * rest * inverse_den, s * inverse_den
    slope, bent = steep.square() * torch.lerp(p, q, theta), steep * part * torch.lerp(-p, q, theta)
    rise = h * part
    falls = rise * r
    # derivatives in the sizes (width and height) of bins before this one, in those of this bin, and in the
    # slopes at its ends
    rows = [-slope, torch.ones_like(r), -theta * slope - s * bent, r + bent, rise - falls, -falls]
    of_before, of_own, at_ends = (bound * torch.stack(rows)).unflatten(0, (3, 2))
    # the derivative of softmax subtracts the mean
    mean = (of_before * torch.sub(start + 1, ends[0], alpha=_MIN_BIN) + of_own * (size - _MIN_BIN)) / (
        2 - _MIN_BIN * bins
    )
    of_size = torch.addcmul(-mean.unsqueeze(1), before.to(x.dtype), of_before.unsqueeze(1))
    of_size = spare * of_size.scatter(1, ends[0].expand_as(mean).unsqueeze(1), (of_own - mean).unsqueeze(1))
    of_slope = r.new_zeros((bins + 1, *r.shape)).scatter(0, ends, at_ends * raw_slopes.sigmoid())[1:-1]
    gradient = torch.cat([of_size.flatten(0, 1), of_slope]).movedim(0, -1)
    return torch.where(outside, x, bound * torch.addcmul(y0, h, r)), slope.masked_fill(outside, 1.0), gradient
