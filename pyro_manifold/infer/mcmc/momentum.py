r"""Momenta at a point of a manifold as numbers: in which coordinates, and how they are drawn, pushed and
carried along.

A momentum is stored in coordinates c in which its length is Euclidean. By default these are the frame
coordinates of :class:`~pyro_manifold.geometry.Geometry`. Spheres and Stiefel manifolds keep the ambient
vector instead (for the canonical metric :math:`c = u + (\sqrt{1/2}-1)XX^\top u`), and rotations the body's
rates: fewer operations per step, same distribution.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from ...geometry import Geometry
from ...geometry.hyperboloid import HyperboloidGeometry
from ...geometry.registry import ClassRegistry
from ...geometry.rotations import SpecialOrthogonalGeometry
from ...geometry.sphere import SphereGeometry
from ...geometry.stereographic import StereographicGeometry
from ...geometry.stiefel import StiefelGeometry
from ...ops.orthogonal import vee

__all__ = ["AmbientMomentum", "MomentumCoordinates", "momentum_coordinates", "register_momentum"]

_M = TypeVar("_M", bound="type[MomentumCoordinates]")


_MOMENTA: "ClassRegistry[type[MomentumCoordinates]]" = ClassRegistry()


def register_momentum(kind: type) -> Callable[[_M], _M]:
    """Class decorator: momenta on geometries of this class are kept in these coordinates."""
    return _MOMENTA.register(kind)


def momentum_coordinates(geometry: Geometry) -> "MomentumCoordinates":
    """The coordinates of momenta used on this geometry: frame coordinates unless others are registered."""
    return (_MOMENTA.find(type(geometry)) or MomentumCoordinates)(geometry)


class MomentumCoordinates:
    """Frame coordinates: right on every manifold. The axes of a point come last, ``c`` has one trailing
    axis.

    :ivar Tensor chains: the chain of each row that :meth:`flow` is given next; ``None``: row i is chain i.
    """

    chains: Tensor | None = None
    may_refuse = False  # a step, with a momentum of NaN

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry

    def centre(self, x: Tensor) -> None:
        """Choose, from points (first axis), the centre at which directions are compared; most coordinates
        need none."""

    def size(self, shape: torch.Size) -> int:
        """How many numbers a momentum has at a point of this shape."""
        return self.geometry.dim(shape)

    def radius(self, shape: torch.Size) -> float:
        """A step should stay within this length."""
        return float(self.geometry.injectivity_radius(shape))

    def draw(self, x: Tensor, noise: Tensor) -> Tensor:
        """A standard normal tangent vector from standard normal ``noise``."""
        return noise

    def force(self, x: Tensor, g: Tensor) -> Tensor:
        """Gradient with respect to c of a function whose ambient gradient at x is ``g``."""
        with torch.enable_grad():
            v = x.new_zeros(
                x.shape[: x.dim() - self.geometry.event_dim] + (self.size(self._shape(x)),),
                requires_grad=True,
            )
            return torch.autograd.grad(self.geometry.to_tangent(x, v), v, g)[0]

    def flow(self, x: Tensor, c: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Exact geodesic flow for time ``t`` (shape of c with a last axis of 1)."""
        geo = self.geometry
        q, u = geo.geodesic(x, geo.to_tangent(x, c), t.squeeze(-1))
        return q, geo.from_tangent(q, u)

    def direction(self, x: Tensor, c: Tensor) -> Tensor:
        """The momentum as an element of one space for all x, to judge U-turns by."""
        return self.geometry.embed_tangent(x, c).flatten(c.dim() - 1)

    def _shape(self, x: Tensor) -> torch.Size:
        return x.shape[x.dim() - self.geometry.event_dim :]


class AmbientMomentum(MomentumCoordinates):
    """Tangent vectors as they lie in the ambient space, orthogonally projected."""

    def size(self, shape: torch.Size) -> int:
        return shape.numel()

    def draw(self, x: Tensor, noise: Tensor) -> Tensor:
        return self.geometry.project_tangent(x, noise.reshape(x.shape)).reshape(noise.shape)

    def force(self, x: Tensor, g: Tensor) -> Tensor:
        return self.draw(x, g.flatten(x.dim() - self.geometry.event_dim))

    def direction(self, x: Tensor, c: Tensor) -> Tensor:
        return c


