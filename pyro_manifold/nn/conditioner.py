r"""A network that computes the parameters of a flow layer from features and a context, or learned constants
if there are neither.

.. math:: \phi = \mathrm{MLP}(x, c) / \sqrt{m}, \qquad \phi = \beta \ \text{ without } x \text{ and } c

m is the number of units of the last hidden layer. A step of Adam moves all m weights of an output by the
learning rate; without the factor, spline flows diverge at learning rates of 5e-3 and above.
"""

import torch
from torch import Tensor, nn

from ..ops.arguments import checked
from .mlp import MLP

__all__ = ["Conditioner"]


class Conditioner(nn.Module):
    r"""A multilayer perceptron of features x and a context c, or learned constants if both have size 0. All
    outputs are initialised to zero.

    :param int in_dim: size of x; may be 0.
    :param int out_dim: number of parameters.
    :param tuple hidden: number of units of each hidden layer.
    :param int context_dim: size of c; 0 for none.

    >>> Conditioner(0, 3)(torch.zeros(5, 0)).shape
    torch.Size([5, 3])
    """

    @checked(in_dim=0, out_dim=1, context_dim=0)
    def __init__(
        self, in_dim: int, out_dim: int, hidden: tuple[int, ...] = (64, 64), context_dim: int = 0
    ) -> None:
        super().__init__()
        self.sizes = in_dim, out_dim, tuple(hidden)
        self.net: MLP | None = None
        self.constant: nn.Parameter | None = None
        if in_dim + context_dim:
            self.net = MLP(in_dim, out_dim, hidden, context_dim)
        else:
            self.constant = nn.Parameter(torch.zeros(out_dim))

    def with_context_dim(self, context_dim: int) -> "Conditioner":
        """A new module with the same sizes, newly initialised weights and a context of this size."""
        like = next(self.parameters())
        return Conditioner(*self.sizes, context_dim).to(like)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if self.net is not None:
            return self.net(x, context) * self.net.last.in_features**-0.5
        assert self.constant is not None
        return self.constant.expand(x.shape[:-1] + self.constant.shape)
