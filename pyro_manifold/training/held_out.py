"""Rows for validation: a share of the data, or rows of their own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["held_out", "with_validation"]


def with_validation(
    data: list[Tensor | None], validation: float | Tensor | Sequence[Tensor | None] | None
) -> tuple[list[Tensor | None], float | None, int]:
    """Data with rows for validation at the end, the share of rows that are held out, and how many these are at the
    end."""
    if isinstance(validation, (Tensor, Sequence)):
        data, last = _joined(data, validation)
        return data, last / max(len(t) for t in data if t is not None), last
    if validation is not None and not 0 <= validation < 1:
        raise ValueError(f"validation: got {validation}; expected a share in [0, 1), rows, or None.")
    return data, validation, 0


def held_out(rows: int, share: float | None, last: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the rows to train and to validate on: the ``last`` ones, or that share of them at random; without a
    share all rows serve both."""
    every = torch.arange(rows)
    if last:
        return every[:-last], every[-last:]
    if not share:
        return every, every
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    size = int(share * rows)
    return order[size:], order[:size] if size else order


def _joined(
    data: list[Tensor | None], rows: Tensor | Sequence[Tensor | None]
) -> tuple[list[Tensor | None], int]:
    """Data with rows for validation at the end, and how many these are."""
    parts = [rows, *(t for t in data[1:] if t is None)] if isinstance(rows, Tensor) else list(rows)
    fit = len(parts) == len(data) and all(
        (a is None and b is None) or (a is not None and b is not None and _like(a) == _like(b))
        for a, b in zip(data, parts, strict=True)
    )
    sizes = {len(t) for t in parts if t is not None}
    if not fit or len(sizes) != 1 or sizes == {0}:
        seen, like = ([None if t is None else tuple(t.shape) for t in ts] for ts in (parts, data))
        kinds, own = ([None if t is None else str(t.dtype) for t in ts] for ts in (parts, data))
        raise ValueError(
            f"validation: got tensors of shapes {seen} for data of shapes {like}, of dtypes {kinds} for {own}; "
            "expected as many, with rows, dtypes and devices like theirs, and as many rows in each."
        )
    joined = [None if a is None else torch.cat([a, b]) for a, b in zip(data, parts, strict=True)]  # type: ignore[list-item]
    return joined, sizes.pop()


def _like(rows: Tensor) -> tuple[Any, ...]:
    return rows.shape[1:], rows.dtype, rows.device
