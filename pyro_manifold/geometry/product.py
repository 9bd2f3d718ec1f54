r"""Products :math:`M_1\times\dots\times M_m`, packed into one vector as :class:`geoopt.ProductManifold` does.

.. math:: \log\det d\exp_p(v) = \sum_i \log\det d\exp_{p_i}(v_i), \qquad d(p,q)^2 = \sum_i d_i(p_i,q_i)^2
"""

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import geoopt
import torch
from torch import Tensor

from ..ops.numerics import norm
from ..ops.numpy_joint import is_short_joint
from ..ops.numpy_normal import product_density
from ..ops.numpy_operator import numpy_operator
from ..ops.numpy_windings import is_short
from .base import Geometry
from .euclidean import FlatGeometry
from .registry import geometry, register_geometry
from .windings import centred_normal

__all__ = ["ProductGeometry"]


def _shape(index: int, factor: Geometry, shape: torch.Size) -> torch.Size:
    """The shape of a factor's points; those of a flat one, scalars or arrays, are vectors of the same
    numbers."""
    if isinstance(factor.unscaled, FlatGeometry):
        return torch.Size([shape.numel()])
    if len(shape) != factor.event_dim:
        raise ValueError(
            f"manifold: factor {index}, {factor.manifold.name}, has shape {tuple(shape)}, expected that of "
            f"one point, with {factor.event_dim} axes; give one factor for each point."
        )
    return shape


def _all(name: str) -> Any:
    """A property that holds for a product if it holds for every factor."""
    return property(lambda self: all(getattr(g, name) for g in self.factors))


@lru_cache
def _operator(
    functions: tuple[Any, ...], shapes: tuple[torch.Size, ...], numbers: tuple[int, ...], full: bool
) -> Callable[..., Tensor]:
    ranks = (1, 1, 1 + full, *(0 for _ in range(sum(numbers))))
    return numpy_operator(product_density(functions, shapes, numbers, full), None, ranks)


