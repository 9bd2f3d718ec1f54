r"""Flows on spheres of any dimension, by splines of cylindrical coordinates.

.. math::
    x = \big(z,\ \sqrt{1-z^2}\,y\big), \quad y \in S^{d-1}, \qquad
    dA(x) = (1-z^2)^{(d-2)/2}\,dz\,dA(y)

.. math::
    y' = g(y;\, z), \quad z' = s(z;\, y'), \qquad
    \log|\det J| = \log|\det J_g(y)| + \log s'(z) + \frac{d-2}{2}\log\frac{1-z'^2}{1-z^2}

g is a layer of the same kind on :math:`S^{d-1}`, and on the circle a circular spline. At the poles
:math:`z = \pm1`, where y means nothing, g becomes the same rotation for all y, and the slope of s does not depend
on y: the map and its density are continuous there. References: [1] Rezende et al., *Normalizing flows on tori and
spheres*, ICML 2020, sec. 2.3 (recursive flows). [2] Durkan et al., *Neural spline flows*, NeurIPS 2019.
"""

import geoopt
import torch
from torch import Tensor, nn

from ..constraints import on
from ..nn.conditioner import Conditioner
from ..ops.arguments import checked
from ..ops.bounded_splines import (
    IntervalPoint,
    circular_size,
    circular_spline,
    interval_size,
    interval_spline,
)
from ..ops.circular import harmonics, plane_angle
from ..ops.orthogonal import reflected
from ..transforms.layers import LayerFlow
from .spline_layer import SplineLayer, faded, height_features

__all__ = ["CylindricalSpline", "SphereFlow"]

_LEVELS = 4  # coordinates that a layer changes if not told otherwise


