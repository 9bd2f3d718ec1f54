r"""VEGAS: a separable importance grid that adapts to an integrand on the unit cube; and boxes for what is not
separable.

.. math::
    I = \int_{[0,1]^d} f(v)\,dv = E\Big[\frac{f(v)}{q(v)}\Big], \qquad q(v) = \prod_i q_i(v_i), \qquad
    q_i \text{ piecewise constant}

Each refinement moves the edges of an axis so that every cell holds the same share of :math:`\int (f/q)^2 q`,
smoothed and damped.

What the grid leaves, :math:`g(u) = f/q`, is drawn from in equal boxes b over some of the axes, each as often
as the root mean square of g in it asks: :math:`p(u) \propto r_b,\; r_b^2 = E[g^2 \mid u \in b]`, which has
the least variance of all distributions that are constant on the boxes.

References: G. P. Lepage, J. Comput. Phys. 27 (1978) 192; the boxes are fixed ones of S. Jadach, *Foam*,
Comput. Phys. Commun. 152 (2003) 55.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["Boxes", "Grid"]


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
        mass = torch.zeros(dim, cells, dtype=torch.float64).scatter_add_(
            1, k, weight.square().expand(dim, -1)
        )
        padded = torch.cat([mass[:, :1], mass, mass[:, -1:]], 1)
        mass = (padded[:, :-2] + 6 * mass + padded[:, 2:]) / 8
        mass = mass / mass.sum(1, keepdim=True) + 1e-9
        mass = (
            (1 - mass) / -mass.log()
        ) ** damping  # Lepage's damping: concave, slow where one cell has nearly everything
        total = torch.cat([torch.zeros(dim, 1, dtype=torch.float64), mass.cumsum(1)], 1)
        want = total[:, -1:] * torch.linspace(0, 1, cells + 1, dtype=torch.float64)
        i = (torch.searchsorted(total, want[:, 1:-1].contiguous(), right=True) - 1).clamp(0, cells - 1)
        low = self.edges.gather(1, i)
        share = (want[:, 1:-1] - total.gather(1, i)) / mass.gather(1, i)
        inner = low + share * (self.edges.gather(1, i + 1) - low)
        self.edges = torch.cat([self.edges[:, :1], inner, self.edges[:, -1:]], 1)

    def adapt(
        self, f: Callable[[Tensor], Tensor], generator: torch.Generator, rounds: int, size: int
    ) -> None:
        """Refine ``rounds`` times with ``size`` points each."""
        for _ in range(rounds):
            v, jacobian = self(torch.rand(len(self.edges), size, generator=generator, dtype=torch.float64))
            self.refine(v, f(v) * jacobian)


class Boxes:
    """Boxes of equal volume over ``axes`` of the unit cube, ``cells`` along each, drawn with unequal
    probability.

    >>> boxes, gen = Boxes([0, 1], 4), torch.Generator().manual_seed(0)
    >>> u = torch.rand(3, 4000, generator=gen, dtype=torch.float64)
    >>> boxes.adapt(u, (u[0] * u[1] > 0.5).double())
    >>> u, jacobian = boxes(torch.rand(4, 4000, generator=gen, dtype=torch.float64))
    >>> value = (u[0] * u[1] > 0.5) * jacobian  # of mean (1 - log 2) / 2
    >>> round(float(value.mean()), 2), bool(value.var() < 0.06)  # without boxes 0.13
    (0.15, True)
    """

    def __init__(self, axes: Sequence[int], cells: int) -> None:
        self.axes, self.cells = list(axes), cells
        self.ratio = torch.ones(
            cells ** len(self.axes), dtype=torch.float64
        )  # volume of a box over its probability
        self.steps = cells ** torch.arange(len(self.axes)).unsqueeze(1)

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Points of the cube and 1/p at uniforms of shape (d + 1, n), the last of which choose the boxes."""
        upper = (1 / self.ratio).cumsum(0)
        box = torch.searchsorted(upper, u[-1] * upper[-1], right=True).clamp_max(len(upper) - 1)
        corner = box // self.steps % self.cells
        return u[:-1].index_copy(
            0, torch.tensor(self.axes), (corner + u[self.axes]) / self.cells
        ), self.ratio[box]

    def adapt(self, u: Tensor, weight: Tensor) -> None:
        """Set the probabilities by the integrand at uniform points."""
        box = ((u[self.axes] * self.cells).long().clamp_max(self.cells - 1) * self.steps).sum(0)
        square = weight.square()
        half = torch.full_like(
            self.ratio, 0.5
        )  # of a point of average square, in every box: none is left out
        total, count = (
            (half * by.mean()).scatter_add(0, box, by) for by in (square, torch.ones_like(square))
        )
        size = (total / count).sqrt()
        self.ratio = size.mean() / size
