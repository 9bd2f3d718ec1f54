"""Checks of the sizes that layers are given."""

from torch import Tensor

__all__ = ["check_last", "check_size"]


def check_size(name: str, size: int) -> int:
    """``size`` itself.

    :raises ValueError: if it is not a positive integer.
    """
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f"{name}: got {size!r}; expected a positive integer.")
    return size


def check_last(name: str, x: Tensor, size: int) -> None:
    """
    :raises ValueError: unless the last axis of ``x`` has ``size`` elements.
    """
    if x.dim() == 0 or x.shape[-1] != size:
        raise ValueError(f"{name}: got shape {tuple(x.shape)}; expected a last axis of size {size}.")
