r"""The Fréchet mean: the point from which a sample lies closest.

.. math:: \bar x = \operatorname*{arg\,min}_m \sum_i w_i\, d(m, x_i)^2, \qquad
    V = \sum_i w_i\, d(\bar x, x_i)^2, \qquad \textstyle\sum_i w_i = 1
"""

from typing import NamedTuple

import geoopt
import torch
from torch import Tensor

from ...geometry import geometry
from ...geometry.frechet import mean_and_variance
from ...ops.arguments import checked

__all__ = ["FrechetMean", "frechet_mean"]


class FrechetMean(NamedTuple):
    """Mean, shape ``batch + event``; geodesic variance V, shape ``batch``, the sum over the dimensions.

    >>> FrechetMean(torch.zeros(2), torch.ones(())).variance
    tensor(1.)
    """

    mean: Tensor
    variance: Tensor


@torch.no_grad()
@checked(max_steps=0, tolerance=0)
def frechet_mean(
    manifold: geoopt.Manifold,
    x: Tensor,
    weights: Tensor | None = None,
    *,
    max_steps: int = 500,
    tolerance: float | None = None,
) -> FrechetMean:
    r"""Fréchet mean and geodesic variance of points along the first axis, for a whole batch at once.

    Gradient descent :math:`m \leftarrow \exp_m(\eta\sum_i w_i\log_m x_i)` whose step adapts per batch
    element, from the best of the projected ambient mean and some of the points. Products are done factor by
    factor; on a torus the answer is exact, axis by axis, from the n ways to cut a circle [1].

    On compact manifolds the mean is unique if the points lie in a ball of half the injectivity radius (a
    convex one); otherwise several points may do as well and one of them is returned. Axial data (x and -x
    mean the same), antipodal modes and nearly uniform samples have no meaningful mean: align axes first with
    :func:`align_axes`, or look at the modes one by one.

    :param manifold: geoopt manifold.
    :param x: points, shape ``(n,) + batch + event``.
    :param weights: non-negative, shape ``(n,)`` or ``(n,) + batch``; they are normalised.
    :param max_steps: bound on the descent.
    :param tolerance: on the length of the mean of the logarithms, relative to the root of V; default 1e4 eps.
    :raises ConvergenceError: if some batch element is not there after ``max_steps``.
    :raises ValueError: for no points, points off the manifold, unfit weights; on Stiefel manifolds for points
        so far apart that no geodesic is found.

    [1] Hotz & Huckemann, *Intrinsic means on the circle*, Ann. Inst. Stat. Math. 67 (2015), thm 1 and sec.
    2.3; [2] Afsari, *Riemannian Lp center of mass*, Proc. AMS 139 (2011), thm 2.1.

    >>> import geoopt
    >>> mean, variance = frechet_mean(geoopt.Sphere(), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> mean, variance  # half a right angle to each
    (tensor([0.7071, 0.7071]), tensor(0.6169))
    """
    geo = geometry(manifold)
    if x.dim() <= geo.event_dim or not len(x):
        raise ValueError(
            f"x: got shape {tuple(x.shape)}, expected points of {manifold.name} stacked along a first axis."
        )
    if not x.is_floating_point():
        raise ValueError(f"x: got dtype {x.dtype}, expected a floating dtype; convert it with .double().")
    x = x.detach().as_subclass(Tensor)
    if not bool(geo.contains(x).all()):
        raise ValueError(
            f"x: some points are not on {manifold.name} (or not finite); use geometry(manifold).project(x)."
        )
    batch = x.shape[1 : x.dim() - geo.event_dim]
    w = x.new_ones(()) if weights is None else torch.as_tensor(weights, dtype=x.dtype, device=x.device)
    if weights is not None and (w.shape[:1] != x.shape[:1] or w.shape[1:] not in ((), batch)):
        raise ValueError(f"weights: got shape {tuple(w.shape)}, expected ({len(x)},) or {(len(x), *batch)}.")
    w = w.reshape(w.shape + (1,) * (1 + len(batch) - w.dim())).expand((len(x),) + batch)
    total = w.sum(0)
    if not bool(((w >= 0) & w.isfinite()).all() & (total > 0).all()):
        raise ValueError("weights: expected finite, non-negative weights that are not all zero.")
    tolerance = 1e4 * torch.finfo(x.dtype).eps if tolerance is None else tolerance
    return FrechetMean(*mean_and_variance(geo, x, w / total, max_steps, tolerance))
