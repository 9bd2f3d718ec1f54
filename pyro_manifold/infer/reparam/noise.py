r"""The distributions of the two sites that replace a reparametrised site: the noise, and the value computed
from it.

.. math:: \log p(y) = \log n(y) + \log\frac{p(f(y))}{q(f(y))}
"""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

__all__ = ["Determined", "Noise"]


class Noise(TorchDistribution):
    r"""Noise y whose image f(y) has exactly the distribution p of a site.

    Base measure: Lebesgue. To draw y, x is drawn from p and then y from its conditional distribution given
    f(y) = x.

    :param reparam: the reparametriser, which defines f (:meth:`~.LatentReparam.push`), the draws and the weight
        p/q.
    :param fn: p, possibly masked (a mask acts on the density, not on draws).
    :param base: the normal n, with the batch shape of ``fn``.
    :param Tensor keep: mask of the rows that no handler masks; the others have the density n.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(
        self, reparam: Any, fn: TorchDistribution, base: TorchDistribution, keep: Tensor | None = None
    ) -> None:
        self.reparam, self.fn, self.base, self.keep = reparam, fn, base, keep
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.base.support

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Noise":
        batch_shape = torch.Size(batch_shape)
        return Noise(self.reparam, self.fn.expand(batch_shape), self.base.expand(batch_shape), self.keep)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return self.reparam.sample_noise(self.fn, self.base, torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        x = self.reparam.push(self.fn, value)
        weight = self.reparam.log_weight(self.fn, value, x)
        if self.keep is not None:
            weight = torch.where(self.keep, weight, 0.0)
        return self.base.log_prob(value) + weight


class Determined(TorchDistribution):
    r"""The distribution of a site whose value x is computed from a noise site that carries the density.

    .. math:: \log p(x') = \begin{cases} 0 & x' = x\\ \log p(x') \text{ of the site's own distribution} &
        \text{else}\end{cases}

    The second case occurs when a handler replaces x by data, as ``poutine.condition(reparametrised_model,
    {...})`` does: the data are then scored by the site's own distribution, and the noise integrates to one.

    :param value: x.
    :param fn: the original distribution of the site.
    """

    arg_constraints: dict[str, Any] = {}
    has_rsample = True

    def __init__(
        self, value: Tensor, fn: TorchDistribution, batch_shape: Sequence[int] | None = None
    ) -> None:
        self.value, self.fn = value, fn
        cut = value.dim() - fn.event_dim
        batch_shape = value.shape[:cut] if batch_shape is None else torch.Size(batch_shape)
        super().__init__(batch_shape, value.shape[cut:], validate_args=False)

    @property
    def support(self) -> Any:
        return self.fn.support

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Determined":
        return Determined(self.value, self.fn, batch_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.value.expand(torch.Size(sample_shape) + self.shape())

    def log_prob(self, value: Tensor) -> Tensor:
        zero = self.value.new_zeros(())
        shape = torch.broadcast_shapes(self.batch_shape, value.shape[: value.dim() - self.fn.event_dim])
        if value is self.value:
            return zero.expand(shape)
        same = value == self.value
        same = same.flatten(same.dim() - self.fn.event_dim).all(-1) if self.fn.event_dim else same
        if not torch._C._functorch.is_functorch_wrapped_tensor(same) and bool(same.all()):
            return zero.expand(shape)
        return torch.where(same, zero, self.fn.log_prob(value)).expand(shape)
