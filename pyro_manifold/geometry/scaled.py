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
from typing import Any

import geoopt
import torch
from torch import Tensor

from .base import Geometry, geometry, register_geometry
from .windings import marginal_sd

__all__ = ["ScaledGeometry"]


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

    def __init__(self, manifold: geoopt.Scaled) -> None:
        super().__init__(manifold)
        self.base = geometry(manifold.base)
        s = manifold.scale
        if s.numel() != 1 or not (torch.compiler.is_compiling() or bool((s > 0) & s.isfinite())):
            raise ValueError(
                f"manifold: Scaled needs one positive finite scale, got {s.tolist()}, e.g. Scaled(base, 2.0)."
            )
        self.event_dim, self.membership = self.base.event_dim, self.base.membership
        self.in_linear_space = self.base.in_linear_space  # sqrt(K) r is the same number

    def depends(self) -> list[Any] | None:
        return None if self.base.depends() is None else super().depends()

    @property
    def has_chart(self) -> bool:  # type: ignore[override]
        return self.base.has_chart

    def scale(self, like: Tensor) -> Tensor:
        """s as a scalar in the dtype and on the device of ``like``, differentiable where it is learned."""
        return self.manifold.scale.reshape(()).to(dtype=like.dtype, device=like.device)

    # --- points and ambient vectors: those of the base
    # ----------------------------------------------------------------
    def dim(self, event_shape: Sequence[int]) -> int:
        return self.base.dim(event_shape)

    def reach(self, event_shape: Sequence[int], like: Tensor) -> float:
        return float(self.scale(like).detach()) * self.base.reach(event_shape, like)

    def point_shape(self, dim: int) -> torch.Size:
        return self.base.point_shape(dim)

    def contains(self, x: Tensor, atol: float | None = None) -> Tensor:
        return self.base.contains(x, atol)

    def origin(self, dim: int, *, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        return self.base.origin(dim, dtype=dtype, device=device)

    def base_point(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> Tensor:
        return self.base.base_point(event_shape, dtype=dtype, device=device)

    def project(self, x: Tensor) -> Tensor:
        return self.base.project(x)

    def project_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        return self.base.project_tangent(p, u)

    def exp(self, p: Tensor, u: Tensor) -> Tensor:
        return self.base.exp(p, u)

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        return self.base.log(p, q)

    def geodesic(self, p: Tensor, u: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        return self.base.geodesic(p, u, t)

    # --- lengths: s times those of the base
    # ---------------------------------------------------------------------------
    def to_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        return self.base.to_tangent(p, v / self.scale(v))

    def from_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        return self.scale(u) * self.base.from_tangent(p, u)

    def embed_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        return self.base.embed_tangent(p, v)  # linear and isometric already

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

    def log_wrapped(self, p: Tensor, v: Tensor, base: Any) -> Tensor:
        """The base's density of v/s, with respect to the larger volume."""
        s = self.scale(v)
        return self.base.log_wrapped(p, v / s, _over(base, s)) - v.shape[-1] * s.log()

    def curvature(self, like: Tensor) -> Tensor:
        return self.base.curvature(like) / self.scale(like).square()

    # --- globals
    # ------------------------------------------------------------------------------------------------
    def injectivity_radius(self, event_shape: Sequence[int]) -> float | Tensor:
        radius, s = self.base.injectivity_radius(event_shape), self.manifold.scale.reshape(())
        return math.inf if radius == math.inf else radius * (s if s.requires_grad else float(s))

    def log_volume(self, event_shape: Sequence[int]) -> Tensor | float:
        return (
            self.base.log_volume(event_shape)
            + self.dim(event_shape) * self.manifold.scale.reshape(()).double().log()
        )

    def uniform_moments(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> tuple[Tensor, Tensor]:
        return self.base.uniform_moments(event_shape, dtype=dtype, device=device)

    def uniform_sample(
        self,
        shape: Sequence[int],
        event_shape: Sequence[int],
        *,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> Tensor:
        return self.base.uniform_sample(shape, event_shape, dtype=dtype, device=device)


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
