"""Geodesic polar coordinates."""

import torch
from torch import Tensor

from ..constraints import polar
from ..ops.numerics import norm
from .exp_map import ExpMap

__all__ = ["PolarExpMap"]


class PolarExpMap(ExpMap):
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

    def _call(self, x: Tensor) -> Tensor:
        return super()._call(x[..., :1] * x[..., 1:])

    def _inverse(self, y: Tensor) -> Tensor:
        v = super()._inverse(y)
        r = norm(v, keepdim=True)
        zero = r == 0
        any_direction = torch.nn.functional.pad(torch.ones_like(v[..., :1]), (0, v.shape[-1] - 1))
        return torch.cat([r, torch.where(zero, any_direction, v / torch.where(zero, 1.0, r))], -1)

    def log_volume(self, x: Tensor) -> Tensor:
        d = x.shape[-1] - 1
        out = super().log_volume(x[..., :1] * x[..., 1:])
        return out if d == 1 else out + (d - 1) * x[..., 0].log()

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return super().forward_shape(torch.Size([*shape[:-1], shape[-1] - 1]))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        *batch, d = super().inverse_shape(shape)
        return torch.Size([*batch, d + 1])
