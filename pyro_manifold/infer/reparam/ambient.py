"""Any distribution on a manifold as the image of a reweighted normal."""

import pyro.distributions as dist
import torch
from pyro.distributions.util import sum_rightmost
from torch import Tensor

from ...constraints import manifold_of
from ...geometry import Geometry, geometry
from ...geometry.noise import NoiseMap
from ._base import LatentReparam, innermost, like_of, standard_normal

__all__ = ["AmbientReparam"]


class AmbientReparam(LatentReparam):
    r"""Makes a site on a manifold a function of real vectors in flat space, ``{name}_ambient``, whatever its
    distribution.

    .. math:: y \sim \mathcal N(y; 0, I)\,\frac{p(x)}{q(x)}, \qquad x = f(y),
        \qquad f(y) \sim q \text{ for } y \sim \mathcal N(0, I)

    On spheres f normalises, :math:`y/|y|`; on Stiefel manifolds and rotations it takes the nearest point,
    :math:`Y(Y^\top Y)^{-1/2}`. On Grassmann
    manifolds it projects on the column span. These maps commute with rotations, so x is uniform (Haar) and
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
        return geo.pack(parts)

    def lift(self, fn: dist.TorchDistribution, value: Tensor, draw: bool = False) -> Tensor:
        geo, maps = _maps("", fn)
        return torch.cat([m.lift(x, draw) for m, x in zip(maps, geo.split(value), strict=True)], -1)

    def sample_noise(
        self, fn: dist.TorchDistribution, base: dist.TorchDistribution, shape: torch.Size
    ) -> Tensor:
        return self.lift(fn, fn.sample(shape), draw=True)

    def log_weight(self, fn: dist.TorchDistribution, noise: Tensor, value: Tensor) -> Tensor:
        geo, maps = _maps("", fn)
        parts = [m.log_change(y) for m, y in zip(maps, noise.split([m.size for m in maps], -1), strict=True)]
        return fn.log_prob(value) + sum_rightmost(sum(parts[1:], parts[0]), fn.event_dim - geo.event_dim)


def _maps(name: str, fn: dist.TorchDistribution) -> tuple[Geometry, list[NoiseMap]]:
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
    shapes = geo.factor_shapes(distribution.event_shape)
    maps = [g.noise_map(s) for g, s in zip(geo.factors, shapes, strict=True)]
    known = [m for m in maps if m is not None]
    if len(known) < len(maps):
        missing = [g.manifold.name for g, m in zip(geo.factors, maps, strict=True) if m is None]
        raise ValueError(
            f"{name}: got a site on {', '.join(missing)}, expected spheres, Stiefel and Grassmann manifolds, "
            "rotations, tori, manifolds with a global chart, or products of these. Use GeodesicNUTS, or "
            "AutoManifoldNormal for SVI."
        )
    return geo, known
