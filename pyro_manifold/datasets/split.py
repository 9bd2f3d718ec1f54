"""Random train/test splits, one per seed, so that models can be compared on the same rows."""

import torch
from torch import Tensor

__all__ = ["split_in_three", "train_test_split"]


def split_in_three(groups: Tensor, seed: int, what: str) -> tuple[Tensor, Tensor, Tensor]:
    """Groups for training, validation and testing: ``int(0.8 n)``, half of the rest, and the rest, at random.

    :raises ValueError: for fewer than 4 groups, which the message calls ``what``.
    """
    if len(groups) < 4:
        raise ValueError(f"folder: {len(groups)} {what} cannot be split in three; expected at least 4.")
    [(train, rest)] = train_test_split(groups, train=0.8, seed=seed)
    [(valid, test)] = train_test_split(rest, train=0.5, seed=seed)
    return train, valid, test


def train_test_split(*tensors: Tensor, train: float = 0.7, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Splits the rows of each tensor in the same random way.

    :param tensors: tensors with the same number of rows n.
    :param train: fraction of the rows used for training; ``int(train * n)`` rows, the rest is for testing.
    :param seed: the split; torch's global generator is not touched.
    :return: one pair (train, test) per tensor.
    :raises ValueError: for no tensors, unequal numbers of rows, or a fraction that leaves one side empty.

    >>> [(a, b)] = train_test_split(torch.arange(635))
    >>> len(a), len(b)
    (444, 191)
    """
    if not tensors:
        raise ValueError("tensors: none were given; expected at least one tensor to split.")
    sizes = [len(t) for t in tensors]
    if len(set(sizes)) > 1:
        raise ValueError(
            f"tensors: numbers of rows differ, {sizes}; expected the same first axis in all of them."
        )
    n = int(train * sizes[0]) if 0 < train < 1 else 0
    if not 0 < n < sizes[0]:
        raise ValueError(
            f"train: the fraction {train} of {sizes[0]} rows leaves one side empty; expected 0 < train < 1, "
            f"e.g. 0.7."
        )
    order = torch.randperm(sizes[0], generator=torch.Generator().manual_seed(seed))
    return [(t[order[:n].to(t.device)], t[order[n:].to(t.device)]) for t in tensors]
