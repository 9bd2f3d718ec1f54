r"""Monotone rational-quadratic splines of an interval onto itself and of the circle, accurate also at the
ends of the interval.

A point of :math:`[-1, 1]` and its image are represented by their distances :math:`l = 1 + z` and
:math:`u = 1 - z` from both ends. The k-th bin has width w, height h and slope s = h/w. It begins at distances
:math:`l_k, l'_k` from the left end and ends at distances :math:`u_k, u'_k` from the right end; the
derivatives at its ends are :math:`\delta_0, \delta_1`. Then

.. math::
    \theta = \frac{l - l_k}{w} = 1 - \frac{u - u_k}{w}, \quad p = (1-\theta)\,\delta_0 + \theta s, \quad
    q = (1-\theta)\,s + \theta\,\delta_1, \quad D = \theta p + (1-\theta)\,q,

.. math::
    l' = l'_k + \frac{h\theta p}{D}, \qquad u' = u'_k + \frac{h(1-\theta)q}{D}, \qquad
    \frac{dz'}{dz} = \frac{s^2\,\big((1-\theta)\,p + \theta q\big)}{D^2}

The distance of the image from the nearer end is computed from the distance of the point from the nearer end,
without cancellation. So points next to a pole of a sphere are mapped accurately, although their heights z are
rounded. Reference: Durkan et al., *Neural spline flows*, NeurIPS 2019, eqs. 4-8; Rezende et al., *Normalizing
flows on tori and spheres*, ICML 2020, sec. 2.1.2 (circular splines).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .circular import wrap
from .numerics import within

__all__ = [
    "IntervalPoint",
    "circular_move",
    "circular_size",
    "circular_spline",
    "interval_size",
    "interval_spline",
]

_MIN_BIN = 1e-4
_MIN_SLOPE = 1e-3
_ONE = math.log(math.expm1(1 - _MIN_SLOPE))  # added to raw slopes, so that zero parameters give a slope of 1


class IntervalPoint(NamedTuple):
    """A point of [-1, 1]: its distances from the left and from the right end, which add up to 2."""

    lower: Tensor
    upper: Tensor

    @property
    def height(self) -> Tensor:
        """z, computed from the distance to the nearer end."""
        return torch.where(self.lower <= self.upper, self.lower - 1, 1 - self.upper)


def circular_size(bins: int) -> int:
    """The number of parameters of one spline of the circle: K widths, K heights, K slopes and a shift."""
    return 3 * bins + 1


def interval_size(bins: int) -> int:
    """The number of parameters of one spline of the interval, without the slopes at its ends: K widths, K
    heights and K - 1 slopes."""
    return 3 * bins - 1


class _Bin(NamedTuple):
    """The bin that contains a point."""

    start: Tensor  # where it begins, for x and y, (2, ...)
    size: Tensor  # width and height, (2, ...)
    slopes: Tensor  # the derivatives at its ends, (2, ...)
    number: Tensor  # k


def _bin(lower: Tensor, raw: Tensor, slopes: Tensor, axis: int) -> _Bin:
    """The bin that contains the abscissa (``axis`` 0) or ordinate (1) at distance ``lower`` from the left
    end. The parameters are unconstrained, with the bins along the first axis: sizes ``(2 K, ...)``, slopes
    ``(K + 1, ...)``."""
    bins = len(slopes) - 1
    sizes = _MIN_BIN + raw.unflatten(0, (2, bins)).softmax(1) * (2 - _MIN_BIN * bins)
    until = sizes.cumsum(1)
    k = (lower >= until[axis, :-1]).sum(0, keepdim=True)
    both = k.expand(2, *k.shape)
    size = sizes.gather(1, both).squeeze(1)
    start = until.gather(1, both).squeeze(1) - size
    at_ends = slopes.gather(0, torch.cat([k, k + 1]))
    return _Bin(start, size, _MIN_SLOPE + softplus(at_ends + _ONE), k.squeeze(0))


def _share(known: Tensor, begin: Tensor, b: _Bin, near: Tensor, s: Tensor, inverse: bool) -> Tensor:
    """theta, measured from the end of the bin that is at distance ``begin`` and has the slope ``near``."""
    share = within((known - begin) / b.size[int(inverse)], 0.0, 1.0)
    if not inverse:
        return share
    linear = near - share * (b.slopes.sum(0) - 2 * s)
    constant = s * share  # theta solves (s - linear) theta^2 + linear theta - constant = 0
    root = (linear * linear + 4 * (s - linear) * constant).clamp_min(1e-30).sqrt()
    rises = linear >= 0  # of the two forms of the root, the one that subtracts nothing
    upper = torch.where(rises, 2 * constant, root - linear)
    lower = torch.where(rises, linear + root, 2 * (s - linear))
    return within(upper / lower, 0.0, 1.0)


class _Quotient(NamedTuple):
    """p / D, q / D and the log of the derivative."""

    p: Tensor
    q: Tensor
    log_slope: Tensor


def _quotient(theta: Tensor, near: Tensor, far: Tensor, s: Tensor) -> _Quotient:
    p = torch.lerp(near, s, theta)
    q = torch.lerp(s, far, theta)
    den = torch.lerp(q, p, theta)
    log_slope = ((s / den).square() * torch.lerp(p, q, theta)).log()
    return _Quotient(p / den, q / den, log_slope)


def interval_spline(
    at: IntervalPoint, raw: Tensor, ends: Tensor, *, inverse: bool = False
) -> tuple[IntervalPoint, Tensor, IntervalPoint]:
    r"""The spline of [-1, 1] onto itself, the log of its derivative, and the factors by which the distances
    from both ends change, :math:`l'/l` and :math:`u'/u`, also at the ends.

    Zero parameters give the identity. With ``inverse``, all three are those of the inverse map.

    :param IntervalPoint at: points, of any ``shape``.
    :param Tensor raw: unconstrained parameters, ``shape + (3K - 1,)``.
    :param Tensor ends: unconstrained slopes at both ends, ``shape + (2,)``.

    >>> z = torch.tensor([-0.5, 1.0])
    >>> out, log_slope, factors = interval_spline(
    ...     IntervalPoint(1 + z, 1 - z), torch.zeros(2, 23), torch.zeros(2, 2))
    >>> out.height, factors.upper
    (tensor([-0.5000,  1.0000]), tensor([1.0000, 1.0000]))
    """
    bins = (raw.shape[-1] + 1) // 3
    raw = raw.movedim(-1, 0)
    ends = ends.movedim(-1, 0)
    b = _bin(at.lower, raw[: 2 * bins], torch.cat([ends[:1], raw[2 * bins :], ends[1:]]), int(inverse))
    s = b.size[1] / b.size[0]

    # all formulas are symmetric in the two ends: use distances from the nearer one
    last = b.number == bins - 1
    left = at.lower <= at.upper
    stop = torch.where(last, 0.0, 2 - b.start - b.size)  # from the end of the bin to the right end
    near_begin = torch.where(left, b.start, stop)
    far_begin = torch.where(left, stop, b.start)
    slopes = torch.where(left, b.slopes, b.slopes.flip(0))
    near, far = torch.where(left, at.lower, at.upper), torch.where(left, at.upper, at.lower)
    theta = _share(near, near_begin[int(inverse)], b, slopes[0], s, inverse)
    q = _quotient(theta, slopes[0], slopes[1], s)
    if inverse:
        new_near = torch.addcmul(near_begin[0], b.size[0], theta)
        new_far = torch.addcmul(far_begin[0], b.size[0], 1 - theta)
        in_end_bin = 1 / (s * q.p)
    else:
        new_near = torch.addcmul(near_begin[1], b.size[1], theta * q.p)
        new_far = torch.addcmul(far_begin[1], b.size[1], (1 - theta) * q.q)
        in_end_bin = s * q.p
    at_end = torch.where(left, b.number == 0, last)
    near_factor = torch.where(at_end, in_end_bin, new_near / torch.where(at_end, 1.0, near))
    far_factor = new_far / far  # far is at least 1
    out = IntervalPoint(torch.where(left, new_near, new_far), torch.where(left, new_far, new_near))
    factors = IntervalPoint(
        torch.where(left, near_factor, far_factor), torch.where(left, far_factor, near_factor)
    )
    return out, (-q.log_slope if inverse else q.log_slope), factors


def circular_spline(angle: Tensor, raw: Tensor, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
    r"""A smooth monotone map of the circle onto itself, :math:`\phi' = \mathrm{wrap}(s(\phi) + \beta)` with a
    spline s that fixes :math:`\pm\pi` and has the same derivative at both; and the log of its derivative.

    Zero parameters are the identity. With ``inverse``, the inverse and the log of *its* derivative.

    :param Tensor angle: angles in radians, in [-pi, pi).
    :param Tensor raw: unconstrained parameters, ``angle.shape + (3K + 1,)``; the last is the shift.

    >>> circular_spline(torch.tensor([3.0, -1.5]), torch.zeros(2, 25))[0].round(decimals=4)
    tensor([ 3.0000, -1.5000])
    """
    move, log_slope = circular_move(angle, raw, inverse=inverse)
    return wrap(angle + move), log_slope


def circular_move(angle: Tensor, raw: Tensor, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
    r"""The angle by which :func:`circular_spline` moves a point, :math:`s(\phi) + \beta - \phi`, which is a continuous
    function on the circle, without jumps by whole turns; and the log of the derivative."""
    bins = (raw.shape[-1] - 1) // 3
    raw = raw.movedim(-1, 0)
    shift = raw[-1]
    start = wrap(angle - shift) if inverse else angle
    lower = within(1 + start / math.pi, 0.0)
    slopes = raw[2 * bins : -1]
    b = _bin(lower, raw[: 2 * bins], torch.cat([slopes, slopes[:1]]), int(inverse))
    s = b.size[1] / b.size[0]
    theta = _share(lower, b.start[int(inverse)], b, b.slopes[0], s, inverse)
    q = _quotient(theta, b.slopes[0], b.slopes[1], s)
    if inverse:
        move = math.pi * (torch.addcmul(b.start[0], b.size[0], theta) - lower) - shift
        return move, -q.log_slope
    return math.pi * (torch.addcmul(b.start[1], b.size[1], theta * q.p) - lower) + shift, q.log_slope
