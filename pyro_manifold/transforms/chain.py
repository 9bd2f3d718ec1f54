r"""Any transform of torch or Pyro as a map with the primitives of :class:`MapTransform`, and chains of them.

.. math:: f = f_k \circ \dots \circ f_1, \qquad \log|\det J_f(x)| = \sum_i \log|\det J_{f_i}(x_{i-1})|
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.distributions import ComposeTransform, IndependentTransform, Transform
from torch.distributions.transforms import _InverseTransform

from .base import Inverse, MapTransform

__all__ = ["Chain", "as_map"]


def as_map(transform: Transform, event_dim: int = 0) -> Any:
    """``transform`` with the primitives of a map, acting on events of at least ``event_dim`` axes: one that
    acts on single points is applied to all points of an event, and its volumes are summed.

    >>> from torch.distributions import ExpTransform
    >>> as_map(ExpTransform(), event_dim=1).forward_and_log_volume(torch.zeros(2))
    (tensor([1., 1.]), tensor(0.))
    """
    part: Any = transform
    if hasattr(part, "forward_and_log_volume"):
        pass
    elif isinstance(part, ComposeTransform):
        part = Chain(part.parts)
    elif isinstance(part, IndependentTransform):
        part = as_map(part.base_transform, part.domain.event_dim)
    elif isinstance(part, _InverseTransform):
        part = Inverse(as_map(part.inv))
    else:
        part = _Foreign(part)
    axes = event_dim - part.domain.event_dim
    return _OnFields(part, axes) if axes > 0 else part


class _Foreign(MapTransform):
    """A transform of torch or Pyro that knows its value and its log-determinant. Nothing is left in its own
    cache, where tensors of a differentiation in progress would stay."""

    separate_volume = True

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform, self.domain, self.codomain = transform, transform.domain, transform.codomain

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


class _OnFields(IndependentTransform):
    """A map of points applied to each point of a field, with the primitives of a map."""

    def __init__(self, part: Any, axes: int) -> None:
        super().__init__(part, axes, cache_size=part._cache_size)

    def _sum(self, log_volume: Tensor) -> Tensor:
        return log_volume.sum(tuple(range(-self.reinterpreted_batch_ndims, 0)))

    def _call(self, x: Tensor) -> Tensor:
        return self.base_transform._call(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.base_transform._inverse(y)

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, log_volume = self.base_transform.forward_and_log_volume(x)
        return y, self._sum(log_volume)

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x, log_volume = self.base_transform.inverse_and_log_volume(y)
        return x, self._sum(log_volume)

    def jvp(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        # the axis of the tangents stands before the field; the map of points wants it before the point
        points, axes = self.base_transform, self.reinterpreted_batch_ndims
        before, after = -1 - points.domain.event_dim, -1 - points.codomain.event_dim
        batch = x.shape[: x.dim() - self.domain.event_dim]
        tangents = tangents.expand(batch + tangents.shape[tangents.dim() + before - axes :])
        y, t = points.jvp(x, tangents.movedim(before - axes, before))
        return y, t.movedim(after, after - axes)


class Chain(ComposeTransform):
    """Bijections one after the other, each given value, volume and derivative by its own primitives.

    :param parts: transforms of torch, Pyro or ours.
    :param int event_dim: the least number of trailing axes that are one event; ``rank`` is their number.
    """

    parts: list[Any]

    def __init__(self, parts: Sequence[Transform], event_dim: int = 0) -> None:
        self.rank = rank = max(event_dim, ComposeTransform(list(parts)).domain.event_dim)
        maps: list[Any] = []
        for transform in parts:
            maps.append(as_map(transform, rank))
            rank = maps[-1].codomain.event_dim
        super().__init__(maps)

    def _call(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part._call(x)
        return x

    def _inverse(self, y: Tensor) -> Tensor:
        for part in reversed(self.parts):
            y = part._inverse(y)
        return y

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(x.shape[: x.dim() - self.rank])
        for part in self.parts:
            x, log_volume = part.forward_and_log_volume(x)
            total = total + log_volume
        return x, total

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        total: Any = 0.0
        for part in reversed(self.parts):
            y, log_volume = part.inverse_and_log_volume(y)
            total = total + log_volume
        return y, total + y.new_zeros(y.shape[: y.dim() - self.rank])

    def jvp(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        for part in self.parts:
            x, tangents = part.jvp(x, tangents)
        return x, tangents
