"""Maps between models of one space: ball and hyperboloid, sphere and its stereographic chart."""

from typing import Any

import geoopt
import torch
from torch import Tensor

from ..constraints import on
from ..geometry import geometry
from ..geometry.stereographic import sphere_to_stereographic, stereographic_to_sphere
from ..ops.arguments import checked
from .base import SeparateVolume

__all__ = ["BallToHyperboloid", "SphereToStereographic"]


class _Between(SeparateVolume):
    """A bijection from the points of one manifold to those of another."""

    def __init__(self, source: Any, target: Any, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.source, self.target = source, target
        self.domain, self.codomain = on(source), on(target)

    def depends(self) -> list[Any] | None:
        return [x for m in (self.source, self.target) for x in (*m.parameters(), *m.buffers())]

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and (self.source is other.source and self.target is other.target)  # type: ignore[attr-defined]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source.name}, {self.target.name})"

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        dim = geometry(self.source).dim(shape[-1:])
        return torch.Size(shape[:-1]) + geometry(self.target).point_shape(dim)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        dim = geometry(self.target).dim(shape[-1:])
        return torch.Size(shape[:-1]) + geometry(self.source).point_shape(dim)


def _value(manifold: Any) -> float:
    like = next(manifold.parameters())
    return float(geometry(manifold).curvature(like.detach()))


class BallToHyperboloid(_Between):
    r"""The isometry from the Poincaré ball to the hyperboloid of the same curvature -c = -1/k.

    .. math:: x \mapsto \Big(\frac{1 + c|x|^2}{\sqrt c\,(1 - c|x|^2)},\ \frac{2x}{1 - c|x|^2}\Big), \qquad
              (t, y) \mapsto \frac{y}{1 + \sqrt c\,t}

    It carries the frame at each point to the frame at its image, so distributions keep their parameters. Its
    volume change is 1. Both curvatures are read at each call; share one parameter if they are learned.

    :param geoopt.Stereographic ball: ``PoincareBall(c)`` or ``Stereographic(k)`` with negative curvature;
        points ``(d,)``.
    :param geoopt.Lorentz hyperboloid: ``Lorentz(k)`` with k = 1/c; points ``(d + 1,)``.
    :raises ValueError: for other manifolds, or curvatures that differ by more than 1e-6 of their size.

    Reference: Ratcliffe, *Foundations of Hyperbolic Manifolds*, 2nd ed., eq. 4.5.1.

    >>> f = BallToHyperboloid(geoopt.PoincareBall(c=1.0), geoopt.Lorentz(k=1.0))
    >>> f(torch.tensor([0.5, 0.0]))
    tensor([1.6667, 1.3333, 0.0000])
    """

    @checked
    def __init__(self, ball: geoopt.Stereographic, hyperboloid: geoopt.Lorentz, cache_size: int = 0) -> None:
        if not isinstance(ball, geoopt.Stereographic) or not geometry(ball).has_chart:
            raise ValueError(
                f"ball: got {ball}, expected a geoopt.PoincareBall or a Stereographic of negative curvature."
            )
        if not isinstance(hyperboloid, geoopt.Lorentz):
            raise ValueError(f"hyperboloid: got {hyperboloid}, expected a geoopt.Lorentz.")
        a, b = _value(ball), _value(hyperboloid)
        if not abs(a - b) <= 1e-6 * abs(b):
            raise ValueError(
                f"hyperboloid: got curvature {b:.8g} (k = {-1 / b:.8g} is a squared radius), but the ball "
                f"has {a:.8g}. Use geoopt.Lorentz(k=1 / c)."
            )
        super().__init__(ball, hyperboloid, cache_size)

    def _call(self, x: Tensor) -> Tensor:
        K = geometry(self.source).curvature(x)
        y = 2 * x / (1 + K * x.square().sum(-1, keepdim=True))
        return geometry(self.target).project(torch.nn.functional.pad(y, (1, 0)))

    def _inverse(self, y: Tensor) -> Tensor:
        K = geometry(self.source).curvature(y)
        rest = y[..., 1:]
        return rest / (1 + (1 - K * rest.square().sum(-1, keepdim=True)).sqrt())

    def log_volume(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-1])


class SphereToStereographic(_Between):
    r"""Stereographic projection of the unit sphere, from the antipode of its origin :math:`e_1`, scaled to
    curvature K > 0.

    .. math:: (z_1, z') \mapsto \frac{z'}{\sqrt K\,(1 + z_1)}, \qquad
              \log\Big|\frac{d\,\mathrm{vol}_K}{d\,\mathrm{vol}_1}\Big| = -\frac d2\log K

    The volume is Riemannian on both sides, so the change is constant, and 1 for K = 1, where the map is an
    isometry. The antipode of the origin is sent to a point at distance :math:`1/(\epsilon\sqrt K)` from 0,
    infinity to rounding.

    :param geoopt.Sphere sphere: the unit sphere; points ``(d + 1,)``.
    :param geoopt.Stereographic plane: ``Stereographic(k)`` or ``SphereProjection(k)``, k > 0; points
        ``(d,)``.
    :raises ValueError: for other manifolds, or curvature that is not positive.

    Reference: Bachmann, Bécigneul and Ganea, *Constant curvature graph convolutional networks*, 2020, sec.
    2.1.

    >>> f = SphereToStereographic(geoopt.Sphere(), geoopt.Stereographic(k=1.0))
    >>> f(torch.tensor([0.0, 1.0, 0.0]))
    tensor([1., 0.])
    """

    @checked
    def __init__(self, sphere: geoopt.Sphere, plane: geoopt.Stereographic, cache_size: int = 0) -> None:
        if not isinstance(sphere, geoopt.Sphere):
            raise ValueError(f"sphere: got {sphere}, expected a geoopt.Sphere.")
        if not isinstance(plane, geoopt.Stereographic) or geometry(plane).has_chart:
            raise ValueError(
                f"plane: got {plane}, expected a geoopt.SphereProjection or a Stereographic with k > 0."
            )
        super().__init__(sphere, plane, cache_size)

    def _call(self, x: Tensor) -> Tensor:
        return sphere_to_stereographic(x, geometry(self.target).curvature(x))

    def _inverse(self, y: Tensor) -> Tensor:
        return stereographic_to_sphere(y, geometry(self.target).curvature(y))

    def log_volume(self, x: Tensor) -> Tensor:
        d = x.shape[-1] - 1
        return (-0.5 * d * geometry(self.target).curvature(x).log()).expand(x.shape[:-1])
