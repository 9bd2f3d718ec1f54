r"""exp, log and the transported frame of the unit sphere; exp and log are operators with closed-form
gradients. The component axis comes first.

.. math::
    \exp_p(u) = \cos|u|\,p + \tfrac{\sin|u|}{|u|}u, \qquad \log_p(q) = \frac{\theta}{\sin\theta}w,\quad
    w = e - (p\cdot e)p,\ e = q - p,\ \sin^2\tfrac\theta2 = \tfrac14|e|^2

For angles above 120 degrees, e = q + p, and :math:`\pi - \theta`, the angle to -p, is computed instead.
"""

import math

import torch
from torch import Tensor

from .components import (
    Kept,
    add_scaled,
    dot,
    fused,
    join,
    linear_combination,
    replace_lanes,
    squared_norm,
)
from .numerics import safe_sqrt
from .signed_trig import arcsinc_slope, arcsinc_sqrt, cos_sinc_sqrt, sinc_slope
from .tracing import maybe_any

__all__ = ["from_tangent", "log_sphere_area", "sphere_exp", "sphere_log", "to_tangent"]

_TURN = 0.75  # sin^2 of half of 120 degrees


def log_sphere_area(d: int) -> float:
    r"""Log of the area :math:`2\pi^{(d+1)/2}/\Gamma((d+1)/2)` of the unit sphere :math:`S^d`."""
    return math.log(2) + (d + 1) / 2 * math.log(math.pi) - math.lgamma((d + 1) / 2)


def _turn(p: Tensor) -> Tensor:
    """1 / (1 + p_1), computed from |(p_2, ...)| where p_1 < 0, and 0 at -e_1, where the transported frame has
    no limit."""
    first, rest2 = p[0], squared_norm(p[1:])
    south = first < 0
    if not maybe_any(south):
        return 1 / (1 + first)
    pole = south & (rest2 == 0)
    far = torch.where(pole, 0.0, (1 - first) / torch.where(south & ~pole, rest2, 1.0))
    return torch.where(south, far, 1 / torch.where(south, 1.0, 1 + first))


def to_tangent(p: Tensor, v: Tensor) -> Tensor:
    """The ambient tangent vector at p with coordinates v in the frame transported from e_1."""
    rest = p[1:]
    c = dot(rest, v)
    return join(-c, v - (c * _turn(p)) * rest)


def from_tangent(p: Tensor, u: Tensor) -> Tensor:
    """The coordinates, in the frame transported from e_1, of the ambient tangent vector u at p."""
    rest, w = p[1:], u[1:]
    return w - (dot(rest, w) * _turn(p) + u[0]) * rest


def _exp(_: None, p: Tensor, u: Tensor) -> tuple[Tensor, ...]:
    s = squared_norm(u)
    cos, sinc = cos_sinc_sqrt(s, 1)
    return linear_combination(cos, p, sinc, u), s, cos, sinc


def _exp_pull(
    _: None, p: Tensor, u: Tensor, y: Tensor, g: Tensor, kept: Kept, needs: bool
) -> tuple[Tensor | None, ...]:
    s, cos, sinc = kept or (s := squared_norm(u), *cos_sinc_sqrt(s, 1))
    e = 2 * dot(g, u) * sinc_slope(s, cos, sinc) - dot(g, p) * sinc
    return None, linear_combination(cos, g), linear_combination(sinc, g, e, u)


def _log(_: None, p: Tensor, q: Tensor) -> tuple[Tensor, ...]:
    e = q - p
    h, pe = 0.25 * squared_norm(e), dot(p, e)
    f = arcsinc_sqrt(h, 1)
    near = torch.mul(add_scaled(e, -pe, p), (1 - h).rsqrt_().mul_(f))
    return replace_lanes(_TURN - h, near, _far_log, p, q), h, pe, f


def _far_log(p: Tensor, q: Tensor) -> Tensor:
    """log for angles above 120 degrees; at the antipode, one of the shortest vectors."""
    e = q + p
    w = torch.addcmul(e, -dot(p, e), p)
    sin = safe_sqrt(squared_norm(w))
    cut = sin == 0
    scale = (math.pi - 2 * safe_sqrt(0.25 * squared_norm(e)).asin()) / torch.where(cut, 1.0, sin)
    axis = torch.cat([torch.ones_like(p[:1]), torch.zeros_like(p[2:])])
    return scale * torch.where(cut, to_tangent(p, axis), w)


def _log_pull(
    _: None, p: Tensor, q: Tensor, u: Tensor, g: Tensor, kept: Kept, needs: bool
) -> tuple[Tensor | None, ...]:
    e = q - p
    h, pe, f = kept or (h := 0.25 * squared_norm(e), dot(p, e), arcsinc_sqrt(h, 1))
    r = (1 - h).rsqrt()
    gp, gq = _log_slopes(p, e, pe, g, f * r, (arcsinc_slope(h, f, 1) + 0.5 * f * r * r) * r)
    both = enumerate((torch.sub(gp, gq), gq))
    return None, *(
        replace_lanes(_TURN - h, near, lambda *a, i=i: _far_slopes(*a)[i], p, q, g) for i, near in both
    )


def _log_slopes(
    p: Tensor, e: Tensor, pe: Tensor, g: Tensor, ratio: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients, in p at fixed e and in e, of g.w times theta / sin(theta), from that ratio and its
    derivative in h."""
    pg = dot(p, g)
    c = ratio * pg
    gq = linear_combination(ratio, g, -c, p, 0.5 * slope * (dot(e, g) - pe * pg), e)
    return linear_combination(-pe * ratio, g, -c, e), gq


def _far_slopes(p: Tensor, q: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of :func:`_far_log` in p and q; zero where the shortest vector is not unique."""
    e = q + p
    h = 0.25 * squared_norm(e)
    known = (h >= torch.finfo(p.dtype).eps ** 2) & (h < 0.5)
    h = torch.where(known, h, 0.5)
    sin2 = h * (1 - h)
    ratio = (0.5 * math.pi - arcsinc_sqrt(h, 1) * h.sqrt()) * sin2.rsqrt()
    slope = -0.5 * (1 + ratio * (1 - 2 * h)) / sin2
    gp, gq = _log_slopes(p, e, dot(p, e), g, torch.where(known, ratio, 0.0), torch.where(known, slope, 0.0))
    return gp + gq, gq


sphere_exp = fused(_exp, _exp_pull)
sphere_log = fused(_log, _log_pull)
