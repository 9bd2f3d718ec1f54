r"""A density of latent coordinates, given a context or not: a standard normal through learned layers.

.. math:: u = m + W h_c(\epsilon), \quad \epsilon \sim N(0, I_n)

with m and W fixed: 0 and 1, or what makes data standard before h learns them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.conditional import ConditionalDistribution
from torch import Tensor, nn
from torch.distributions import Transform

from ..ops.arguments import checked
from ..transforms.cache import CopiesWithoutCaches
from ..transforms.module import submodules
from .affine import Affine
from .autoregressive import Autoregressive
from .conditional import Conditional
from .coupling import Coupling
from .spline import Spline

__all__ = ["LatentDensity", "LatentFlow", "autoregressive_chain", "coupling_chain"]


@checked(dim=1, depth=0, context_dim=0)
def coupling_chain(dim: int, depth: int, context_dim: int = 0, **kwargs: Any) -> list[Any]:
    """``depth`` couplings that change odd and even coordinates in turn, the identity at first; ``kwargs`` are
    those of :class:`Coupling`. For one coordinate they are couplings whose parameters depend on the context
    alone or, without a context, :class:`Spline` layers."""
    if dim == 1 and not context_dim:
        own = {key: kwargs[key] for key in ("bins", "bound") if key in kwargs}
        return [Spline(1, **own) for _ in range(depth)]
    halves = [range(0, dim, 2), range(1, dim, 2)] if dim > 1 else [range(1)]
    turns = [halves[i % len(halves)] for i in range(depth)]
    layers = [Coupling(dim, transformed_indices, **kwargs) for transformed_indices in turns]
    return [Conditional(layer, context_dim) for layer in layers] if context_dim else layers


@checked(dim=1, depth=0, context_dim=0)
def autoregressive_chain(dim: int, depth: int, context_dim: int = 0, **kwargs: Any) -> list[Any]:
    """``depth`` layers that count the coordinates from the first and from the last one in turn, the identity at first;
    ``kwargs`` are those of :class:`Autoregressive`. With affine layers, a masked autoregressive flow."""
    layers = [Autoregressive(dim, reverse=bool(i % 2), **kwargs) for i in range(depth)]
    return [Conditional(layer, context_dim) for layer in layers] if context_dim else layers


class LatentDensity(ConditionalDistribution, nn.Module, ABC):
    """A density of the coordinates of a learned manifold, perhaps given a context: what
    :class:`~pyro_manifold.models.ManifoldFlow` has on top of its map, and what training asks of it.

    :ivar int dim: size of the vectors it is a density of.
    :ivar int context_dim: size of the context, 0 if there is none.
    :ivar LatentFlow flow: the flow inside that is set to the mean and the axes of the rows before training.
    """

    dim: int
    context_dim: int

    @property
    @abstractmethod
    def flow(self) -> "LatentFlow": ...

    @abstractmethod
    def condition(self, context: Tensor | None = None) -> Any:
        """The Pyro distribution given ``context``, shape ``batch + (context_dim,)``."""

    def relative_log_prob(self, u: Tensor, context: Tensor | None = None) -> Tensor:
        """Log density of ``u``, up to a term that depends neither on the context nor on a parameter that
        requires a gradient."""
        return self.condition(context).log_prob(u)


class LatentFlow(CopiesWithoutCaches, LatentDensity):
    r"""Standard normal vectors of size n through layers, which may depend on a context, and a fixed affine
    layer.

    :param int dim: n.
    :param layers: transforms, or Pyro's conditional ones; see :func:`coupling_chain`.
    :param int context_dim: size of the context, 0 if there is none.
    :raises ValueError: for a context where there is none, a missing one, or one of another size.

    ``condition(context)`` is a Pyro distribution.

    >>> h = LatentFlow(2, coupling_chain(2, 4, context_dim=3), context_dim=3)
    >>> h.condition(torch.zeros(5, 3)).log_prob(torch.zeros(2)).shape
    torch.Size([5])
    """

    zero: Tensor

    @checked(dim=1, context_dim=0)
    def __init__(self, dim: int, layers: Sequence[Transform | nn.Module], context_dim: int = 0) -> None:
        nn.Module.__init__(self)
        self.dim, self.context_dim = dim, context_dim
        self.layers = list(layers)
        self._submodules = submodules(layers)
        self.standard = Affine(torch.eye(dim))
        self.register_buffer("zero", torch.zeros(dim))

    @property
    def flow(self) -> "LatentFlow":
        return self

    def condition(self, context: Tensor | None = None) -> Any:
        if (context is None) != (self.context_dim == 0) or (
            context is not None and context.shape[-1:] != (self.context_dim,)
        ):
            seen = "none" if context is None else f"shape {tuple(context.shape)}"
            wanted = f"size {self.context_dim} on the last axis" if self.context_dim else "none"
            raise ValueError(f"context: got {seen}; expected {wanted}, as context_dim says.")
        batch = () if context is None else context.shape[:-1]
        base = dist.Normal(self.zero.expand(*batch, self.dim), 1.0).to_event(1)
        return dist.ConditionalTransformedDistribution(base, [*self.layers, self.standard]).condition(context)

    def standardise(self, u: Tensor) -> None:
        """Set m and W to mean and principal axes of the rows ``u``, shape ``(rows, n)``: what the layers
        learn has mean 0 and covariance 1, at their scale, whatever the units of u."""
        self.standard.load_state_dict(Affine.from_pca(u.to(self.zero), floor=1e-3).state_dict())

    def clear_cache(self) -> None:
        """Does nothing: a latent flow remembers no draws."""
