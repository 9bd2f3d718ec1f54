"""The volume element of positive definite matrices, as a map that moves no point."""

import math

import geoopt
import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import ComposeTransform

from ..constraints import on
from ..ops.linalg import sym
from .base import SeparateVolume
from .exp_map import ExpMap

__all__ = ["SymmetricVolume"]

_SPD = geoopt.SymmetricPositiveDefinite()


class SymmetricVolume(SeparateVolume):
    r"""The identity map from positive definite matrices with Lebesgue measure, :math:`\prod_{i\le j}dX_{ij}`, to
    the same matrices with the Riemannian volume of the affine-invariant metric.

    .. math:: X \mapsto X, \qquad
        \log\frac{d\,\mathrm{vol}}{dX} = \frac{n(n-1)}4\log2 - \frac{n+1}2\log|X|

    ``TransformedDistribution(d, [SymmetricVolume()])`` is a distribution of torch or Pyro, whose density is
    with respect to Lebesgue measure (``Wishart``), with respect to Riemannian volume; with ``.inv`` in
    place of it, the other way round.

    Reference: Said et al., IEEE Trans. Inf. Theory 63 (2017), eq. 12.

    >>> import torch
    >>> SymmetricVolume().log_abs_det_jacobian(torch.eye(2), torch.eye(2))  # log(2) / 2
    tensor(0.3466)
    """

    domain = constraints.positive_definite
    codomain = on(_SPD)

    def _call(self, x: Tensor) -> Tensor:
        return x.clone()

    def _inverse(self, y: Tensor) -> Tensor:
        return y.clone()

    def log_volume(self, x: Tensor) -> Tensor:
        n = x.shape[-1]
        log_det = 2 * torch.linalg.cholesky(sym(x)).diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return n * (n - 1) / 4 * math.log(2) - (n + 1) / 2 * log_det

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SymmetricVolume)

    __hash__ = None  # type: ignore[assignment]


@biject_to.register(constraints.positive_definite)
def _biject(constraint: constraints.Constraint) -> ComposeTransform:
    """The exponential map at the identity; torch has no bijection of its own for this constraint."""
    return ComposeTransform([ExpMap(_SPD), SymmetricVolume().inv])
