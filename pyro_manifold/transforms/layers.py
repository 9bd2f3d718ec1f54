"""Maps that hold a chain of layers, some of which may depend on a context."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform

from .cache import CopiesWithoutCaches, dependencies
from .chain import Chain
from .injective import InjectiveTransform
from .module import ModuleTransform, submodules

__all__ = ["HoldsLayers", "LayerFlow", "check_layers"]


class HoldsLayers(CopiesWithoutCaches, ModuleTransform):
    """What the holders of layers share: registration of parameters, the cache key, the context.

    :ivar list layers: the layers as the user gave them.
    :ivar Chain chain: the same, with the primitives of a map.
    """

    layers: list[Any]
    chain: Chain

    def hold(self, layers: Sequence[Any]) -> None:
        self.layers = list(layers)
        self.chain = self.chain_of(layers)
        self._submodules = submodules(layers)

    def chain_of(self, layers: Sequence[Any]) -> Chain:
        """By default a chain of maps of vectors."""
        return Chain(layers, event_dim=1)

    def depends(self) -> list[Any] | None:
        return dependencies(self.layers)

    @property
    def accepts_context(self) -> bool:  # type: ignore[override]
        return any(getattr(layer, "accepts_context", False) for layer in self.layers)

    def with_context_dim(self, context_dim: int) -> Any:
        layers = [
            layer.with_context_dim(context_dim) if getattr(layer, "accepts_context", False) else layer
            for layer in self.layers
        ]
        new = self._sharing(context_dim=context_dim, _modules=dict(self._modules))
        new.hold(layers)
        return new

    def with_context(self, context: Tensor) -> Any:
        layers = [
            layer.with_context(context) if getattr(layer, "context_dim", 0) else layer
            for layer in self.layers
        ]
        return self._sharing(context=context, layers=layers, chain=self.chain_of(layers))


class LayerFlow(HoldsLayers):
    """A map that is the chain of its layers, one after the other."""

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.chain.forward_and_log_volume(x)

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.chain.inverse_and_log_volume(y)

    def jvp(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """The value at ``x`` and the derivative along ``tangents``, shape ``batch + (k,) + event``."""
        return self.chain.jvp(x, tangents)


def check_layers(layers: Sequence[Any], size: int, *, injective: bool = False) -> None:
    """:raises ValueError: unless all ``layers`` are bijections of vectors of this size, or, if ``injective``,
    injective maps that keep the size."""
    shape = torch.Size([size])
    for i, layer in enumerate(layers):
        one_to_one = getattr(layer, "bijective", False) or (
            injective and isinstance(layer, InjectiveTransform)
        )
        try:
            fits = isinstance(layer, Transform) and one_to_one and layer.domain.event_dim <= 1
            fits = fits and layer.forward_shape(shape) == shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"layers: number {i} is {layer!r}; expected a bijection of vectors of size {size}. Give "
                "conditional layers their context first, by .condition(context), or make the whole map "
                "depend on one: Conditional(map, context_dim)."
            )
