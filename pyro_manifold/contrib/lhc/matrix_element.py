r"""Leading-order amplitude of :math:`u\,d \to d\,u\,H` by W fusion, with three dimension-six HWW operators.

.. math::
    \mathcal M(\theta) &= \frac{M_W^2}{(q_1^2-M_W^2)(q_2^2-M_W^2)}
    \Big[S_0 + \theta_1 M_{W} + \theta_2 M_{\tilde W} + \theta_3 M_{WW}\Big], \qquad q_i = p_i - k_i \\
    S_0 &= J_1\!\cdot\! J_2, \qquad J_i^\mu = \langle k_i|\gamma^\mu|p_i] \\
    M_{W} &= -\kappa\big[(q_1^2+q_2^2)S_0 + 2\big((q_1\!\cdot\! q_2)S_0-(J_1\!\cdot\! q_2)(J_2\!\cdot\!
    q_1)\big)\big] \\ M_{\tilde W} &= -2\kappa\det(J_1,q_1,q_2,J_2), \qquad
    M_{WW} = -2\kappa\big((q_1\!\cdot\! q_2)S_0-(J_1\!\cdot\! q_2)(J_2\!\cdot\! q_1)\big)

so that :math:`|\mathcal M(\theta)|^2 = \tilde\theta^T A\,\tilde\theta` with
:math:`\tilde\theta = (1, \theta)` and the positive semidefinite matrix
:math:`A_{ab} = \mathrm{Re}\,\mathcal M_a \bar{\mathcal M}_b` of rank at most 2. :math:`p_i` are the
        massless
partons, :math:`k_i` the jets with their energy set to their momentum. Energies are in GeV; four-vectors are
(E, x, y, z) with metric (+, -, -, -) and lie along the *first* axis, so that every operation runs over
contiguous batches of events.

References: K. Hagiwara, S. Ishihara, R. Szalapski, D. Zeppenfeld, Phys. Rev. D 48 (1993) 2182 (the operators
O_W, O_WW); J. Brehmer, K. Cranmer, NeurIPS 2020 (arXiv:2003.13913), process card (the size of one unit of
theta).
"""

import torch
from torch import Tensor

__all__ = ["KAPPA", "M_W", "amplitudes", "current", "dot", "massless"]

M_W = 80.379
KAPPA = (
    0.25 * 82.6e-6
)  # 1/GeV^2 for theta = 1; the reference's card value over 2, times 1/4 (our choice: harder pT spectra)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Minkowski product over the first axis."""
    return a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3]


def massless(p: Tensor) -> Tensor:
    """``p`` with its energy replaced by the length of its momentum."""
    return torch.cat([p[1:].square().sum(0, keepdim=True).sqrt(), p[1:]])


def _spinor(p: Tensor) -> tuple[Tensor, Tensor]:
    """Left-handed spinor of a massless p: chi chi^+ = E - sigma.p, without cancellation along either beam
    direction."""
    r = (p[0] + p[3].abs()).sqrt()
    w = torch.complex(p[1], p[2]) / r
    ahead, r = p[3] > 0, torch.complex(r, torch.zeros_like(r))
    return torch.where(ahead, -w.conj(), r), torch.where(ahead, r, -w)


def current(k: Tensor, p: Tensor) -> Tensor:
    """Left-handed quark current J^mu = <k|gamma^mu|p], up to a phase; shape (4, ...), complex."""
    (a, b), (c, d) = _spinor(k), _spinor(p)
    a, b = a.conj(), b.conj()
    ac, bd, ad, bc = a * c, b * d, a * d, b * c
    return torch.stack([ac + bd, -(ad + bc), 1j * (ad - bc), bd - ac])


def _determinant(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """det(a, b, c, d) of four-vectors, by the minors of (a, d) and (b, c) (Laplace); (a, d) -> (a, b) are two
    swaps."""

    def minor(u: Tensor, v: Tensor, i: int, j: int) -> Tensor:
        return u[i] * v[j] - u[j] * v[i]

    signs = (
        (0, 1, 2, 3, 1),
        (0, 2, 1, 3, -1),
        (0, 3, 1, 2, 1),
        (1, 2, 0, 3, 1),
        (1, 3, 0, 2, -1),
        (2, 3, 0, 1, 1),
    )
    return sum(
        (s * minor(a, d, i, j) * minor(b, c, k, m) for i, j, k, m, s in signs), start=torch.zeros_like(a[0])
    )


def amplitudes(p1: Tensor, p2: Tensor, k1: Tensor, k2: Tensor) -> Tensor:
    r"""The four amplitudes (:math:`S_0, M_W, M_{\tilde W}, M_{WW}`, propagators included) as their real and
    imaginary parts.

    :param p1: massless incoming parton, shape (4, ...), GeV; ``p2`` the other.
    :param k1: massless outgoing quark that ``p1`` turns into; ``k2`` the other.
    :return: shape (2, 4, ...); the matrix A is the sum over the first axis of the outer products over the
        second.
    """
    q1, q2, j1, j2 = p1 - k1, p2 - k2, current(k1, p1), current(k2, p2)
    square1, square2, q1q2 = -2 * dot(p1, k1), -2 * dot(p2, k2), dot(q1, q2)
    s0 = dot(j1, j2)
    field = q1q2 * s0 - dot(j1, q2) * dot(j2, q1)
    odd = _determinant(j1, q1, q2, j2)
    m = torch.stack(
        [s0, -KAPPA * ((square1 + square2) * s0 + 2 * field), -2 * KAPPA * odd, -2 * KAPPA * field]
    )
    return torch.view_as_real(m * (M_W**2 / ((square1 - M_W**2) * (square2 - M_W**2)))).movedim(-1, 0)
