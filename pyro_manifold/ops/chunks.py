"""Computation on large batches in chunks, so that temporaries stay in the cache."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

__all__ = ["by_chunks", "slices"]

_ELEMENTS = 1 << 16  # elements of a temporary; larger ones cost more in page faults than in arithmetic


def slices(rows: int, width: int, elements: int = _ELEMENTS) -> Iterator[slice]:
    """Slices that cover ``rows`` rows, each of at most about ``elements`` numbers, where a row has ``width``
    numbers. For zero rows, one empty slice.

    >>> list(slices(5, 1 << 15))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 6, None)]
    """
    step = max(1, elements // width)
    return (slice(i, i + step) for i in range(0, max(rows, 1), step))


def by_chunks(
    f: Callable[..., tuple[Tensor, ...]], width: int, elements: int, *rows: Tensor
) -> tuple[Tensor, ...]:
    """Apply ``f`` to slices of the first axis of all arguments and concatenate its results along their first
    axes."""
    parts = [f(*(x[part] for x in rows)) for part in slices(len(rows[0]), width, elements)]
    return parts[0] if len(parts) == 1 else tuple(torch.cat(p) for p in zip(*parts, strict=True))
