r"""Beta distributions on (0, 1) of any concentration, whose draws keep away from the ends.

.. math::
    p(u) = \frac{u^{\alpha-1}(1-u)^{\beta-1}}{B(\alpha, \beta)}, \qquad
    \mathrm{KL}(\alpha, \beta \,\|\, \alpha', \beta') = \log\frac{B(\alpha', \beta')}{B(\alpha, \beta)} +
    (\alpha-\alpha')\psi(\alpha) + (\beta-\beta')\psi(\beta) + (\alpha'-\alpha+\beta'-\beta)\psi(\alpha+\beta)

Terms of the size of the concentration cancel in all of these: they are computed in float64.
"""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import register_kl

__all__ = ["MARGIN", "CubeBeta"]

MARGIN = 1e-5


class CubeBeta(dist.Beta):
    """Torch's ``Beta``, where draws nearer to 0 or 1 than :data:`MARGIN` are moved to that distance, and such values
    have the density there: maps from the cube may have infinite derivatives at its faces. Base measure: Lebesgue on
    (0, 1). For concentrations of at least 1 a share of at most ``MARGIN`` times the larger one is moved.
    """

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return super().rsample(sample_shape).clamp(MARGIN, 1 - MARGIN)

    def _double(self) -> tuple[Tensor, Tensor]:
        return self.concentration1.double(), self.concentration0.double()

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        a, b = self._double()
        u = value.clamp(MARGIN, 1 - MARGIN).double()
        return ((a - 1) * u.log() + (b - 1) * torch.log1p(-u) - _log_beta(a, b)).to(value.dtype)

    def entropy(self) -> Tensor:
        a, b = self._double()
        out = (
            _log_beta(a, b) + (a + b - 2) * (a + b).digamma() - (a - 1) * a.digamma() - (b - 1) * b.digamma()
        )
        return out.to(self.concentration1.dtype)


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return a.lgamma() + b.lgamma() - (a + b).lgamma()


@register_kl(CubeBeta, CubeBeta)
def _kl(p: CubeBeta, q: CubeBeta) -> Tensor:
    (a, b), (c, d) = p._double(), q._double()
    out = _log_beta(c, d) - _log_beta(a, b) + (a - c) * a.digamma() + (b - d) * b.digamma()
    return (out + (c - a + d - b) * (a + b).digamma()).to(p.concentration1.dtype)
