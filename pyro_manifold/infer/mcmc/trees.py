r"""The trees of NUTS as functions of tables, one row per chain: a leaf, and the join of a whole sub-tree.

A path with ends :math:`l, r` is doubled by a sub-tree of as many leaves, beyond either end; of its leaves z one is
chosen with the weights :math:`e^{-H(z)}` [1]. Chains whose path has ended stay in the tables, stand still and are
masked, so that shapes are fixed and the functions can be compiled; or the caller leaves them out. Of a sub-tree
only the ends of its open blocks of :math:`2^k` leaves are kept, in slots by k: memory grows with its depth [2].

[1] Betancourt, *A conceptual introduction to Hamiltonian Monte Carlo*, 2017, app. A. [2] Phan & Pradhan,
*Iterative NUTS*, 2019.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .integrators import geodesic_leapfrog
from .systems import State, System

__all__ = [
    "MAX_ENERGY_ERROR",
    "Path",
    "Tree",
    "advance",
    "advance_inputs",
    "begin",
    "join",
    "leaf",
    "open_blocks",
    "refused",
]

MAX_ENERGY_ERROR = 1000.0


class Path(NamedTuple):
    """States at both ends and the chosen one, directions at the ends and their sum over the path, log of its weight
    relative to the start."""

    left: Tensor
    right: Tensor
    chosen: Tensor
    e_left: Tensor
    e_right: Tensor
    total: Tensor
    weight: Tensor

    @classmethod
    def of(cls, table: Tensor, width: int) -> "Path":
        d = (table.shape[-1] - 3 * width - 1) // 3
        return cls(*table.split([width] * 3 + [d] * 3 + [1], -1))


class Tree(NamedTuple):
    """Of a sub-tree: the chosen state, its first and last direction and the sum of all, log of its weight relative to
    the start, whose energy is kept; 1 while it grows, then 0. Of the whole transition: summed acceptance probability,
    leaves, 1 for a divergence."""

    chosen: Tensor
    first: Tensor
    last: Tensor
    total: Tensor
    weight: Tensor
    energy: Tensor
    grows: Tensor
    accept: Tensor
    steps: Tensor
    diverging: Tensor

    @classmethod
    def of(cls, table: Tensor, width: int) -> "Tree":
        d = (table.shape[-1] - width - 6) // 3
        return cls(*table.split([width] + [d] * 3 + [1] * 6, -1))


def refused(state: State) -> Tensor:
    """Chains whose step a constrained motion refused: rejected, but no divergence."""
    return state.w.isnan().any(-1) & state.grad.isfinite().all(-1)


# --- U-turns ------------------------------------------------------------------------------------------------
def _turning(
    sum1: Tensor, a: Tensor, b: Tensor, sum2: Tensor, c: Tensor, d: Tensor, half: Any, early: Any
) -> Tensor:
    """Is a path made of two parts of ``half`` points, whose directions begin with a and c, end with b and d and have
    these sums, turning: as a whole, or the first with the next point, or the second with the one before?

    It is, if going on at either end would bring its ends together; with ``early`` if the direction at either end, along
    the path, is less than this multiple of the path's mean direction.
    """
    # the points at the ends count half
    paths = (sum1 + sum2 - 0.5 * (a + d), a, d), (sum1 + 0.5 * (c - a), a, c), (sum2 + 0.5 * (b - d), b, d)
    turning = []
    for (path, first, last), steps in zip(paths, (2 * half - 1, half, half), strict=True):
        ahead = torch.minimum((path * first).sum(-1), (path * last).sum(-1))
        turning.append(ahead <= (0.0 if early is None else early / steps * path.square().sum(-1)))
    return turning[0] | turning[1] | turning[2]


def open_blocks(like: Tensor, levels: int) -> Tensor:
    """Room for the open blocks of sub-trees of fewer than 2**levels leaves."""
    return like.new_empty(3, levels, *like.shape)


def _with_leaf(
    blocks: Tensor, i: int | Tensor, e: Tensor, before: Tensor, early: Any
) -> tuple[Tensor, Tensor | None]:
    """The blocks with leaf i of direction e, before which the directions sum to ``before``; which chains have turned
    (None: no block ends here)?

    (3, levels, rows, ...): of blocks of 2**k leaves the direction at the start of the open one, the sum before it, and
    the direction at the end of the last that is a first half. A number i changes slots in place, a tensor masks them.
    """
    levels = blocks.shape[1]
    mask: Any = True
    if isinstance(i, int):
        opened, closed = _factors_of_two(i, levels - 1), _factors_of_two(i + 1, levels - 1)
        blocks[0, : opened + 1], blocks[1, : opened + 1], blocks[2, closed] = e, before, e
        if not closed:
            return blocks, None
        first, sums, end = blocks[:, : closed + 1]
    else:
        k = torch.arange(levels, device=e.device)
        opens, closes = (i >> k) << k == i, ((i + 1) >> k) << k == i + 1
        masks = torch.stack([opens, opens, closes & (((i + 1) >> k) % 2 == 1)]).reshape(3, levels, 1, 1)
        blocks = torch.where(masks, torch.stack([e, before, e]).unsqueeze(1), blocks)
        (first, sums, end), mask, closed = blocks, closes[1:, None], levels - 1
    # the blocks of 2, 4, ... leaves that end here
    half = 0 if early is None else (1 << torch.arange(closed, device=e.device)).unsqueeze(-1)
    mid = sums[:-1]
    turned = _turning(mid - sums[1:], first[1:], end[:-1], before + e - mid, first[:-1], e, half, early)
    return blocks, (turned if mask is True else turned & mask).any(0)


def _factors_of_two(i: int, most: int) -> int:
    return min(most, (i & -i).bit_length() - 1) if i else most


# --- transitions --------------------------------------------------------------------------------------------
def begin(
    system: System, table: Tensor, noise: Tensor, log_u: Tensor, size: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Paths of one point with a new momentum, and the first sub-trees: edge, signed step, tree and path."""
    state = State(system, table)
    state = state.with_momentum(system.draw(state.z, noise))
    table, e, energy = state.table, system.direction(state), state.energy().unsqueeze(-1)
    zero = torch.zeros_like(energy)
    path = Path(table, table, table, e, e, e, zero)
    edge, step, tree = _branch(
        path, size, Tree(table, e, e, e, zero, energy, zero + 1, zero, zero, zero), log_u
    )
    return edge, step, torch.cat(tree, -1), torch.cat(path, -1)


