"""How to step."""

import torch
from torch import Tensor

from .systems import State, System

__all__ = ["geodesic_leapfrog"]


def geodesic_leapfrog(system: System, state: State, step: Tensor) -> State:
    r"""Strang splitting :math:`\Phi_1(\epsilon/2)\,\Phi_2(\epsilon)\,\Phi_1(\epsilon/2)`: symplectic, reversible, of order 2.

    :param step: signed step sizes, shape ``(chains, 1)``. The given state is not changed.
    """
    w = system.kick(state, 0.5 * step)
    z, w = system.drift(state.z, w, step)
    u, grad = system.evaluate(z)
    new = State(z, w, u, grad)
    new.w = system.kick(new, 0.5 * step)
    bad = ~(new.potential.isfinite() & new.w.isfinite().all(-1))
    new.potential = torch.where(bad, torch.inf, new.potential)
    return new
