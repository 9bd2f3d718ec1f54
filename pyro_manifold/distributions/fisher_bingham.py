r"""What Bingham's and Kent's laws share: the exponential family with a linear and a quadratic statistic on the sphere."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import geoopt
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..constraints import on
from ..ops.batched import apply_matrix, compact_batch
from ..ops.checks import check_expansion
from .shown import Shown

__all__ = ["FisherBingham"]


class FisherBingham(Shown, TorchDistribution):
    r"""Base class of :math:`\log p(x) = h\cdot x + x^\top Bx - \log C(h, B)` on :math:`S^{d-1}`; not a law of its own.

    Subclasses give :meth:`_natural`, :meth:`_moments` and :meth:`_draw`, all in float64 and for the parameters as they were
    given, before :meth:`expand`; so a plate of a million costs one normaliser. No push-forward of a simple base gives these
    laws: they are sampled by rejection and have no ``rsample``.
    """

    has_rsample = False
    _event_ranks: Mapping[str, int] = {}

    def __init__(self, given: Mapping[str, Tensor], batch_shape: torch.Size, dim: int) -> None:
        self._given = {name: compact_batch(x, self._event_ranks[name]) for name, x in given.items()}
        super().__init__(batch_shape, torch.Size([dim]), validate_args=False)

    @abstractmethod
    def _natural(self) -> tuple[Tensor, Tensor]:
        """h, ``batch + (d,)``, and B, ``batch + (d, d)``."""

    @abstractmethod
    def _moments(self) -> tuple[Tensor, Tensor, Tensor]:
        r""":math:`\log C`, :math:`\mathrm E[x]` and :math:`\mathrm E[xx^\top]`."""

    @abstractmethod
    def _draw(self, batch: torch.Size, n: int) -> Tensor:
        """``n`` draws for each element of ``batch``, to which the parameters are to be expanded: ``(n,) + batch + (d,)``."""

    def _log_c(self) -> Tensor:
        return self._moments()[0]

    def _parameter(self, name: str) -> Tensor:
        x = self._given[name]
        return x.expand(self.batch_shape + x.shape[x.dim() - self._event_ranks[name] :])

    @property
    def _given_batch(self) -> torch.Size:
        return torch.broadcast_shapes(*(x.shape[: x.dim() - self._event_ranks[k]] for k, x in self._given.items()))

    @property
    def _dtype(self) -> torch.dtype:
        return next(iter(self._given.values())).dtype

    def _out(self, x: Tensor, rank: int) -> Tensor:
        return x.to(self._dtype).expand(self.batch_shape + x.shape[x.dim() - rank :])

    @property
    def support(self) -> on:  # type: ignore[override]
        return on(geoopt.Sphere())

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        check_expansion(self.batch_shape, batch_shape)
        new = self._get_checked_instance(type(self), _instance)
        FisherBingham.__init__(new, self._given, torch.Size(batch_shape), self.event_shape[0])
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            given = self._given_batch
            if given.numel() == 1:
                return self._draw(torch.Size(), shape[:-1].numel()).reshape(shape)
            return self._draw(self.batch_shape, torch.Size(sample_shape).numel()).reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x = value.double()
        x = x / x.norm(dim=-1, keepdim=True)  # a float32 norm is off by 1e-7, which a concentration of 1e4 would show
        h, b = self._natural()
        bx = apply_matrix(b, x)
        out = ((h + bx) * x).sum(-1) - self._log_c()
        return out.to(value.dtype).expand(torch.broadcast_shapes(value.shape[:-1], self.batch_shape))

    @property
    def mean(self) -> Tensor:
        r"""Ambient expectation :math:`\mathrm E[x]`, inside the ball."""
        return self._out(self._moments()[1], 1)

    @property
    def second_moment(self) -> Tensor:
        r""":math:`\mathrm E[xx^\top]`, ``batch_shape + (d, d)``, of trace 1."""
        return self._out(self._moments()[2], 2)

    @property
    def covariance_matrix(self) -> Tensor:
        r"""Ambient covariance :math:`\mathrm E[xx^\top] - \mathrm E[x]\mathrm E[x]^\top`, ``batch_shape + (d, d)``."""
        _, mean, second = self._moments()
        return self._out(second - mean.unsqueeze(-1) * mean.unsqueeze(-2), 2)

    @property
    def variance(self) -> Tensor:
        """Diagonal of :attr:`covariance_matrix`."""
        return self.covariance_matrix.diagonal(dim1=-2, dim2=-1)

    def entropy(self) -> Tensor:
        r""":math:`\log C - h\cdot\mathrm E[x] - \mathrm{tr}(B\,\mathrm E[xx^\top])`, differentiable in the parameters."""
        log_c, mean, second = self._moments()
        h, b = self._natural()
        return self._out(log_c - (h * mean).sum(-1) - (b * second).sum((-1, -2)), 0)
