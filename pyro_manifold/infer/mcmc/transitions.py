r"""Moves that leave :math:`e^{-H}` invariant, for all chains in lockstep.

:func:`nuts` is multinomial NUTS [1] with Stan's additional sub-tree checks: on a closed geodesic the two ends
alone can point the same way after a full turn. Trees are built leaf by leaf (no recursion), so that every
gradient evaluation serves all chains whose trees still grow; chains that have stopped are left out of the
batch. Of a sub-tree only the ends of its open blocks are kept, so memory grows with its depth, not its leaves
[2].

[1] Betancourt, *A conceptual introduction to Hamiltonian Monte Carlo*, 2017, app. A. [2] Phan & Pradhan,
*Iterative NUTS*, 2019.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .integrators import geodesic_leapfrog
from .systems import State, System

__all__ = ["TransitionResult", "hmc", "isometry_jump", "nuts"]

MAX_ENERGY_ERROR = 1000.0


@dataclass
class TransitionResult:
    """The new state, and per chain: mean acceptance statistic, divergence, leapfrog steps taken."""

    state: State
    accept_prob: Tensor
    diverging: Tensor
    steps: Tensor


def _refused(state: State) -> Tensor:
    """Chains whose step a constrained motion refused: rejected, but no divergence."""
    return state.w.isnan().any(-1) & state.grad.isfinite().all(-1)


def _turning(rho: Tensor, first: Tensor, last: Tensor, early: Tensor | float = 0.0) -> Tensor:
    """Would going on at either end bring the ends together? (rho: sum of the directions between them, ends
    included)

    With ``early``: is the direction at either end, along the path, less than this multiple of the path's own vector?
    """
    mid = rho - 0.5 * (first + last)
    ahead = torch.minimum((first * mid).sum(-1), (last * mid).sum(-1))
    return ahead <= (early * mid.square().sum(-1) if isinstance(early, Tensor) else 0.0)


def _joined_turning(
    sum1: Tensor, a: Tensor, b: Tensor, sum2: Tensor, c: Tensor, d: Tensor, half: int, early: float
) -> Tensor:
    """Is a path made of two parts of ``half`` points each, with ends a, b and c, d, turning, as a whole or across its
    joint?"""
    rho = torch.stack([sum1 + sum2, sum1 + c, sum2 + b])
    steps = early and early / rho.new_tensor([[2 * half - 1], [half], [half]])
    return _turning(rho, torch.stack([a, a, b]), torch.stack([d, c, d]), steps).any(0)


class _Blocks:
    """The open aligned blocks of a sub-tree: direction and running sum at their starts, direction at the end
    of first halves."""

    def __init__(self, depth: int, early: float) -> None:
        self.early = early
        self.start: list[Tensor] = [torch.empty(0)] * (depth + 1)
        self.before: list[Tensor] = [torch.empty(0)] * (depth + 1)
        self.end: list[Tensor] = [torch.empty(0)] * (depth + 1)

    def add(self, i: int, e: Tensor, total: Tensor) -> Tensor | None:
        """Leaf ``i`` with direction ``e``, after which the directions sum to ``total``; which chains have
        turned?"""
        level, turned = 0, None
        while level < len(self.start) and i % (1 << level) == 0:
            self.start[level], self.before[level] = e, total - e
            level += 1
        level = 0
        while level < len(self.start) and (i + 1) % (1 << level) == 0:
            if level:
                mid = self.before[level - 1]
                turn = _joined_turning(
                    mid - self.before[level],
                    self.start[level],
                    self.end[level - 1],
                    total - mid,
                    self.start[level - 1],
                    e,
                    1 << (level - 1),
                    self.early,
                )
                turned = turn if turned is None else turned | turn
            if ((i + 1) >> level) % 2:
                self.end[level] = e
            level += 1
        return turned

    def keep(self, rows: Tensor) -> None:
        for part in (self.start, self.before, self.end):
            part[:] = [x[rows] if x.numel() else x for x in part]


def nuts(
    system: System, state: State, step_size: float, max_depth: int = 10, early: float = 0.0
) -> TransitionResult:
    """One multinomial NUTS transition for every chain; the momenta are drawn anew.

    :param float early: c >= 0; paths end where the direction at either end has less than c times the path's mean
        direction along it. 0 is the U-turn criterion; any c leaves the density invariant.
    """
    state = state.with_momentum(system.draw(state.z))
    h = h0 = state.energy()  # h: of the chains still growing
    n, device = len(h0), h0.device
    out = state.table.clone()
    left = right = state
    e_left = e_right = rho = system.direction(state)
    weight = torch.zeros_like(h0)  # log of the trajectory's total weight relative to the start
    rows = torch.arange(n, device=device)  # chains whose trees grow
    diverging = torch.zeros(n, dtype=torch.bool, device=device)
    accept, steps = torch.zeros_like(h0), torch.zeros(n, dtype=torch.long, device=device)

    for depth in range(max_depth):
        # a sub-tree of 2**depth leaves; ``live``: indices into ``rows`` of the chains that neither turned nor
        # diverged in it
        forward = torch.rand(len(rows), device=device) < 0.5
        live, edge, sign = (
            torch.arange(len(rows), device=device),
            right.where(forward, left),
            2.0 * forward.to(h0) - 1.0,
        )
        step = (step_size * sign).unsqueeze(-1)
        blocks, sub_weight, chosen = _Blocks(depth, early), torch.full_like(h, -torch.inf), edge
        total, first, e = torch.zeros_like(rho), rho, rho
        ids, energy = rows, h
        for i in range(2**depth):
            edge = geodesic_leapfrog(system, edge, step, ids)
            error = edge.energy() - energy
            bad = ~(error <= MAX_ENERGY_ERROR)
            accept.index_add_(0, ids, (-error).exp().clamp(max=1.0).nan_to_num(0.0))
            steps.index_add_(0, ids, torch.ones_like(ids))
            # multinomial choice within the sub-tree
            lighter = torch.where(bad, -torch.inf, -error)
            sub_weight = torch.logaddexp(sub_weight, lighter)
            chosen = edge.where(torch.rand_like(error).log() < lighter - sub_weight, chosen)
            e = system.direction(edge)
            total = total + e
            first = e if i == 0 else first
            turned = blocks.add(i, e, total)
            stop = bad if turned is None else bad | turned
            if bool(stop.any()):
                diverging[ids[bad & ~_refused(edge)]] = True
                keep = (~stop).nonzero().squeeze(-1)
                if not len(keep):
                    live = live[keep]
                    break
                blocks.keep(keep)
                live, edge, chosen, step = live[keep], edge.take(keep), chosen.take(keep), step[keep]
                total, first, e, sub_weight, ids, energy = (
                    x[keep] for x in (total, first, e, sub_weight, ids, energy)
                )
        if not len(live):
            break
        # a whole sub-tree joins the trajectory; its choice replaces the old one with the ratio of the weights
        if len(live) < len(rows):
            left, right = left.take(live), right.take(live)
            e_left, e_right, rho, weight, forward, rows, h = (
                x[live] for x in (e_left, e_right, rho, weight, forward, rows, h)
            )
        swap = torch.rand_like(weight).log() < sub_weight - weight
        out[rows] = torch.where(swap.unsqueeze(-1), chosen.table, out[rows])
        weight = torch.logaddexp(weight, sub_weight)
        ahead = forward.unsqueeze(-1)
        far, near = torch.where(ahead, e_left, e_right), torch.where(ahead, e_right, e_left)
        turn = _joined_turning(rho, far, near, total, first, e, 2**depth, early)
        right, left = edge.where(forward, right), left.where(forward, edge)
        e_right, e_left, rho = torch.where(ahead, e, e_right), torch.where(ahead, e_left, e), rho + total
        if bool(turn.any()):
            keep = (~turn).nonzero().squeeze(-1)
            if not len(keep):
                break
            left, right = left.take(keep), right.take(keep)
            e_left, e_right, rho, weight, rows, h = (x[keep] for x in (e_left, e_right, rho, weight, rows, h))
    return TransitionResult(State(system, out), accept / steps.clamp(min=1), diverging, steps)


def hmc(
    system: System,
    state: State,
    step_size: float,
    count: int,
    record: Callable[[int, State, Tensor], None] | None = None,
) -> TransitionResult:
    """A trajectory of ``count`` steps, all chains alike, then Metropolis; ``record(i, state, error)`` sees
    every step."""
    state = state.with_momentum(system.draw(state.z))
    h0 = state.energy()
    if record is not None:
        record(0, state, torch.zeros_like(h0))
    step, new, lost = h0.new_full((len(h0), 1), step_size), state, torch.zeros_like(h0, dtype=torch.bool)
    diverging = lost
    for i in range(count):
        new = geodesic_leapfrog(system, new, step)
        error = new.energy() - h0
        bad = ~(error <= MAX_ENERGY_ERROR)
        if bool(bad.any()):  # such a chain stays where it was, and what it computes from there is not used
            lost, diverging = lost | bad, diverging | (bad & ~lost & ~_refused(new))
            new = state.where(lost, new)
        error = torch.where(lost, torch.inf, error)
        if record is not None:
            record(i + 1, new, error)
        if bool(lost.all()):
            break
    prob = (-error).exp().clamp(max=1.0)
    state = new.where(torch.rand_like(prob) < prob, state)
    return TransitionResult(state, prob, diverging, torch.full_like(h0, i + 1, dtype=torch.long))


def isometry_jump(system: System, state: State, name: str, isometry: Callable[[Tensor], Tensor]) -> State:
    """A Gibbs draw between a point and its image under an isometry that is its own inverse.

    (Metropolis would accept every proposal, and alternate for ever, where both are equally likely.) For a
    site with several points, one of them, drawn at random, is moved.
    """
    z = state.z
    site = next(s for s in system.sites if s.name == name)
    moved = isometry(z[name])
    if site.points.numel() > 1:
        n, device = len(moved), moved.device
        pick = torch.randint(site.points.numel(), (n, 1), device=device) == torch.arange(
            site.points.numel(), device=device
        )
        pick = pick.reshape((n,) + site.points + (1,) * (moved.dim() - 1 - len(site.points)))
        moved = torch.where(pick, moved, z[name])
    new = system.state({**z, name: moved})
    log_ratio = (state.potential - new.potential).nan_to_num(-torch.inf, neginf=-torch.inf)
    return new.where(torch.rand_like(log_ratio) < log_ratio.sigmoid(), state)
