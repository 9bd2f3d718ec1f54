r"""Maps that depend on a context: one wrapper for every layer, and for flows of layers.

.. math:: y = f(x;\, c), \qquad \log|\det J| = \log|\det \partial f / \partial x|
"""

from typing import Any

import torch
from pyro.distributions.conditional import ConditionalTransformModule
from torch import Tensor

from ..ops.arguments import checked

__all__ = ["Conditional"]


class Conditional(ConditionalTransformModule):
    r"""A layer, or a flow of layers, whose parameters depend on a context c, for Pyro's
    ``ConditionalTransformedDistribution``.

    The layer given is not changed: its copy takes c as a further input of its network
    (:class:`Coupling`, whose network is drawn anew) or adds the output of a network of c to its parameters
    (:class:`LULinear`). Of a flow (:class:`InjectiveFlow`, :class:`Partial`, :class:`InChart`) all layers
    that can do so depend on c.

    :param layer: a map that can depend on a context.
    :param int context_dim: size of c.
    :raises ValueError: for a layer that cannot; by ``condition``, for a context of another size, dtype or
        device.

    ``condition(c)`` is the layer with that context, c of shape ``batch + (context_dim,)``; it shares the
    parameters.

    >>> from pyro_manifold.flows import Coupling, InjectiveFlow
    >>> from pyro_manifold.transforms import Pad
    >>> layer = Conditional(Coupling(2, [0]), context_dim=3)
    >>> layer.condition(torch.zeros(5, 3))(torch.ones(2)).shape
    torch.Size([5, 2])
    >>> flow = Conditional(InjectiveFlow(Pad(1, 2), [Coupling(2, [1])]), context_dim=3)
    >>> flow.condition(torch.zeros(3))
    InjectiveFlow(1 -> 2)
    """

    @checked(context_dim=1)
    def __init__(self, layer: Any, context_dim: int) -> None:
        super().__init__()
        if not getattr(layer, "accepts_context", False):
            raise ValueError(
                f"layer: got {layer!r}; expected a Coupling, an LULinear, or a flow with one of these among "
                "its layers, since other maps read no context."
            )
        self.layer = layer.with_context_dim(context_dim)
        self.context_dim = context_dim

    def condition(self, context: Tensor) -> Any:
        """The layer with ``context``."""
        if not isinstance(context, Tensor):
            raise ValueError(
                f"context: got {context!r}; expected a tensor of size {self.context_dim} on the last axis."
            )
        if torch.is_autocast_enabled(context.device.type):
            context = self.layer.in_own_dtype(context)
        self.layer.check_dtype(context, "context")
        if context.dim() < 1 or context.shape[-1] != self.context_dim:
            raise ValueError(
                f"context: got shape {tuple(context.shape)}; expected size {self.context_dim} on the last "
                "axis."
            )
        return self.layer.with_context(context)
