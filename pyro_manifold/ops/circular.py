r"""Angles: wrapping, harmonics, and the wrapped normal density of the circle.

.. math::
    p(x) = \sum_k \frac{e^{-(x+2\pi k)^2/2\sigma^2}}{\sqrt{2\pi}\,\sigma}
         = \frac{1}{2\pi}\Big(1 + 2\sum_{n\ge1} e^{-n^2\sigma^2/2}\cos nx\Big)

The second sum follows from the first by Poisson summation. For each scale the sum with fewer terms is used.
References: Mardia & Jupp, *Directional Statistics* (2000), eq. 3.5.60-3.5.64.
"""

import math

import torch
from torch import Tensor

from .components import extremes
from .tracing import is_concrete, maybe_any

__all__ = ["difference", "harmonics", "log_wrapped_normal", "plane_angle", "short", "wrap"]

_NEAR = 4 * math.pi  # up to angles of this size whole turns are subtracted exactly to rounding
_CROSSOVER = 1.7  # above this sigma the second sum is used; 7 windings or 6 cosines omit less than 1e-18
_WINDINGS, _COSINES = 3, 6


def _is_short(x: Tensor) -> bool:
    """Whether all angles are known to be at most two turns; always false where a test would be slow or
    impossible."""
    if x.device.type != "cpu" or not is_concrete(x) or not x.numel():
        return False
    low, high = extremes(x)
    return low >= -_NEAR and high <= _NEAR


def short(x: Tensor) -> Tensor:
    """``x`` itself if all angles are at most two turns, otherwise :func:`wrap` of it; for sums and
    differences that are wrapped later."""
    return x if _is_short(x) else wrap(x)


def difference(x: Tensor, y: Tensor) -> Tensor:
    """x - y up to whole turns. If the difference is small it is not wrapped, so that no digits are lost."""
    d = x - y
    return d if _is_short(d) else wrap(x) - wrap(y)


def wrap(x: Tensor) -> Tensor:
    r"""The angle in :math:`[-\pi, \pi)` that differs from ``x`` by whole turns; angles in that interval are
    unchanged.

    Angles of many turns are reduced by sine and cosine, which use :math:`\pi` to all digits: at 1e8 in
    float32 a multiple of the rounded number :math:`2\pi` would be wrong by radians.

    >>> wrap(torch.tensor([3.0, 4.0, 2e19]))
    tensor([ 3.0000, -2.2832,  1.2328])
    """
    out = x - 2 * math.pi * torch.floor((x + math.pi) / (2 * math.pi))
    if _is_short(x):
        return out
    far = x.detach().abs() > _NEAR
    if not maybe_any(far):
        return out
    y = torch.where(far, x, 0.0)
    turned = y.detach()
    angle = torch.atan2(turned.sin(), turned.cos())
    angle = torch.where(angle >= math.pi, -angle, angle)
    return torch.where(far, angle + (y - turned), out)  # y - turned is 0 with gradient 1


def harmonics(angle: Tensor, number: int) -> Tensor:
    r"""Cosines and sines of 1 to ``number`` times the angle, shape ``angle.shape + (2 * number,)``.

    >>> harmonics(torch.tensor(0.0), 2)
    tensor([1., 1., 0., 0.])
    """
    k = torch.arange(1, number + 1, dtype=angle.dtype, device=angle.device)
    turned = angle.unsqueeze(-1) * k
    return torch.cat([turned.cos(), turned.sin()], -1)


def plane_angle(c: Tensor, s: Tensor) -> Tensor:
    """The angle of the vectors (c, s) of the plane; 0 with finite gradients for the zero vector.

    >>> plane_angle(torch.tensor(0.0), torch.tensor([0.0, 2.0]))
    tensor([0.0000, 1.5708])
    """
    return torch.atan2(s, torch.where((c == 0) & (s == 0), 1.0, c))


def log_wrapped_normal(x: Tensor, scale: Tensor) -> Tensor:
    r"""The log density of the angle ``x`` under the wrapped normal N(0, ``scale``^2), elementwise."""
    x, scale = torch.broadcast_tensors(wrap(x), scale)
    wide = scale > _CROSSOVER
    k = torch.arange(-_WINDINGS, _WINDINGS + 1, dtype=x.dtype, device=x.device).reshape(
        (-1,) + (1,) * x.dim()
    )
    narrow_scale = torch.where(wide, 1.0, scale)
    # each term is relative to that with k = 0; for narrower scales than this, other terms matter only at half a
    # turn, where they do not depend on s
    s = narrow_scale.clamp_min(math.sqrt(torch.finfo(x.dtype).eps) / 50)
    others = torch.logsumexp(-(2 * math.pi * k / s) * ((math.pi * k + x) / s), 0)
    direct = others - 0.5 * (x / narrow_scale).square() - narrow_scale.log() - 0.5 * math.log(2 * math.pi)
    n = torch.arange(1, _COSINES + 1, dtype=x.dtype, device=x.device).reshape((-1,) + (1,) * x.dim())
    wide_scale = torch.where(wide, scale, 2.0)
    cosines = (torch.exp(-0.5 * (n * wide_scale) ** 2) * torch.cos(n * x)).sum(0)
    return torch.where(wide, torch.log1p(2 * cosines) - math.log(2 * math.pi), direct)
