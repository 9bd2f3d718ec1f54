r"""Geodesic balls that hold a given share of draws.

.. math:: B = \{x : d(c, x) \le r\}, \qquad r = \min\Big\{r : \sum_{i:\,d(c, x_i)\le r} w_i \ge p\Big\}
"""

from typing import NamedTuple

import geoopt
import torch
from torch import Tensor

from ...constraints import check_point
from ...distributions.estimation.sample import checked_weights
from ...geometry import Geometry, geometry
from ...ops.arguments import checked
from ...ops.chunks import slices
from .frechet import frechet_mean
from .units import length_factor

__all__ = ["CredibleBall", "credible_ball"]


class CredibleBall(NamedTuple):
    """Centre, shape ``batch + event``, and radius, shape ``batch``, in the unit asked for.

    >>> CredibleBall(torch.zeros(2), torch.ones(())).radius
    tensor(1.)
    """

    center: Tensor
    radius: Tensor


def check_prob(prob: float) -> None:
    """
    :raises ValueError: for a share outside (0, 1).
    """
    if not 0 < prob < 1:
        raise ValueError(f"prob: got {prob}, expected a share between 0 and 1, e.g. 0.95.")


@torch.no_grad()
@checked
def credible_ball(
    manifold: geoopt.Manifold,
    draws: Tensor,
    prob: float = 0.95,
    weights: Tensor | None = None,
    *,
    center: str = "mean",
    unit: str = "radians",
) -> CredibleBall:
    r"""The smallest geodesic ball about the Fréchet mean, or about the medoid, that holds the share ``prob`` of the
    draws.

    :param manifold: geoopt manifold.
    :param draws: points, shape ``(n,) + batch + event``, e.g. ``mcmc.get_samples()["direction"]``.
    :param prob: the share, in (0, 1).
    :param weights: of the draws, non-negative, shape ``(n,)`` or ``(n,) + batch``.
    :param center: "mean", the Fréchet mean; or "medoid", the draw with the smallest mean squared distance to the
        others, which exists for any draws (two modes, nearly uniform ones) and takes n^2 distances.
    :param unit: of the radius: "radians", on other manifolds their own unit of length; or "degrees", where
        lengths are angles.
    :raises ValueError: for draws off the manifold, unfit weights, a share outside (0, 1), another centre or unit.
    :raises ConvergenceError: where the Fréchet mean is not clear; use the medoid.

    >>> import geoopt
    >>> angle = torch.linspace(-1.0, 1.0, 101)
    >>> draws = torch.stack([angle.cos(), angle.sin()], -1)
    >>> credible_ball(geoopt.Sphere(), draws, 0.95, unit="degrees").radius
    tensor(55.0...)
    """
    check_prob(prob)
    if center not in ("mean", "medoid"):
        raise ValueError(f"center: got {center!r}, expected 'mean' or 'medoid'.")
    geo = geometry(manifold)
    if draws.dim() <= geo.event_dim or not len(draws):
        raise ValueError(
            f"draws: got shape {tuple(draws.shape)}, expected points of {manifold.name} stacked along a first axis."
        )
    check_point(manifold, "draws", draws)
    x = draws.detach().as_subclass(Tensor)
    shares = checked_weights(x, weights, x.shape[1 : x.dim() - geo.event_dim]).to(x.dtype)
    shares = shares / shares.sum(0)
    c = _medoid(geo, x, shares) if center == "medoid" else frechet_mean(manifold, x, shares).mean
    distance = geo.dist(c.expand_as(x), x)
    order = distance.argsort(0)
    held = shares.gather(0, order).cumsum(0)
    first = (held < prob - 1e-9).sum(0, keepdim=True).clamp_max(len(x) - 1)
    radius = distance.gather(0, order).gather(0, first).squeeze(0)
    return CredibleBall(c, radius * length_factor(geo, c, unit))


def _medoid(geo: Geometry, x: Tensor, shares: Tensor) -> Tensor:
    """The draw with the smallest weighted mean squared distance to the others, per batch element."""
    cost = []
    for part in slices(len(x), x.numel()):
        some = x[part].unsqueeze(1)
        cost.append(
            (shares * geo.dist(some.expand((-1,) + x.shape), x.expand((len(some),) + x.shape)).square()).sum(
                1
            )
        )
    best = torch.where(shares > 0, torch.cat(cost), torch.inf).argmin(0)
    index = best.reshape((1,) + best.shape + (1,) * geo.event_dim).expand((1,) + x.shape[1:])
    return x.gather(0, index).squeeze(0)
