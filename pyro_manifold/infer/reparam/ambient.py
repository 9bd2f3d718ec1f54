"""Any distribution on a manifold as the image of a reweighted normal."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions.util import sum_rightmost
from torch import Tensor

from ...constraints import manifold_of
from ...geometry import (
    Geometry,
    ProductGeometry,
    SpecialOrthogonalGeometry,
    SphereGeometry,
    StiefelGeometry,
    TorusGeometry,
    geometry,
)
from ...ops.circular import wrap
from ...ops.numerics import norm
from ._base import LatentReparam, innermost, like_of, standard_normal
from .circular import draw_turns

__all__ = ["AmbientReparam"]


class _Projection:
    """The nearest point to a normal matrix: rotations commute with it, so its distribution is uniform."""

    def __init__(self, geo: Geometry, shape: torch.Size) -> None:
        self.geo, self.shape, self.size = geo, shape, shape.numel()

    def push(self, y: Tensor) -> Tensor:
        return self.geo.project(y.reshape(y.shape[:-1] + self.shape))

    def lift(self, x: Tensor, draw: bool = False) -> Tensor:
        r"""Normals that give x: :math:`Y = \sqrt n\,X`, or a draw :math:`Y = X S^{1/2}` with S ~ Wishart(n +
        1, I) (given X; for rotations the least singular value has either sign)."""
        if not draw:
            return self._flat(math.sqrt(self.shape[0]) * x)
        batch = x.shape[: x.dim() - len(self.shape)]
        rows, columns = self.shape[0], self.size // self.shape[0]
        if columns == 1:
            length = torch.distributions.Chi2(torch.full_like(x[..., :1], rows + 1.0)).sample().sqrt()
            return self._flat(length * x)
        z = torch.randn(batch + (rows + 1, columns), dtype=x.dtype, device=x.device)
        _, s, v = torch.linalg.svd(z, full_matrices=False)
        if isinstance(getattr(self.geo, "base", self.geo), SpecialOrthogonalGeometry):
            sign = 1.0 - 2.0 * torch.randint(2, batch, device=x.device).to(x)
            s = torch.cat([s[..., :-1], s[..., -1:] * sign.unsqueeze(-1)], -1)
        return self._flat(x @ (v.mT * s.unsqueeze(-2)) @ v)

    def _flat(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[: x.dim() - len(self.shape)] + (self.size,))

    def log_change(self, y: Tensor) -> Tensor:
        """Minus the log density of :meth:`push`; and the weight |Y| over its mean, which changes no
        distribution of directions."""
        rows, columns = self.shape[0], self.size // self.shape[0]
        half = torch.tensor([(rows + 1) / 2, rows / 2], dtype=torch.float64)
        above, below = torch.mvlgamma(half, columns).tolist()
        log_mean = columns / 2 * math.log(2) + above - below
        return (
            _log_extent(y.reshape(y.shape[:-1] + (rows, columns)))
            - log_mean
            + self.geo.log_volume(self.shape)
        )


def _log_extent(y: Tensor) -> Tensor:
    """Log of the volume that the columns span."""
    if y.shape[-1] == 1:
        return norm(y, dim=-2).squeeze(-1).log()
    return torch.linalg.qr(y).R.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)


class _Turns(_Projection):
    """Normals of nine radians wrap to the uniform distribution, to 1e-17."""

    def push(self, y: Tensor) -> Tensor:
        return wrap(9 * y)

    def lift(self, x: Tensor, draw: bool = False) -> Tensor:
        return (draw_turns(x, 9.0) if draw else x) / 9

    def log_change(self, y: Tensor) -> Tensor:
        return y.new_zeros(y.shape[:-1]) + self.geo.log_volume(self.shape)


class _Chart(_Projection):
    """The global chart, normal coordinates at the origin."""

    def __init__(self, geo: Geometry, shape: torch.Size) -> None:
        self.geo, self.shape, self.size = geo, shape, geo.dim(shape)

    def push(self, y: Tensor) -> Tensor:
        return self.geo.chart(y)

    def lift(self, x: Tensor, draw: bool = False) -> Tensor:
        return self.geo.chart_inv(x)

    def log_change(self, y: Tensor) -> Tensor:
        origin = self.geo.base_point(self.shape, dtype=y.dtype, device=y.device)
        normal = -y.square().sum(-1) / 2 - self.size / 2 * math.log(2 * math.pi)
        return self.geo.log_det_exp(origin, y) - normal


class AmbientReparam(LatentReparam):
    r"""Makes a site on a manifold a function of real vectors in flat space, ``{name}_ambient``, whatever its
    distribution.

    .. math:: y \sim \mathcal N(y; 0, I)\,\frac{p(x)}{q(x)}, \qquad x = f(y),
        \qquad f(y) \sim q \text{ for } y \sim \mathcal N(0, I)

    On spheres f normalises, :math:`y/|y|`; on Stiefel manifolds and rotations it takes the nearest point,
    :math:`Y(Y^\top Y)^{-1/2}`. Both commute with rotations, so x is uniform (Haar) and
    :math:`q = 1/\mathrm{vol}(M)`. Tori are wrapped lines, as in :class:`CircularReparam`; a manifold with a
    chart (flat, hyperbolic, SPD) takes it, with the volume change in the factor; products go factor by
    factor. So plain HMC, NUTS and Pyro's autoguides work on every such site.

    In flat space the projected y have the density :math:`|Y|\,e^{-\mathrm{tr}\,Y^\top Y/2}`, with
    :math:`|Y| = \det(Y^\top Y)^{1/2}`: the weight leaves the distribution of directions alone and moves the
    mode from Y = 0, where there is no direction, to orthonormal Y. So the mode that ``AutoDelta`` finds is
    that of p, and Laplace's covariance across it too (its draws, normalised, are wider where p is wide).

    The radius of y is idle, and small radii turn small steps into large angles: for concentrated
    distributions the geodesic kernels need fewer gradients. A distribution with two modes keeps them. Draws
    of y are draws of x ~ p, lifted (a length, a turn), so prior and posterior predictive draws of the
    reparametrised model are those of the original one.

    :raises ValueError: for a site that is on no manifold, or on one without such an f.

    References: Muirhead, Aspects of Multivariate Statistical Theory (1982), thm. 2.1.15 (Stiefel); Chikuse,
    Statistics on Special Manifolds (2003), sec. 2.4 (polar part).

    >>> import pyro_manifold.distributions as mdist
    >>> def model():
    ...     return pyro.sample("x", mdist.MatrixFisher(2 * torch.eye(3)))
    >>> trace = pyro.poutine.trace(pyro.poutine.reparam(model, {"x": AmbientReparam()})).get_trace()
    >>> tuple(trace.nodes["x_ambient"]["value"].shape), tuple(trace.nodes["x"]["value"].shape)
    ((9,), (3, 3))
    """

    suffix = "ambient"
    exact = False

    def base(self, name: str, fn: dist.TorchDistribution) -> dist.TorchDistribution:
        geo, maps = _maps(name, fn)
        shape = fn.shape()
        shape = shape[: len(shape) - geo.event_dim] + torch.Size([sum(m.size for m in maps)])
        return standard_normal(like_of(innermost(fn)), shape, fn.event_dim - geo.event_dim + 1)

    def push(self, fn: dist.TorchDistribution, noise: Tensor) -> Tensor:
        geo, maps = _maps("", fn)
        parts = [m.push(y) for m, y in zip(maps, noise.split([m.size for m in maps], -1), strict=True)]
        return geo._pack(parts) if isinstance(geo, ProductGeometry) else parts[0]

    def lift(self, fn: dist.TorchDistribution, value: Tensor, draw: bool = False) -> Tensor:
        geo, maps = _maps("", fn)
        points = geo.split(value) if isinstance(geo, ProductGeometry) else [value]
        return torch.cat([m.lift(x, draw) for m, x in zip(maps, points, strict=True)], -1)

    def sample_noise(
        self, fn: dist.TorchDistribution, base: dist.TorchDistribution, shape: torch.Size
    ) -> Tensor:
        return self.lift(fn, fn.sample(shape), draw=True)

    def log_weight(self, fn: dist.TorchDistribution, noise: Tensor, value: Tensor) -> Tensor:
        geo, maps = _maps("", fn)
        parts = [m.log_change(y) for m, y in zip(maps, noise.split([m.size for m in maps], -1), strict=True)]
        return fn.log_prob(value) + sum_rightmost(sum(parts[1:], parts[0]), fn.event_dim - geo.event_dim)


def _maps(name: str, fn: dist.TorchDistribution) -> tuple[Geometry, list[_Projection]]:
    """Geometry of a site inside ``to_event`` and ``mask``, and the map onto each of its factors.

    :raises ValueError: for a site on no manifold, or on one without such a map.
    """
    distribution = innermost(fn)
    manifold = manifold_of(distribution.support)
    if manifold is None:
        raise ValueError(
            f"{name}: got {type(distribution).__name__} with support {distribution.support}, expected a "
            "distribution on a manifold (support on(...)). Angles need CircularReparam; ordinary sites need "
            "nothing."
        )
    geo = geometry(manifold)
    if isinstance(geo, ProductGeometry):
        return geo, [_map(name, g, s) for g, s in zip(geo.factors, geo.shapes, strict=True)]
    return geo, [_map(name, geo, distribution.event_shape)]


def _map(name: str, geo: Geometry, shape: Sequence[int]) -> _Projection:
    kind = getattr(geo, "base", geo)  # a scaled manifold has the points of its base
    if isinstance(kind, TorusGeometry):
        return _Turns(geo, torch.Size(shape))
    if geo.has_chart:
        return _Chart(geo, torch.Size(shape))
    if isinstance(kind, SphereGeometry | StiefelGeometry | SpecialOrthogonalGeometry):
        return _Projection(geo, torch.Size(shape))
    raise ValueError(
        f"{name}: got a site on {geo.manifold.name}, expected spheres, Stiefel manifolds, rotations, tori, "
        "manifolds with a global chart, or products of these. Use GeodesicNUTS, or AutoManifoldNormal for "
        "SVI."
    )
