"""One bounded, vectorised rejection loop: only the lanes that were rejected are drawn again."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["rejection"]

_MAX_ROUNDS = 10_000  # at an acceptance of 0.01 a draw is still missing after them with probability 1e-43


Propose = Callable[[int, Tensor | slice], tuple[Tensor, Tensor]]


def rejection(propose: Propose, n: int, rows: int, dim: int, like: Tensor) -> Tensor:
    """Draws of shape ``(n, rows, dim)`` in the dtype and on the device of ``like``.

    :param propose: takes a number k and an index of k rows of the parameters (with a single row, the whole
        slice, so that it broadcasts); returns k proposals, ``(k, dim)``, and the log probabilities ``(k,)``
        of accepting them.
    :raises RuntimeError: if some draw was not accepted within a fixed number of rounds.
    """
    out = torch.empty(n * rows, dim, dtype=like.dtype, device=like.device)
    todo = torch.arange(len(out), device=like.device)
    for _ in range(_MAX_ROUNDS):
        if not todo.numel():
            break
        x, log_accept = propose(len(todo), todo % rows if rows > 1 else slice(None))
        keep = torch.rand_like(log_accept).log() < log_accept
        out[todo[keep]] = x[keep]
        todo = todo[~keep]
    if not todo.numel():
        return out.reshape(n, rows, dim)
    raise RuntimeError(
        f"rejection sampler: {todo.numel()} of {len(out)} draws were not accepted in {_MAX_ROUNDS} rounds; "
        "please report this with the parameters of the distribution."
    )
