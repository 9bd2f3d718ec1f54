r"""Squared maximum mean discrepancy of two samples, unbiased and differentiable.

.. math::
    \frac{1}{n(n-1)}\sum_{i\ne j}k(x_i,x_j) + \frac{1}{m(m-1)}\sum_{i\ne j}k(y_i,y_j) -
    \frac{2}{nm}\sum_{i,j}k(x_i,y_j), \qquad k(a,b) = \operatorname{mean}_l\, e^{-|a-b|^2/2\ell_l^2}
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .pairwise import pairwise_distances

__all__ = ["gaussian_mmd2"]


def gaussian_mmd2(x: Tensor, y: Tensor, scales: Sequence[float]) -> Tensor:
    """The estimate for samples (n, d) and (m, d) of at least two points; its gradient is that of the samples.

    :param scales: the lengths of the Gaussian kernels, of which the mean is taken.

    >>> gaussian_mmd2(torch.zeros(2, 1), torch.ones(2, 1), [1.0])  # 2 - 2 exp(-1/2)
    tensor(0.7869)
    """

    def kernel(distance: Tensor) -> Tensor:
        return torch.stack([(-0.5 * (distance / scale).square()).exp().mean() for scale in scales]).mean()

    parts = x.split(1024)  # the table of all distances may not fit into memory
    cross = torch.stack([kernel(pairwise_distances(part, y)) * len(part) for part in parts]).sum() / len(x)
    return kernel(torch.pdist(x)) + kernel(torch.pdist(y)) - 2 * cross
