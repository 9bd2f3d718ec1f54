r"""VEGAS: a separable importance grid that adapts to an integrand on the unit cube.

.. math::
    I = \int_{[0,1]^d} f(v)\,dv = E\Big[\frac{f(v)}{q(v)}\Big], \qquad q(v) = \prod_i q_i(v_i), \qquad
    q_i \text{ piecewise constant}

Each refinement moves the edges of an axis so that every cell holds the same share of :math:`\int (f/q)^2 q`, smoothed and
damped.

Reference: G. P. Lepage, J. Comput. Phys. 27 (1978) 192.
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Grid"]


class Grid:
    """Cells of equal probability along each axis of the unit cube.

    :param dim: d.
    :param cells: cells along each axis.

    >>> grid = Grid(2)
    >>> for _ in range(5):
    ...     v, jacobian = grid(torch.rand(2, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    ...     grid.refine(v, (v**3).prod(0) * jacobian)
    >>> bool(grid.edges[:, 32].min() > 0.75)  # half of the points above 3/4
    True
    """

    def __init__(self, dim: int, cells: int = 64) -> None:
        self.edges = torch.linspace(0, 1, cells + 1, dtype=torch.float64).repeat(dim, 1)

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Points v and 1/q(v) at uniforms u of shape (d, n)."""
        cells = self.edges.shape[1] - 1
        scaled = u * cells
        k = scaled.long().clamp_max(cells - 1)
        low = self.edges.gather(1, k)
        width = self.edges.gather(1, k + 1) - low
        return low + (scaled - k) * width, (cells * width).prod(0)

    def refine(self, v: Tensor, weight: Tensor, damping: float = 0.75) -> None:
        """Move the edges by the weights f/q of points v that were drawn from this grid."""
        dim, cells = self.edges.shape[0], self.edges.shape[1] - 1
        k = (torch.searchsorted(self.edges, v.contiguous(), right=True) - 1).clamp(0, cells - 1)
        mass = torch.zeros(dim, cells, dtype=torch.float64).scatter_add_(1, k, weight.square().expand(dim, -1))
        padded = torch.cat([mass[:, :1], mass, mass[:, -1:]], 1)
        mass = (padded[:, :-2] + 6 * mass + padded[:, 2:]) / 8
        mass = mass / mass.sum(1, keepdim=True) + 1e-9
        mass = ((1 - mass) / -mass.log()) ** damping  # Lepage's damping: concave, slow where one cell has nearly everything
        total = torch.cat([torch.zeros(dim, 1, dtype=torch.float64), mass.cumsum(1)], 1)
        want = total[:, -1:] * torch.linspace(0, 1, cells + 1, dtype=torch.float64)
        i = (torch.searchsorted(total, want[:, 1:-1].contiguous(), right=True) - 1).clamp(0, cells - 1)
        low = self.edges.gather(1, i)
        share = (want[:, 1:-1] - total.gather(1, i)) / mass.gather(1, i)
        inner = low + share * (self.edges.gather(1, i + 1) - low)
        self.edges = torch.cat([self.edges[:, :1], inner, self.edges[:, -1:]], 1)

    def adapt(self, f: Callable[[Tensor], Tensor], generator: torch.Generator, rounds: int, size: int) -> None:
        """Refine ``rounds`` times with ``size`` points each."""
        for _ in range(rounds):
            v, jacobian = self(torch.rand(len(self.edges), size, generator=generator, dtype=torch.float64))
            self.refine(v, f(v) * jacobian)
