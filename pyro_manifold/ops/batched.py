r"""Products and triangular solves with matrices that many vectors share.

.. math:: y_{bc} = A_b x_{bc}, \qquad y_{bc} = L_b^{-1} x_{bc}

Broadcasting would copy the matrix for every vector: 40 GB for 20000 points of :math:`\mathbb R^{500}`. Here
the vectors that share a matrix become the columns of one right-hand side, so memory and time are proportional
to the number of vectors. A matrix that ``expand`` has repeated counts as one."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .checks import common_shape

__all__ = ["apply_matrix", "unexpand", "solve_lower"]


def unexpand(x: Tensor, event_dim: int = 0) -> Tensor:
    """``x``, where batch axes that ``expand`` has repeated have size 1, so that a computation on it is done
    once for equal elements. The last ``event_dim`` axes are unchanged.

    >>> unexpand(torch.eye(3).expand(1000, 3, 3), 2).shape
    torch.Size([1, 3, 3])
    """
    strides = x.stride()[: x.dim() - event_dim]
    return x[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in strides)]


def _by_columns(f: Callable[[Tensor, Tensor], Tensor], matrix: Tensor, x: Tensor) -> Tensor:
    """Apply ``f(matrix, columns)`` to matrices ``batch + (m, n)`` and vectors ``batch + (n,)``, whose batch
    shapes broadcast. ``columns`` has one column for each vector that shares a matrix."""
    batch = common_shape(matrix.shape[:-2], x.shape[:-1])
    small = unexpand(matrix, 2)
    rank = len(batch)
    sizes = (1,) * (rank - small.dim() + 2) + small.shape[:-2]
    x = x.reshape((1,) * (rank + 1 - x.dim()) + x.shape)
    own = [i for i in range(rank) if sizes[i] != 1]
    shared = [i for i in range(rank) if sizes[i] == 1]
    columns = x.permute(*own, rank, *shared)
    wide = columns.shape[len(own) + 1 :]
    small = small.reshape([sizes[i] for i in own] + list(small.shape[-2:]))
    y = f(small, columns.reshape(columns.shape[: len(own) + 1] + (math.prod(wide),)))
    y = y.reshape(y.shape[:-1] + wide)
    order = own + [rank] + shared
    y = y.permute(*(order.index(i) for i in range(rank + 1)))
    return y.expand(batch + y.shape[-1:])


def apply_matrix(matrix: Tensor, x: Tensor) -> Tensor:
    """``matrix @ x`` for matrices ``batch + (m, n)`` and vectors ``batch + (n,)`` whose batches broadcast.

    >>> apply_matrix(torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.tensor([[1.0, 3.0]]))
    tensor([[6., 1.]])
    """
    return _by_columns(torch.matmul, matrix, x)


def solve_lower(factor: Tensor, x: Tensor) -> Tensor:
    """The solution y of ``factor @ y = x`` for lower triangular matrices ``batch + (n, n)`` and vectors
    ``batch + (n,)`` whose batches broadcast.

    >>> solve_lower(torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([[2.0, 3.0]]))
    tensor([[1., 2.]])
    """
    return _by_columns(lambda a, b: torch.linalg.solve_triangular(a, b, upper=False), factor, x)
