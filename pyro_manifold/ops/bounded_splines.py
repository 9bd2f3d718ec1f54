r"""Monotone rational-quadratic splines of an interval onto itself, and of the circle, without loss of digits at
the ends.

A point of :math:`[-1, 1]` is given by its distances :math:`l = 1 + z` and :math:`u = 1 - z` from both ends, and
so is its image. In the k-th bin, of width w, height h and slope s = h/w, that begins at distances
:math:`l_k, l'_k` from the left end and stops at :math:`u_k, u'_k` from the right one, with derivatives
:math:`\delta_0, \delta_1` at its ends,

.. math::
    \theta = \frac{l - l_k}{w} = 1 - \frac{u - u_k}{w}, \quad p = (1-\theta)\,\delta_0 + \theta s, \quad
    q = (1-\theta)\,s + \theta\,\delta_1, \quad D = \theta p + (1-\theta)\,q,

.. math::
    l' = l'_k + \frac{h\theta p}{D}, \qquad u' = u'_k + \frac{h(1-\theta)q}{D}, \qquad
    \frac{dz'}{dz} = \frac{s^2\,\big((1-\theta)\,p + \theta q\big)}{D^2}

The distance from the nearer end is computed from the distance from the nearer end, so that it keeps all of its
digits: the height z of a point of the sphere next to a pole is rounded, its distance from the pole is not.
Reference: Durkan et al., *Neural spline flows*, NeurIPS 2019, eqs. 4-8; Rezende et al., *Normalizing flows on
tori and spheres*, ICML 2020, sec. 2.1.2 (circular splines).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .circular import wrap

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
_ONE = math.log(
    math.expm1(1 - _MIN_SLOPE)
)  # softplus of it is a slope of 1: zero parameters are the identity


class IntervalPoint(NamedTuple):
    """A point of [-1, 1]: its distances from the left and from the right end, which add up to 2."""

    lower: Tensor
    upper: Tensor

    @property
    def height(self) -> Tensor:
        """z, from the distance from the nearer end."""
        return torch.where(self.lower <= self.upper, self.lower - 1, 1 - self.upper)


def circular_size(bins: int) -> int:
    """Parameters of one spline of the circle: K widths, K heights, K slopes and a shift."""
    return 3 * bins + 1


def interval_size(bins: int) -> int:
    """Parameters of one spline of the interval, without the slopes at its ends: K widths, K heights, K - 1
    slopes."""
    return 3 * bins - 1


class _Bin(NamedTuple):
    """Where the bin of a point begins and its size, for x and y, ``(2, ...)``; the slopes at its ends, ``(2,
    ...)``; and its number."""

    start: Tensor
    size: Tensor
    slopes: Tensor
    number: Tensor


def _bin(lower: Tensor, raw: Tensor, slopes: Tensor, axis: int) -> _Bin:
    """The bin of the abscissae at distance ``lower`` from the left end (axis 0), or of such ordinates (1).
    Parameters are unconstrained and have bins on the first axis: sizes ``(2 K, ...)``, slopes ``(K + 1, ...)``."""
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
    """theta, counted from the end of the bin that begins at distance ``begin`` and has slope ``near``."""
    share = ((known - begin) / b.size[int(inverse)]).clamp(0.0, 1.0)
    if not inverse:
        return share
    linear = near - share * (b.slopes.sum(0) - 2 * s)
    constant = s * share  # of (s - linear) theta^2 + linear theta - constant = 0
    root = (linear * linear + 4 * (s - linear) * constant).clamp_min(0.0).sqrt()
    return (2 * constant / (linear + root)).clamp(0.0, 1.0)


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
    r"""The spline of [-1, 1] onto itself, the log of its derivative, and the factors by which the distances from
    both ends change, :math:`l'/l` and :math:`u'/u`, also at the ends.

    Zero parameters are the identity. With ``inverse``, the inverse, and what belongs to it.

    :param IntervalPoint at: points, of any shape.
    :param Tensor raw: unconstrained parameters, that shape ``+ (3K - 1,)``.
    :param Tensor ends: unconstrained slopes at both ends, ``+ (2,)``.

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

    # all formulas are symmetric in the two ends: count from the nearer one
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
    r"""How far :func:`circular_spline` moves the angle, :math:`s(\phi) + \beta - \phi`: a continuous function on
    the circle, without jumps by whole turns; and the log of the derivative."""
    bins = (raw.shape[-1] - 1) // 3
    raw = raw.movedim(-1, 0)
    shift = raw[-1]
    start = wrap(angle - shift) if inverse else angle
    lower = (1 + start / math.pi).clamp_min(0.0)
    slopes = raw[2 * bins : -1]
    b = _bin(lower, raw[: 2 * bins], torch.cat([slopes, slopes[:1]]), int(inverse))
    s = b.size[1] / b.size[0]
    theta = _share(lower, b.start[int(inverse)], b, b.slopes[0], s, inverse)
    q = _quotient(theta, b.slopes[0], b.slopes[1], s)
    if inverse:
        move = math.pi * (torch.addcmul(b.start[0], b.size[0], theta) - lower) - shift
        return move, -q.log_slope
    return math.pi * (torch.addcmul(b.start[1], b.size[1], theta * q.p) - lower) + shift, q.log_slope
