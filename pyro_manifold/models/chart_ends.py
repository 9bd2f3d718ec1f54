r"""Where the coordinates of a chart end: half-spaces beyond which rows are missing.

.. math::
    D = \{u :\ \nu_j\cdot u \le r_j\}, \qquad r_j = \max_i \nu_j\cdot u_i + \text{the room of one row}, \quad
    \text{where}\quad \lambda\,|\{u \in C :\ \nu_j\cdot u > \max_i \nu_j\cdot u_i\}| \ge 8

:math:`u_i` are the rows of the chart and those around that it fits, :math:`\lambda` their number per unit of volume,
C the coordinates whose points are in the chart's own cell. A chart needs no end where others go on: its cell ends it
there. So a half-space counts only if, were rows to go on beyond it as before, at least eight would be expected in the
cell; by chance there is none of them with probability :math:`e^{-8}`, 1 in 3000. The last row is on average one row's
room short of the end.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["chart_ends", "limiting_directions"]

_MISSING = 8.0  # rows that would be expected beyond an end
_POINTS = 4096  # that stand for the volume around the rows
_DIMENSIONS = 3  # up to which points can fill it


def limiting_directions(n: int) -> Tensor:
    """Unit vectors, the normals of the polytopes that limit coordinates: two in one dimension, 64 in the plane, and
    beyond both ways along the axes and along 8 n fixed random directions."""
    if n == 1:
        return torch.tensor([[1.0], [-1.0]])
    if n == 2:
        t = 2 * torch.pi * torch.arange(64) / 64
        return torch.stack([t.cos(), t.sin()], -1)
    draws = torch.randn(4 * n, n, generator=torch.Generator().manual_seed(0))
    half = torch.cat([torch.eye(n), nn.functional.normalize(draws, dim=-1)])
    return torch.cat([half, -half])


@torch.no_grad()
def chart_ends(
    u: Tensor,
    normals: Tensor,
    in_cell: Callable[[Tensor], Tensor],
    around: Callable[[], Tensor] | None = None,
) -> Tensor:
    """The :math:`r_j` of a chart, shape ``(J,)``, infinite where it does not end; in more than three dimensions,
    where no number of points fills a volume, the extremes of the rows in all directions.

    :param Tensor u: coordinates of its rows, shape ``(rows, n)``.
    :param Tensor normals: :math:`\\nu_j`, shape ``(J, n)``.
    :param in_cell: whether the points with given coordinates are in the chart's own cell.
    :param around: gives coordinates of rows of other charts that lie on this one too: where it goes on.
    """
    n = u.shape[1]
    if n > _DIMENSIONS:
        return (u @ normals.mT).amax(0)
    every = u if around is None else torch.cat([u, around()])
    last = (every @ normals.mT).amax(0)
    low, high = u.amin(0), u.amax(0)
    points = torch.quasirandom.SobolEngine(n, scramble=True, seed=0).draw(_POINTS).to(u)
    points = low + (2 * points - 0.5) * (high - low)
    inside = (points @ normals.mT <= (u @ normals.mT).amax(0)).all(-1)
    rows = len(u) / max(1, int(inside.sum()))  # for which a point stands
    along = points[in_cell(points)] @ normals.mT
    beyond, reach = along > last, torch.full_like(last, torch.inf)
    left = torch.ones_like(along[:, 0], dtype=torch.bool)
    apart = (float((2 * (high - low)).prod()) / (_POINTS * rows)) ** (1 / n)  # distance of rows
    borders = (every @ normals.mT > last - apart).sum(0)  # rows next to the end
    while True:  # the half-space with most rows along its border first: a corner of theirs has few
        missing = rows * (beyond & left.unsqueeze(-1)).sum(0)
        j = int(torch.where(missing >= _MISSING, borders, -1).argmax())
        if float(missing[j]) < _MISSING:
            break
        reach[j] = last[j]
        left = left & ~beyond[:, j]
    ends = reach.clone()
    for j in reach.isfinite().nonzero().squeeze(-1).tolist():
        others = reach.index_fill(0, torch.tensor([j], device=reach.device), torch.inf)
        room = along[beyond[:, j] & (along <= others).all(-1), j].sort().values
        ends[j] = room[min(int(1 / rows), len(room) - 1)] if len(room) else last[j]
    return ends
