"""The tangent distribution of the Riemannian normal on positive definite matrices."""

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from ..ops.gaps import log_sinhc_gaps
from ..ops.linalg import vec_to_sym
from ..ops.numerics import scalar
from ..ops.spd_normal import sample_tangent
from ..ops.spd_normalizer import log_normalizer, normalizer_table

__all__ = ["SPDTangentNormal"]


class SPDTangentNormal(dist.TorchDistribution):
    r"""Distribution of symmetric n x n matrices W, given by coordinates v in an orthonormal basis: a normal
    density times the volume change of exp.

    .. math:: p(v) = \frac1{Z(\sigma)} e^{-|v|^2/2\sigma^2} \prod_{i<j}
        \frac{\sinh((\lambda_i-\lambda_j)/2)}{(\lambda_i-\lambda_j)/2}, \qquad \lambda = \mathrm{eig}\,W/s

    Draws have no pathwise derivative in sigma, since they are accepted or rejected. While ``scale`` or s
    requires a gradient, ``has_rsample`` is false and ``rsample`` raises; otherwise ``rsample`` returns a
    constant.

    :param Tensor scale: :math:`\sigma > 0`, shape ``batch``.
    :param int n: size of the matrices, at most 32.
    :param unit: s; lengths on the manifold are s times those of the affine-invariant metric. A number, or a
        function that takes a tensor and returns s in its dtype.
    :raises ValueError: for n above 32.

    Base measure: Lebesgue measure of v.

    >>> SPDTangentNormal(torch.tensor(1.0), 2).log_prob(torch.zeros(3))
    tensor(-2.9262)
    """

    arg_constraints = {"scale": constraints.positive}
    support = constraints.real_vector

    def __init__(
        self, scale: Tensor, n: int, unit: Tensor | Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.scale, self.n, self._unit = scale, n, unit
        self._table = normalizer_table(n, scale.device)
        super().__init__(scale.shape, torch.Size([n * (n + 1) // 2]), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "SPDTangentNormal":
        return SPDTangentNormal(self.scale.expand(torch.Size(batch_shape)), self.n, self._unit)

    @property
    def unit(self) -> Tensor:
        """The current value of s."""
        if self._unit is None:
            return scalar(1.0, self.scale)
        return (self._unit(self.scale) if callable(self._unit) else self._unit).to(self.scale)

    def double(self) -> "SPDTangentNormal":
        """The same distribution in float64."""
        return SPDTangentNormal(self.scale.double(), self.n, self._unit)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return not (self.scale.requires_grad or self.unit.requires_grad)

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        shape, unit = self._extended_shape(torch.Size(sample_shape))[:-1], self.unit.detach()
        return unit * sample_tangent((self.scale / unit).detach(), self.n, shape)

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        if not self.has_rsample:
            raise NotImplementedError(
                "scale: requires a gradient, and draws on SPD matrices have no pathwise derivative in it. "
                "Use sample() and the score function (Pyro's ELBOs do), detach scale, or use WrappedNormal, "
                "which is differentiable in both."
            )
        return self.sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        out = -(value / self.scale.unsqueeze(-1)).square().sum(-1) / 2 - self.log_z()
        if self.n == 1:
            return out
        return out + log_sinhc_gaps(vec_to_sym(value / self.unit, self.n))

    def log_z(self) -> Tensor:
        r""":math:`\log Z(\sigma)`."""
        return self._log_z(self.scale)

    def _log_z(self, scale: Tensor) -> Tensor:
        return log_normalizer(scale / self.unit, self._table, self.n) + self.event_shape[0] * self.unit.log()

    def log_z_and_square(self) -> tuple[Tensor, Tensor]:
        r""":math:`\log Z` and :math:`E|v|^2 = \sigma^3\, d\log Z/d\sigma`."""
        learned = not self.has_rsample and torch.is_grad_enabled()
        with torch.enable_grad():
            s = self.scale if self.scale.requires_grad else self.scale.detach().requires_grad_()
            log_z = self._log_z(s)
            (slope,) = torch.autograd.grad(log_z.sum(), s, create_graph=learned)
        return log_z if learned else log_z.detach(), self.scale**3 * slope
