r"""The matrix exponential, of one matrix as exact as of many.

.. math:: e^X = \sum_{k=0}^\infty X^k / k!

torch 2.13 sums too few terms for a single matrix: of norm 0.045 its error is 1e-10 in float64, of norm 0.4 it is 4e-6
in float32. Of two or more matrices it is exact to rounding.
"""

import math

import torch
from torch import Tensor

__all__ = ["matrix_exp"]


def matrix_exp(x: Tensor) -> Tensor:
    """:math:`e^X` for matrices of any batch shape, one among them.

    >>> matrix_exp(torch.tensor([[0.0, -0.4], [0.4, 0.0]]))  # cos 0.4 and sin 0.4
    tensor([[ 0.9211, -0.3894],
            [ 0.3894,  0.9211]])
    """
    if math.prod(x.shape[:-2]) > 1:
        return torch.linalg.matrix_exp(x)
    return torch.linalg.matrix_exp(x.expand(2, *x.shape))[0]