@register_momentum(HyperboloidGeometry)
@register_momentum(StereographicGeometry)
class _Hyperbolic(MomentumCoordinates):
    r"""Directions as velocities in normal coordinates at a centre b: of the frame transported from b, with
    :math:`n = \log_b x / r`, the part along n as it is and the part across it times
    :math:`\kappa r / \sinh\kappa r`.

    With the part across as long as it is, U-turns come exponentially late: a typical path far from b circles
    it, and the circle's length grows like :math:`\sinh \kappa r` while the motion along n, which mixes, goes
    to and fro.
    """

    base: Tensor | None = None

    @torch.no_grad()
    def centre(self, x: Tensor) -> None:
        """Take for b the point with the least sum of squared distances, of at most 64 of these (first
        axis)."""
        if self.curved(x):
            x = x[:: -(-len(x) // 64)]
            d2 = self.geometry.dist(x.unsqueeze(0), x.unsqueeze(1)).square().sum(0)
            best = d2.argmin(0)  # one for each point of the site
            found = x.gather(0, best[None, ..., None].expand((1,) + x.shape[1:]))[0]
            if self.base is not None and self.base.shape == found.shape:
                self.base.copy_(found)  # in place: recorded functions hold this tensor
            else:
                self.base = found

    def curved(self, x: Tensor) -> bool:
        return bool(self.geometry.curvature(x) < 0)  # type: ignore[attr-defined]

    @torch.no_grad()
    def direction(self, x: Tensor, c: Tensor) -> Tensor:
        if self.base is None:
            return super().direction(x, c)
        b = self.base.expand_as(x)
        n, m = self.geometry.log_frame(b, x), -self.geometry.log_frame(x, b)
        r = torch.linalg.vector_norm(n, dim=-1, keepdim=True).clamp_min(torch.finfo(c.dtype).tiny ** 0.5)
        n, m = n / r, m / r
        along = (m * c).sum(-1, keepdim=True)
        # the rotation in the plane of m and n that takes m to n is the change of frames
        both = m + n
        across = (
            c
            - (both * c).sum(-1, keepdim=True)
            / both.square().sum(-1, keepdim=True).clamp_min(1e-12)
            * 2
            * both
        )
        across = across + along * n  # = R c - (m.c) n
        kr = r * (-self.geometry.curvature(x)).sqrt()  # type: ignore[attr-defined]
        return (along * n + kr / kr.sinh() * across).flatten(c.dim() - 1)


@register_momentum(SphereGeometry)
class _Sphere(AmbientMomentum):
    def flow(self, x: Tensor, c: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        speed = torch.linalg.vector_norm(c, dim=-1, keepdim=True).clamp_min(torch.finfo(c.dtype).tiny)
        angle = speed * t
        cos, sin = angle.cos(), angle.sin()
        q = cos * x + (sin / speed) * c
        # one Newton step towards |q| = 1, and the component of c along q taken out: no drift over long runs
        q = q * (1.5 - 0.5 * q.square().sum(-1, keepdim=True))
        w = cos * c - (sin * speed) * x
        return q, w - (q * w).sum(-1, keepdim=True) * q


@register_momentum(SpecialOrthogonalGeometry)
class _Rotations(MomentumCoordinates):
    """Body rates: constant along geodesics."""

    def force(self, x: Tensor, g: Tensor) -> Tensor:
        return 2 * vee(x.mT @ g)

    def flow(self, x: Tensor, c: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.geometry.exp_frame(x, t * c), c


@register_momentum(StiefelGeometry)
class _Stiefel(AmbientMomentum):
    def __init__(self, geometry: StiefelGeometry) -> None:
        super().__init__(geometry)
        self._shrink = math.sqrt(0.5) if geometry.canonical else 1.0

    def _stretch(self, x: Tensor, u: Tensor, factor: float) -> Tensor:
        return u if factor == 1.0 else u + (factor - 1) * (x @ (x.mT @ u))

    def force(self, x: Tensor, g: Tensor) -> Tensor:
        u = self.geometry.project_tangent(x, g)
        return self._stretch(x, u, 1 / self._shrink).flatten(-2)

    def flow(self, x: Tensor, c: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        u = self._stretch(x, c.reshape(x.shape), 1 / self._shrink)
        q, u = self.geometry.geodesic(x, u, t.squeeze(-1))
        u = self.geometry.project_tangent(q, u)
        return q, self._stretch(q, u, self._shrink).flatten(-2)
