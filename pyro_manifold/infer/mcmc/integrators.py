"""How to step."""

import torch
from torch import Tensor

from .systems import State, System

__all__ = ["geodesic_leapfrog"]


def geodesic_leapfrog(system: System, state: State, step: Tensor) -> State:
    r"""Strang splitting :math:`\Phi_1(\epsilon/2)\,\Phi_2(\epsilon)\,\Phi_1(\epsilon/2)`: symplectic, reversible, of order 2.

    :param step: signed step sizes, shape ``(chains, 1)``. The given state is not changed; the new one has an infinite
        potential where anything is not finite.
    """
    half = 0.5 * step
    z, w = system.drift(state.z, system.kick(state.w, state.grad, half), step)
    u, grad = system.evaluate(z)
    w = system.kick(w, grad, half)
    u = torch.where((u + 0 * w.sum(-1)).isfinite(), u, torch.inf)
    return system.pack(z, w, u, grad)
