"""The matrix Fisher distribution of rotations."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from ..constraints import on
from ..geometry import SpecialOrthogonal
from ..ops.arguments import checked
from ..ops.batched import apply_matrix, unexpand
from ..ops.bingham import matrix_normalizer
from ..ops.checks import as_tensors, check_all, common_shape
from ..ops.numpy_axial import matrix_fisher as matrix_fisher_density
from ..ops.numpy_operator import by_numpy, numpy_operator
from ..ops.orthogonal import quaternion
from ..ops.quaternion import quadratic_form, rotation
from ._repr import ReprMixin, expanded, validates
from .bingham import Bingham, in_own_axes, is_moderate
from .estimation.axes import matrix_fisher
from .estimation.sample import gathered

__all__ = ["MatrixFisher"]

# log of vol SO(3) / vol S^3 = 4: SO(3) is half the sphere, with lengths twice as long
_LOG_4 = 1.3862943611198906


def _nearer(r: Tensor) -> Tensor:
    """In float64, a Newton step nearer to a rotation: float32 is off by 1e-7."""
    r = r.double()
    return 1.5 * r - 0.5 * r @ (r.mT @ r)


def _composed(r: Tensor, f: Tensor, c: Tensor) -> Tensor:
    return (f * _nearer(r)).sum((-1, -2)) - c


_OPERATOR = numpy_operator(matrix_fisher_density, _composed, (2, 2, 0))


class MatrixFisher(ReprMixin, TorchDistribution):
    r"""The exponential family of rotations whose log density is linear in R: the analogue on SO(3) of the von
    Mises-Fisher distribution, and the distribution of maximum entropy given its mean.

    .. math:: p(R) = c(F)^{-1}\, e^{\mathrm{tr}(F^\top R)}, \qquad c(F) = 4\,C(A(F))

    The mode is the rotation nearest to F, and the singular values of F (the last with the sign of its
    determinant) are concentrations: for large :math:`F = \kappa M`, the rotation vector about M is normal
    with variance :math:`1/2\kappa`. In unit quaternions :math:`\mathrm{tr}(F^\top R(q)) = q^\top A(F)q`: the
    quaternion has a :class:`Bingham` distribution on :math:`S^3`, whose exact normaliser, moments and sampler
    are used here. q and -q are the same rotation, so this is not a ``TransformedDistribution``.

    :param Tensor matrix: F, any real matrix, shape ``batch + (3, 3)``.
    :raises ValueError: for another shape, or entries that are not finite.

    Base measure: Riemannian volume of SO(3) with the rotation angle as distance; the total volume is
    :math:`8\pi^2`. (For the density with respect to normalised Haar measure add :math:`\log 8\pi^2`.) Event
    shape ``(3, 3)``.

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
        validate = validates(validate_args)
        (matrix,) = as_tensors(matrix=matrix)
        if matrix.shape[-2:] != (3, 3):
            raise ValueError(
                f"matrix: got shape {tuple(matrix.shape)}, expected (..., 3, 3). This distribution is "
                "implemented for SO(3) only; use WrappedNormal on other SO(n)."
            )
        if validate:
            finite = matrix.isfinite().all(-1).all(-1)
            remedy = "Check the computation that produced them."
            check_all(finite, "matrix", matrix, "finite numbers", remedy)
        self._matrix = unexpand(matrix, 2)
        super().__init__(matrix.shape[:-2], torch.Size([3, 3]), validate_args=False)
        self._validate_args = validate

    @classmethod
    @checked
    def fit(cls, x: Tensor, weights: Tensor | None = None) -> "MatrixFisher":
        r"""The distribution of greatest likelihood, whose mean is that of the rows; computed as a
        :class:`Bingham` distribution of quaternions.

        :param x: the rows of data, shape ``(n,) + batch + (3, 3)``: one distribution for each element of the batch.
        :param weights: how often each row was seen, shape ``(n,)`` or ``(n,) + batch``; ones by default.
        :raises ValueError: for rows that are no rotations, or fewer than four whose quaternions are linearly
            independent (the likelihood has no maximum); for weights that are negative, all zero, or of another
            shape.

        Computed in float64 without gradients; standard errors by :func:`standard_errors`. Reference: Downs,
        Biometrika 59 (1972), sec. 3.

        >>> x = MatrixFisher(5 * torch.eye(3)).sample((2000,))
        >>> bool((MatrixFisher.fit(x).matrix - 5 * torch.eye(3)).norm() < 1.5)
        True
        """
        s, _ = gathered(SpecialOrthogonal(3), x, weights)
        return cls(s.shaped(matrix_fisher(s)))

    @property
    def support(self) -> on:  # type: ignore[override]
        return on(self.manifold)

    @property
    def matrix(self) -> Tensor:
        """F, expanded to ``batch_shape + (3, 3)``."""
        return self._matrix.expand(self.batch_shape + (3, 3))

    def expand(self, batch_shape: Sequence[int], _instance: "MatrixFisher | None" = None) -> "MatrixFisher":
        return expanded(self, MatrixFisher, batch_shape, _instance, ["_matrix"])

    @staticmethod
    def infer_shapes(matrix: Any) -> tuple[torch.Size, torch.Size]:  # type: ignore[override]
        return torch.Size(matrix)[:-2], torch.Size(matrix)[-2:]

    @property
    def _quaternion(self) -> Bingham:
        """The distribution of the quaternion in float64, without the batch axes that ``expand`` added."""
        return Bingham(quadratic_form(self._matrix.double()), validate_args=False)

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        with torch.no_grad():
            q = self._quaternion.expand(self.batch_shape).sample(sample_shape)
            return rotation(q.unsqueeze(-1) * q.unsqueeze(-2)).to(self._matrix.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        f = self._matrix.double()
        if is_moderate(f):
            c = matrix_normalizer(quadratic_form(f))[0] + _LOG_4
            out = _OPERATOR(value, f, c) if by_numpy(value) and by_numpy(f, c) else _composed(value, f, c)
        else:
            axes, form = in_own_axes(quadratic_form(f))
            y = apply_matrix(axes.mT, quaternion(_nearer(value)))
            out = -(y * apply_matrix(form, y)).sum(-1) - matrix_normalizer(-form)[0] - _LOG_4
        return out.to(value.dtype).expand(common_shape(value.shape[:-2], self.batch_shape))

    @property
    def mean(self) -> Tensor:
        r"""Ambient expectation :math:`\mathrm E[R] = \partial\log c/\partial F`, a matrix whose singular values
        are at most 1."""
        return self._expanded_rotation(self._quaternion.second_moment)

    def _expanded_rotation(self, second: Tensor) -> Tensor:
        """The rotation (or mean rotation) of :math:`qq^\top` (or its mean)."""
        return rotation(second).to(self._matrix.dtype).expand(self.batch_shape + (3, 3))

    @property
    def mode(self) -> Tensor:
        """The rotation nearest to F, or one of them where it is not unique (F = 0, or -I)."""
        q = self._quaternion.mode
        return self._expanded_rotation(q.unsqueeze(-1) * q.unsqueeze(-2))

    def entropy(self) -> Tensor:
        r""":math:`\log c(F) - \mathrm{tr}(F^\top\mathrm E[R])`, differentiable in F."""
        return (self._quaternion.entropy() + _LOG_4).to(self._matrix.dtype).expand(self.batch_shape)

    def _divergence_from_uniform(self) -> Tensor:
        return self._quaternion._divergence_from_uniform().to(self._matrix.dtype).expand(self.batch_shape)
