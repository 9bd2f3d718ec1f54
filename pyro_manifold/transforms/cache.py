"""A cache of what a map has drawn, and of nothing else."""

from typing import Any

from torch import Tensor, nn
from torch.distributions import Transform

from ..ops.components import concrete

__all__ = ["DrawnCache", "version", "versions"]


class DrawnCache(Transform):
    """torch's cache of the last pair (x, y), only for y that the map itself made from x, both as they were then.

    torch keeps inverses too and asks only whether y is the same object: an optimiser that changes y in place would get the x of
    before, a second backward pass a graph that is gone, and a draw made a leaf (``requires_grad_``) no gradient.
    """

    _made: Any = None

    def __call__(self, x: Tensor) -> Any:
        y = super().__call__(x)
        if self._cache_size:
            self._made = self._state(y)
        return y

    def _inv_call(self, y: Tensor) -> Tensor:
        x = self.drawn(y)
        return self._inverse(y) if x is None else x

    def drawn(self, y: Tensor) -> Tensor | None:
        """The x that ``y`` was made from, if that is known for certain."""
        x, made = self._cached_x_y if self._cache_size else (None, None)
        if x is None or y is not made or (y.requires_grad and y.is_leaf) or self._state(y) != self._made:
            return None
        return x

    def _state(self, y: Tensor) -> Any:
        """What must be as it was."""
        return version(y)


def version(y: Tensor) -> int:
    """Counts changes in place, where they are recorded."""
    return y._version if concrete(y) and not y.is_inference() else 0


def versions(y: Tensor, module: nn.Module) -> tuple[Any, ...]:
    """The state of ``y`` and of all parameters and buffers: what was computed of them holds while it is the same."""
    return version(y), *((id(p), version(p), p.requires_grad) for p in (*module.parameters(), *module.buffers()))
