"""The exponential map as a transform, and what it makes of constraints."""

from collections.abc import Callable
from typing import Any

import geoopt
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Transform, biject_to, transform_to

from ..constraints import check_point, circular, on
from ..geometry import geometry
from ..ops.arguments import checked
from ..ops.checks import as_tensors, common_shape
from ..ops.circular import wrap
from .base import SeparateVolume

__all__ = ["ExpMap", "ManifoldTransform"]


class ManifoldTransform(SeparateVolume):
    """A transform whose parameters are one manifold and one point of it; shapes broadcast against that
    point's batch.

    Subclasses give the map, its volume, and the shapes.
    """

    @checked
    def __init__(
        self,
        manifold: geoopt.Manifold,
        loc: Tensor | None = None,
        *,
        cache_size: int = 0,
        validate_args: bool = True,
    ) -> None:
        super().__init__(cache_size=cache_size)
        self.manifold = manifold
        points = on(manifold)  # raises for an unknown manifold
        self.codomain, self.geometry = points, points.geometry
        if loc is not None:
            (loc,) = as_tensors(loc=loc)
            if validate_args:
                check_point(manifold, "loc", loc)
        self.loc = loc
        self._validate_args = validate_args

    def depends(self) -> list[Any] | None:
        read = self.geometry.depends()
        return None if read is None else [self.loc, *read]

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or self.manifold is not other.manifold:  # type: ignore[attr-defined]
            return False
        a, b = self.loc, other.loc  # type: ignore[attr-defined]
        return a is b or (a is not None and b is not None and torch.equal(a, b))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        loc = "origin" if self.loc is None else f"loc of shape {tuple(self.loc.shape)}"
        return f"{type(self).__name__}({self.manifold.name}, {loc})"

    def _base_point(self, dim: int, like: Tensor) -> Tensor:
        if self.loc is None:
            return self.geometry.origin(dim, dtype=like.dtype, device=like.device)
        if self.geometry.dim(self.loc.shape[self.loc.dim() - self.geometry.event_dim :]) != dim:
            raise ValueError(
                f"value: got tangent or chart coordinates of dimension {dim}, but loc of shape "
                f"{tuple(self.loc.shape)} is a point of a {self.manifold.name} of another dimension; give "
                "them the same dimension."
            )
        return self.loc

    def _broadcast(self, batch: torch.Size) -> torch.Size:
        if self.loc is None:
            return batch
        return common_shape(batch, self.loc.shape[: self.loc.dim() - self.geometry.event_dim])

    def _event_shape(self, dim: int) -> torch.Size:
        """Event shape of the points: that of ``loc`` if there is one, since the dimension alone need not
        determine it (Stiefel manifolds)."""
        return (
            self.geometry.point_shape(dim)
            if self.loc is None
            else self.loc.shape[self.loc.dim() - self.geometry.event_dim :]
        )


