r"""Where a distribution has its density, for integrals: nodes that reach all its mass, and a space to compare
draws in.

A manifold compares by its own geodesic distance, angles by that of the torus, the image of an injective map
by that of the Euclidean space around it.
"""

import math
from collections.abc import Sequence
from typing import Any

import geoopt
import torch
from torch import Tensor

from ..constraints import circular, image, manifold_of, point_constraint
from ..geometry import geometry
from ..geometry.torus import Torus
from ._tools import tolerance
from .not_applicable import NotApplicable
from .quadrature import MAX_DIM, Rule, box_rule, image_rule, manifold_rule


class Space:
    """Points of a manifold. ``dim`` is the dimension of the base measure; a rule reaches the mass of a
    distribution ``d``."""

    def __init__(self, manifold: geoopt.Manifold, dim: int) -> None:
        self.manifold, self.geo, self.dim = manifold, geometry(manifold), dim

    def points(self, x: Tensor) -> Tensor:
        """Values of the distribution as points of ``manifold``."""
        return x

    def features(self, x: Tensor) -> Tensor:
        """Continuous functions of a value: its coordinates; where geodesics close, so that coordinates may
        jump as those of a torus do, its distances to ``dim + 1`` poles."""
        x = self.points(x)
        shape = x.shape[x.dim() - self.geo.event_dim :]
        reach = float(self.geo.injectivity_radius(shape))
        if math.isinf(reach) or self.geo.in_linear_space:
            return x.flatten(x.dim() - self.geo.event_dim)
        origin = self.geo.base_point(shape, dtype=x.dtype, device=x.device)
        steps = 0.3 * reach * torch.eye(self.dim + 1, self.dim, dtype=x.dtype, device=x.device)
        poles = [self.geo.exp_frame(origin, v) for v in steps]
        return torch.stack([self.geo.dist(p.expand_as(x), x) for p in poles], -1)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        return self.geo.dist(self.points(x), self.points(y))

    def ball(self, d: Any) -> tuple[Tensor, Tensor]:
        """A ball with all the mass: around ``loc`` (else the medoid of some draws), twice as far as the
        farthest of 4096."""
        x = self.points(d.sample((4096,)))
        center = getattr(d, "loc", None)
        if center is None or center.shape != x.shape[1:] or not bool(self.geo.contains(center)):
            some = x[:256]
            center = some[self.geo.dist(some.unsqueeze(1), some).mean(1).argmin()]
        center = center.detach()
        return center, 2 * self.geo.dist(center.expand_as(x), x).max()

    def resolution(self, finer: int) -> tuple[int, int]:
        """Radial and angular nodes: more in the plane, where they are cheap; fewer on products, whose rules
        multiply."""
        n_radial, n_angular = (48, 80) if self.dim == 2 else (48, 32)
        if len(self.geo.factors) > 1:
            n_radial = n_angular = 32
        return finer * n_radial, finer * n_angular

    def rule(self, d: Any, finer: int = 1) -> Rule:
        return manifold_rule(self.manifold, *self.ball(d), *self.resolution(finer))


class Angles(Space):
    """Angles that are scalars: points of the torus of dimension 1."""

    def __init__(self) -> None:
        super().__init__(Torus(), 1)

    def points(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-1)

    def rule(self, d: Any, finer: int = 1) -> Rule:
        rule = super().rule(d, finer)
        return Rule(rule.points.squeeze(-1), rule.weights)


class Image(Space):
    """Images of injective maps, side by side or crossing; a node on several of m charts counts once, as m
    parts."""

    def __init__(self, parts: Sequence[Any]) -> None:
        super().__init__(geoopt.Euclidean(ndim=1), parts[0].transform.dim)
        self.parts = list(parts)

    def rule(self, d: Any, finer: int = 1) -> Rule:
        rules = [image_rule(p.transform, self._coordinates(p.base_dist, finer)) for p in self.parts]
        x = torch.cat([r.points for r in rules])
        near = tolerance(x, 100) * (1 + x.norm(dim=-1))
        charts = sum((p.transform.reconstruction_error(x) <= near).to(x.dtype) for p in self.parts)
        return Rule(x, torch.cat([r.weights for r in rules]) / charts)

    def _coordinates(self, base: Any, finer: int) -> Rule:
        """Nodes for the coordinates: in the ball of their mass, or in the box that they are confined to."""
        if hasattr(base, "box"):
            low, high = base.box
            return box_rule(low, high, finer * 32)
        return manifold_rule(self.manifold, *self.ball(base), *self.resolution(finer))


def space_of(d: Any) -> Space:
    """The space of a distribution.

    :raises NotApplicable: for a support that no rule covers, or of more than :data:`MAX_DIM` dimensions.
    """
    support = point_constraint(d.support)
    manifold = manifold_of(support)
    space: Space
    if manifold is not None:
        space = Space(manifold, geometry(manifold).dim(d.event_shape))
    elif support is circular:
        space = Angles()
    elif isinstance(support, image):
        space = Image([d])
    elif hasattr(d, "components") and all(
        isinstance(point_constraint(c.support), image) for c in d.components
    ):
        space = Image(d.components)
    else:
        raise NotApplicable(f"no quadrature rule covers the support {support}")
    if space.dim > MAX_DIM:
        raise NotApplicable(f"quadrature is for at most {MAX_DIM} dimensions, the support has {space.dim}")
    return space
