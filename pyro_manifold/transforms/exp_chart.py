r"""The exponential map as a chart of a whole manifold, up to a set of measure 0.

.. math::
    s \mapsto \exp_\mu(v), \qquad v = \frac{\arctan\kappa}{\kappa}\,s, \quad
    \kappa = \frac{\pi|s|}{2\rho}, \qquad
    \log|\det J(s)| = \log|\det d\exp_\mu(v)| + (d-1)\log\frac{\arctan\kappa}{\kappa} - \log(1+\kappa^2)

with :math:`\rho` the injectivity radius: :math:`|v| = \tfrac{2\rho}\pi\arctan\kappa` is less than it. Where exp is a
global chart, :math:`\rho = \infty` and v = s.
"""

import math

import geoopt
import torch
from pyro.distributions import constraints
from torch import Tensor

from ..geometry import Geometry, geometry
from ..ops.arguments import checked
from ..ops.numerics import norm
from ..ops.signed_trig import arctanc_sqrt
from .exp_map import ManifoldTransform

__all__ = ["ExpChart"]


class ExpChart(ManifoldTransform):
    r"""From flat space onto a manifold but for a set of measure 0: the exponential map at ``loc``, after a radial
    map of flat space onto the ball in which it is one to one.

    .. math:: s \mapsto \exp_\mu\Big(\frac{\arctan\kappa}{\kappa}\,s\Big), \qquad \kappa = \frac{\pi|s|}{2\rho}

    On a sphere it is the stereographic projection from the antipode of :math:`\mu`, of volume change
    :math:`(1 + |s|^2/4)^{-d}`, and misses that antipode alone; on SO(3) it misses half turns; on positive definite
    matrices, hyperbolic and flat spaces it is :class:`ExpMap` itself. Near :math:`\mu` it keeps lengths. Products
    are done factor by factor. So any density of vectors becomes one of the manifold that integrates to 1. A missed
    point is taken to a vector of length about :math:`1/\epsilon`.

    :param geoopt.Manifold manifold: a sphere, SO(2), SO(3), a manifold with a global chart, or a product of these.
    :param Tensor loc: base point :math:`\mu`, shape ``batch + event``; the origin, of any dimension, if omitted.
    :raises ValueError: for another manifold, or a ``loc`` that is not on it.

    Reference: do Carmo, *Riemannian Geometry* (1992), ch. 13 (cut loci).

    >>> import geoopt, torch
    >>> chart = ExpChart(geoopt.Sphere())
    >>> x = chart(torch.tensor([2.0, 0.0]))  # a quarter of a great circle
    >>> x.abs() < 1e-6, chart.log_volume(torch.tensor([2.0, 0.0]))  # 2 log(1 / 2)
    (tensor([ True, False,  True]), tensor(-1.3863))
    """

    domain = constraints.real_vector

    @checked
    def __init__(
        self,
        manifold: geoopt.Manifold,
        loc: Tensor | None = None,
        *,
        cache_size: int = 0,
        validate_args: bool = True,
    ) -> None:
        geo = geometry(manifold)
        if not all(g.has_ball_chart for g in geo.factors):
            raise ValueError(
                f"manifold: got {manifold.name}, which no exponential map covers one to one; expected a sphere, SO(2), "
                "SO(3), a manifold with a global chart such as geoopt.SymmetricPositiveDefinite() or geoopt.Lorentz(), "
                "or a product of these. (A torus is a product of circles, geoopt.Sphere() with 2 coordinates each.)"
            )
        super().__init__(manifold, loc, cache_size=cache_size, validate_args=validate_args)

    def _parts(self, s: Tensor) -> list[tuple[Geometry, torch.Size, Tensor]]:
        """The factors with the shapes of their points and their coordinates."""
        shapes = self.geometry.factor_shapes(self._event_shape(s.shape[-1]))
        return list(zip(self.geometry.factors, shapes, self.geometry.split_coordinates(s), strict=True))

    def _tangent(self, s: Tensor) -> Tensor:
        """v."""
        parts = []
        for geo, shape, t in self._parts(s):
            radius = geo.injectivity_radius(shape)
            if geo.has_chart:
                parts.append(t)
                continue
            kappa2 = (t * (math.pi / (2 * radius))).square().sum(-1, keepdim=True)
            parts.append(t * arctanc_sqrt(kappa2, 1))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _stretched(self, v: Tensor) -> Tensor:
        """s, from v."""
        parts = []
        for geo, shape, t in self._parts(v):
            radius = geo.injectivity_radius(shape)
            if geo.has_chart:
                parts.append(t)
                continue
            # half the angle; its cosine as the sine of the rest, which has digits where it is small
            y = norm(t, keepdim=True) * (math.pi / (2 * radius))
            zero = y == 0
            y = torch.where(zero, 1.0, y)
            cos = (0.5 * math.pi - y).sin().clamp_min(torch.finfo(v.dtype).eps)
            parts.append(t * torch.where(zero, 1.0, y.sin() / (cos * y)))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _call(self, x: Tensor) -> Tensor:
        loc = self._base_point(x.shape[-1], x)
        batch = self._broadcast(x.shape[:-1])
        event = self._event_shape(x.shape[-1])
        return self.geometry.exp_frame(
            loc.expand(batch + event), self._tangent(x).expand(batch + x.shape[-1:])
        )

    def _inverse(self, y: Tensor) -> Tensor:
        geo = self.geometry
        event = y.shape[y.dim() - geo.event_dim :]
        shape = self._broadcast(y.shape[: y.dim() - geo.event_dim]) + event
        loc = self._base_point(geo.dim(event), y)
        return self._stretched(geo.log_frame(loc.expand(shape), y.expand(shape)))

    def log_volume(self, x: Tensor) -> Tensor:
        loc = self._base_point(x.shape[-1], x)
        batch = self._broadcast(x.shape[:-1])
        loc = loc.expand(batch + self._event_shape(x.shape[-1]))
        total = x.new_zeros(batch)
        points = self.geometry.split(loc)
        for (geo, shape, t), p in zip(self._parts(x), points, strict=True):
            if geo.has_chart:
                total = total + geo.log_det_exp(p, t)
                continue
            radius = geo.injectivity_radius(shape)
            kappa2 = (t * (math.pi / (2 * radius))).square().sum(-1)
            curvature = geo.constant_curvature(t)
            if curvature is not None:  # a sphere, on which the terms below cancel
                total = total - t.shape[-1] * torch.log1p(kappa2)
                continue
            factor = arctanc_sqrt(kappa2, 1)
            radial = (t.shape[-1] - 1) * factor.log() - torch.log1p(kappa2)
            total = total + radial + geo.log_det_exp(p, t * factor.unsqueeze(-1))
        return total

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return self._broadcast(torch.Size(shape[:-1])) + self._event_shape(shape[-1])

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        geo = self.geometry
        cut = len(shape) - geo.event_dim
        return self._broadcast(torch.Size(shape[:cut])) + torch.Size([geo.dim(shape[cut:])])
