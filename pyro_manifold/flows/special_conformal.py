r"""A conformal bijection of space that depends on a context: it takes planes to spheres.

.. math::
    y = I_b(x + t) = \frac{z - |z|^2\,b}{1 - 2\,b\cdot z + |b|^2|z|^2}, \quad z = x + t, \quad b = \frac{a}{1 + 4|a|},
    \quad (a, t) = \phi(c), \qquad
    \log|\det J| = -d\,\log\big(1 - 2\,b\cdot z + |b|^2|z|^2\big)

Reference: Ross and Cresswell, *Tractable density estimation on learned manifolds with conformal embedding flows*,
NeurIPS 2021, eq. 7.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.mlp import MLP
from ..ops.arguments import checked
from ..transforms.conformal import special_conformal
from ..transforms.module import ModuleTransform

__all__ = ["SpecialConformal"]


class SpecialConformal(ModuleTransform):
    r"""A shift and the special conformal map :math:`I_b`, the identity at first; with a context, b and the shift t are
    computed from it by a network.

    The vector b is shorter than 1/4, so that the pole :math:`b/|b|^2` of :math:`I_b` is farther from 0 than 4: give it
    standardised coordinates.

    :param int dim: d.
    :param tuple hidden: units of the network of a context.
    :raises ValueError: for a size that is not positive; at the pole, and in the inverse at the image of infinity.

    >>> layer = SpecialConformal(2)
    >>> layer(torch.tensor([1.0, 2.0]))
    tensor([1., 2.], grad_fn=...)
    """

    accepts_context = True

    @checked(dim=1)
    def __init__(self, dim: int, *, hidden: tuple[int, ...] = (64,), cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        if dim < 1:
            raise ValueError(f"dim: got {dim}; expected a positive integer.")
        self.dim = self.codomain_dim = dim
        self.hidden = hidden
        self.vector = nn.Parameter(torch.zeros(dim))
        self.shift = nn.Parameter(torch.zeros(dim))
        self.net: MLP | None = None

    def with_context_dim(self, context_dim: int) -> Any:
        """A copy to whose vector and shift a network of a context is added; the same map at first."""
        new = copy.deepcopy(self)
        new.context_dim = context_dim
        new.net = MLP(context_dim, 2 * self.dim, self.hidden).to(self.vector)
        return new

    def _vectors(self) -> tuple[Tensor, Tensor]:
        """b and t."""
        a, t, context = self.vector, self.shift, self.needed_context()
        if self.net is not None and context is not None:
            more = self.net(context)
            a, t = a + more[..., : self.dim], t + more[..., self.dim :]
        size = (a.square().sum(-1, keepdim=True) + torch.finfo(a.dtype).tiny).sqrt()  # with a gradient at 0
        return a / (1 + 4 * size), t

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        b, t = self._vectors()
        y, below = special_conformal(x + t, b)
        return y, -self.dim * below.log()

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        b, t = self._vectors()
        z, below = special_conformal(y, -b)
        return z - t, self.dim * below.log()
