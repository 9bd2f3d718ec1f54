r"""Monotone rational-quadratic splines on an interval, the identity outside.

On the k-th of K bins, of width w, height h and slope s = h/w, with derivatives :math:`\delta_0, \delta_1` at its ends and
:math:`\theta = (x - x_k)/w`,

.. math::
    y = y_k + \frac{h\,(s\theta^2 + \delta_0\theta(1-\theta))}{s + (\delta_0+\delta_1-2s)\,\theta(1-\theta)}, \qquad
    \frac{dy}{dx} = \frac{s^2(\delta_1\theta^2 + 2s\theta(1-\theta) + \delta_0(1-\theta)^2)}
                         {(s + (\delta_0+\delta_1-2s)\theta(1-\theta))^2}

No boolean indexing, so it works under ``torch.func`` (Pyro's does not). Reference: Durkan et al., *Neural spline flows*,
NeurIPS 2019, eqs. 4-8; the inverse is their eq. 29 in the form without cancellation.
"""

import math

import torch
from torch import Tensor

__all__ = ["rational_quadratic", "spline_size"]

_MIN_BIN, _MIN_SLOPE = 1e-3, 1e-3
_ONE = math.log(math.expm1(1 - _MIN_SLOPE))  # softplus of it is a slope of 1: zero parameters are the identity


def spline_size(bins: int) -> int:
    """Parameters of one spline: K widths, K heights, K - 1 inner slopes."""
    return 3 * bins - 1


def _knots(raw: Tensor, bound: float) -> Tensor:
    bins = raw.shape[-1]
    size = _MIN_BIN + (1 - _MIN_BIN * bins) * raw.softmax(-1)
    inner = bound * (2 * size.cumsum(-1)[..., :-1] - 1)
    ends = inner.new_full(inner.shape[:-1] + (1,), bound)
    return torch.cat([-ends, inner, ends], -1)


def rational_quadratic(x: Tensor, raw: Tensor, bound: float, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """The spline with unconstrained parameters ``raw``, shape ``x.shape + (3K - 1,)``, and the log of its derivative.

    Zero parameters are the identity. With ``inverse``, the inverse and the log of *its* derivative.

    >>> y, log_slope = rational_quadratic(torch.tensor([0.5, 7.0]), torch.zeros(2, 23), bound=3.0)
    >>> y, log_slope.abs() < 1e-6
    (tensor([0.5000, 7.0000]), tensor([True, True]))
    """
    bins = (raw.shape[-1] + 1) // 3
    xs, ys = _knots(raw[..., :bins], bound), _knots(raw[..., bins : 2 * bins], bound)
    slopes = _MIN_SLOPE + torch.nn.functional.softplus(raw[..., 2 * bins :] + _ONE)
    slopes = torch.nn.functional.pad(slopes, (1, 1), value=1.0)
    outside = x.abs() >= bound
    t = torch.where(outside, 0.0, x)
    k = (t.unsqueeze(-1) >= (ys if inverse else xs)[..., 1:-1]).sum(-1, keepdim=True)

    def at(table: Tensor, index: Tensor) -> Tensor:
        return table.gather(-1, index).squeeze(-1)

    x0, y0, d0, d1 = at(xs, k), at(ys, k), at(slopes, k), at(slopes, k + 1)
    w, h = at(xs, k + 1) - x0, at(ys, k + 1) - y0
    s = h / w
    bend = d0 + d1 - 2 * s
    if inverse:
        z = t - y0
        a, b, c = h * (s - d0) + z * bend, h * d0 - z * bend, -s * z
        theta = 2 * c / (-b - (b * b - 4 * a * c).clamp_min(0.0).sqrt())
    else:
        theta = (t - x0) / w
    mid = theta * (1 - theta)
    den = s + bend * mid
    log_slope = 2 * s.log() + (d1 * theta * theta + 2 * s * mid + d0 * (1 - theta) ** 2).log() - 2 * den.log()
    out = x0 + w * theta if inverse else y0 + h * (s * theta * theta + d0 * mid) / den
    return torch.where(outside, x, out), torch.where(outside, 0.0, -log_slope if inverse else log_slope)
