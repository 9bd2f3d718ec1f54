r"""Maps of fields: events of C channels of height x width pixels, each pixel a point of a manifold or the vector of
its d coordinates in a chart.

.. math::
    x \in M^{C \times H \times W}, \qquad \text{squeeze}: M^{C\times H\times W} \to M^{4C\times H/2\times W/2}, \qquad
    y_{4c+2a+b,\,i,\,j} = x_{c,\,2i+a,\,2j+b}

Volumes are those of the product of the Riemannian volumes of all pixels. Reference: Dinh et al., *Density estimation
using Real NVP*, ICLR 2017, sec. 3.6.
"""

from collections.abc import Sequence
from typing import Any

import geoopt
import torch
from torch import Tensor
from torch.distributions import Transform, constraints

from ..constraints import on
from ..ops.arguments import checked
from ..transforms.base import MapTransform
from ..transforms.chain import Chain
from ..transforms.layers import LayerFlow
from ..transforms.module import ModuleTransform

__all__ = ["CoordinateLayer", "FieldFlow", "Squeeze", "field_constraint", "squeezed", "unsqueezed"]


def field_constraint(manifold: geoopt.Manifold) -> Any:
    """Fields of points: events of channels x height x width x point."""
    return constraints.independent(on(manifold), 3)


def squeezed(x: Tensor, point_dim: int) -> Tensor:
    """Each 2 x 2 pixels of a channel as one pixel of four channels; a pixel has ``point_dim`` axes."""
    first = x.dim() - point_dim - 3
    c, h, w = x.shape[first : first + 3]
    x = x.reshape(*x.shape[:first], c, h // 2, 2, w // 2, 2, *x.shape[first + 3 :])
    return x.movedim((first + 2, first + 4), (first + 1, first + 2)).reshape(
        *x.shape[:first], 4 * c, h // 2, w // 2, *x.shape[first + 5 :]
    )


def unsqueezed(y: Tensor, point_dim: int) -> Tensor:
    """The inverse of :func:`squeezed`."""
    first = y.dim() - point_dim - 3
    c, h, w = y.shape[first : first + 3]
    y = y.reshape(*y.shape[:first], c // 4, 2, 2, h, w, *y.shape[first + 3 :])
    return y.movedim((first + 1, first + 2), (first + 2, first + 4)).reshape(
        *y.shape[:first], c // 4, 2 * h, 2 * w, *y.shape[first + 5 :]
    )


class Squeeze(MapTransform):
    r"""Each 2 x 2 pixels of a channel become one pixel of four channels: a permutation, of volume change 1.

    .. math:: M^{C \times H \times W} \to M^{4C \times H/2 \times W/2}

    :param geoopt.Manifold manifold: of a pixel; None for pixels that are vectors of coordinates.
    :raises ValueError: for fields whose height or width is odd.

    >>> import torch
    >>> x = torch.arange(4.0).reshape(1, 2, 2, 1)  # a channel of 2 x 2 pixels with one coordinate
    >>> Squeeze()(x).flatten(), Squeeze()(x).shape
    (tensor([0., 1., 2., 3.]), torch.Size([4, 1, 1, 1]))
    """

    @checked
    def __init__(self, manifold: geoopt.Manifold | None = None, *, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.domain = self.codomain = (
            constraints.independent(constraints.real, 4) if manifold is None else field_constraint(manifold)
        )
        self.point_dim = self.domain.event_dim - 3

    def check_input(self, x: Tensor, shape: Any) -> None:
        shape(x.shape)

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return squeezed(x, self.point_dim), self._zeros(x)

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return unsqueezed(y, self.point_dim), self._zeros(y)

    def _zeros(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[: x.dim() - self.point_dim - 3])

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        first = len(shape) - self.point_dim - 3
        if first < 0 or shape[first + 1] % 2 or shape[first + 2] % 2:
            raise ValueError(
                f"value: got shape {tuple(shape)}; expected fields (channels, height, width, ...) whose height and "
                "width are even, to halve. Crop or pad them."
            )
        c, h, w = shape[first : first + 3]
        return torch.Size([*shape[:first], 4 * c, h // 2, w // 2, *shape[first + 3 :]])

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        first = len(shape) - self.point_dim - 3
        if first < 0 or shape[first] % 4:
            raise ValueError(
                f"value: got shape {tuple(shape)}; expected fields (channels, height, width, ...) whose channels are a "
                "multiple of 4."
            )
        c, h, w = shape[first : first + 3]
        return torch.Size([*shape[:first], c // 4, 2 * h, 2 * w, *shape[first + 3 :]])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Squeeze) and self.domain == other.domain and self.point_dim == other.point_dim
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Squeeze()"


class CoordinateLayer(ModuleTransform):
    """A learned layer of fields of coordinates, whose events have the shape ``(channels, height, width, dim)``."""

    domain = codomain = constraints.independent(constraints.real, 4)

    def __init__(self, shape: Sequence[int], cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        if len(shape) != 4 or not all(isinstance(n, int) and n >= 1 for n in shape):
            raise ValueError(
                f"shape: got {tuple(shape)}; expected four positive integers, (channels, height, width, dim)."
            )
        self.shape = tuple(shape)

    @property
    def pixels(self) -> int:
        return self.shape[1] * self.shape[2]

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        if tuple(shape[-4:]) != self.shape:
            raise ValueError(
                f"value: got shape {tuple(shape)}; expected fields of shape {self.shape}, (channels, height, width, "
                "dim), on the last four axes."
            )
        return torch.Size(shape)

    inverse_shape = forward_shape

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self.shape}"


class FieldFlow(LayerFlow):
    r"""Bijections of fields one after the other, :math:`f = f_k \circ \dots \circ f_1`, all of points or all of
    coordinates.

    :param layers: bijections whose events have four or more axes.
    :raises ValueError: for no layer, or one that is no bijection of fields.

    A context, where :class:`Conditional` gives one, goes to all layers that read it.

    >>> import torch
    >>> from pyro_manifold.flows import ActNorm
    >>> f = FieldFlow([ActNorm((1, 2, 2, 3)), Squeeze()])
    >>> f(torch.ones(1, 2, 2, 3)).shape
    torch.Size([4, 1, 1, 3])
    """

    @checked
    def __init__(self, layers: Sequence[Transform], *, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        for i, layer in enumerate(layers):
            if not layer.bijective or layer.domain.event_dim < 4 or layer.codomain.event_dim < 4:
                raise ValueError(
                    f"layers: number {i} is {layer!r}; expected a bijection of fields, whose events have the axes "
                    "(channels, height, width) and those of a pixel."
                )
        if not layers:
            raise ValueError("layers: got none; expected one or more bijections of fields.")
        self.domain, self.codomain = layers[0].domain, layers[-1].codomain
        self.hold(layers)

    def chain_of(self, layers: Sequence[Any]) -> Chain:
        return Chain(layers)

    @torch.no_grad()
    def initialise(self, y: Tensor) -> None:
        """Set layers that have an ``initialise`` to a batch of data ``y``, from the last to the first."""
        for layer in reversed(self.layers):
            if hasattr(layer, "initialise"):
                layer.initialise(y)
            y = layer.inv(y)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return self.chain.forward_shape(shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self.chain.inverse_shape(shape)

    def __repr__(self) -> str:
        return f"FieldFlow({', '.join(map(repr, self.layers))})"
