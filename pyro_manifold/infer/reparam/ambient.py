"""Reparametrises any distribution on a manifold as the image of a reweighted normal distribution."""

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
    r"""Makes a site on a manifold, with any distribution, a function of a real vector ``{name}_ambient``.

    .. math:: y \sim \mathcal N(y; 0, I)\,\frac{p(x)}{q(x)}, \qquad x = f(y),
        \qquad f(y) \sim q \text{ for } y \sim \mathcal N(0, I)

    The map f depends on the manifold:

    * spheres: :math:`y/|y|`;
    * Stiefel manifolds and rotations: the nearest point :math:`Y(Y^\top Y)^{-1/2}`;
    * Grassmann manifolds: the projector on the column span of Y;
    * tori: each line is wrapped, as in :class:`CircularReparam`;
    * manifolds with a chart (flat, hyperbolic, SPD): the chart, whose volume change is part of the weight;
    * products: factor by factor.

    The first three maps commute with rotations, so f(y) is uniform (Haar) for normal y, and
    :math:`q = 1/\mathrm{vol}(M)`. With this reparametriser plain HMC, NUTS and Pyro's autoguides work on every
    such site.

    For the first three, n is not normal but has the density :math:`|Y|\,e^{-\mathrm{tr}\,Y^\top Y/2}` with
    :math:`|Y| = \det(Y^\top Y)^{1/2}`. The factor :math:`|Y|` does not change the distribution of f(Y), and
    moves the mode from Y = 0, where f is undefined, to orthonormal Y. So ``AutoDelta`` finds the mode of p, and
    Laplace's approximation has the covariance of p at the mode.

    The length of y does not enter x, and at small lengths a small step of y is a large step of x: for
    concentrated distributions the geodesic kernels need fewer gradients. The modes of p remain separate modes.
    Draws of y are made by lifting draws of p, with a random length or number of turns, so prior and posterior
    predictive draws of the reparametrised model are those of the original one.

    :raises ValueError: for a site that is not on a manifold, or on one without such an f.

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
    """The geometry of a site, also inside ``to_event`` and ``mask``, and the map f onto each of its factors.

    :raises ValueError: for a site that is not on a manifold, or on one without such a map.
    """
    distribution = innermost(fn)
    manifold = manifold_of(distribution.support)
    if manifold is None:
        raise ValueError(
            f"{name}: got {type(distribution).__name__} with support {distribution.support}, expected a "
            "distribution on a manifold (support on(...)). Use CircularReparam for angles; other sites need "
            "no reparametriser."
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
