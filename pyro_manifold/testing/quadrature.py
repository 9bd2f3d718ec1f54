r"""Integrals over manifolds of low dimension, in geodesic polar coordinates.

.. math::
    \int_M f\,d\mathrm{vol} = \int_{S^{d-1}}\int_0^R f(\exp_p(r w))\,|\det d\exp_p(rw)|\,r^{d-1}\,dr\,dw

Each direction is followed to R or, if that is nearer, to the cut point, where its geodesic ceases to be the
shortest way; the ball is then covered once. Only the geometry's ``exp_frame``, ``log_det_exp`` and, beyond
the injectivity radius, ``dist`` are used, so one rule serves every manifold. A product takes the product of
its factors' rules, and the flat torus its angles.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import geoopt
import numpy as np
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..geometry import Geometry, TorusGeometry, geometry
from ..geometry.registry import ClassRegistry
from ..ops.arguments import checked
from ..ops.circular import wrap
from ..transforms.injective import InjectiveTransform
from ._tools import batch_jacobian, tolerance

__all__ = ["Rule", "box_rule", "directions", "image_rule", "manifold_rule", "normalisation", "random_rule"]

MAX_DIM = 3  # beyond it a product rule has too many nodes to be useful


class Rule(NamedTuple):
    """Nodes, shape ``(N,) + batch + event``, and weights, shape ``(N,) + batch``: integral of f =
    ``(w * f(x)).sum(0)``.

    >>> rule = Rule(torch.tensor([[0.0], [1.0]]), torch.tensor([0.5, 0.5]))  # the trapezoid
    >>> rule.integrate(rule.points.squeeze(-1))
    tensor(0.5000)
    """

    points: Tensor
    weights: Tensor

    def integrate(self, values: Tensor) -> Tensor:
        """Integral of a function given its values at the nodes, with any further axes on the right."""
        w = self.weights.reshape(self.weights.shape + (1,) * (values.dim() - self.weights.dim()))
        return (w * values).sum(0)


def _legendre(n: int, a: float, b: float) -> tuple[Tensor, Tensor]:
    x, w = np.polynomial.legendre.leggauss(n)
    half = (b - a) / 2
    return torch.from_numpy(a + half * (x + 1)), torch.from_numpy(half * w)


def directions(dim: int, n: int = 48) -> tuple[Tensor, Tensor]:
    r"""Nodes on the unit sphere :math:`S^{dim-1}` and weights that add up to its area (float64).

    Two points for ``dim`` 1, n equal angles for 2, and recursively ``n/2`` Gauss-Legendre polar angles above
    that.

    >>> w, area = directions(3)
    >>> bool((area.sum() / (4 * torch.pi) - 1).abs() < 1e-12)
    True
    """
    if dim == 1:
        return torch.tensor([[1.0], [-1.0]], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    if dim == 2:
        t = (torch.arange(n, dtype=torch.float64) + 0.5) * (2 * math.pi / n)
        return torch.stack([t.cos(), t.sin()], -1), torch.full((n,), 2 * math.pi / n, dtype=torch.float64)
    lower, area = directions(dim - 1, n)
    t, w = _legendre(max(n // 2, 2), 0.0, math.pi)
    points = torch.cat(
        [
            t.cos().reshape(-1, 1, 1).expand(-1, len(lower), 1),
            t.sin().reshape(-1, 1, 1) * lower,
        ],
        -1,
    )
    weights = (w * t.sin() ** (dim - 2)).unsqueeze(-1) * area
    return points.reshape(-1, dim), weights.reshape(-1)


@checked(n_radial=1, n_angular=1, radius=0)
def manifold_rule(
    manifold: geoopt.Manifold, center: Tensor, radius: Tensor | float, n_radial: int = 96, n_angular: int = 48
) -> Rule:
    r"""A quadrature rule on the geodesic ball around ``center``, or on a product of such balls.

    :param Tensor center: point(s), shape ``batch + event``; the rule is built in its dtype.
    :param radius: geodesic radius R, a number or shape ``batch``; each direction ends at its cut point.
    :param int n_radial: Gauss-Legendre nodes in r.
    :param int n_angular: angles around each circle of directions.
    :raises ValueError: for a (factor) manifold of dimension above 3.

    >>> sphere, x = geoopt.Sphere(), torch.tensor([0.0, 0.0, 1.0])
    >>> manifold_rule(sphere, x, 4.0).weights.sum()  # the area of S^2
    tensor(12.5664)
    """
    geo = _checked_geometry(manifold, radius)
    return _side_by_side(
        [
            _factor_rule(g, c, radius, n_radial, n_angular)
            for g, c in zip(geo.factors, geo.split(center), strict=True)
        ],
        geo,
    )


def _factor_rule(
    geo: Geometry, center: Tensor, radius: Tensor | float, n_radial: int, n_angular: int
) -> Rule:
    dim = _dim(geo, center)
    cell = _CELLS.find(type(geo.unscaled))
    if cell is not None:
        angles = torch.arange(n_angular, dtype=center.dtype, device=center.device) / n_angular
        grid = torch.cartesian_prod(*[angles] * dim).reshape(n_angular**dim, -1)
        return _magnified(cell(grid, center), geo.unit(center), dim)
    w, area = directions(dim, n_angular)
    t, dt = _legendre(n_radial, 0.0, 1.0)
    t, dt = t.repeat_interleave(len(w)), dt.repeat_interleave(len(w))
    reach = _reach(geo, center, radius, w)
    repeated = reach.repeat((n_radial,) + (1,) * (reach.dim() - 1))
    return _polar_rule(geo, center, repeated, t, dt * area.repeat(n_radial), w.repeat(n_radial, 1))


@checked(n=1, radius=0)
def random_rule(manifold: geoopt.Manifold, center: Tensor, radius: Tensor | float, n: int) -> Rule:
    """Like :func:`manifold_rule`, with n random nodes: the Monte Carlo rule with radius and direction
    uniform.

    Resampling its nodes by weight times density draws from that density without its own sampler.

    >>> random_rule(geoopt.Sphere(), torch.tensor([0.0, 0.0, 1.0]), 4.0, 1000).points.shape
    torch.Size([1000, 3])
    """
    geo = _checked_geometry(manifold, radius)
    pairs = zip(geo.factors, geo.split(center), strict=True)
    return _side_by_side([_random_factor_rule(g, c, radius, n) for g, c in pairs], geo, paired=True)


def _random_factor_rule(geo: Geometry, center: Tensor, radius: Tensor | float, n: int) -> Rule:
    dim = _dim(geo, center)
    cell = _CELLS.find(type(geo.unscaled))
    if cell is not None:
        t = torch.rand(n, dim, dtype=center.dtype, device=center.device)
        return _magnified(cell(t, center), geo.unit(center), dim)
    w = torch.randn(n, dim, dtype=torch.float64)
    area = 2 * math.pi ** (dim / 2) / math.gamma(dim / 2)
    w = w / w.norm(dim=-1, keepdim=True)
    t = torch.rand(n, dtype=torch.float64)
    return _polar_rule(geo, center, _reach(geo, center, radius, w), t, torch.full_like(t, area / n), w)


def box_rule(low: Tensor, high: Tensor, n: int) -> Rule:
    """A product Gauss-Legendre rule with n nodes for each axis of the box between two corners, shape ``(dim,)``.

    >>> rule = box_rule(torch.zeros(2), torch.ones(2), 4)
    >>> rule.integrate(rule.points[:, 0] ** 3)
    tensor(0.2500)
    """
    t, w = (x.to(low) for x in _legendre(n, 0.0, 1.0))
    index = torch.cartesian_prod(*[torch.arange(n)] * len(low)).reshape(-1, len(low))
    return Rule(low + (high - low) * t[index], w[index].prod(-1) * (high - low).prod())


def image_rule(transform: InjectiveTransform, rule: Rule) -> Rule:
    r"""A rule on the image of an injective map g, for its Hausdorff measure, from one on its coordinates.

    .. math:: \int_{g(U)} f\,dH = \int_U f(g(u))\,\det\big(J_g(u)^TJ_g(u)\big)^{1/2}\,du

    The Jacobian is that of automatic differentiation. A node whose coordinates come back as others (a chart
    of the circle, more than once around) has weight 0, so that each point of the image counts once.

    :param InjectiveTransform transform: g.
    :param Rule rule: nodes u of shape ``(N, n)``, such as those of :func:`manifold_rule` on Euclidean space.

    >>> from pyro_manifold.transforms import LinearEmbedding
    >>> line = LinearEmbedding(torch.tensor([[3.0], [4.0]]))
    >>> rule = image_rule(line, manifold_rule(geoopt.Euclidean(ndim=1), torch.zeros(1), 2.0))
    >>> round(float(rule.weights.sum()), 4)  # an interval of length 4, five times as long on the line
    20.0
    """
    u = rule.points
    jacobian = batch_jacobian(transform, u)
    with torch.no_grad():
        x = transform(u)
        same = (transform.inv(x.clone()) - u).norm(dim=-1) <= tolerance(u, 100) * (1 + u.norm(dim=-1))
        stretch = (0.5 * torch.logdet(jacobian.mT @ jacobian)).exp()
        return Rule(x, rule.weights * stretch * same)


def _checked_geometry(manifold: geoopt.Manifold, radius: Tensor | float) -> Geometry:
    if not bool((torch.as_tensor(radius) >= 0).all()):
        raise ValueError(f"radius: got {radius}, expected numbers that are not negative.")
    return geometry(manifold)


def _dim(geo: Geometry, center: Tensor) -> int:
    dim = geo.dim(center.shape[center.dim() - geo.event_dim :])
    if dim > MAX_DIM:
        raise ValueError(
            f"center: got a manifold of dimension {dim}, quadrature is for at most {MAX_DIM}; use draws."
        )
    return dim


def _magnified(rule: Rule, s: Tensor, dim: int) -> Rule:
    """The rule of a manifold whose lengths are s times as large."""
    return Rule(rule.points, rule.weights * s**dim)


def _side_by_side(rules: Sequence[Rule], geo: Geometry, paired: bool = False) -> Rule:
    """The rule of a product from those of its factors: all combinations of their nodes, or ``paired``
    ones."""
    if not paired:
        counts = [torch.arange(len(r.weights), device=r.weights.device) for r in rules]
        index = torch.meshgrid(*counts, indexing="ij")
        rules = [Rule(*(x[i.flatten()] for x in r)) for r, i in zip(rules, index, strict=True)]
    return Rule(geo.pack([r.points for r in rules]), torch.stack([r.weights for r in rules]).prod(0))


# Rules for manifolds covered by a cell, by class of geometry: functions of points of the unit cube and a center.
_CELLS: ClassRegistry[Callable[[Tensor, Tensor], Rule]] = ClassRegistry()


@_CELLS.register(TorusGeometry)
def _cell_rule(t: Tensor, center: Tensor) -> Rule:
    """Angles spread evenly over the torus; equally spaced ones integrate smooth functions to exponential
    accuracy."""
    shift = 2 * math.pi * t.reshape(t.shape[:1] + (1,) * (center.dim() - 1) + t.shape[1:]) - math.pi
    points = wrap(center + shift)
    volume = (2 * math.pi) ** t.shape[-1]
    return Rule(points, points.new_full(points.shape[:-1], volume / len(t)))


def _on_rays(geo: Geometry, center: Tensor, r: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The centre, and frame vectors of lengths ``r``, shape ``(N,) + batch``, along the N unit vectors
    ``w``."""
    v = r.unsqueeze(-1) * w.to(center).reshape((-1,) + (1,) * (r.dim() - 1) + w.shape[-1:])
    return center.expand(v.shape[:-1] + center.shape[center.dim() - geo.event_dim :]), v