class CylindricalSpline(SplineLayer):
    r"""One layer of a :class:`SphereFlow`: cylindrical coordinates about a fixed random axis, each changed by a
    spline.

    Forward and inverse are closed forms, of one evaluation of each network. The identity at first.

    :param int dim: d of :math:`S^d \subset \mathbb R^{d+1}`.
    :param int levels: how many coordinates the layer changes: heights of :math:`S^d, S^{d-1}, \dots` and, as the
        d-th, the angle of the circle. All, but at most four, if omitted.
    :param int bins: bins of each spline.
    :param tuple hidden: units of the hidden layers of each network.
    :param int number: harmonics of angles and heights that the networks are given.
    :raises ValueError: for sizes that are not positive.

    >>> layer = CylindricalSpline(2)
    >>> layer(torch.tensor([0.48, 0.6, 0.64])).detach().round(decimals=4)
    tensor([0.4800, 0.6000, 0.6400])
    """

    mirrors: Tensor

    @checked(dim=1, levels=1, bins=2, number=1)
    def __init__(
        self,
        dim: int,
        levels: int | None = None,
        *,
        bins: int = 32,
        hidden: tuple[int, ...] = (64, 64),
        number: int = 6,
        cache_size: int = 0,
    ) -> None:
        super().__init__(dim + 1, geoopt.Sphere(), number, cache_size)
        levels = min(dim, _LEVELS) if levels is None else levels
        if levels > dim:
            raise ValueError(f"levels: got {levels}; expected at most {dim}, the number of coordinates.")
        self.has_circle = levels == dim
        self.heights = levels - self.has_circle
        self.register_buffer("mirrors", torch.randn(levels + 1, dim + 1))
        outer = 1 + 2 * number  # features of a height
        networks: list[nn.Module] = []
        for j in range(self.heights):
            inner = 2 * number if dim - j == 2 and self.has_circle else dim - j
            networks.append(Conditioner(outer * j + inner, interval_size(bins), hidden))
            networks.append(Conditioner(outer * j, 2, hidden))  # slopes at the poles
        if self.has_circle:
            networks.append(Conditioner(outer * self.heights, circular_size(bins), hidden))
            networks.append(Conditioner(0, 1, hidden))  # a turn that is left at the poles
        self.networks = nn.ModuleList(networks)

    def _turned(self, x: Tensor) -> Tensor:
        """In coordinates about the axis of the layer, and of length 1 to the last digit."""
        x = reflected(self.with_batch_of_context(x, 1), self.mirrors)
        return x / _norm(x).unsqueeze(-1)

    # --- coordinates ----------------------------------------------------------------------------------------
    def _coordinates(self, x: Tensor) -> tuple[list[IntervalPoint], list[Tensor], list[Tensor]]:
        """All heights, and the lengths and directions of what is left after each (x itself comes first among the
        directions)."""
        points = []
        lengths = []
        directions = [x]
        for _ in range(self.heights):
            z, rest = x[..., 0], x[..., 1:]
            r = _norm(rest)
            above = z >= 0
            far = 1 + z.abs()
            near = r * r / far
            points.append(IntervalPoint(torch.where(above, far, near), torch.where(above, near, far)))
            lengths.append(r)
            x = rest / torch.where(r > 0, r, 1.0).unsqueeze(-1)
            directions.append(x)
        return points, lengths, directions

    def _inner_features(self, y: Tensor) -> Tensor:
        """Of a point of a lower sphere: its coordinates, or of one of the circle the harmonics of its angle."""
        return (
            harmonics(plane_angle(*y.unbind(-1)), self.number) if self.has_circle and y.shape[-1] == 2 else y
        )

    def _outer_features(self, points: list[IntervalPoint], like: Tensor) -> tuple[Tensor, Tensor]:
        """Features of all outer heights, and the factor of parameters that depend on them."""
        features = [like[..., :0]]
        fade = torch.ones_like(like[..., :1])
        for point in points:
            features.append(height_features(point.height, self.number))
            fade = fade * faded(point.lower * point.upper).unsqueeze(-1)
        return torch.cat(features, -1), fade

    # --- the map --------------------------------------------------------------------------------------------
    def _height(
        self, j: int, z: IntervalPoint, y: Tensor, outer: list[IntervalPoint], inverse: bool
    ) -> tuple[IntervalPoint, Tensor, Tensor]:
        """Height j through its spline: the new one, the log volume, and the factor of the length of
        what is left."""
        features, fade = self._outer_features(outer, y)
        raw = self.raw(2 * j, torch.cat([features, self._inner_features(y)], -1)) * fade
        ends = self.raw(2 * j + 1, features) * fade
        new, log_volume, factors = interval_spline(z, raw, ends, inverse=inverse)
        factor = factors.lower * factors.upper  # of 1 - z^2
        sphere = self.dim - 1 - j
        if sphere > 2:
            log_volume = log_volume + (sphere - 2) / 2 * factor.log()
        return new, log_volume, factor.sqrt()

    def _circle(self, y: Tensor, outer: list[IntervalPoint], inverse: bool) -> tuple[Tensor, Tensor]:
        features, fade = self._outer_features(outer, y)
        raw = self.raw(2 * self.heights, features) * fade
        turn = self.raw(2 * self.heights + 1, y[..., :0])
        raw = torch.cat([raw[..., :-1], raw[..., -1:] + turn], -1)
        angle, log_slope = circular_spline(plane_angle(*y.unbind(-1)), raw, inverse=inverse)
        return torch.stack([angle.cos(), angle.sin()], -1), log_slope

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self._turned(x)
        points, lengths, directions = self._coordinates(x)
        y = directions[-1]
        total = x.new_zeros(x.shape[:-1])
        if self.has_circle:
            y, total = self._circle(y, points, False)
        for j in reversed(range(self.heights)):
            new, log_volume, factor = self._height(j, points[j], y, points[:j], False)
            y = _joined(new, lengths[j] * factor, y)
            total = total + log_volume
        return reflected(y, self.mirrors, back=True), total

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        y = self._turned(y)
        images, lengths, directions = self._coordinates(y)
        total = y.new_zeros(y.shape[:-1])
        points: list[IntervalPoint] = []
        for j in range(self.heights):
            point, log_volume, factor = self._height(j, images[j], directions[j + 1], points, True)
            points.append(point)
            lengths[j] = lengths[j] * factor
            total = total + log_volume
        x = directions[-1]
        if self.has_circle:
            x, log_volume = self._circle(x, points, True)
            total = total + log_volume
        for j in reversed(range(self.heights)):
            x = _joined(points[j], lengths[j], x)
        return reflected(x, self.mirrors, back=True), -total


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1)


def _joined(z: IntervalPoint, length: Tensor, y: Tensor) -> Tensor:
    return torch.cat([z.height.unsqueeze(-1), length.unsqueeze(-1) * y], -1)


class SphereFlow(LayerFlow):
    r"""A flow on the unit sphere :math:`S^d`, d >= 1: :class:`CylindricalSpline` layers about random axes.

    :param int dim: d; points have d + 1 coordinates.
    :param int depth: number of layers.
    :param options: those of :class:`CylindricalSpline`.
    :raises ValueError: for sizes that are not positive.

    Volumes are with respect to surface area. A new flow is the identity; axes are drawn from torch's global
    generator. Use it on top of any distribution of the sphere, and with :class:`Conditional` where the density
    depends on covariates.

    >>> import pyro.distributions as dist, pyro_manifold.distributions as mdist
    >>> flow = SphereFlow(2, depth=2)
    >>> d = dist.TransformedDistribution(mdist.ManifoldUniform(geoopt.Sphere(), 3), [flow])
    >>> d.log_prob(torch.tensor([0.6, 0.0, 0.8]))  # -log(4 pi)
    tensor(-2.5310, grad_fn=...)
    """

    @checked(dim=1, depth=1)
    def __init__(self, dim: int, depth: int = 8, *, cache_size: int = 0, **options: object) -> None:
        super().__init__(cache_size=cache_size)
        self.dim = self.codomain_dim = dim + 1
        self.domain = self.codomain = on(geoopt.Sphere())
        self.hold([CylindricalSpline(dim, **options) for _ in range(depth)])  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"SphereFlow({self.dim - 1}, depth={len(self.layers)})"
