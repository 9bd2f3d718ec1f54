"""geoopt manifolds whose methods are those of their geometry, for manifolds that geoopt lacks."""

from typing import Any

import geoopt
import torch
from torch import Tensor

from .registry import geometry

__all__ = ["GeometricManifold"]


class GeometricManifold(geoopt.Manifold):
    """A geoopt manifold of points of one shape that asks its registered geometry for everything.

    So it works with ``geoopt.ManifoldParameter`` and the Riemannian optimisers. A subclass registers a
    geometry with :func:`~pyro_manifold.geometry.register_geometry`.

    :param event_shape: shape of a point; by default the class attribute of this name.
    :param str name: for messages; by default the name of the class.

    >>> from pyro_manifold.geometry import SpecialOrthogonal
    >>> manifold = SpecialOrthogonal(2)  # one of them
    >>> manifold.event_shape, manifold.random(5, 2, 2).shape
    (torch.Size([2, 2]), torch.Size([5, 2, 2]))
    """

    reversible = True

    def __init__(self, event_shape: tuple[int, ...] | None = None, name: str | None = None) -> None:
        super().__init__()
        shape = getattr(type(self), "event_shape", None) if event_shape is None else event_shape
        if shape is None:
            raise ValueError(
                f"event_shape: got None; expected the shape of a point of {type(self).__name__}. Give it, or set the "
                "class attribute event_shape = (n,)."
            )
        self.event_shape = torch.Size(shape)
        self.ndim = len(self.event_shape)
        self.name = name or type(self).__name__

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        own = tuple(self.event_shape)
        ok = tuple(shape[len(shape) - self.ndim :]) == own
        return ok, None if ok else f"`{name}` should have trailing shape {own}, got {tuple(shape)}"

    def _check_point_on_manifold(
        self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        geo = geometry(self)
        ok = bool(geo.contains(x, atol).all())
        return ok, None if ok else f"{geo.membership or 'points'} expected (atol={atol})"

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        ok = bool(((self.proju(x, u) - u).abs() <= atol).all())
        return ok, None if ok else f"not tangent (atol={atol})"

    def projx(self, x: Tensor) -> Tensor:
        return geometry(self).project(x)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return geometry(self).project_tangent(x, u)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """The gradient in the metric: its coordinates are the derivatives along the frame."""
        geo = geometry(self)
        slopes = (geo.frame(x) * u.unsqueeze(-1 - self.ndim)).flatten(-self.ndim).sum(-1)
        return geo.to_tangent(x, slopes)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return geometry(self).exp(x, u)

    retr = expmap

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return geometry(self).log(x, y)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return geometry(self).transport(x, y, v)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        return self._kept(geometry(self).inner(x, u, u if v is None else v), keepdim)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        return self._kept(geometry(self).dist(x, y), keepdim)

    def _kept(self, value: Tensor, keepdim: bool) -> Tensor:
        return value.reshape(value.shape + (1,) * self.ndim) if keepdim else value

    def random(self, *size: Any, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        """Uniform points (scattered ones, where there is no uniform distribution) as a ``ManifoldTensor``;
        ``size`` ends in the shape of a point, or is a batch shape."""
        shape = _shape(size)
        cut = len(shape) - self.ndim
        batch = shape[:cut] if cut >= 0 and shape[cut:] == self.event_shape else shape
        x = geometry(self).scatter(batch, self.event_shape, dtype=dtype, device=device)
        return geoopt.ManifoldTensor(x, manifold=self)

    def origin(
        self, *size: Any, dtype: torch.dtype | None = None, device: Any = None, seed: int | None = 42
    ) -> Tensor:
        x = geometry(self).base_point(self.event_shape, dtype=dtype, device=device)
        return geoopt.ManifoldTensor(x.expand(_shape(size) or x.shape).clone(), manifold=self)


def _shape(size: Any) -> torch.Size:
    return torch.Size(size[0] if len(size) == 1 and not isinstance(size[0], int) else size)
