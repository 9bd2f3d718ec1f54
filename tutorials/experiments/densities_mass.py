r"""The mass of a density on the sphere S^2 or the torus T^2, by quadrature on cells that become smaller where
the density is narrow.

.. math:: \int_{S^2} p\,dA = \int_{-\pi}^{\pi}\int_{-1}^{1} p(z, \varphi)\,dz\,d\varphi

In height and longitude the area element of the sphere is constant, as it is in the angles of the torus: both are
a rectangle of cells, with 2 x 2 Gauss-Legendre nodes each. First, every cell with a data point where the density
times the cell's area is above 1/n is divided, so that no spike on a point is missed; then, cells whose integral
changes most when they are divided.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Mass", "mass"]

_NODES = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)


class Mass(NamedTuple):
    """The integral, by how much it changed in the last round of divisions, and evaluations of the density."""

    value: float
    error: float
    evaluations: int


def _points(rectangle: Tensor, sphere: bool) -> Tensor:
    """Height and longitude, or angles, as points of the manifold."""
    if not sphere:
        return rectangle
    z, phi = rectangle.unbind(-1)
    r = (1 - z * z).clamp_min(0).sqrt()
    return torch.stack([r * phi.cos(), r * phi.sin(), z], -1)


def _rectangle(x: Tensor, sphere: bool) -> Tensor:
    """The inverse of :func:`_points`."""
    return torch.stack([x[:, 2], torch.atan2(x[:, 1], x[:, 0])], -1) if sphere else x


@torch.no_grad()
def mass(
    log_prob: Callable[[Tensor], Tensor],
    data: Tensor,
    sphere: bool,
    *,
    cells: int = 16,
    tolerance: float = 1e-3,
    budget: int = 300_000,
) -> Mass:
    """
    :param log_prob: log density of points (n, 3) of the sphere or (n, 2) of the torus, float64.
    :param data: points near which the density may be narrow.
    :param cells: along the shorter side, before any is divided.
    :param tolerance: the change of the integral at which divisions end.
    :param budget: evaluations at most, about.
    """
    low = torch.tensor([-1.0 if sphere else -math.pi, -math.pi], dtype=torch.float64)
    high = torch.tensor([1.0 if sphere else math.pi, math.pi], dtype=torch.float64)
    across = torch.tensor([cells, 2 * cells if sphere else cells], dtype=torch.float64)
    half = (high - low) / across / 2
    grid = torch.cartesian_prod(*(torch.arange(int(n), dtype=torch.float64) for n in across))
    centres, halves = low + (2 * grid + 1) * half, half.expand(len(grid), 2)
    used = 0

    def integral(centres: Tensor, halves: Tensor) -> Tensor:
        nonlocal used
        nodes = centres.unsqueeze(1) + _NODES * halves.unsqueeze(1) / math.sqrt(3)
        used += 4 * len(centres)
        p = torch.cat([log_prob(x) for x in _points(nodes.reshape(-1, 2), sphere).split(16384)]).exp()
        return p.reshape(-1, 4).mean(-1) * 4 * halves.prod(-1)

    def divided(centres: Tensor, halves: Tensor) -> tuple[Tensor, Tensor]:
        new = centres.unsqueeze(1) + _NODES * halves.unsqueeze(1) / 2
        return new.reshape(-1, 2), (halves / 2).repeat_interleave(4, 0)

    centres, halves = _around(log_prob, data, sphere, centres, halves, divided, budget // 8)
    values = integral(centres, halves)
    error = math.inf
    done, wide = torch.zeros((), dtype=torch.float64), torch.ones(len(values), dtype=torch.bool)
    while used < budget and error > tolerance and bool(wide.any()):
        done = done + values[~wide].sum()
        new_centres, new_halves = divided(centres[wide], halves[wide])
        new = integral(new_centres, new_halves)
        change = (new.reshape(-1, 4).sum(-1) - values[wide]).abs()
        error = float(change.sum())
        # what changes least, and adds up to a tenth of the tolerance, is not divided again
        order = change.argsort()
        small = torch.empty(len(change), dtype=torch.bool)
        small[order] = change[order].cumsum(0) < 0.1 * tolerance
        centres, halves, values, wide = new_centres, new_halves, new, ~small.repeat_interleave(4)
    return Mass(float(done + values.sum()), error, used)


def _around(
    log_prob: Callable[[Tensor], Tensor],
    data: Tensor,
    sphere: bool,
    centres: Tensor,
    halves: Tensor,
    divided: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    most: int,
) -> tuple[Tensor, Tensor]:
    """Cells divided where a data point's density times their area is above 1/n."""
    x = data.double()
    p = torch.cat([log_prob(part) for part in x.split(16384)]).exp()
    at = _rectangle(x, sphere)
    kept: list[tuple[Tensor, Tensor]] = []
    count = len(centres)
    while len(centres) and count < most:
        # each point's cell: cells of one round have one size
        size = 2 * halves[0]
        cell = torch.floor((at - at.new_tensor([-1.0 if sphere else -math.pi, -math.pi])) / size).long()
        mine = torch.round(
            (centres - at.new_tensor([-1.0 if sphere else -math.pi, -math.pi])) / size - 0.5
        ).long()
        width = int(round(2 * math.pi / float(size[1]))) + 1
        heavy = p * float(size.prod()) > 1 / len(x)
        keys = (cell[:, 0] * width + cell[:, 1])[heavy].unique()
        divide = torch.isin(mine[:, 0] * width + mine[:, 1], keys)
        kept.append((centres[~divide], halves[~divide]))
        centres, halves = divided(centres[divide], halves[divide])
        count += 3 * int(divide.sum())
        at, p = at[heavy], p[heavy]
        if not len(at):
            break
    kept.append((centres, halves))
    return torch.cat([c for c, _ in kept]), torch.cat([h for _, h in kept])
