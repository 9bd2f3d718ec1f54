r"""Any transform of torch or Pyro as a map with the primitives of :class:`MapTransform`, and chains of them.

.. math:: f = f_k \circ \dots \circ f_1, \qquad \log|\det J_f(x)| = \sum_i \log|\det J_{f_i}(x_{i-1})|
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.distributions import ComposeTransform, IndependentTransform, Transform, constraints
from torch.distributions.transforms import _InverseTransform

from .base import MapTransform

__all__ = ["Chain", "as_map"]


def as_map(transform: Transform, event_dim: int = 0) -> Any:
    """``transform`` with the primitives of a map, acting on events of at least ``event_dim`` axes: one that
    acts on single points is applied to all points of an event, and its volumes are summed.

    >>> from torch.distributions import ExpTransform
    >>> as_map(ExpTransform(), event_dim=1).forward_and_log_volume(torch.zeros(2))
    (tensor([1., 1.]), tensor(0.))
    """
    part: Any = transform
    if isinstance(part, IndependentTransform):
        part = as_map(part.base_transform, part.domain.event_dim)
    elif isinstance(part, ComposeTransform):
        part = Chain(part.parts)
    elif not hasattr(part, "forward_and_log_volume"):
        part = as_map(part.inv).inv if isinstance(part, _InverseTransform) else _Foreign(part)
    axes = event_dim - part.domain.event_dim
    return _OnFields(part, axes) if axes > 0 else part


class _Foreign(MapTransform):
    """A transform of torch or Pyro that knows its value and its log-determinant. Nothing is left in its own
    cache, where tensors of a differentiation in progress would stay."""

    separate_volume = True

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform

    @property
    def domain(self) -> Any:  # type: ignore[override]
        return self.transform.domain

    @property
    def codomain(self) -> Any:  # type: ignore[override]
        return self.transform.codomain

    def _call(self, x: Tensor) -> Tensor:
        return self.transform._call(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.transform._inverse(y)

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.transform._call(x)
        return y, self.transform.log_abs_det_jacobian(x, y)

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x = self.transform._inverse(y)
        return x, self.transform.log_abs_det_jacobian(x, y)

    def forward_shape(self, shape: Any) -> Any:
        return self.transform.forward_shape(shape)

    def inverse_shape(self, shape: Any) -> Any:
        return self.transform.inverse_shape(shape)


class _OnFields(MapTransform):
    """A map of points applied to each point of a field with so many more event axes."""

    def __init__(self, part: Any, axes: int) -> None:
        super().__init__()
        self.part, self.axes = part, axes
        self.domain = constraints.independent(part.domain, axes)
        self.codomain = constraints.independent(part.codomain, axes)

    def _sum(self, log_volume: Tensor) -> Tensor:
        return log_volume.sum(tuple(range(-self.axes, 0)))

    def _call(self, x: Tensor) -> Tensor:
        return self.part._call(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.part._inverse(y)

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, log_volume = self.part.forward_and_log_volume(x)
        return y, self._sum(log_volume)

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x, log_volume = self.part.inverse_and_log_volume(y)
        return x, self._sum(log_volume)

    def jvp(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        # the axis of the tangents stands before the field; the map of points wants it before the point
        inner, outer = self.part.domain.event_dim, self.domain.event_dim
        tangents = tangents.expand(x.shape[: x.dim() - outer] + tangents.shape[tangents.dim() - outer - 1 :])
        y, t = self.part.jvp(x, tangents.movedim(-1 - outer, -1 - inner))
        out = self.part.codomain.event_dim
        return y, t.movedim(-1 - out, -1 - out - self.axes)

    def forward_shape(self, shape: Any) -> Any:
        return self.part.forward_shape(shape)

    def inverse_shape(self, shape: Any) -> Any:
        return self.part.inverse_shape(shape)


class Chain(MapTransform):
    """Bijections one after the other, each given value, volume and derivative by its own primitives.

    :param parts: transforms of torch, Pyro or ours.
    :param int event_dim: the least number of trailing axes that are one event.
    """

    def __init__(self, parts: Iterable[Transform], event_dim: int = 0) -> None:
        super().__init__()
        whole = ComposeTransform(list(parts))
        axes = event_dim - whole.domain.event_dim
        self.domain, self.codomain = (
            constraints.independent(c, axes) if axes > 0 else c for c in (whole.domain, whole.codomain)
        )
        self.parts = []
        rank = self.domain.event_dim
        for transform in whole.parts:
            part = as_map(transform, rank)
            self.parts.append(part)
            rank = part.codomain.event_dim

    def _call(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part._call(x)
        return x

    def _inverse(self, y: Tensor) -> Tensor:
        for part in reversed(self.parts):
            y = part._inverse(y)
        return y

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(x.shape[: x.dim() - self.domain.event_dim])
        for part in self.parts:
            x, log_volume = part.forward_and_log_volume(x)
            total = total + log_volume
        return x, total

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        total = y.new_zeros(y.shape[: y.dim() - self.codomain.event_dim])
        for part in reversed(self.parts):
            y, log_volume = part.inverse_and_log_volume(y)
            total = total + log_volume
        return y, total

    def jvp(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        for part in self.parts:
            x, tangents = part.jvp(x, tangents)
        return x, tangents

    def forward_shape(self, shape: Any) -> Any:
        return ComposeTransform(self.parts).forward_shape(shape)

    def inverse_shape(self, shape: Any) -> Any:
        return ComposeTransform(self.parts).inverse_shape(shape)
