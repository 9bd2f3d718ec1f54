r"""Do two samples on a manifold come from one distribution? A permutation test on geodesic distances.

.. math:: E = 2\,\mathrm E\,d(x,y)^{1/2} - \mathrm E\,d(x,x')^{1/2} - \mathrm E\,d(y,y')^{1/2}

The p-value is exact whatever the distribution, since under the null the labels are exchangeable. The square
root matters on spheres: there the plain energy distance is blind to distributions that differ only in their
even part (a distribution and its antipodal average).
"""

import geoopt
import torch
from torch import Tensor

from ..geometry import geometry
from ..ops.arguments import checked

__all__ = ["energy_distance", "pairwise_dist", "two_sample_test"]


@checked
def pairwise_dist(manifold: geoopt.Manifold, x: Tensor, y: Tensor) -> Tensor:
    """Geodesic distances, shape ``(n, m)``, between samples of shape ``(n,) + event`` and
    ``(m,) + event``."""
    return geometry(manifold).dist(x.unsqueeze(1), y.unsqueeze(0))


def energy_distance(kernel: Tensor, sign: Tensor) -> Tensor:
    """``E`` for each row of signed weights (+1/n on one sample, -1/m on the other), from the kernel of the
    pooled sample."""
    return -((sign @ kernel) * sign).sum(-1)


@checked(permutations=1)
def two_sample_test(manifold: geoopt.Manifold, x: Tensor, y: Tensor, permutations: int = 1999) -> float:
    """Permutation p-value of the geodesic energy distance between two samples.

    P(p <= a) <= a for every a when both have one distribution: an exact test, for any manifold and dimension.
    Consistent against every alternative where geodesic distance is of negative type, as on spheres, flat and
    hyperbolic space.

    :param Tensor x: first sample, shape ``(n,) + event``.
    :param Tensor y: second sample, shape ``(m,) + event``.
    :param int permutations: relabellings to compare with; the smallest p-value is ``1 / (permutations + 1)``.
    :raises ValueError: for samples of unlike event shapes, or with points off the manifold.

    References: Szekely & Rizzo, J. Stat. Plan. Inference 143 (2013), sec. 6; Lyons, Ann. Probab. 41 (2013),
    thm 3.16, cor. 3.27.

    >>> x, y = torch.randn(2, 100, 2)
    >>> two_sample_test(geoopt.Euclidean(ndim=1), x, y + 3)
    0.0005
    """
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"y: got event shape {tuple(y.shape[1:])}, expected that of x, {tuple(x.shape[1:])}; give two "
            f"samples of one space."
        )
    pool = torch.cat([x, y]).detach()
    if not bool(geometry(manifold).contains(pool).all()):
        raise ValueError(
            "x, y: some points are not on the manifold (or not finite); expected draws from distributions on "
            "it."
        )
    kernel = pairwise_dist(manifold, pool, pool).sqrt()
    n, m = len(x), len(y)
    sign = torch.cat([kernel.new_full((n,), 1 / n), kernel.new_full((m,), -1 / m)])
    shuffled = sign[torch.rand(permutations, n + m, device=kernel.device).argsort(-1)]
    observed, null = energy_distance(kernel, sign), energy_distance(kernel, shuffled)
    # a relabelling that gives the same statistic up to rounding counts as a tie, or small samples would be
    # anticonservative
    ties = null >= observed - 1e-6 * kernel.mean()
    return (1 + int(ties.sum())) / (permutations + 1)
