r"""A multilayer perceptron with a closed-form forward-mode derivative.

.. math::
    h_0 = (x, c), \quad h_l = \phi(W_l h_{l-1} + b_l), \quad y = W h_L + b, \qquad
    \dot h_l = \phi'(\cdot) \circ W_l \dot h_{l-1}, \quad \phi(z) = z\,\sigma(z)
"""

import torch
from torch import Tensor, nn

from ..ops.arguments import checked

__all__ = ["MLP"]


class MLP(nn.Module):
    r"""Multilayer perceptron: hidden layers of SiLU units and a linear output layer that is initialised to
    zero.

    :param int in_dim: size of x.
    :param int out_dim: size of y.
    :param tuple hidden: number of units of each hidden layer.
    :param int context_dim: size of the context c, which is appended to x; 0 for none.

    >>> net = MLP(2, 3, (8,))
    >>> net(torch.ones(5, 2)).shape
    torch.Size([5, 3])
    """

    @checked(in_dim=0, out_dim=1, context_dim=0)
    def __init__(
        self, in_dim: int, out_dim: int, hidden: tuple[int, ...] = (64, 64), context_dim: int = 0
    ) -> None:
        super().__init__()
        if not all(isinstance(n, int) and n >= 1 for n in hidden):
            raise ValueError(
                f"hidden: got {tuple(hidden)}; expected positive integers, the number of units of each layer."
            )
        sizes = (in_dim + context_dim, *hidden)
        self.in_dim, self.context_dim = in_dim, context_dim
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True))
        self.last = nn.Linear(sizes[-1], out_dim)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def _join(self, x: Tensor, context: Tensor | None) -> Tensor:
        if context is None:
            return x
        batch = torch.broadcast_shapes(x.shape[:-1], context.shape[:-1])
        return torch.cat([x.expand(batch + x.shape[-1:]), context.expand(batch + context.shape[-1:])], -1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.last(self.hidden(x, context))

    def hidden(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The values of the last hidden layer."""
        h = self._join(x, context)
        for layer in self.layers:
            h = nn.functional.silu(layer(h))
        return h

    def hidden_jvp(self, x: Tensor, tangents: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The values of the last hidden layer and their derivatives along ``tangents``,
        ``batch + (k, in_dim)``. The derivatives of y are these times ``last.weight.mT``, which the caller may
        first contract with a factor of its own."""
        h, one = self._join(x, context), x.new_ones(())
        for i, layer in enumerate(self.layers):
            z = layer(h)
            gate = z.sigmoid()
            weight: Tensor = layer.weight  # type: ignore[assignment]
            weight = weight[:, : self.in_dim] if i == 0 else weight
            h = z * gate
            slope = torch.lerp(h, one, gate)
            tangents = slope.unsqueeze(-2) * (tangents @ weight.mT)
        return h, tangents
