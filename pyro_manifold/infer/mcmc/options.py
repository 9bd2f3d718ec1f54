"""What the arguments of a geodesic kernel must be."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Isometry", "check_options", "isometries_of"]

Isometry = Callable[[Tensor], Tensor]
ISOMETRIES: dict[str, Isometry] = {"antipode": torch.neg, "quaternion sign": torch.neg}  # x -> -x: axes, unit quaternions


def isometries_of(given: Mapping[str, str | Isometry] | None) -> dict[str, Isometry]:
    """Functions by site; those that have a name may be given by it."""
    out: dict[str, Isometry] = {}
    for site, f in (given or {}).items():
        if isinstance(f, str) and f not in ISOMETRIES:
            raise ValueError(f"isometries: got {f!r} for {site!r}, expected one of {sorted(ISOMETRIES)} or a function.")
        out[site] = ISOMETRIES[f] if isinstance(f, str) else f
    return out


def check_options(
    *, model: Any, potential_fn: Any, manifolds: Any, chains: int, step_size: float, trajectory_length: float | None,
    full_mass: bool, target_accept_prob: float, vectorize: str, jit_compile: bool,
) -> None:  # fmt: skip
    """
    :raises ValueError: naming the argument, what was given and what to do.
    """
    if jit_compile:
        raise ValueError(
            "jit_compile: not supported here; run many chains in one kernel instead: chains=64 (one gradient for all)."
        )
    if chains < 1:
        raise ValueError(f"chains: got {chains}, expected at least 1.")
    if vectorize not in ("auto", "plates", "vmap", "loop"):
        raise ValueError(f"vectorize: got {vectorize!r}, expected 'auto', 'plates', 'vmap' or 'loop'.")
    if not isinstance(full_mass, bool):
        raise ValueError(f"full_mass: got {full_mass!r}, expected True or False (one block for all ordinary sites).")
    if (model is None) == (potential_fn is None):
        raise ValueError("model: give exactly one of model and potential_fn.")
    if model is not None and manifolds:
        raise ValueError("manifolds: only with potential_fn; a model's sites say where they live.")
    if not 0 < target_accept_prob < 1:
        raise ValueError(f"target_accept_prob: got {target_accept_prob}, expected a number between 0 and 1, e.g. 0.8.")
    for name, size in (("step_size", step_size), ("trajectory_length", trajectory_length)):
        if size is not None and not (0 < size < math.inf):
            raise ValueError(f"{name}: got {size}, expected a positive finite number.")
