r"""Couplings of the factors of a product: one factor through a flow of its own, whose parameters depend on the
others.

.. math::
    (x_1, \dots, x_i, \dots, x_k) \mapsto (x_1, \dots, f(x_i;\, x_{-i}), \dots, x_k), \qquad
    \log|\det J| = \log|\det J_f(x_i;\, x_{-i})|
"""

from typing import Any

import geoopt
import torch
from torch import Tensor

from ..constraints import on
from ..geometry import geometry
from ..ops.arguments import checked
from ..transforms.layers import HoldsLayers

__all__ = ["FactorCoupling"]


class FactorCoupling(HoldsLayers):
    r"""A flow of one factor of a product manifold, given the points of the other factors.

    The other factors enter the networks of the flow by their coordinates in a Euclidean space, angles by cosine and
    sine. Its networks are drawn anew. Compose couplings of all factors, several times.

    :param geoopt.ProductManifold manifold: the product.
    :param int index: of the factor that the layer changes.
    :param layer: a bijection of that factor that can depend on a context: :class:`SphereFlow`, :class:`TorusFlow`,
        :class:`RotationFlow`, :class:`FrameFlow`, :class:`InChart`, :class:`Coupling`.
    :raises ValueError: for a manifold that is no product, an index that is none of a factor, or a layer that reads no
        context or does not fit the factor.

    Volumes are those of the product measure. A new layer is the identity.

    >>> from pyro_manifold.flows import SphereFlow
    >>> product = geoopt.ProductManifold((geoopt.Sphere(), 3), (geoopt.Sphere(), 2))
    >>> layer = FactorCoupling(product, 0, SphereFlow(2, 1))
    >>> x = torch.tensor([0.0, 0.6, 0.8, 1.0, 0.0])
    >>> torch.allclose(layer(x), x, atol=1e-5)
    True
    """

    @checked
    def __init__(
        self, manifold: geoopt.ProductManifold, index: int, layer: Any, *, cache_size: int = 0
    ) -> None:
        super().__init__(cache_size=cache_size)
        geo = geometry(manifold)
        size = manifold.n_elements
        shapes = geo.factor_shapes((size,))
        if len(shapes) < 2 or not 0 <= index < len(shapes):
            raise ValueError(
                f"index: got {index}; expected that of one of the {len(shapes)} factors of a product of at least two."
            )
        if not (getattr(layer, "accepts_context", False) and layer.bijective):
            raise ValueError(
                f"layer: got {layer!r}; expected a bijection that can depend on a context, such as SphereFlow(2)."
            )
        layer.forward_shape(shapes[index])
        self.manifold = manifold
        self.index = index
        self.size = size
        self.domain = self.codomain = on(manifold)
        others = self._others(geo.base_point((size,)))
        self.others_dim = others.shape[-1]
        self.hold([layer.with_context_dim(self.others_dim)])

    def _others(self, x: Tensor) -> Tensor:
        """Coordinates of the other factors in a Euclidean space."""
        geo = geometry(self.manifold)
        found = []
        for i, (factor, part) in enumerate(zip(geo.factors, geo.split(x), strict=True)):
            if i == self.index:
                continue
            ambient = factor.ambient_coordinates(part)
            found.append(part.flatten(part.dim() - factor.event_dim) if ambient is None else ambient)
        return torch.cat(found, -1)

    def chain_of(self, layers: Any) -> Any:
        return None  # the layer has no parameters before it has its context

    def with_context_dim(self, context_dim: int) -> "FactorCoupling":
        new = self._sharing(context_dim=context_dim, _modules=dict(self._modules))
        new.hold([self.layers[0].with_context_dim(self.others_dim + context_dim)])
        return new

    def with_context(self, context: Tensor) -> "FactorCoupling":
        return self._sharing(context=context)

    def depends(self) -> list[Any] | None:
        inner = super().depends()
        return None if inner is None else [*inner, self.context, *(geometry(self.manifold).depends() or ())]

    def _given(self, x: Tensor) -> tuple[Any, list[Tensor]]:
        """The layer with its context, and the points of the factors."""
        geo = geometry(self.manifold)
        context = self.needed_context()
        given = self._others(x)
        if context is not None:
            batch = torch.broadcast_shapes(x.shape[:-1], context.shape[:-1])
            x = x.expand(batch + x.shape[-1:])
            given = torch.cat(
                [given.expand(batch + given.shape[-1:]), context.expand(batch + context.shape[-1:])], -1
            )
        return self.layers[0].with_context(given), geo.split(x)

    def _joined(self, parts: list[Tensor], new: Tensor) -> Tensor:
        parts[self.index] = new
        return geometry(self.manifold).pack(parts)

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        layer, parts = self._given(x)
        y, log_volume = layer.forward_and_log_volume(parts[self.index])
        return self._joined(parts, y), log_volume

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        layer, parts = self._given(y)
        x, log_volume = layer.inverse_and_log_volume(parts[self.index])
        return self._joined(parts, x), log_volume

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return self._resize(shape, self.size, self.size)

    inverse_shape = forward_shape

    def __repr__(self) -> str:
        return f"FactorCoupling({self.index}, {self.layers[0]!r})"
