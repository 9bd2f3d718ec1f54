r"""An autoregressive multilayer perceptron: its i-th group of outputs depends only on the inputs before the
i-th.

.. math:: \phi_i = f_i(x_1, \dots, x_{i-1};\, c), \qquad i = 1, \dots, n

The weights are masked: each unit has a number, and a weight is nonzero only if the number of its output unit
is at least that of its input unit. Outputs are divided by the square root of the number of units of the last
hidden layer, as those of :class:`Conditioner`. Reference: Germain et al., *MADE: masked autoencoder for
distribution estimation*, ICML 2015.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from ..ops.arguments import checked

__all__ = ["MaskedMLP"]


class MaskedMLP(nn.Module):
    r"""Computes parameters for each of n variables from the features of the variables before it and a
    context. All outputs are initialised to zero.

    :param int variables: n.
    :param int features: number of features of one variable.
    :param int out_dim: number of parameters of one variable.
    :param tuple hidden: number of units of each hidden layer.
    :param int context_dim: size of the context, on which all outputs may depend; 0 for none.

    Input ``batch + (n, features)``, output ``batch + (n, out_dim)``.

    >>> MaskedMLP(3, 2, 5)(torch.zeros(7, 3, 2)).shape
    torch.Size([7, 3, 5])
    """

    @checked(variables=1, features=1, out_dim=1, context_dim=0)
    def __init__(
        self,
        variables: int,
        features: int,
        out_dim: int,
        hidden: tuple[int, ...] = (64, 64),
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        if not hidden or not all(isinstance(n, int) and n >= 1 for n in hidden):
            raise ValueError(
                f"hidden: got {tuple(hidden)}; expected one or more positive integers, the number of units of "
                "each hidden layer."
            )
        self.sizes = variables, features, out_dim, tuple(hidden)
        # the i-th input has the number i, the context 0, and the units of a layer have 0, ..., n - 1 repeatedly
        numbers = [torch.arange(1, variables + 1).repeat_interleave(features)]
        numbers[0] = torch.cat([numbers[0], torch.zeros(context_dim, dtype=torch.long)])
        numbers += [torch.arange(n) % variables for n in hidden]
        self.layers = nn.ModuleList(nn.Linear(len(a), len(b)) for a, b in pairwise(numbers))
        self.last = nn.Linear(hidden[-1], variables * out_dim)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        out = torch.arange(variables).repeat_interleave(out_dim)
        masks = [b.unsqueeze(-1) >= a for a, b in pairwise([*numbers, out])]
        for i, mask in enumerate(masks):
            self.register_buffer(f"mask{i}", mask)

    def with_context_dim(self, context_dim: int) -> "MaskedMLP":
        """A new module with the same sizes, newly initialised weights and a context of this size."""
        return MaskedMLP(*self.sizes, context_dim).to(self.last.weight)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = x.flatten(-2)
        if context is not None:
            h = torch.cat([h, context.expand(h.shape[:-1] + context.shape[-1:])], -1)
        for i, layer in enumerate(self.layers):
            mask = self.get_buffer(f"mask{i}")
            h = silu(linear(h, mask * layer.weight, layer.bias))  # type: ignore[operator, arg-type]
        mask = self.get_buffer(f"mask{len(self.layers)}")
        out = linear(h, self.last.weight * mask, self.last.bias) * self.last.in_features**-0.5
        return out.unflatten(-1, (self.sizes[0], self.sizes[2]))

    @torch.no_grad()
    def sequential(
        self, variable: Callable[[int, Tensor], Tensor], batch: Sequence[int], context: Tensor | None = None
    ) -> Tensor:
        """The features, shape ``batch + (n, features)``, of variables that are found one after the other: the i-th
        are ``variable(i, parameters)``, where the network computes ``parameters``, shape ``batch + (out_dim,)``, from
        those before. Each unit is evaluated once, when all that it depends on is known, so that the n variables
        take as much arithmetic as one evaluation of the network. Without gradients.
        """
        n, features, out_dim, hidden = self.sizes
        rows = torch.Size(batch).numel()
        inputs = int(self.get_buffer("mask0").shape[1])
        values = [self.last.weight.new_zeros(m, rows) for m in (inputs, *hidden)]  # a unit in each row
        if context is not None:
            own = context.expand(*batch, context.shape[-1])
            values[0][n * features :] = own.reshape(rows, context.shape[-1]).mT
        layers: list[Any] = list(self.layers)
        weights = [self.get_buffer(f"mask{i}") * layer.weight for i, layer in enumerate(layers)]
        biases = [layer.bias for layer in layers]
        last = self.get_buffer(f"mask{len(self.layers)}") * self.last.weight * self.last.in_features**-0.5
        bias = self.last.bias * self.last.in_features**-0.5
        for i in range(n):
            for k, (weight, shift) in enumerate(zip(weights, biases, strict=True)):
                values[k + 1][i::n] = silu(weight[i::n] @ values[k] + shift[i::n].unsqueeze(-1))
            part = slice(i * out_dim, (i + 1) * out_dim)
            raw = last[part] @ values[-1] + bias[part].unsqueeze(-1)
            found = variable(i, raw.mT.reshape(*batch, out_dim))
            values[0][i * features : (i + 1) * features] = found.reshape(rows, features).mT
        return values[0][: n * features].mT.reshape(*batch, n, features)
