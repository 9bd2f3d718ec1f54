"""The matrix Fisher distribution of rotations."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from ..constraints import on
from ..geometry import SpecialOrthogonal
from ..ops.arguments import checked
from ..ops.batched import apply_matrix, compact_batch
from ..ops.bingham import matrix_normalizer
from ..ops.checks import as_tensors, check_all, check_expansion, common_shape
from ..ops.orthogonal import quaternion
from ..ops.quaternion import quadratic_form, rotation
from ._repr import ReprMixin
from .bingham import Bingham, in_own_axes, is_moderate

__all__ = ["MatrixFisher"]

_LOG_4 = 1.3862943611198906  # SO(3) has 4 times the volume of S^3: half the sphere, and lengths twice as long


class MatrixFisher(ReprMixin, TorchDistribution):
    r"""The rotation that a linear log density prefers: the von Mises-Fisher distribution of SO(3), of
    greatest entropy given its mean.

    .. math:: p(R) = c(F)^{-1}\, e^{\mathrm{tr}(F^\top R)}, \qquad c(F) = 4\,C(A(F))

    The mode is the rotation nearest to F, and the singular values of F (the last with the sign of its
    determinant) are concentrations: for large :math:`F = \kappa M`, the rotation vector about M is normal
    with variance :math:`1/2\kappa`. In unit quaternions :math:`\mathrm{tr}(F^\top R(q)) = q^\top A(F)q`: a
    :class:`Bingham` distribution on :math:`S^3`, whose exact normaliser, moments and sampler serve here. q
    and -q are one rotation, hence no ``TransformedDistribution``.

    :param Tensor matrix: F, any real matrix, shape ``batch + (3, 3)``.
    :raises ValueError: for another shape, or entries that are not finite.

    Base measure: Riemannian volume of SO(3) where the distance of two rotations is the angle between them;
    total
    :math:`8\pi^2`. (For Haar measure of total 1 add :math:`\log 8\pi^2`.) Event shape ``(3, 3)``.

    References: Downs, Biometrika 59 (1972), eq. 1.3; Prentice, J. R. Stat. Soc. B 48 (1986), sec. 2; Lee,
    IEEE Trans. Automat. Control 63 (2018), thm 2.1.

    >>> d = MatrixFisher(torch.zeros(3, 3))
    >>> d.log_prob(torch.eye(3))  # -log 8 pi^2
    tensor(-4.3689)
    """

    arg_constraints: dict[str, Any] = {"matrix": constraints.independent(constraints.real, 2)}
    has_rsample = False
    manifold = SpecialOrthogonal(3)

    @checked
    def __init__(self, matrix: Tensor, *, validate_args: bool | None = None) -> None:
        validate = torch.distributions.Distribution._validate_args if validate_args is None else validate_args
        (matrix,) = as_tensors(matrix=matrix)
        if matrix.shape[-2:] != (3, 3):
            raise ValueError(
                f"matrix: got shape {tuple(matrix.shape)}, expected (..., 3, 3). Other SO(n) have no such "
                f"distribution here."
            )
        if validate:
            check_all(
                matrix.isfinite().all(-1).all(-1),
                "matrix",
                matrix,
                "finite numbers",
                "Look where they come from.",
            )
        self._matrix = compact_batch(matrix, 2)
        super().__init__(matrix.shape[:-2], torch.Size([3, 3]), validate_args=False)
        self._validate_args = validate

    @property
    def support(self) -> on:  # type: ignore[override]
        return on(self.manifold)

    @property
    def matrix(self) -> Tensor:
        """F, expanded to ``batch_shape + (3, 3)``."""
        return self._matrix.expand(self.batch_shape + (3, 3))

    def expand(self, batch_shape: Sequence[int], _instance: "MatrixFisher | None" = None) -> "MatrixFisher":
        check_expansion(self.batch_shape, batch_shape)
        new = self._get_checked_instance(MatrixFisher, _instance)
        new._matrix = self._matrix
        super(MatrixFisher, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @staticmethod
    def infer_shapes(matrix: Any) -> tuple[torch.Size, torch.Size]:  # type: ignore[override]
        return torch.Size(matrix)[:-2], torch.Size(matrix)[-2:]

    @property
    def _quaternion(self) -> Bingham:
        """The distribution of the quaternion, float64, before ``expand``."""
        return Bingham(quadratic_form(self._matrix.double()), validate_args=False)

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        with torch.no_grad():
            q = self._quaternion.expand(self.batch_shape).sample(sample_shape)
            return rotation(q.unsqueeze(-1) * q.unsqueeze(-2)).to(self._matrix.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        r = value.double()
        r = 1.5 * r - 0.5 * r @ (r.mT @ r)  # towards the nearest rotation: in float32 it is off by 1e-7
        f = self._matrix.double()
        if is_moderate(f):
            out = (f * r).sum((-1, -2)) - matrix_normalizer(quadratic_form(f))[0] - _LOG_4
        else:
            axes, form = in_own_axes(quadratic_form(f))
            y = apply_matrix(axes.mT, quaternion(r))
            out = -(y * apply_matrix(form, y)).sum(-1) - matrix_normalizer(-form)[0] - _LOG_4
        return out.to(value.dtype).expand(common_shape(value.shape[:-2], self.batch_shape))

    @property
    def mean(self) -> Tensor:
        r"""Ambient expectation :math:`\mathrm E[R] = \partial\log c/\partial F`, a matrix of singular values
        at most 1."""
        return (
            rotation(self._quaternion.second_moment).to(self._matrix.dtype).expand(self.batch_shape + (3, 3))
        )

    @property
    def mode(self) -> Tensor:
        """The rotation nearest to F; one of many where F has none (F = 0, or -I)."""
        q = self._quaternion.mode
        return (
            rotation(q.unsqueeze(-1) * q.unsqueeze(-2))
            .to(self._matrix.dtype)
            .expand(self.batch_shape + (3, 3))
        )

    def entropy(self) -> Tensor:
        r""":math:`\log c(F) - \mathrm{tr}(F^\top\mathrm E[R])`, differentiable in F."""
        return (self._quaternion.entropy() + _LOG_4).to(self._matrix.dtype).expand(self.batch_shape)

    def _divergence_from_uniform(self) -> Tensor:
        return self._quaternion._divergence_from_uniform().to(self._matrix.dtype).expand(self.batch_shape)
