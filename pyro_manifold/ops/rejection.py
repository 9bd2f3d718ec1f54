"""Bounded, vectorised rejection sampling: only rejected draws are repeated."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["exhausted", "redraw", "rejection"]

_MAX_ROUNDS = 10_000  # at an acceptance of 0.01 a draw is still missing after them with probability 1e-43


Propose = Callable[[int, Tensor | slice], tuple[Tensor, Tensor]]


def exhausted(left: int, total: int, rounds: int, hint: str) -> RuntimeError:
    """The error for draws that are still missing after so many rounds; ``hint`` ends the message."""
    return RuntimeError(
        f"rejection sampler: {left} of {total} draws were not accepted in {rounds} rounds; {hint}"
    )


def redraw(
    out: Tensor, lanes: Tensor, propose: Callable[[Tensor], tuple[Tensor, Tensor]], rounds: int, hint: str
) -> Tensor:
    """``out`` with accepted proposals in the rows ``lanes`` (indices of its first axis).

    :param propose: takes the indices of k rows; returns proposals, ``(tries, k) + event``, and whether each is
        accepted, ``(tries, k)``. Of several accepted tries any one is used.
    :raises RuntimeError: if a row has no accepted proposal after ``rounds`` rounds; ``hint`` ends the message.
    """
    for _ in range(rounds):
        if not lanes.numel():
            return out
        x, ok = propose(lanes)
        if len(ok) > 1:
            ok, which = ok.max(0)
            x = x[which, torch.arange(len(which), device=which.device)]
        else:
            ok = ok[0]
            x = x[0]
        out[lanes] = x  # rejected proposals are overwritten in the next round
        lanes = lanes[~ok]
    if not lanes.numel():
        return out
    raise exhausted(lanes.numel(), len(out), rounds, hint)


def rejection(propose: Propose, n: int, rows: int, dim: int, like: Tensor) -> Tensor:
    """Draws of shape ``(n, rows, dim)`` in the dtype and on the device of ``like``.

    :param propose: takes a number k and the indices of k rows of the parameters (for a single row the full
        slice, so that it broadcasts); returns k proposals, ``(k, dim)``, and the logs of their acceptance
        probabilities, ``(k,)``.
    :raises RuntimeError: if a draw is not accepted within a bounded number of rounds.
    """

    def one(lanes: Tensor) -> tuple[Tensor, Tensor]:
        x, log_accept = propose(len(lanes), lanes % rows if rows > 1 else slice(None))
        return x.unsqueeze(0), (torch.rand_like(log_accept).log() < log_accept).unsqueeze(0)

    out = torch.empty(n * rows, dim, dtype=like.dtype, device=like.device)
    hint = "please report this with the parameters of the distribution."
    return redraw(out, torch.arange(len(out), device=out.device), one, _MAX_ROUNDS, hint).reshape(
        n, rows, dim
    )
