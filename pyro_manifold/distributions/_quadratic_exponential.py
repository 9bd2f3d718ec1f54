r"""Base class of the Bingham, Watson and Kent distributions, the exponential family on the sphere whose statistics are
x and its quadratic products."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import geoopt
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..constraints import on
from ..ops.batched import apply_matrix, unexpand
from ..ops.checks import common_shape
from ..ops.numerics import norm
from ..ops.spherical import log_sphere_area
from ._repr import ReprMixin, expanded

__all__ = ["QuadraticExponential"]


def direction(x: Tensor) -> Tensor:
    """x as unit vectors in float64: those in float32 have lengths off by 1e-7, which would matter at a concentration
    of 1e4."""
    x = x.double()
    return x / norm(x, keepdim=True)


class QuadraticExponential(ReprMixin, TorchDistribution):
    r"""Abstract base class of densities :math:`\log p(x) = -y^\top Dy - S` with
    :math:`y = \Gamma^\top(x - o\,\gamma_1)`.

    The columns of :math:`\Gamma` are orthonormal axes, the mode :math:`\gamma_1` first; D is nonnegative
    definite; o is 0 (Bingham) or 1 (Kent). In this form no term grows with the concentration where there is
    mass, so densities, entropies and divergences are accurate at any concentration. Subclasses compute
    :math:`\Gamma`, D and S in float64 from the parameters as given, before :meth:`expand`, so a plate of a
    million points needs one normaliser. These distributions are not the pushforward of a simple base: they
    are sampled by rejection and have no ``rsample``.
    """

    has_rsample = False
    _event_ranks: Mapping[str, int] = {}
    _offset: ClassVar[float]

    def __init__(self, given: Mapping[str, Tensor], batch_shape: torch.Size, dim: int) -> None:
        self._given = {name: unexpand(x, self._event_ranks[name]) for name, x in given.items()}
        super().__init__(batch_shape, torch.Size([dim]), validate_args=False)

    @abstractmethod
    def _form(self) -> tuple[Tensor, Tensor]:
        r"""The axes :math:`\Gamma` and D, both ``batch + (d, d)``."""

    @abstractmethod
    def _normalizer(self, form: Tensor) -> Tensor:
        """S, from D."""

    @abstractmethod
    def _moments(self, form: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""S, :math:`\mathrm E[y]` and :math:`\mathrm E[yy^\top]`, from D."""

    @abstractmethod
    def _uniform_divergence(self) -> Tensor:
        """The KL divergence from the uniform distribution."""

    @abstractmethod
    def _draw(self, batch: torch.Size, n: int) -> Tensor:
        """``n`` draws for each element of ``batch``, the shape to which the subclass expands its parameters;
        shape ``(n,) + batch + (d,)``."""

    def _tilt(self, mean: Tensor) -> Tensor | float:
        r""":math:`r\cdot y` at y = ``mean``, where the exponent is :math:`-y^\top Dy + r\cdot y` with r = 0 in value,
        but with derivatives in the parameters."""
        return 0.0

    def _parameter(self, name: str) -> Tensor:
        x = self._given[name]
        return x.expand(self.batch_shape + x.shape[x.dim() - self._event_ranks[name] :])

    @property
    def _given_batch(self) -> torch.Size:
        return common_shape(*(x.shape[: x.dim() - self._event_ranks[k]] for k, x in self._given.items()))

    @property
    def _dtype(self) -> torch.dtype:
        return next(iter(self._given.values())).dtype

    def _out(self, x: Tensor, rank: int) -> Tensor:
        return x.to(self._dtype).expand(self.batch_shape + x.shape[x.dim() - rank :])

    @property
    def support(self) -> on:  # type: ignore[override]
        return on(geoopt.Sphere())

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        return expanded(self, type(self), batch_shape, _instance, ["_given"])

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            given = self._given_batch
            if given.numel() == 1:
                return self._draw(torch.Size(), shape[:-1].numel()).reshape(shape)
            return self._draw(self.batch_shape, torch.Size(sample_shape).numel()).reshape(shape)

    def _coordinates(self, axes: Tensor, x: Tensor) -> Tensor:
        r"""y; its first entry :math:`\gamma_1\cdot x - 1` (Kent) is computed as minus half the squared
        chord."""
        if not self._offset:
            return apply_matrix(axes.mT, x)
        chord = x - axes[..., 0]
        y = apply_matrix(axes.mT, chord)
        return torch.cat(
            [-0.5 * chord.square().sum(-1, keepdim=True).expand(y.shape[:-1] + (1,)), y[..., 1:]], -1
        )

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        out = self._log_density(value)
        return out.to(value.dtype).expand(common_shape(value.shape[:-1], self.batch_shape))

    def _log_density(self, x: Tensor) -> Tensor:
        """The log density at the directions of x, computed in float64."""
        axes, form = self._form()
        y = self._coordinates(axes, direction(x))
        return -(y * apply_matrix(form, y)).sum(-1) - self._normalizer(form)

    def _summary(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance, in float64."""
        axes, form = self._form()
        _, mean, second = self._moments(form)
        covariance = second - mean.unsqueeze(-1) * mean.unsqueeze(-2)
        return apply_matrix(axes, mean) + self._offset * axes[..., 0], axes @ covariance @ axes.mT

    @property
    def mean(self) -> Tensor:
        r"""Ambient expectation :math:`\mathrm E[x]`, inside the ball."""
        return self._out(self._summary()[0], 1)

    @property
    def second_moment(self) -> Tensor:
        r""":math:`\mathrm E[xx^\top]`, ``batch_shape + (d, d)``, of trace 1."""
        mean, covariance = self._summary()
        return self._out(covariance + mean.unsqueeze(-1) * mean.unsqueeze(-2), 2)

    @property
    def covariance_matrix(self) -> Tensor:
        r"""Ambient covariance :math:`\mathrm E[xx^\top] - \mathrm E[x]\mathrm E[x]^\top`,
        ``batch_shape + (d, d)``."""
        return self._out(self._summary()[1], 2)

    @property
    def variance(self) -> Tensor:
        """Diagonal of :attr:`covariance_matrix`."""
        return self._out(self._summary()[1].diagonal(dim1=-2, dim2=-1), 1)

    def entropy(self) -> Tensor:
        r""":math:`S + \mathrm E[y^\top Dy]`, differentiable in the parameters."""
        return self._out(log_sphere_area(self.event_shape[0] - 1) - self._uniform_divergence(), 0)

    def _divergence_from_uniform(self) -> Tensor:
        return self._out(self._uniform_divergence(), 0)
