"""Geodesic polar coordinates."""

import torch
from torch import Tensor

from ..constraints import on, polar
from ..ops.numerics import norm
from .exp_map import ManifoldTransform

__all__ = ["PolarExpMap"]


class PolarExpMap(ManifoldTransform):
    r"""Radius and unit direction in the frame at ``loc`` to the manifold.

    .. math:: x = \exp_\mu(r\,u), \qquad
              d\,\mathrm{vol} = r^{d-1} |\det d\exp_\mu(ru)| \; dr\, d\sigma(u)

    The input is the vector ``(r, u_1, ..., u_d)``; its measure is Lebesgue in r times surface area in u. A
    bijection except at r = 0 (and, on spheres, for r below π only).

    :param geoopt.Manifold manifold: the manifold.
    :param Tensor loc: the pole :math:`\mu`, shape ``batch + event``; the origin if omitted.
    :raises ValueError: if ``loc`` is not on the manifold.

    >>> import geoopt, torch
    >>> t = PolarExpMap(geoopt.Sphere(), torch.tensor([1.0, 0.0, 0.0]))
    >>> t(torch.tensor([torch.pi / 2, 0.0, 1.0])).round()
    tensor([-0., 0., 1.])
    """

    domain = polar

    @property
    def codomain(self) -> on:  # type: ignore[override]
        return on(self.manifold)

    def _call(self, x: Tensor) -> Tensor:
        geo, d = self.geometry, x.shape[-1] - 1
        batch = self._broadcast(x.shape[:-1])
        v = (x[..., :1] * x[..., 1:]).expand(batch + (d,))
        return geo.exp_frame(self._base_point(d, x).expand(batch + geo.point_shape(d)), v)

    def _inverse(self, y: Tensor) -> Tensor:
        geo = self.geometry
        event = y.shape[y.dim() - geo.event_dim :]
        batch = self._broadcast(y.shape[: y.dim() - geo.event_dim])
        d = geo.dim(event)
        v = geo.log_frame(self._base_point(d, y).expand(batch + event), y.expand(batch + event))
        r = norm(v, keepdim=True)
        zero = r == 0
        first = torch.nn.functional.pad(
            torch.ones_like(v[..., :1]), (0, d - 1)
        )  # any direction will do at r = 0
        return torch.cat([r, torch.where(zero, first, v / torch.where(zero, 1.0, r))], -1)

    def log_volume(self, x: Tensor) -> Tensor:
        r, d = x[..., 0], x.shape[-1] - 1
        out = self.geometry.log_det_exp(self._base_point(d, x), x[..., :1] * x[..., 1:])
        return out if d == 1 else out + (d - 1) * r.log()

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return self._broadcast(torch.Size(shape[:-1])) + self.geometry.point_shape(shape[-1] - 1)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        geo = self.geometry
        cut = len(shape) - geo.event_dim
        return self._broadcast(torch.Size(shape[:cut])) + torch.Size([geo.dim(shape[cut:]) + 1])
