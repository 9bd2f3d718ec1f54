r"""Where the draws of a guide are centred on a manifold: what it may report as its median.

Tangent vectors v that are symmetric about 0 make points :math:`\exp_\mu v` that are centred at :math:`\mu`
while they stay within half the injectivity radius. Wide ones need not: on :math:`S^d` the mean is

.. math:: \mathrm E\,\exp_\mu v = \mu\;\mathrm E\cos|v|,

so that draws at distances beyond :math:`\pi/2`, where those of a normal distribution of standard deviation s
lie as soon as
:math:`s\sqrt d > \pi/2`, are centred at :math:`-\mu`.
"""

import math

import torch
from torch import Tensor

from ...geometry import Geometry

__all__ = ["centre", "standard_draws"]

DRAWS = 1024


def standard_draws(shape: torch.Size, like: Tensor) -> Tensor:
    """Normal draws, the same at each call; torch's own generator is left alone."""
    noise = torch.randn((DRAWS,) + shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return noise.to(like)


def centre(geo: Geometry, loc: Tensor, v: Tensor) -> Tensor:
    r"""The point with the least mean squared distance from the points :math:`\exp_\\mu v`.

    :param loc: the centre of the tangent vectors, shape ``batch + event``.
    :param v: their coordinates, symmetric about 0, shape ``(draws,) + batch + (dim,)``.
    """
    parts = zip(geo.factors, geo.split(loc), geo.split_coordinates(v), strict=True)
    return geo.pack([_centre(g, p, u) for g, p, u in parts])


def _centre(geo: Geometry, loc: Tensor, v: Tensor) -> Tensor:
    """On a factor of a product."""
    radius = float(geo.injectivity_radius(geo.event_shape(loc)))
    if radius == math.inf or geo.is_flat or not loc.numel():
        return loc.clone()  # on flat space a wrapped normal has one mode
    length = v.square().sum(-1)
    wide = length.mean(0).sqrt() > radius / 2  # of each point of the batch
    if not bool(wide.any()):
        return loc.clone()
    edge = torch.zeros_like(v[0])
    edge[..., 0] = radius
    far = geo.exp_frame(loc, edge)  # the antipode, on spheres
    mask = wide.reshape(wide.shape + (1,) * geo.event_dim)
    if geo.in_linear_space:
        lost = (length.sqrt() * (math.pi / radius)).cos().mean(0) < 0
        return torch.where(mask & lost.reshape(mask.shape), far, loc)
    x = geo.exp_frame(loc.expand(v.shape[:1] + loc.shape), v)
    best, gap = loc.clone(), geo.dist(loc.expand_as(x), x).square()
    for other in (far, geo.project(x.mean(0))):
        change = geo.dist(other.expand_as(x), x).square() - gap
        better = change.mean(0) < -4 * change.std(0) / DRAWS**0.5  # more than chance
        better = better & other.isfinite().reshape(better.shape + (-1,)).all(-1)
        best = torch.where(mask & better.reshape(mask.shape), other, best)
    return best