def _branch(path: Path, size: Tensor, tree: Tree, log_u: Tensor) -> tuple[Tensor, Tensor, Tree]:
    """New sub-trees, beyond either end: edge, signed step, tree."""
    forward, zero = log_u.unsqueeze(-1) < -math.log(2), torch.zeros_like(path.total)
    edge = torch.where(forward, path.right, path.left)
    tree = Tree(path.chosen, zero, zero, zero, torch.full_like(tree.weight, -torch.inf), *tree[5:])
    return edge, torch.where(forward, size, -size), tree


def leaf(
    system: System,
    edge: Tensor,
    step: Tensor,
    t: Tree,
    blocks: Tensor,
    i: int | Tensor,
    log_u: Tensor,
    early: Any,
    chains: Tensor | None = None,
) -> tuple[Tensor, Tree, Tensor]:
    """Leaf i of sub-trees that all grow, one step beyond ``edge``: edge, tree and blocks."""
    new = geodesic_leapfrog(system, State(system, edge), step, chains)
    error = new.energy().unsqueeze(-1) - t.energy
    bad = ~(error <= MAX_ENERGY_ERROR)
    lighter = torch.where(bad, -torch.inf, -error)
    weight = torch.logaddexp(t.weight, lighter)
    e = system.direction(new)
    blocks, turned = _with_leaf(blocks, i, e, t.total, early)
    tree = Tree(
        chosen=torch.where(log_u.unsqueeze(-1) < lighter - weight, new.table, t.chosen),
        first=blocks[0, -1],  # that of the largest block
        last=e,
        total=t.total + e,
        weight=weight,
        energy=t.energy,
        grows=(~(bad if turned is None else bad | turned.unsqueeze(-1))).to(error),
        accept=t.accept + lighter.clamp(max=0.0).exp(),
        steps=t.steps + 1,
        diverging=(bad & ~refused(new).unsqueeze(-1) if system.may_refuse else bad).to(error),
    )
    return new.table, tree, blocks


