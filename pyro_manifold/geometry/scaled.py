r"""A manifold whose distances are all multiplied by one factor, ``geoopt.Scaled(manifold, s)``; its points
stay the same.

.. math::
    \langle u, w\rangle_s = s^2\langle u, w\rangle, \qquad d_s = s\,d, \qquad d\mathrm{vol}_s =
    s^{\dim}\,d\mathrm{vol}, \qquad K_s = K/s^2, \qquad \exp^s_p(v) = \exp_p(v/s)

with v in the orthonormal frames; as ambient vectors, exponential map, logarithm and geodesics are those of
the base.
"""

import copyreg
import math
from collections.abc import Sequence
from functools import wraps
from typing import Any

import geoopt
import torch
from torch import Tensor

from ..ops.tracing import is_traced
from .base import Geometry
from .noise import NoiseMap
from .registry import geometry, register_geometry
from .windings import marginal_sd

__all__ = ["ScaledGeometry"]


def _of_base(name: str) -> Any:
    """The member ``name`` of the base geometry, as a property or a method."""
    member = getattr(Geometry, name)
    if not callable(member):
        return property(lambda self: getattr(self.base, name))

    @wraps(member)
    def method(self: "ScaledGeometry", *args: Any, **kwargs: Any) -> Any:
        return getattr(self.base, name)(*args, **kwargs)

    method.__isabstractmethod__ = False  # type: ignore[attr-defined]
    return method


