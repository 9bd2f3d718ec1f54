"""Methods of geometries refuse arguments of another size than the point: torch would broadcast a size of 1 in
silence, and name axes of intermediate results otherwise."""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from .base import Geometry

__all__ = ["check_shapes"]

_WITH_COORDINATES = ("to_tangent", "embed_tangent", "exp_frame", "log_det_exp", "preimages", "log_wrapped")
_WITH_POINT = ("from_tangent", "exp", "log", "dist", "log_frame", "geodesic")


def _takes_coordinates(f: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(f)
    def method(self: "Geometry", p: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Any:
        dim = self.dim(p.shape[p.dim() - self.event_dim :])
        if v.shape[-1:] != (dim,):
            raise ValueError(
                f"v: got shape {tuple(v.shape)}, expected coordinates of tangent vectors with a last axis of "
                f"size {dim}, the dimension of {self.manifold.name} at points of shape "
                f"{tuple(self.event_shape(p))}."
            )
        return f(self, p, v, *args, **kwargs)

    return method


def _takes_point(f: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(f)
    def method(self: "Geometry", p: Tensor, q: Tensor, *args: Any, **kwargs: Any) -> Any:
        rank = self.event_dim
        if p.shape[p.dim() - rank :] != q.shape[q.dim() - rank :]:
            raise ValueError(
                f"p and the argument after it: got shapes {tuple(p.shape)} and {tuple(q.shape)}, expected "
                f"points or ambient vectors of {self.manifold.name} with equal last {rank} axes; give both in "
                "the shape of one point behind their batch axes."
            )
        return f(self, p, q, *args, **kwargs)

    return method


def check_shapes(cls: type) -> None:
    """Make the methods of a class of geometries check the shapes of their arguments."""
    for names, wrap in ((_WITH_COORDINATES, _takes_coordinates), (_WITH_POINT, _takes_point)):
        for name in names:
            f = getattr(cls, name, None)
            if f is not None and not hasattr(f, "_checks_shapes"):
                checked = wrap(f)
                checked._checks_shapes = True  # type: ignore[attr-defined]
                setattr(cls, name, checked)
