r"""The unit sphere :math:`S^d \subset \mathbb R^{d+1}`, every distance from chords so that no digit is lost
near 0 or π.

.. math::
    d(p,q) = 2\,\mathrm{atan2}(|p-q|, |p+q|), \qquad
    \exp_p(u) = \cos|u|\,p + \tfrac{\sin|u|}{|u|}u, \qquad
    \log\det d\exp_p(v) = (d-1)\log\Big|\tfrac{\sin|v|}{|v|}\Big|

The frame at p is the coordinate frame at the origin :math:`o = e_1` transported along the geodesic.
geoopt's ``dist`` and ``logmap`` clamp arccos (0.0141 at coinciding float32 points) and its ``expmap`` has a
NaN gradient at u = 0; its transport is a projection. Hence the formulas here.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import geoopt
import torch
from torch import Tensor

from ..ops.axis import squared_chord
from ..ops.batched import apply_matrix
from ..ops.checks import common_shape
from ..ops.components import by_components, squared_norm
from ..ops.numerics import fewer_turns, norm, safe_sqrt, scalar
from ..ops.numpy_logarithm import Logarithm
from ..ops.numpy_normal import density
from ..ops.numpy_operator import numpy_operator
from ..ops.numpy_sphere import sphere_logarithm
from ..ops.numpy_windings import is_short
from ..ops.signed_trig import cos_sinc_sqrt, log_sinc_length
from ..ops.spherical import from_tangent, sphere_exp, sphere_log, to_tangent
from ..ops.windings import log_windings
from .base import Geometry, moments_of_unit_columns, turned
from .noise import NoiseMap, ProjectionNoise
from .registry import register_geometry
from .windings import centred_normal, log_wound_normal, windings

__all__ = ["SphereGeometry"]


def _unit(x: Tensor) -> Tensor:
    return x * x.square().sum(-1, keepdim=True).rsqrt()


def _composed_normal(full: bool, p: Tensor, q: Tensor, spread: Tensor) -> Tensor:
    dtype = p.dtype
    p, q, spread = p.double(), q.double(), spread.double()
    p, q = torch.broadcast_tensors(*(_unit(x) for x in (p, q)))
    v = by_components(from_tangent, p, sphere_log(None, p, q))
    return log_wound_normal(v, centred_normal(spread, full), v.shape[-1] - 1).to(dtype)


_NORMAL = [
    numpy_operator(density(sphere_logarithm), partial(_composed_normal, full), (1, 1, 1 + full))
    for full in (False, True)
]


@register_geometry(geoopt.Sphere)
class SphereGeometry(Geometry):
    r"""Geometry of the unit sphere :math:`S^d`, points of shape ``(d + 1,)``, origin :math:`e_1`.

    Injectivity radius π, volume :math:`2\pi^{(d+1)/2}/\Gamma((d+1)/2)`. At an antipode the shortest vector is
    not unique: :meth:`log` returns one of them, of length π. At the antipode of the origin the transported
    frame has no limit: the coordinate frame is used there.

    :raises ValueError: for a sphere restricted to a subspace (``geoopt.Sphere(intersection=...)``).

    >>> import geoopt
    >>> geo = SphereGeometry(geoopt.Sphere())
    >>> x = torch.tensor([1.0, 0.0, 0.0])
    >>> geo.dist(x, -x)
    tensor(3.1416)
    """

    in_linear_space = True
    constant_inner = True
    has_finite_volume = True
    has_ball_chart = True
    acting_group = "orthogonal"

    def __init__(self, manifold: geoopt.Manifold) -> None:
        super().__init__(manifold)
        if getattr(manifold, "projector", None) is not None:
            raise ValueError(
                "manifold: a sphere restricted to a subspace has no geometry here; expected geoopt.Sphere(). "
                "Choose an orthonormal basis of the subspace and use a sphere of lower dimension."
            )

    def dim(self, event_shape: Sequence[int]) -> int:
        return event_shape[-1] - 1

    def point_shape(self, dim: int) -> torch.Size:
        return torch.Size([dim + 1])

    def contains(self, x: Tensor, atol: float | None = None) -> Tensor:
        atol = math.sqrt(torch.finfo(x.dtype).eps) if atol is None else atol
        return (norm(x) - 1).abs() <= atol  # a NaN compares false

    def base_point(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> Tensor:
        first = torch.ones(1, dtype=dtype, device=device)
        return torch.nn.functional.pad(first, (0, event_shape[-1] - 1))

    def project(self, x: Tensor) -> Tensor:
        r = norm(x, keepdim=True)
        zero = r == 0
        o = self.base_point(x.shape[-1:], dtype=x.dtype, device=x.device)
        return torch.where(zero, o, x / torch.where(zero, 1.0, r))

    def project_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        return u - p * (p * u).sum(-1, keepdim=True)

    def to_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        return by_components(to_tangent, p, v)

    def from_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        return by_components(from_tangent, p, u)

    def embed_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        return self.to_tangent(p, v)

    def ambient_coordinates(self, x: Tensor) -> Tensor:
        return x

    def act(self, g: Tensor, x: Tensor) -> Tensor:
        return apply_matrix(g, x)

    def inner(self, p: Tensor, u: Tensor, w: Tensor) -> Tensor:
        return (u * w).sum(-1)

    def killing_fields(self, p: Tensor) -> Tensor:
        """The rotations in the planes of two axes."""
        return turned(p, 1)

    def exp(self, p: Tensor, u: Tensor) -> Tensor:
        return sphere_exp(None, p, fewer_turns(u))

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        return sphere_log(None, p, q)

    def exp_frame(self, p: Tensor, v: Tensor) -> Tensor:
        return sphere_exp(None, p, self.to_tangent(p, fewer_turns(v)))

    def log_frame(self, p: Tensor, q: Tensor) -> Tensor:
        return self.from_tangent(p, self.log(p, q))

    def dist(self, p: Tensor, q: Tensor) -> Tensor:
        return by_components(
            lambda p, q: 2 * torch.atan2(safe_sqrt(squared_norm(q - p)), safe_sqrt(squared_norm(q + p))), p, q
        )

    def log_det_exp(self, p: Tensor, v: Tensor) -> Tensor:
        return (v.shape[-1] - 1) * log_sinc_length(v, 1.0, 1).expand(common_shape(p.shape[:-1], v.shape[:-1]))

    def geodesic(self, p: Tensor, u: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=p.dtype, device=p.device).unsqueeze(-1)
        speed2 = u.square().sum(-1, keepdim=True)
        cos, sinc = cos_sinc_sqrt(speed2 * t.square(), 1)
        return cos * p + (t * sinc) * u, cos * u - (speed2 * t * sinc) * p

    def preimages(self, p: Tensor, v: Tensor, radius: float) -> Tensor:
        r"""The vectors :math:`(|v| + 2\pi k)\,v/|v|`; at v = 0, where the axis is free, the first frame axis
        is used."""
        return windings(v, radius, math.pi)

    def in_double(self, x: Tensor) -> Tensor:
        return _unit(x.double())

    def log_isotropic(self, p: Tensor, q: Tensor, scale: Tensor) -> Tensor | None:
        d = p.shape[-1] - 1
        if d == 1:
            return None  # log_wrapped is smooth at the centre, the distance is not
        r = 2 * torch.atan2(safe_sqrt(squared_chord(p, q)), safe_sqrt(squared_chord(p, -q)))
        return log_windings(r, scale, d - 1) - d * (scale.log() + 0.5 * math.log(2 * math.pi))

    def log_normal_by_numpy(self, p: Tensor, q: Tensor, spread: Tensor, full: bool) -> Tensor | None:
        return _NORMAL[full](p, q, spread) if is_short(spread, p.shape[-1] - 2) else None

    def numpy_logarithm(self, event_shape: Sequence[int], p: Tensor, q: Tensor) -> Logarithm:
        return Logarithm(sphere_logarithm, axes=1, power=event_shape[-1] - 2)

    def log_wrapped(self, p: Tensor, v: Tensor, base: Any) -> Tensor:
        return log_wound_normal(v, base, v.shape[-1] - 1)

    def angles(self, x: Tensor) -> tuple[Tensor, list[str]]:
        r"""Hyperspherical coordinates; on :math:`S^2` the polar angle from the third axis and the azimuth
        from the first.

        .. math:: \varphi_i = \operatorname{atan2}(|x_{\text{rest}}|, x_i), \qquad
            \text{azimuth} = \operatorname{atan2}(x_2, x_1)
        """
        polar = []
        rest = x
        for i in range(x.shape[-1] - 1, 1, -1):
            polar.append(torch.atan2(torch.linalg.vector_norm(rest[..., :i], dim=-1), rest[..., i]))
            rest = rest[..., :i]
        azimuth = torch.atan2(x[..., 1], x[..., 0])
        names = ["polar"] if len(polar) == 1 else [f"polar_{i + 1}" for i in range(len(polar))]
        return torch.stack([*polar, azimuth], -1), [*names, "azimuth"]

    def coordinate_names(self, event_shape: Sequence[int]) -> list[str]:
        return (
            list("xyz"[: event_shape[-1]]) if event_shape[-1] <= 3 else super().coordinate_names(event_shape)
        )

    def noise_map(self, event_shape: Sequence[int]) -> NoiseMap:
        return ProjectionNoise(self, event_shape, 1)

    def injectivity_radius(self, event_shape: Sequence[int]) -> float:
        return math.pi

    def log_volume(self, event_shape: Sequence[int]) -> float:
        n = event_shape[-1]
        return math.log(2) + n / 2 * math.log(math.pi) - math.lgamma(n / 2)

    def uniform_moments(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> tuple[Tensor, Tensor]:
        return moments_of_unit_columns(event_shape, dtype, device)

    def uniform_sample(
        self,
        shape: Sequence[int],
        event_shape: Sequence[int],
        *,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> Tensor:
        return self.project(
            torch.randn(torch.Size(shape) + torch.Size(event_shape), dtype=dtype, device=device)
        )

    def constant_curvature(self, like: Tensor) -> Tensor:
        return scalar(1.0, like)
