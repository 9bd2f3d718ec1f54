"""What layers of splines share whose parameters are computed by networks."""

import copy

import geoopt
import torch
from torch import Tensor, nn

from ..constraints import on
from ..ops.circular import harmonics
from ..transforms.module import ModuleTransform

__all__ = ["SplineLayer", "faded", "height_features"]

_FADE = 0.05  # the share of 1 - z^2 below which networks lose their influence


class SplineLayer(ModuleTransform):
    """A layer whose ``networks``, a ``ModuleList`` of :class:`~pyro_manifold.nn.Conditioner`, can read a
    context."""

    accepts_context = True
    networks: nn.ModuleList

    def __init__(self, size: int, manifold: geoopt.Manifold, number: int, cache_size: int) -> None:
        """``size`` of the vectors that are points of ``manifold``; ``number`` of harmonics that networks are given."""
        super().__init__(cache_size=cache_size)
        self.dim = self.codomain_dim = size
        self.domain = self.codomain = on(manifold)
        self.number = number

    def with_context_dim(self, context_dim: int) -> "SplineLayer":
        """A copy whose networks, drawn anew, have a context as further input."""
        new = copy.deepcopy(self)
        new.context_dim = context_dim
        new.networks = nn.ModuleList(net.with_context_dim(context_dim) for net in self.networks)  # type: ignore[operator]
        return new

    def with_batch_of_context(self, x: Tensor, event_dim: int) -> Tensor:
        """``x``, expanded to the batch shape that it has together with the context."""
        context = self.needed_context()
        if context is None:
            return x
        cut = x.dim() - event_dim
        batch = torch.broadcast_shapes(x.shape[:cut], context.shape[:-1])
        return x.expand(batch + x.shape[cut:])

    def raw(self, i: int, features: Tensor) -> Tensor:
        """The parameters that network ``i`` computes."""
        return self.networks[i](features, self.context)


def height_features(z: Tensor, number: int) -> Tensor:
    r"""Of a height z in [-1, 1]: z itself and the harmonics of :math:`\pi z`."""
    return torch.cat([z.unsqueeze(-1), harmonics(torch.pi * z, number)], -1)


def faded(square: Tensor) -> Tensor:
    r"""A factor of parameters that takes them to 0 at the poles, where 1 - z^2 = ``square`` is 0."""
    return square / (square + _FADE)