@register_geometry(geoopt.ProductManifold)
class ProductGeometry(Geometry):
    r"""Geometry of a product: everything factor by factor; points of shape ``(manifold.n_elements,)``.

    Frame coordinates are the factors' coordinates side by side, so a joint covariance couples the factors. A
    flat factor may have any shape, ``()`` included.

    :raises ValueError: for another factor whose shape is not that of one point.

    >>> import geoopt
    >>> m = geoopt.ProductManifold((geoopt.Sphere(), 3), (geoopt.PoincareBall(), 2))
    >>> geometry(m).dim((5,))
    4
    """

    has_chart = _all("has_chart")
    has_ball_chart = _all("has_ball_chart")
    is_flat = _all("is_flat")
    constant_inner = _all("constant_inner")
    is_symmetric = _all("is_symmetric")
    has_log = _all("has_log")
    has_global_log = _all("has_global_log")
    has_finite_volume = _all("has_finite_volume")

    def __init__(self, manifold: geoopt.ProductManifold) -> None:
        super().__init__(manifold)
        factors: list[Geometry] = []
        self.shapes: list[torch.Size] = []
        for i, (m, shape) in enumerate(zip(manifold.manifolds, manifold.shapes, strict=True)):
            factor = geometry(m)
            own = _shape(i, factor, torch.Size(shape))
            factors.extend(factor.factors)
            self.shapes.extend(factor.factor_shapes(own))
        self._factors = tuple(factors)
        sizes = [s.numel() for s in self.shapes]
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        self.slices = [slice(b - s.numel(), b) for b, s in zip(ends, self.shapes, strict=True)]
        self.dims = [g.dim(s) for g, s in zip(factors, self.shapes, strict=True)]

    @property
    def factors(self) -> tuple[Geometry, ...]:
        return self._factors

    def factor_shapes(self, event_shape: Sequence[int]) -> list[torch.Size]:
        return self.shapes

    def depends(self) -> list[Any] | None:
        parts = [g.depends() for g in self.factors]
        return None if any(p is None for p in parts) else [x for p in parts for x in p or ()]

    def split(self, x: Tensor) -> list[Tensor]:
        return [x[..., sl].reshape(x.shape[:-1] + s) for sl, s in zip(self.slices, self.shapes, strict=True)]

    def split_coordinates(self, v: Tensor) -> list[Tensor]:
        return list(v.split(self.dims, -1))

    def pack(self, parts: Sequence[Tensor]) -> Tensor:
        flat = [x.flatten(x.dim() - len(s)) for x, s in zip(parts, self.shapes, strict=True)]
        return torch.cat(flat, -1)

    def _each(self, f: Callable[..., Tensor], *args: Sequence[Any]) -> list[Tensor]:
        return [f(g, *a) for g, *a in zip(self.factors, *args, strict=True)]

    def dim(self, event_shape: Sequence[int]) -> int:
        n = self.manifold.n_elements
        if event_shape[-1] != n:
            raise ValueError(f"points: this product packs {n} numbers, got a last axis of {event_shape[-1]}.")
        return sum(self.dims)

    def point_shape(self, dim: int) -> torch.Size:
        if dim != sum(self.dims):
            raise ValueError(f"dim: this product has dimension {sum(self.dims)}, got {dim}.")
        return torch.Size([self.manifold.n_elements])

    def contains(self, x: Tensor, atol: float | None = None) -> Tensor:
        return torch.stack(self._each(lambda g, y: g.contains(y, atol), self.split(x))).all(0)

    def reach(self, event_shape: Sequence[int], like: Tensor) -> float:
        return min(g.reach(s, like) for g, s in zip(self.factors, self.shapes, strict=True))

    def base_point(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> Tensor:
        self.dim(event_shape)
        return self.pack(self._each(lambda g, s: g.base_point(s, dtype=dtype, device=device), self.shapes))

    def project(self, x: Tensor) -> Tensor:
        return self.pack(self._each(lambda g, y: g.project(y), self.split(x)))

    def project_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        return self.pack(self._each(lambda g, a, b: g.project_tangent(a, b), self.split(p), self.split(u)))

    def to_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        return self.pack(
            self._each(lambda g, a, b: g.to_tangent(a, b), self.split(p), self.split_coordinates(v))
        )

    def from_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        return torch.cat(self._each(lambda g, a, b: g.from_tangent(a, b), self.split(p), self.split(u)), -1)

    def embed_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        parts = self._each(
            lambda g, a, b: g.embed_tangent(a, b).flatten(b.dim() - 1),
            self.split(p),
            self.split_coordinates(v),
        )
        return torch.cat(parts, -1)

    def ambient_coordinates(self, x: Tensor) -> Tensor | None:
        parts = [g.ambient_coordinates(y) for g, y in zip(self.factors, self.split(x), strict=True)]
        known = [y for y in parts if y is not None]
        return torch.cat(known, -1) if len(known) == len(parts) else None

    def feature_size(self, event_shape: Sequence[int]) -> int:
        return sum(g.feature_size(s) for g, s in zip(self.factors, self.shapes, strict=True))

    def from_features(self, h: Tensor, event_shape: Sequence[int]) -> Tensor:
        """The factors' features side by side."""
        sizes = [g.feature_size(s) for g, s in zip(self.factors, self.shapes, strict=True)]
        return self.pack(self._each(lambda g, x, s: g.from_features(x, s), h.split(sizes, -1), self.shapes))

    def to_features(self, x: Tensor) -> Tensor:
        return torch.cat(self._each(lambda g, y: g.to_features(y), self.split(x)), -1)

    def chord(self, p: Tensor, q: Tensor) -> Tensor:
        return norm(torch.stack(self._each(lambda g, a, b: g.chord(a, b), self.split(p), self.split(q)), -1))

    def inner(self, p: Tensor, u: Tensor, w: Tensor) -> Tensor:
        parts = self._each(lambda g, *a: g.inner(*a), self.split(p), self.split(u), self.split(w))
        return torch.stack(torch.broadcast_tensors(*parts)).sum(0)

    def killing_fields(self, p: Tensor) -> Tensor | None:
        """Those of the factors, each at rest in the others."""
        fields = [g.killing_fields(x) for g, x in zip(self.factors, self.split(p), strict=True)]
        flat = [
            None if k is None else k.flatten(k.dim() - len(s))
            for k, s in zip(fields, self.shapes, strict=True)
        ]
        n = p.shape[-1]
        padded = [
            torch.nn.functional.pad(k, (sl.start, n - sl.stop))
            for k, sl in zip(flat, self.slices, strict=True)
            if k is not None
        ]
        return torch.cat(padded, -2) if len(padded) == len(flat) else None

    def transport(self, p: Tensor, q: Tensor, u: Tensor) -> Tensor:
        parts = self._each(lambda g, *a: g.transport(*a), self.split(p), self.split(q), self.split(u))
        return self.pack(parts)

    def exp(self, p: Tensor, u: Tensor) -> Tensor:
        return self.pack(self._each(lambda g, a, b: g.exp(a, b), self.split(p), self.split(u)))

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        return self.pack(self._each(lambda g, a, b: g.log(a, b), self.split(p), self.split(q)))

    def exp_frame(self, p: Tensor, v: Tensor) -> Tensor:
        return self.pack(
            self._each(lambda g, a, b: g.exp_frame(a, b), self.split(p), self.split_coordinates(v))
        )

    def log_frame(self, p: Tensor, q: Tensor) -> Tensor:
        return torch.cat(self._each(lambda g, a, b: g.log_frame(a, b), self.split(p), self.split(q)), -1)

    def dist(self, p: Tensor, q: Tensor) -> Tensor:
        parts = self._each(lambda g, a, b: g.dist(a, b), self.split(p), self.split(q))
        return norm(torch.stack(parts, -1))

    def log_det_exp(self, p: Tensor, v: Tensor) -> Tensor:
        parts = self._each(lambda g, a, b: g.log_det_exp(a, b), self.split(p), self.split_coordinates(v))
        return torch.stack(parts).sum(0)

    def geodesic(self, p: Tensor, u: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        pairs = [
            g.geodesic(a, b, t) for g, a, b in zip(self.factors, self.split(p), self.split(u), strict=True)
        ]
        return self.pack([x for x, _ in pairs]), self.pack([y for _, y in pairs])

    def preimages(self, p: Tensor, v: Tensor, radius: float) -> Tensor:
        """Every combination of the factors' preimages."""
        parts = self._each(
            lambda g, a, b: g.preimages(a, b, radius).unbind(0), self.split(p), self.split_coordinates(v)
        )
        return torch.stack([torch.cat(c, -1) for c in itertools.product(*parts)])

    def in_double(self, x: Tensor) -> Tensor:
        return self.pack(self._each(lambda g, a: g.in_double(a), self.split(x)))

    def log_normal_by_numpy(self, p: Tensor, q: Tensor, spread: Tensor, full: bool) -> Tensor | None:
        found = [g.numpy_logarithm(s, p, q) for g, s in zip(self.factors, self.shapes, strict=True)]
        logs = [log for log in found if log is not None]
        parameters = [x for log in logs for x in log.parameters]
        if len(logs) < len(found) or any(x.requires_grad for x in parameters):
            return None
        axes, power = sum(log.axes for log in logs), sum(log.power for log in logs)
        if axes and not (is_short(spread, power) and (not full or is_short_joint(spread, axes, power))):
            return None
        functions, numbers = tuple(log.value for log in logs), tuple(len(log.parameters) for log in logs)
        op = _operator(functions, tuple(self.shapes), numbers, full)
        return op(p, q, spread, *parameters, composed=partial(self._composed_normal, full, axes > 0))

    def _composed_normal(
        self, full: bool, closes: bool, p: Tensor, q: Tensor, spread: Tensor, *parameters: Tensor
    ) -> Tensor:
        dtype = p.dtype
        if closes:
            p, q, spread = self.in_double(p), self.in_double(q), spread.double()
        p, q = torch.broadcast_tensors(p, q)
        v, normal = self.log_frame(p, q), centred_normal(spread, full)
        out = self.log_wrapped(p, v, normal) if closes else normal.log_prob(v) - self.log_det_exp(p, v)
        return out.to(dtype)

    def log_wrapped(self, p: Tensor, v: Tensor, base: Any) -> Tensor:
        """Independent coordinates make independent factors: a sum of logs instead of a sum over every
        combination."""
        if not isinstance(base, torch.distributions.Independent):
            return super().log_wrapped(p, v, base)
        normal = base.base_dist
        distributions = [
            torch.distributions.Independent(
                torch.distributions.Normal(m, s, validate_args=False), 1, validate_args=False
            )
            for m, s in zip(*(self.split_coordinates(x) for x in (normal.mean, normal.scale)), strict=True)
        ]
        parts = self._each(
            lambda g, a, b, c: g.log_wrapped(a, b, c), self.split(p), self.split_coordinates(v), distributions
        )
        return torch.stack(torch.broadcast_tensors(*parts)).sum(0)

    def wrapped_limit(self, event_shape: Sequence[int]) -> float:
        return min(g.wrapped_limit(s) for g, s in zip(self.factors, self.shapes, strict=True))

    def scatter(
        self,
        shape: Sequence[int],
        event_shape: Sequence[int],
        *,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> Tensor:
        return self.pack(
            self._each(lambda g, s: g.scatter(shape, s, dtype=dtype, device=device), self.shapes)
        )

    def injectivity_radius(self, event_shape: Sequence[int]) -> float | Tensor:
        return min(g.injectivity_radius(s) for g, s in zip(self.factors, self.shapes, strict=True))

    def log_volume(self, event_shape: Sequence[int]) -> Tensor | float:
        return sum(g.log_volume(s) for g, s in zip(self.factors, self.shapes, strict=True))

    def uniform_moments(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> tuple[Tensor, Tensor]:
        pairs = [
            g.uniform_moments(s, dtype=dtype, device=device)
            for g, s in zip(self.factors, self.shapes, strict=True)
        ]
        mean, variance = zip(*pairs, strict=True)
        return self.pack(list(mean)), self.pack(list(variance))

    def uniform_sample(
        self,
        shape: Sequence[int],
        event_shape: Sequence[int],
        *,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> Tensor:
        return self.pack(
            self._each(lambda g, s: g.uniform_sample(shape, s, dtype=dtype, device=device), self.shapes)
        )
