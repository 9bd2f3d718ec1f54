"""What :func:`~pyro_manifold.training.fit_md` may be given, and what it says of anything else."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..ops.checks import check_all

__all__ = ["check_rows", "check_settings", "pair", "ratio_rows"]


def pair(value: Any) -> tuple[Any, Any]:
    """A setting for both phases, or for each."""
    return value if isinstance(value, tuple) else (value, value)


def check_settings(
    pairs: dict[str, Any], shares: dict[str, float], deltas: dict[str, float], weights: dict[str, float]
) -> None:
    """Counts, rates, shares, distances and weights that make sense, by name."""
    phases = "for both phases or a pair of them"
    known: dict[str, Any] = {
        "epochs": (int, lambda v: v >= 0, f"whole numbers of passes, at least 0, {phases}"),
        "seconds": ((int, float), lambda v: v > 0, f"positive seconds, {phases}"),
        "lr": ((int, float), lambda v: 0 < v < math.inf, f"positive finite learning rates, {phases}"),
    }
    for name, value in pairs.items():
        kind, fits, expected = known[name]
        given = [v for v in pair(value) if not (v is None and name == "epochs")]
        if len(pair(value)) != 2 or not all(
            isinstance(v, kind) and not isinstance(v, bool) and fits(v) for v in given
        ):
            raise ValueError(f"{name}: got {value!r}; expected {expected}.")
    for expected, values, good in (
        ("a share in [0, 1]", shares, lambda v: 0 <= v <= 1),
        ("a positive distance", deltas, lambda v: v > 0),
        ("a finite number of at least 0", weights, lambda v: 0 <= v < math.inf),
    ):
        for name, value in values.items():
            if not good(value):
                raise ValueError(f"{name}: got {value}; expected {expected}.")


def check_rows(
    x: Tensor, context: Tensor | None, score: Tensor | None, flow: nn.Module | None = None
) -> None:
    """One row of everything for each of x, all of them finite and of the flow's dtype and device."""
    own = None if flow is None else next((p for p in flow.parameters()), None)
    if flow is not None and not any(p.requires_grad for p in flow.parameters()):
        raise ValueError(
            "flow: none of its parameters requires a gradient; flow.requires_grad_() lets them be trained."
        )
    for name, t in (("x", x), ("context", context), ("score", score)):
        if t is None:
            continue
        if not isinstance(t, Tensor):
            raise ValueError(
                f"{name}: got {type(t).__name__}; expected a tensor, as torch.as_tensor makes it."
            )
        if t.dim() != 2 or len(t) != len(x):
            raise ValueError(
                f"{name}: got shape {tuple(t.shape)}; expected ({len(x)}, size), one row for each of x."
            )
        wanted = (torch.get_default_dtype(), x.device) if own is None else (own.dtype, own.device)
        if not t.is_floating_point() or (own is not None and (t.dtype, t.device) != wanted):
            raise ValueError(
                f"{name}: got {t.dtype} on {t.device}; the flow's parameters are {wanted[0]} on {wanted[1]}. "
                "Convert one of them by .to(...)."
            )
        check_all(t.isfinite().all(-1), name, t, "finite rows", "Remove or impute them.")
    if len(x) < 2 or not bool((x != x[0]).any()):
        raise ValueError(
            f"x: got shape {tuple(x.shape)}, all rows equal; expected at least two different rows."
        )
    if score is not None and (context is None or score.shape != context.shape):
        raise ValueError("score: expected the shape of context, one derivative for each of its numbers.")


def ratio_rows(
    ratio: tuple[Tensor, Tensor] | None, context: Tensor | None
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Contexts (rows, m, k) and log ratios (rows, m)."""
    if ratio is None:
        return None, None
    other, log_ratio = ratio
    shape = tuple(other.shape), tuple(log_ratio.shape)
    other, log_ratio = (
        (other.unsqueeze(1), log_ratio.unsqueeze(1)) if log_ratio.dim() == 1 else (other, log_ratio)
    )
    if (
        context is None
        or other.shape != (len(context), log_ratio.shape[1], context.shape[1])
        or len(log_ratio) != len(context)
    ):
        raise ValueError(
            f"ratio: got shapes {shape[0]} and {shape[1]}; expected (rows, m, size of context) and (rows, m)."
        )
    for t in (other, log_ratio):
        check_all(
            t.isfinite().flatten(1).all(-1),
            "ratio",
            t,
            "finite rows",
            "Leave out events that some context excludes.",
        )
    return other, log_ratio
