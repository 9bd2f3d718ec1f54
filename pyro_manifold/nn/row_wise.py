"""A network of the user's own, applied to batches of any shape."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["RowWise"]


class RowWise(nn.Module):
    """Applies a network to each row of a batch of any shape, as one batch axis, and checks what it returns.

    :param network: maps ``(n,) + in_shape`` to ``(n,) + out_shape``.
    :param str name: of the argument by which the user gave it, for messages.
    """

    def __init__(
        self, network: nn.Module, in_shape: Sequence[int], out_shape: Sequence[int], name: str
    ) -> None:
        super().__init__()
        self.network, self.name = network, name
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)

    def forward(self, x: Tensor) -> Tensor:
        """
        :raises ValueError: where the output has another shape, naming the argument.
        """
        batch = x.shape[: x.dim() - len(self.in_shape)]
        n = math.prod(batch)
        y = self.network(x.reshape((n, *self.in_shape)))
        if tuple(y.shape) != (n, *self.out_shape):
            raise ValueError(
                f"{self.name}: for an input of shape {(n, *self.in_shape)} its output has shape "
                f"{tuple(y.shape)}; expected {(n, *self.out_shape)}."
            )
        return y.reshape(batch + self.out_shape)
