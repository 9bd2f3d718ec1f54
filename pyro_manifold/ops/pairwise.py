r"""Distances between all pairs of two sets of points in flat space, whatever their distance from the origin.

.. math:: d_{ij} = |x_i - y_j|

torch's own way for more than 25 points, :math:`|x|^2 + |y|^2 - 2x\cdot y`, has the rounding of the squares: points 1e6
from the origin and 1 apart are equal in float32, and have no correct digit beyond the fourth in float64.
"""

from torch import Tensor, cdist

__all__ = ["pairwise_distances"]

_EXACT = 64  # coordinates, up to which differences cost little more than a matrix product


def pairwise_distances(x: Tensor, y: Tensor) -> Tensor:
    """Shape ``(n, m)`` for points ``(n, d)`` and ``(m, d)``: of differences, and for more than 64 coordinates by a
    matrix product of the points less their mean.

    >>> import torch
    >>> x = 1e6 + torch.arange(30.0).unsqueeze(-1)
    >>> float(pairwise_distances(x, x)[0, 1])
    1.0
    """
    if x.shape[-1] <= _EXACT:
        return cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    middle = y.detach().mean(-2, keepdim=True)
    return cdist(x - middle, y - middle)
