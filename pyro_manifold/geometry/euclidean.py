r"""Flat space :math:`\mathbb R^d`: exp is addition, every Jacobian is 1."""

from collections.abc import Sequence
from typing import Any

import geoopt
import torch
from torch import Tensor

from ..ops.checks import common_shape
from ..ops.numerics import norm, scalar
from ..ops.numpy_logarithm import Logarithm, flat_logarithm
from .base import Geometry
from .registry import register_geometry

__all__ = ["EuclideanGeometry", "FlatGeometry"]


class FlatGeometry(Geometry):
    """Vectors under addition, up to :meth:`reduce`: flat space itself, and its quotients by a lattice."""

    is_flat = True
    constant_inner = True

    def reduce(self, x: Tensor) -> Tensor:
        """The representative of ``x``; flat space needs none."""
        return x

    def dim(self, event_shape: Sequence[int]) -> int:
        return event_shape[-1]

    def point_shape(self, dim: int) -> torch.Size:
        return torch.Size([dim])

    def contains(self, x: Tensor, atol: float | None = None) -> Tensor:
        return x.isfinite().all(-1)

    def base_point(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> Tensor:
        return torch.zeros(event_shape[-1], dtype=dtype, device=device)

    def project(self, x: Tensor) -> Tensor:
        return self.reduce(x)

    def project_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        return u

    def to_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        return v

    def from_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        return u

    def inner(self, p: Tensor, u: Tensor, w: Tensor) -> Tensor:
        return (u * w).sum(-1)

    def transport(self, p: Tensor, q: Tensor, u: Tensor) -> Tensor:
        return u.expand(common_shape(p.shape, q.shape, u.shape))

    def killing_fields(self, p: Tensor) -> Tensor:
        """The translations along the axes."""
        eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
        return eye.expand(p.shape[:-1] + eye.shape)

    def exp(self, p: Tensor, u: Tensor) -> Tensor:
        return self.reduce(p + u)

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        return self.reduce(q - p)

    def dist(self, p: Tensor, q: Tensor) -> Tensor:
        return norm(self.log(p, q))

    def log_det_exp(self, p: Tensor, v: Tensor) -> Tensor:
        return v.new_zeros(common_shape(p.shape, v.shape)[:-1])

    def geodesic(self, p: Tensor, u: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=p.dtype, device=p.device).unsqueeze(-1)
        q = self.reduce(p + t * u)
        return q, u.expand_as(q)


@register_geometry(geoopt.Euclidean)
class EuclideanGeometry(FlatGeometry):
    r"""Geometry of :math:`\mathbb R^d`, points of shape ``(d,)``; also the flat member of the stereographic
    family.

    .. math:: \exp_p(u) = p + u, \qquad \log\det d\exp_p = 0

    >>> import geoopt
    >>> geo = EuclideanGeometry(geoopt.Euclidean(ndim=1))
    >>> geo.dist(torch.zeros(2), torch.tensor([3.0, 4.0]))
    tensor(5.)
    """

    has_chart = True
    in_linear_space = True

    def __init__(self, manifold: geoopt.Manifold) -> None:
        super().__init__(manifold)
        if manifold.ndim not in (0, 1):
            raise ValueError(
                f"manifold: Euclidean(ndim={manifold.ndim}) has matrix points; expected ndim 0 or 1. "
                "Use geoopt.Euclidean(ndim=1) with flattened points."
            )

    def ambient_coordinates(self, x: Tensor) -> Tensor:
        return x

    def numpy_logarithm(self, event_shape: Sequence[int], p: Tensor, q: Tensor) -> Logarithm:
        return Logarithm(flat_logarithm)

    def lift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, torch.ones_like(x[..., :1])

    def exact_mean(self, x: Tensor, w: Tensor) -> Tensor:
        return (w.unsqueeze(-1) * x).sum(0)

    def constant_curvature(self, like: Tensor) -> Tensor:
        return scalar(0.0, like)
