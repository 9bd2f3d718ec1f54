r"""A convolutional network of fields, whose output starts at zero.

.. math::
    h_0 = W_0 * (x, c), \qquad h_l = h_{l-1} + W_l * \phi(h_{l-1}), \qquad y = m^{-1/2}\, W \phi(h_L), \qquad
    \phi(z) = z\,\sigma(z)

Convolutions keep the size of the field, which zeros surround; W is one of single pixels, m the number of its inputs.
Nothing is normalised over a batch, so that the value at a field depends on that field alone.
"""

import torch
from torch import Tensor, nn

from ..ops.arguments import checked

__all__ = ["ConvNet"]


class ConvNet(nn.Module):
    r"""Residual convolutions from fields of C channels, ``batch + (C, height, width)``, to fields of the same height
    and width. All outputs are initialised to zero.

    :param int in_channels: C; 0 for a network of a context alone.
    :param int out_channels: channels of the output.
    :param int hidden: channels inside, m.
    :param int depth: number of residual layers, L.
    :param int kernel: height and width of a kernel, odd.
    :param int context_channels: channels of a context, a field of the same size; 0 for none.
    :raises ValueError: for a kernel that is even, or no input at all.

    >>> ConvNet(2, 3, hidden=4)(torch.ones(5, 2, 8, 8)).shape
    torch.Size([5, 3, 8, 8])
    """

    @checked(in_channels=0, out_channels=1, hidden=1, depth=0, kernel=1, context_channels=0)
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int = 32,
        depth: int = 1,
        *,
        kernel: int = 3,
        context_channels: int = 0,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel: got {kernel}; expected an odd number, so that a kernel has a centre.")
        if in_channels + context_channels < 1:
            raise ValueError("in_channels: got 0 and no context; expected at least one channel to read.")
        self.in_channels, self.context_channels = in_channels, context_channels
        self.first = nn.Conv2d(in_channels + context_channels, hidden, kernel, padding="same")
        self.blocks = nn.ModuleList(nn.Conv2d(hidden, hidden, kernel, padding="same") for _ in range(depth))
        self.last = nn.Conv2d(hidden, out_channels, 1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if context is not None:
            batch = torch.broadcast_shapes(x.shape[:-3], context.shape[:-3])
            x = torch.cat([x.expand(batch + x.shape[-3:]), context.expand(batch + context.shape[-3:])], -3)
        batch, size = x.shape[:-3], x.shape[-2:]
        h = self.first(x.reshape(-1, *x.shape[-3:]))
        for block in self.blocks:
            h = h + block(nn.functional.silu(h))
        y = self.last(nn.functional.silu(h)) * self.last.in_channels**-0.5
        return y.reshape(batch + y.shape[1:2] + size)
