r"""Orthonormal frames and rotations of any real numbers, by Gram-Schmidt.

.. math:: q_j = \frac{a_j - \sum_{i<j}\langle q_i, a_j\rangle q_i}{|\dots|}

Where a column is 0 or depends on those before it (to rounding), a coordinate axis takes its place and the
gradient is that of the others, so that nothing is NaN for any input.
"""

import torch
from torch import Tensor

from .numerics import norm

__all__ = ["orthonormal_columns", "rotation_of_columns"]


def _residual(x: Tensor, columns: list[Tensor]) -> Tensor:
    """What of x is orthogonal to the columns; a second pass takes away the rounding of the first."""
    for _ in range(2):
        for q in columns:
            x = x - (x * q).sum(-1, keepdim=True) * q
    return x


def _free_axis(columns: list[Tensor], like: Tensor) -> Tensor:
    """The unit vector along the coordinate axis that is farthest from the span of the columns, less its part
    in it."""
    covered = (
        torch.stack([q.detach().square() for q in columns]).sum(0) if columns else torch.zeros_like(like)
    )
    axis = torch.nn.functional.one_hot(covered.argmin(-1), like.shape[-1]).to(like)
    rest = _residual(axis, columns)
    return rest / norm(rest, keepdim=True)


def orthonormal_columns(a: Tensor) -> Tensor:
    """Matrices with orthonormal columns of any matrices, both ``batch + (n, p)`` with p <= n; orthonormal columns
    stay as they are."""
    columns: list[Tensor] = []
    for x in a.unbind(-1):
        size = x.detach().abs().amax(-1, keepdim=True)
        x = x / torch.where(
            size == 0, 1.0, size
        )  # the direction and its gradient do not depend on this factor
        rest = _residual(x, columns)
        length = norm(rest, keepdim=True)
        lost = length <= 8 * torch.finfo(a.dtype).eps
        q = rest / torch.where(lost, 1.0, length)
        columns.append(torch.where(lost, _free_axis(columns, x).detach(), q))
    return torch.stack(columns, -1)


def rotation_of_columns(a: Tensor) -> Tensor:
    """The rotation, ``batch + (n, n)``, whose first columns are those of :func:`orthonormal_columns` of a,
    ``batch + (n, n - 1)``.

    >>> rotation_of_columns(torch.tensor([[2.0], [0.0]]))
    tensor([[1., 0.],
            [0., 1.]])
    """
    q = orthonormal_columns(a)
    last = _free_axis(list(q.unbind(-1)), q[..., 0])
    full = torch.cat([q, last.unsqueeze(-1)], -1)
    sign = torch.linalg.det(full.detach()).sign()
    return torch.cat([q, (sign.unsqueeze(-1) * last).unsqueeze(-1)], -1)
