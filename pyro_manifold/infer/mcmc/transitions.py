r"""Moves that leave :math:`e^{-H}` invariant, for all chains in lockstep.

:func:`nuts` is multinomial NUTS [1] with Stan's additional sub-tree checks: on a closed geodesic the two ends alone can
point the same way after a full turn. Trees are built leaf by leaf (no recursion), so that every gradient evaluation serves
all chains whose trees still grow; chains that have stopped are left out of the batch.

[1] Betancourt, *A conceptual introduction to Hamiltonian Monte Carlo*, 2017, app. A. [2] Phan & Pradhan, iterative NUTS, 2019.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .integrators import geodesic_leapfrog
from .systems import State, System

__all__ = ["Outcome", "hmc", "nuts"]

MAX_ENERGY_ERROR = 1000.0


@dataclass
class Outcome:
    """The new state, and per chain: mean acceptance statistic, divergence, leapfrog steps taken."""

    state: State
    accept_prob: Tensor
    diverging: Tensor
    steps: Tensor


def _turning(rho: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Would going on at either end bring the ends together? (rho: sum of the directions between them, ends included)"""
    mid = rho - 0.5 * (left + right)
    return ((left * mid).sum(-1) <= 0) | ((right * mid).sum(-1) <= 0)


class _Path:
    """Directions along one half of a trajectory, their running sums, and the U-turn checks of every aligned block."""

    def __init__(self, leaves: int, like: Tensor) -> None:
        self.e = like.new_empty((leaves,) + like.shape)
        self.sum = like.new_zeros((leaves + 1,) + like.shape)

    def add(self, i: int, index: Tensor, e: Tensor) -> None:
        self.e[i, index] = e
        self.sum[i + 1, index] = self.sum[i, index] + e

    def block_turns(self, start: int, stop: int, index: Tensor) -> Tensor:
        """Is the block of leaves [start, stop) turning, as a whole or across its middle?"""
        e, s = self.e, self.sum
        mid = (start + stop) // 2
        a, b, c, d = e[start, index], e[mid - 1, index], e[mid, index], e[stop - 1, index]
        first, second = s[mid, index] - s[start, index], s[stop, index] - s[mid, index]
        return _turning(first + second, a, d) | _turning(first + c, a, c) | _turning(second + b, b, d)


def nuts(system: System, state: State, step_size: float, max_depth: int = 10) -> Outcome:
    """One multinomial NUTS transition for every chain; ``state.w`` is drawn anew."""
    n, dev = state.w.shape[0], state.w.device
    state = state.clone()
    state.w = torch.randn_like(state.w)
    h0 = state.energy()
    left, right, chosen = state.clone(), state.clone(), state.clone()
    e0 = system.direction(state)
    e_left, e_right, rho = e0.clone(), e0.clone(), e0.clone()
    weight = torch.zeros_like(h0)  # log of the trajectory's total weight relative to the start
    growing = torch.ones(n, dtype=torch.bool, device=dev)
    diverging = torch.zeros_like(growing)
    accept, steps = torch.zeros_like(h0), torch.zeros(n, dtype=torch.long, device=dev)

    for depth in range(max_depth):
        if not bool(growing.any()):
            break
        leaves = 2**depth
        forward = torch.rand(n, device=dev) < 0.5
        path = _Path(leaves, e0)
        sub_weight = torch.full_like(h0, -torch.inf)
        sub_chosen = state.clone()
        edge = _where(forward, right, left)
        ok = growing.clone()  # sub-tree complete so far, without turn or divergence
        for i in range(leaves):
            index = ok.nonzero().squeeze(-1)
            if not len(index):
                break
            sign = torch.where(forward[index], step_size, -step_size).to(h0.dtype).unsqueeze(-1)
            leaf = geodesic_leapfrog(system, edge.take(index), sign)
            edge.put(index, leaf)
            error = leaf.energy() - h0[index]
            bad = ~(error <= MAX_ENERGY_ERROR)
            diverging[index] |= bad
            accept[index] += (-error).exp().clamp(max=1.0).nan_to_num(0.0)
            steps[index] += 1
            # multinomial choice within the sub-tree
            new = torch.where(bad, -torch.inf, -error)
            total = torch.logaddexp(sub_weight[index], new)
            take = torch.rand_like(new).log() < new - total
            sub_chosen.put(index, leaf, take & ~bad)
            sub_weight[index] = total
            path.add(i, index, system.direction(leaf))
            turn = bad
            size = 2
            while (i + 1) % size == 0 and size <= leaves:
                turn = turn | path.block_turns(i + 1 - size, i + 1, index)
                size *= 2
            ok[index] = ~turn
        # a whole sub-tree joins the trajectory; its choice replaces the old one with the ratio of the weights
        done = ok.nonzero().squeeze(-1)
        swap = torch.rand(len(done), device=dev, dtype=h0.dtype).log() < sub_weight[done] - weight[done]
        chosen.put(done, sub_chosen.take(done), swap)
        weight[done] = torch.logaddexp(weight[done], sub_weight[done])
        fwd = forward[done]
        right.put(done, edge.take(done), fwd)
        left.put(done, edge.take(done), ~fwd)
        # U-turn of the whole and across the joint, oriented from left to right
        old, new_sum = rho[done], path.sum[leaves, done]
        first, last = path.e[0, done], path.e[leaves - 1, done]
        near, far = torch.where(fwd[:, None], e_right[done], e_left[done]), torch.where(fwd[:, None], e_left[done], e_right[done])
        turn = _turning(old + new_sum, far, last) | _turning(old + first, far, first) | _turning(new_sum + near, near, last)
        rho[done] = old + new_sum
        e_right[done] = torch.where(fwd[:, None], last, e_right[done])
        e_left[done] = torch.where(fwd[:, None], e_left[done], last)
        growing = torch.zeros_like(growing)
        growing[done] = ~turn
    chosen.w = state.w
    return Outcome(chosen, accept / steps.clamp(min=1), diverging, steps)


def _where(mask: Tensor, a: State, b: State) -> State:
    out = b.clone()
    out.put(mask.nonzero().squeeze(-1), a.take(mask.nonzero().squeeze(-1)))
    return out


def hmc(system: System, state: State, step_size: float, length: float, jitter: float = 0.5, max_steps: int = 1024) -> Outcome:
    r"""A trajectory of length uniform on :math:`[1-j, 1+j]` times ``length`` (one draw for all chains), then Metropolis."""
    n, dev = state.w.shape[0], state.w.device
    state = state.clone()
    state.w = torch.randn_like(state.w)
    h0 = state.energy()
    factor = 1 + jitter * (2 * float(torch.rand(())) - 1)
    count = max(1, min(max_steps, round(factor * length / step_size)))
    step = torch.full((n, 1), step_size, dtype=state.w.dtype, device=dev)
    step = step * (1 - 2 * (torch.rand(n, 1, device=dev) < 0.5))
    new = state
    for _ in range(count):
        new = geodesic_leapfrog(system, new, step)
    error = new.energy() - h0
    prob = (-error).exp().clamp(max=1.0).nan_to_num(0.0)
    accepted = torch.rand_like(prob) < prob
    index = torch.arange(n, device=dev)
    state.put(index, new, accepted)
    return Outcome(state, prob, ~(error <= MAX_ENERGY_ERROR), torch.full((n,), count, device=dev))