@register_geometry(geoopt.Scaled)
class ScaledGeometry(Geometry):
    r"""Geometry of ``geoopt.Scaled(base, scale, learnable=False)``: the base's, in units of length 1/s.

    Densities are with respect to the scaled volume, :math:`s^{\dim}` times the base's: a distribution of
    given shape on both has density smaller by that factor here. ``scale`` of a distribution on it is a scaled
    length. A learnable s gets gradients from distances, frames, volumes, densities and reparametrised draws.
    Distributions without a ``manifold`` argument (``VonMisesFisher``, ``Bingham``, ``MatrixFisher``, ...)
    live on the unscaled sphere or rotations and take its measure.

    geoopt rounds s to torch's default dtype (s = 0.1 set under float32 is 0.1 + 1.5e-9 in float64).

    :raises ValueError: for a scale that is not one positive finite number, or a base without a geometry.

    >>> import geoopt
    >>> geo = ScaledGeometry(geoopt.Scaled(geoopt.Sphere(), 2.0))
    >>> geo.dist(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))  # a quarter of a circle of radius 2
    tensor(3.1416)
    """

    # points and ambient vectors are those of the base
    event_dim = _of_base("event_dim")
    membership = _of_base("membership")
    has_chart = _of_base("has_chart")
    has_ball_chart = _of_base("has_ball_chart")
    acting_group = _of_base("acting_group")
    act = _of_base("act")
    in_double = _of_base("in_double")
    in_linear_space = _of_base("in_linear_space")  # sqrt(K) r is the same number
    is_flat = _of_base("is_flat")
    constant_inner = _of_base("constant_inner")
    is_symmetric = _of_base("is_symmetric")
    has_log = _of_base("has_log")
    has_global_log = _of_base("has_global_log")
    has_finite_volume = _of_base("has_finite_volume")
    dim = _of_base("dim")
    point_shape = _of_base("point_shape")
    contains = _of_base("contains")
    base_point = _of_base("base_point")
    project = _of_base("project")
    project_tangent = _of_base("project_tangent")
    exp = _of_base("exp")
    log = _of_base("log")
    geodesic = _of_base("geodesic")
    transport = _of_base("transport")
    killing_fields = _of_base("killing_fields")
    factor_shapes = _of_base("factor_shapes")
    split = _of_base("split")
    pack = _of_base("pack")
    split_coordinates = _of_base("split_coordinates")
    exact_mean = _of_base("exact_mean")
    angles = _of_base("angles")
    coordinate_names = _of_base("coordinate_names")
    uniform_moments = _of_base("uniform_moments")
    uniform_sample = _of_base("uniform_sample")
    embed_tangent = _of_base("embed_tangent")  # linear and isometric already

    def __init__(self, manifold: geoopt.Scaled, base: Geometry | None = None) -> None:
        super().__init__(manifold)
        self.base = geometry(manifold.base) if base is None else base
        s = manifold.scale
        if s.numel() != 1 or not (is_traced() or bool((s > 0) & s.isfinite())):
            raise ValueError(
                f"manifold: Scaled needs one positive finite scale, got {s.tolist()}, e.g. Scaled(base, 2.0)."
            )

    def depends(self) -> list[Any] | None:
        return None if self.base.depends() is None else super().depends()

    @property
    def factors(self) -> tuple[Geometry, ...]:
        """The factors of the base, each in the same units."""
        if self.base.factors == (self.base,):
            return (self,)
        return tuple(ScaledGeometry(self.manifold, g) for g in self.base.factors)

    @property
    def unscaled(self) -> Geometry:
        return self.base.unscaled

    def unit(self, like: Tensor) -> Tensor:
        return self.scale(like) * self.base.unit(like)

    def same_manifold(self, other: Geometry, like: Tensor) -> bool:
        if not isinstance(other, ScaledGeometry):
            return False
        equal = torch.equal(self.scale(like), other.scale(like))
        return self.manifold is other.manifold or (equal and self.base.same_manifold(other.base, like))

    def scale(self, like: Tensor) -> Tensor:
        """s as a scalar in the dtype and on the device of ``like``, differentiable where it is learned."""
        return self.manifold.scale.reshape(()).to(dtype=like.dtype, device=like.device)

    # --- lengths: s times those of the base -----------------------------------------------------------------
    def to_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        return self.base.to_tangent(p, v / self.scale(v))

    def from_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        return self.scale(u) * self.base.from_tangent(p, u)

    def feature_size(self, event_shape: Sequence[int]) -> int:
        return self.base.feature_size(event_shape)

    def from_features(self, h: Tensor, event_shape: Sequence[int]) -> Tensor:
        """Normal coordinates are lengths, other features are those of the base."""
        return (
            super().from_features(h, event_shape)
            if self.has_chart
            else self.base.from_features(h, event_shape)
        )

    def to_features(self, x: Tensor) -> Tensor:
        return super().to_features(x) if self.has_chart else self.base.to_features(x)

    def ambient_coordinates(self, x: Tensor) -> Tensor | None:
        y = self.base.ambient_coordinates(x)
        return None if y is None else self.scale(x) * y

    def chord(self, p: Tensor, q: Tensor) -> Tensor:
        return self.scale(p) * self.base.chord(p, q)

    def inner(self, p: Tensor, u: Tensor, w: Tensor) -> Tensor:
        return self.scale(u).square() * self.base.inner(p, u, w)

    def reach(self, event_shape: Sequence[int], like: Tensor) -> float:
        return float(self.scale(like).detach()) * self.base.reach(event_shape, like)

    def exp_frame(self, p: Tensor, v: Tensor) -> Tensor:
        return self.base.exp_frame(p, v / self.scale(v))

    def log_frame(self, p: Tensor, q: Tensor) -> Tensor:
        return self.scale(p) * self.base.log_frame(p, q)

    def dist(self, p: Tensor, q: Tensor) -> Tensor:
        return self.scale(p) * self.base.dist(p, q)

    def log_det_exp(self, p: Tensor, v: Tensor) -> Tensor:
        return self.base.log_det_exp(p, v / self.scale(v))  # both measures carry the factor s^dim

    def preimages(self, p: Tensor, v: Tensor, radius: float) -> Tensor:
        s = self.scale(v)
        return s * self.base.preimages(p, v / s, radius / float(s.detach()))

    def log_normal_by_numpy(self, p: Tensor, q: Tensor, spread: Tensor, full: bool) -> Tensor | None:
        s = self.scale(p)
        out = self.base.log_normal_by_numpy(p, q, spread / s, full)
        return None if out is None else out - spread.shape[-1] * s.log()

    def log_wrapped(self, p: Tensor, v: Tensor, base: Any) -> Tensor:
        """The base's density of v/s, with respect to the larger volume."""
        s = self.scale(v)
        return self.base.log_wrapped(p, v / s, _over(base, s)) - v.shape[-1] * s.log()

    def wrapped_limit(self, event_shape: Sequence[int]) -> float:
        limit = self.base.wrapped_limit(event_shape)
        if limit == math.inf or is_traced():  # a recorded scale has no value to compare with
            return math.inf
        return float(self.manifold.scale.detach()) * limit

    def constant_curvature(self, like: Tensor) -> Tensor | None:
        k = self.base.constant_curvature(like)
        return None if k is None else k / self.scale(like).square()

    # --- globals --------------------------------------------------------------------------------------------
    def injectivity_radius(self, event_shape: Sequence[int]) -> float | Tensor:
        radius, s = self.base.injectivity_radius(event_shape), self.manifold.scale.reshape(())
        kept = s.requires_grad or is_traced()
        return math.inf if radius == math.inf else radius * (s if kept else float(s))

    def log_volume(self, event_shape: Sequence[int]) -> Tensor | float:
        return (
            self.base.log_volume(event_shape)
            + self.dim(event_shape) * self.manifold.scale.reshape(()).double().log()
        )

    def noise_map(self, event_shape: Sequence[int]) -> NoiseMap | None:
        """The base's, with densities of this manifold's volume."""
        noise = self.base.noise_map(event_shape)
        if noise is not None:
            noise.geo = self
        return noise


def _over(base: Any, s: Tensor) -> Any:
    """The distribution of v/s for a centred normal v."""
    d = torch.distributions
    if isinstance(base, d.MultivariateNormal):
        return d.MultivariateNormal(base.loc, scale_tril=base.scale_tril / s, validate_args=False)
    return d.Independent(
        d.Normal(base.mean, marginal_sd(base) / s, validate_args=False), 1, validate_args=False
    )


def _rebuild(base: geoopt.Manifold, scale: Tensor | None, log_scale: Tensor | None) -> geoopt.Scaled:
    manifold = geoopt.Scaled(base, learnable=log_scale is not None)
    if log_scale is None:
        manifold._scale = scale
    else:
        manifold._log_scale = log_scale
    return manifold


# geoopt's own way cannot be unpickled or deep-copied: its __getattr__ asks for ``base`` before there is one
copyreg.pickle(geoopt.Scaled, lambda m: (_rebuild, (m.base, m._scale, m._log_scale)))  # type: ignore[arg-type, return-value]
