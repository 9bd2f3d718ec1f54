"""Bounded, vectorised rejection: only the lanes that were rejected are drawn again."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["redraw", "rejection"]

_MAX_ROUNDS = 10_000  # at an acceptance of 0.01 a draw is still missing after them with probability 1e-43


Propose = Callable[[int, Tensor | slice], tuple[Tensor, Tensor]]


def redraw(
    out: Tensor, lanes: Tensor, propose: Callable[[Tensor], tuple[Tensor, Tensor]], rounds: int, hint: str
) -> Tensor:
    """``out``, whose ``lanes`` (indices of its first axis) are filled with accepted proposals.

    :param propose: takes k lanes; returns proposals, ``(tries, k) + event``, of which any accepted one will
        do, and whether each is accepted, ``(tries, k)``.
    :raises RuntimeError: if some lane has none after so many ``rounds``; ``hint`` ends the message.
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
        out[lanes] = x  # the rejected too: they are written over
        lanes = lanes[~ok]
    if not lanes.numel():
        return out
    raise RuntimeError(
        f"rejection sampler: {lanes.numel()} of {len(out)} draws were not accepted in {rounds} rounds; {hint}"
    )


def rejection(propose: Propose, n: int, rows: int, dim: int, like: Tensor) -> Tensor:
    """Draws of shape ``(n, rows, dim)`` in the dtype and on the device of ``like``.

    :param propose: takes a number k and an index of k rows of the parameters (with a single row, the whole
        slice, so that it broadcasts); returns k proposals, ``(k, dim)``, and the log probabilities ``(k,)``
        of accepting them.
    :raises RuntimeError: if some draw was not accepted within a fixed number of rounds.
    """

    def one(lanes: Tensor) -> tuple[Tensor, Tensor]:
        x, log_accept = propose(len(lanes), lanes % rows if rows > 1 else slice(None))
        return x.unsqueeze(0), (torch.rand_like(log_accept).log() < log_accept).unsqueeze(0)

    out = torch.empty(n * rows, dim, dtype=like.dtype, device=like.device)
    hint = "please report this with the parameters of the distribution."
    return redraw(out, torch.arange(len(out), device=out.device), one, _MAX_ROUNDS, hint).reshape(
        n, rows, dim
    )