class ExpMap(ManifoldTransform):
    r"""Tangent coordinates in the orthonormal frame at ``loc`` to the manifold.

    .. math:: x = \exp_\mu\Big(\sum_i v_i e_i(\mu)\Big), \qquad
              \log\Big|\frac{d\,\mathrm{vol}}{dv}\Big| = \log|\det d\exp_\mu(v)|

    On constant curvature :math:`K` the volume change is :math:`(d-1)\log(\sin(\sqrt K|v|)/(\sqrt K|v|))`.
    Where the injectivity radius is finite (spheres) the map is a bijection only within it; ``inv`` then
    returns a shortest vector, and densities must sum over
    :meth:`Geometry.preimages <pyro_manifold.geometry.Geometry.preimages>`.

    :param geoopt.Manifold manifold: the manifold.
    :param Tensor loc: base point :math:`\mu`, shape ``batch + event``; the origin, of any dimension, if
        omitted.
    :raises ValueError: if ``loc`` is not on the manifold.

    Reference: do Carmo, Riemannian Geometry (1992), ch. 3 and 5 (Jacobi fields in constant curvature).

    >>> import geoopt, torch
    >>> ball = geoopt.PoincareBall(c=1.0)
    >>> ExpMap(ball, torch.zeros(2))(torch.tensor([2.0, 0.0]))  # 2 units of geodesic length
    tensor([0.7616, 0.0000])
    """

    domain = constraints.real_vector

    def _call(self, x: Tensor) -> Tensor:
        loc = self._base_point(x.shape[-1], x)
        batch = self._broadcast(x.shape[:-1])
        geo = self.geometry
        return geo.exp_frame(
            loc.expand(batch + self._event_shape(x.shape[-1])), x.expand(batch + x.shape[-1:])
        )

    def _inverse(self, y: Tensor) -> Tensor:
        geo = self.geometry
        event = y.shape[y.dim() - geo.event_dim :]
        batch = self._broadcast(y.shape[: y.dim() - geo.event_dim])
        return geo.log_frame(
            self._base_point(geo.dim(event), y).expand(batch + event), y.expand(batch + event)
        )

    def log_volume(self, x: Tensor) -> Tensor:
        return self.geometry.log_det_exp(self._base_point(x.shape[-1], x), x)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return self._broadcast(torch.Size(shape[:-1])) + self._event_shape(shape[-1])

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        geo = self.geometry
        cut = len(shape) - geo.event_dim
        return self._broadcast(torch.Size(shape[:cut])) + torch.Size([geo.dim(shape[cut:])])


class _Project(Transform):
    """Ambient space onto a manifold without a global chart: nearest point, not injective."""

    bijective = False

    def __init__(self, manifold: geoopt.Manifold, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.manifold = manifold

    @property
    def domain(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.independent(constraints.real, geometry(self.manifold).event_dim)

    @property
    def codomain(self) -> on:  # type: ignore[override]
        return on(self.manifold)

    def _call(self, x: Tensor) -> Tensor:
        return geometry(self.manifold).project(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return y

    def with_cache(self, cache_size: int = 1) -> "_Project":
        return self if self._cache_size == cache_size else _Project(self.manifold, cache_size)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Project) and self.manifold is other.manifold

    __hash__ = None  # type: ignore[assignment]


def _biject(constraint: on) -> Transform:
    if not constraint.geometry.has_chart:
        raise NotImplementedError(
            f"{constraint} has no global chart, so no bijection from R^dim. From pyro_manifold.infer use "
            "GeodesicNUTS, or AutoManifoldNormal (WrappedNormal, VonMisesFisher) for SVI, or make the model "
            "fit for plain HMC and autoguides with ManifoldReparam()(model), which picks AmbientReparam, "
            "ProjectedNormalReparam or CircularReparam for each site."
        )
    return ExpMap(constraint.manifold)


def _transform(constraint: on) -> Transform:
    return ExpMap(constraint.manifold) if constraint.geometry.has_chart else _Project(constraint.manifold)


class _Wrap(Transform):
    """The line onto the circle of angles: whole turns are dropped, not injective."""

    bijective = False
    domain = constraints.real
    codomain = circular

    def _call(self, x: Tensor) -> Tensor:
        return wrap(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Wrap)

    __hash__ = None  # type: ignore[assignment]


def _biject_circular(constraint: Any) -> Transform:
    raise NotImplementedError(
        "circular: no bijection from the line to the circle. Unwrap the site: poutine.reparam(model, "
        "config={name: CircularReparam()}), from pyro_manifold.infer; then autoguides and NUTS cross the "
        "seam."
    )


_register: Callable[[Any, Any], Any] = biject_to.register
_register(on, _biject)
_register(circular, _biject_circular)
transform_to.register(on, _transform)
transform_to.register(circular, lambda constraint: _Wrap())
# torch leaves mixtures out, whose support is that of their components
_mixture = constraints.MixtureSameFamilyConstraint
_register(_mixture, lambda constraint: biject_to(constraint.base_constraint))
transform_to.register(_mixture, lambda constraint: transform_to(constraint.base_constraint))
