r"""Unit quaternions :math:`q = (w, x, y, z)\in S^3` and rotations: R(q) is quadratic in q, so linear in
:math:`qq^\top`.

.. math::
    R(q)_{ab} = \sum_{ij} T_{ijab}\,q_iq_j, \qquad
    \mathrm{tr}(F^\top R(q)) = q^\top A(F)\,q, \quad A(F)_{ij} = \sum_{ab} T_{ijab}F_{ab}
"""

import torch
from torch import Tensor

__all__ = ["quadratic_form", "rotation"]

_SQUARES = [  # i, i, and the signs with which q_i^2 enters the diagonal of R
    (0, 0, (1, 1, 1)),
    (1, 1, (1, -1, -1)),
    (2, 2, (-1, 1, -1)),
    (3, 3, (-1, -1, 1)),
]
_PRODUCTS = [  # i, j, and (a, b, sign): 2 q_i q_j enters R_ab with this sign
    (0, 1, ((2, 1, 1), (1, 2, -1))),
    (0, 2, ((0, 2, 1), (2, 0, -1))),
    (0, 3, ((1, 0, 1), (0, 1, -1))),
    (1, 2, ((0, 1, 1), (1, 0, 1))),
    (1, 3, ((0, 2, 1), (2, 0, 1))),
    (2, 3, ((1, 2, 1), (2, 1, 1))),
]


def _tensor(like: Tensor) -> Tensor:
    """T, in the dtype and on the device of ``like``."""
    t = [[[[0.0] * 3 for _ in range(3)] for _ in range(4)] for _ in range(4)]
    for i, j, diagonal in _SQUARES:
        for a, sign in enumerate(diagonal):
            t[i][j][a][a] = float(sign)
    for i, j, entries in _PRODUCTS:
        for a, b, sign in entries:
            t[i][j][a][b] = t[j][i][a][b] = float(sign)
    return torch.tensor(t, dtype=like.dtype, device=like.device)


def rotation(products: Tensor) -> Tensor:
    """The rotation matrix of ``q`` from ``products`` = q q^T, or the mean rotation from the mean of q q^T.

    >>> rotation(torch.diag(torch.tensor([0.0, 0.0, 0.0, 1.0]))).diagonal()  # half a turn about z
    tensor([-1., -1.,  1.])
    """
    return torch.einsum("...ij,ijab->...ab", products, _tensor(products))


def quadratic_form(f: Tensor) -> Tensor:
    """The symmetric 4 x 4 matrix A(F) with ``q^T A q = tr(F^T R(q))``; its trace is 0.

    >>> quadratic_form(torch.eye(3)).diagonal()
    tensor([ 3., -1., -1., -1.])
    """
    return torch.einsum("...ab,ijab->...ij", f, _tensor(f))
