r"""Moves that leave :math:`e^{-H}` invariant, for all chains in lockstep.

:func:`nuts` is multinomial NUTS [1] with Stan's additional sub-tree checks: on a closed geodesic the two ends
alone can point the same way after a full turn. Trees are built leaf by leaf (no recursion), so that every
gradient evaluation serves all chains whose trees still grow. Chains that have stopped are left out of the
batch, or masked where a compiled function needs its shape; either way every chain has its own random numbers, so
the draws are the same.

[1] Betancourt, *A conceptual introduction to Hamiltonian Monte Carlo*, 2017, app. A.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .integrators import geodesic_leapfrog
from .systems import State, System
from .trees import MAX_ENERGY_ERROR, Path, Tree, advance, begin, join, leaf, open_blocks, refused

__all__ = ["TransitionResult", "hmc", "hmc_inputs", "hmc_step", "isometry_jump", "nuts"]


@dataclass
class TransitionResult:
    """The new state, and per chain: mean acceptance statistic, divergence, leapfrog steps taken."""

    state: State
    accept_prob: Tensor
    diverging: Tensor
    steps: Tensor


def _noise(system: System, like: Tensor) -> Tensor:
    return torch.randn(len(like), system.size, dtype=like.dtype, device=like.device)


def _log_uniform(count: int, like: Tensor) -> Tensor:
    return torch.rand(count, len(like), dtype=like.dtype, device=like.device).log()


def nuts(
    system: System, state: State, step_size: float, max_depth: int = 10, early: float = 0.0
) -> TransitionResult:
    """One multinomial NUTS transition for every chain; the momenta are drawn anew.

    :param float early: c >= 0; paths end where the direction at either end has less than c times the path's mean
        direction along it. 0 is the U-turn criterion; any c leaves the density invariant.
    """
    table, compiled = state.table, system.compiled
    inputs = table, _noise(system, table), _log_uniform(1, table)[0], table.new_tensor(step_size)
    if compiled is not None and compiled.serves(advance, state, max_depth):
        out, figures = _masked(compiled, compiled.run(begin, *inputs), max_depth, table.new_tensor(early))
    else:
        out, figures = _selected(system, begin(system, *inputs), max_depth, early or None)
    accept, steps, diverging = figures.unbind(-1)
    return TransitionResult(State(system, out), accept / steps.clamp(min=1), diverging > 0, steps.long())


def _masked(compiled: Any, begun: tuple[Tensor, ...], max_depth: int, early: Tensor) -> tuple[Tensor, Tensor]:
    """The chosen states, and summed acceptance, steps and divergence, by one compiled call a leaf and one look at its
    results."""
    edge, step, tree, path = begun
    width = edge.shape[-1]
    blocks = open_blocks(Tree.of(tree, width).total, compiled.depth)
    at = torch.tensor([0, 1], device=edge.device)
    for depth in range(max_depth):
        log_u = _log_uniform(2**depth + 2, edge)
        for i in range(2**depth):
            edge, step, tree, blocks, path, at, growing = compiled.run(
                advance, edge, step, tree, blocks, path, at, log_u[i : i + 3], early
            )
            if not bool(growing):
                break
        else:
            continue
        break
    return path[:, 2 * width : 3 * width].contiguous(), tree[:, -3:]


def _selected(
    system: System, begun: tuple[Tensor, ...], max_depth: int, early: float | None
) -> tuple[Tensor, Tensor]:
    """The same with the rows alone whose trees still grow."""
    edge, step, tree, path = begun
    width, rows = edge.shape[-1], torch.arange(len(edge), device=edge.device)
    t, p = Tree.of(tree, width), Path.of(path, width)
    out, figures = p.chosen.clone(), tree[:, -3:].clone()
    n = len(out)

    def growing() -> Tensor:
        return t.grows.squeeze(-1).nonzero().squeeze(-1)

    for depth in range(max_depth):
        log_u, live = _log_uniform(2**depth + 2, out), None
        blocks = open_blocks(t.total, depth + 1)
        for i in range(2**depth):
            u = log_u[i] if len(rows) == n else log_u[i, rows]
            edge, t, blocks = leaf(system, edge, step, t, blocks, i, u, early, rows)
            keep = growing()
            if len(keep) < len(rows):
                figures[rows] = torch.cat(t[-3:], -1)
                if not len(keep):
                    return out, figures
                live = keep if live is None else live[keep]
                rows, edge, step, blocks = rows[keep], edge[keep], step[keep], blocks[:, :, keep]
                t = Tree(*(x[keep] for x in t))
        p = p if live is None else Path(*(x[live] for x in p))
        u = log_u[-2:] if len(rows) == n else log_u[-2:, rows]
        edge, step, t, p = join(edge, step, t, p, 2**depth, u[0], u[1], early)
        out[rows], keep = p.chosen, growing()
        if len(keep) < len(rows):
            figures[rows] = torch.cat(t[-3:], -1)
            if not len(keep):
                return out, figures
            rows, edge, step = rows[keep], edge[keep], step[keep]
            t, p = Tree(*(x[keep] for x in t)), Path(*(x[keep] for x in p))
    figures[rows] = torch.cat(t[-3:], -1)
    return out, figures


# --- HMC ----------------------------------------------------------------------------------------------------
def hmc_begin(system: System, table: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """States with new momenta; of each its energy, is it lost, has it diverged, its energy's error."""
    state = State(system, table)
    state = state.with_momentum(system.draw(state.z, noise))
    energy = state.energy().unsqueeze(-1)
    return state.table, torch.cat([energy, torch.zeros_like(energy).expand(-1, 3)], -1)


