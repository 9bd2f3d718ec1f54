"""The leapfrog integrator, and the search for a first step size."""

import torch
from torch import Tensor

from .errors import StepSizeError
from .systems import State, System

__all__ = ["first_step_size", "geodesic_leapfrog"]


def geodesic_leapfrog(system: System, state: State, step: Tensor, chains: Tensor | None = None) -> State:
    r"""Strang splitting :math:`\Phi_1(\epsilon/2)\,\Phi_2(\epsilon)\,\Phi_1(\epsilon/2)`: symplectic,
    reversible, of order 2.

    :param step: signed step sizes, one for each row. The given state is not changed; the new one has an
        infinite potential where anything is not finite.
    :param chains: those that the rows of the state are; all of them if omitted.
    """
    if system.compiled is not None and (new := system.compiled.leapfrog(state, step)) is not None:
        return new
    half = 0.5 * step
    z, w = system.drift(state.z, system.kick(state.w, state.grad, half), step, chains)
    u, grad = system.evaluate(z)
    w = system.kick(w, grad, half)
    u = torch.where((u + 0 * w.sum(-1)).isfinite(), u, torch.inf)
    return system.pack(z, w, u, grad)


def first_step_size(system: System, at: State, size: float, bounds: tuple[float, float]) -> tuple[float, int]:
    """Double or halve until the mean acceptance probability of one step crosses 0.8 (Hoffman & Gelman 2014,
    alg. 4); and trials.

    :raises StepSizeError: when no step is accepted.
    """
    cap, trials = system.step_cap(), 0

    def good(size: float) -> bool:
        nonlocal trials
        trials += 1
        state = at.with_momentum(system.draw(at.z))
        error = (
            geodesic_leapfrog(system, state, state.potential.new_full((len(state.w), 1), size)).energy()
            - state.energy()
        )
        return float((-error).exp().clamp(max=1).nan_to_num(0).mean()) > 0.8

    up = good(size)
    while bounds[0] < size < bounds[1]:
        size = min(size * 2, cap) if up else size / 2
        if size >= cap or good(size) != up:
            return size, trials
    if up:  # a flat density on a manifold without bound
        return size, trials
    raise StepSizeError(
        f"no step size down to {size:.1e} is accepted from the start: is the log density discontinuous or "
        "its gradient wrong there? Check the model, or start elsewhere (init_strategy, initial_params)."
    )