def join(
    edge: Tensor, step: Tensor, t: Tree, p: Path, leaves: Any, log_u: Tensor, log_v: Tensor, early: Any
) -> tuple[Tensor, Tensor, Tree, Path]:
    """Whole sub-trees join their paths, their choice replacing the old one with the ratio of the weights, and new ones
    are begun: edge, signed step, tree and path."""
    ahead = step > 0
    far, near = torch.where(ahead, p.e_left, p.e_right), torch.where(ahead, p.e_right, p.e_left)
    turned = _turning(p.total, far, near, t.total, t.first, t.last, leaves, early)
    path = Path(
        left=torch.where(ahead, p.left, edge),
        right=torch.where(ahead, edge, p.right),
        chosen=torch.where((log_u.unsqueeze(-1) < t.weight - p.weight) & (t.grows > 0), t.chosen, p.chosen),
        e_left=torch.where(ahead, p.e_left, t.last),
        e_right=torch.where(ahead, t.last, p.e_right),
        total=p.total + t.total,
        weight=torch.logaddexp(p.weight, t.weight),
    )
    return *_branch(path, step.abs(), t._replace(grows=t.grows * ~turned.unsqueeze(-1)), log_v), path


def advance(
    system: System,
    edge: Tensor,
    step: Tensor,
    tree: Tensor,
    blocks: Tensor,
    path: Tensor,
    at: Tensor,
    log_u: Tensor,
    early: Tensor,
) -> tuple[Tensor, ...]:
    """The next leaf, number at[0] of at[1], and after the last one the join: the new values of edge, step, tree,
    blocks, path and at, and how many trees grow; as one function for a compiler."""
    (i, leaves), width = at, edge.shape[-1]
    last, old, p = i + 1 == leaves, Tree.of(tree, width), Path.of(path, width)
    grows = old.grows > 0
    stand = torch.where(grows, edge, old.chosen)  # chains that have ended, where the density is finite
    edge, new, blocks = leaf(system, stand, step * old.grows, old, blocks, i, log_u[0], early)
    t = Tree(*(torch.where(grows, x, y) for x, y in zip(new, old, strict=True)))
    new_edge, new_step, new_t, new_p = join(edge, step, t, p, leaves, log_u[1], log_u[2], early)
    edge, step = torch.where(last, new_edge, edge), torch.where(last, new_step, step)
    t = Tree(*(torch.where(last, x, y) for x, y in zip(new_t, t, strict=True)))
    p = Path(*(torch.where(last, x, y) for x, y in zip(new_p, p, strict=True)))
    at = torch.where(last, torch.stack([0 * i, 2 * leaves]), torch.stack([i + 1, leaves]))
    return edge, step, torch.cat(t, -1), blocks, torch.cat(p, -1), at, t.grows.sum()


def advance_inputs(system: System, table: Tensor, depth: int) -> tuple[Tensor, ...]:
    """Other arguments of :func:`advance`, to take a step from anywhere: a first leaf of trees of at most 2**depth."""
    zero = table.new_zeros(3, len(table))
    _, _, tree, path = begin(system, table, table.new_zeros(len(table), system.size), zero[0], zero[0, 0])
    at = torch.tensor([0, 2], device=table.device)
    return tree, open_blocks(Tree.of(tree, table.shape[-1]).total, depth), path, at, zero, table.new_zeros(())