def hmc_step(
    system: System, table: Tensor, step: Tensor, start: Tensor, numbers: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of all; states, numbers as above and how many chains are not lost."""
    energy, lost, diverging, _ = numbers.split(1, -1)
    at = torch.where(lost > 0, start, table)  # those that are lost stand still, where the density is finite
    new = geodesic_leapfrog(system, State(system, at), step * (1 - lost))
    error = new.energy().unsqueeze(-1) - energy
    bad = ~(error <= MAX_ENERGY_ERROR)
    struck = bad & ~refused(new).unsqueeze(-1) if system.may_refuse else bad
    diverging = torch.maximum(diverging, struck * (1 - lost))
    lost = torch.maximum(lost, bad.to(lost))
    error = torch.where(lost > 0, torch.inf, error)
    return new.table, torch.cat([energy, lost, diverging, error], -1), (1 - lost).sum()


def hmc_inputs(system: System, table: Tensor, depth: int) -> tuple[Tensor, ...]:
    """Other arguments of :func:`hmc_step`, to take a step from anywhere."""
    return table, table.new_zeros(len(table), 4)


def _run(system: System, f: Callable[..., Any], *inputs: Any) -> Any:
    return f(system, *inputs)


def hmc(
    system: System,
    state: State,
    step_size: float,
    count: int,
    record: Callable[[int, State, Tensor], None] | None = None,
) -> TransitionResult:
    """A trajectory of ``count`` steps, all chains alike, then Metropolis; ``record(i, state, error)`` sees
    every step."""
    compiled = system.compiled
    if compiled is not None and compiled.serves(hmc_step, state):
        run = compiled.run
    else:
        run = partial(_run, system)
    start, numbers = run(hmc_begin, state.table, _noise(system, state.table))
    new, step = start, start.new_full((len(start), 1), step_size)
    if record is not None:
        record(0, State(system, start), numbers[:, 3])
    for i in range(count):
        new, numbers, going = run(hmc_step, new, step, start, numbers)
        if record is not None:
            seen = torch.where(numbers[:, 1:2] > 0, start, new)
            record(i + 1, State(system, seen), numbers[:, 3])
        if not bool(going):
            break
    prob = (-numbers[:, 3]).exp().clamp(max=1.0)
    table = torch.where((torch.rand_like(prob) < prob).unsqueeze(-1), new, start)
    steps = torch.full_like(prob, i + 1, dtype=torch.long)
    return TransitionResult(State(system, table), prob, numbers[:, 2] > 0, steps)


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