def _reach(geo: Geometry, center: Tensor, radius: Tensor | float, w: Tensor) -> Tensor:
    """How far each direction is followed, shape ``(N,) + batch``: to ``radius``, or to the cut point by
    bisection."""
    batch = center.shape[: center.dim() - geo.event_dim]
    radius, safe = (
        torch.as_tensor(r, dtype=center.dtype, device=center.device).expand(w.shape[:1] + batch)
        for r in (radius, geo.injectivity_radius(center.shape[len(batch) :]))
    )
    low = torch.minimum(radius, safe)
    if not bool((radius > low).any()):
        return low

    def shortest(r: Tensor) -> Tensor:
        p, v = _on_rays(geo, center, r, w)
        return geo.dist(p, geo.exp_frame(p, v)) >= r * (1 - tolerance(r))

    just_beyond = torch.minimum(radius, low * (1 + 4 * tolerance(low)))
    if not bool(
        (shortest(just_beyond) & (just_beyond > low)).any()
    ):  # on spheres, say, all directions are cut at once
        return low
    high = radius
    for _ in range(50):
        middle = (low + high) / 2
        good = shortest(middle)
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return low


def _polar_rule(geo: Geometry, center: Tensor, reach: Tensor, t: Tensor, weight: Tensor, w: Tensor) -> Rule:
    """Nodes ``exp(t R w)`` for t in (0, 1), unit ``w`` and ``reach`` R; ``weight`` is that of the measure dt
    dw."""
    t, weight = (x.to(center).reshape((-1,) + (1,) * (reach.dim() - 1)) for x in (t, weight))
    r = t * reach
    p, v = _on_rays(geo, center, r, w)
    return Rule(geo.exp_frame(p, v), weight * reach * r ** (w.shape[-1] - 1) * geo.log_det_exp(p, v).exp())


def normalisation(distribution: TorchDistribution, rule: Rule) -> Tensor:
    """Total mass of ``exp(log_prob)`` under a rule; it should be 1, for each element of the batch."""
    return rule.integrate(distribution.log_prob(rule.points).exp())
