"""The Bingham distribution of axes."""

from typing import Any

import geoopt
import torch
from pyro.distributions import constraints
from torch import Tensor

from ..ops import bingham_sampler
from ..ops.arguments import checked
from ..ops.batched import apply_matrix
from ..ops.bingham import matrix_divergence, matrix_normalizer
from ..ops.checks import as_tensors, check_all
from ..ops.numpy_axial import quadratic
from ..ops.numpy_operator import by_numpy, numpy_operator
from ..ops.tracing import is_concrete
from ._quadratic_exponential import QuadraticExponential, direction
from ._repr import validates
from .estimation.axes import bingham
from .estimation.sample import gathered

__all__ = ["Bingham", "check_symmetric"]

_MODERATE = 300.0


def check_symmetric(name: str, matrix: Tensor) -> None:
    """Check that ``matrix`` is finite and symmetric to sqrt(eps) of its largest entry.

    :raises ValueError: if a matrix is not; the message names the first such matrix.
    """
    tolerance = torch.finfo(matrix.dtype).eps ** 0.5 * matrix.abs().amax((-1, -2))
    ok = matrix.isfinite().all(-1).all(-1) & ((matrix - matrix.mT).abs().amax((-1, -2)) <= tolerance)
    check_all(ok, name, matrix, "a finite symmetric matrix", f"Symmetrise it: ({name} + {name}.mT) / 2.")


def in_own_axes(a: Tensor) -> tuple[Tensor, Tensor]:
    r"""The eigenvectors V of a symmetric matrix A, that of the largest eigenvalue :math:`\lambda` first, and
    the nonnegative matrix :math:`\lambda I - V^\top A V`, whose quadratic form is small near the mode however
    large A is. V is a constant (the identity holds for any orthonormal V), so no eigenvector is
    differentiated."""
    axes = torch.linalg.eigh(a.detach())[1].flip(-1)
    own = axes.mT @ a @ axes
    return axes, own[..., :1, :1].detach() * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device) - own


def is_moderate(a: Tensor) -> bool:
    """Whether all entries are known to be so small that the log density in float64 loses at most 1e-12 by
    cancellation."""
    return (
        is_concrete(a)
        and a.device.type == "cpu"
        and a.numel() > 0
        and bool(a.detach().abs().amax() < _MODERATE)
    )


def _composed(x: Tensor, a: Tensor, c: Tensor) -> Tensor:
    x = direction(x)
    return (x * apply_matrix(a, x)).sum(-1) - c


_OPERATOR = numpy_operator(quadratic, _composed, (1, 2, 0))


class Bingham(QuadraticExponential):
    r"""The antipodally symmetric distribution with a quadratic log density: a normal vector conditioned to
    have length 1.

    .. math:: p(x) = C(A)^{-1}\, e^{x^\top A x}, \qquad C(A) = \int_{S^{d-1}} e^{x^\top Ax}\,dS

    on :math:`S^{d-1}`, d >= 2. A and A + cI give the same distribution. The mode is the eigenvector of the
    largest eigenvalue of A. A = 0 is the uniform distribution; A with only two distinct eigenvalues, one of
    them simple, is :class:`Watson`'s distribution. To parametrise by axes (columns of V) and eigenvalues z, give
    ``(V * z.unsqueeze(-2)) @ V.mT``. C and its derivatives are exact to rounding for entries of any size
    (:mod:`pyro_manifold.ops.fisher_bingham`), also at repeated eigenvalues. Draws are exact, by rejection;
    there is no ``rsample``.

    :param Tensor matrix: A, symmetric (definite or not), shape ``batch + (d, d)``; only its symmetric part
        is used.
    :raises ValueError: for a ``matrix`` that is not square, not finite or not symmetric.

    Base measure: surface area. Batch shape: that of ``matrix``; event shape ``(d,)``.

    References: Bingham, Ann. Statist. 2 (1974), eq. 2.1; Mardia & Jupp, Directional Statistics (2000), sec.
    9.4.3; Kume & Wood, Biometrika 92 (2005); Kent, Ganeiber & Mardia, J. Comput. Graph. Stat. 27 (2018), sec.
    3.

    >>> d = Bingham(torch.zeros(3, 3))
    >>> d.log_prob(torch.tensor([0.0, 0.0, 1.0]))  # -log 4 pi
    tensor(-2.5310)
    """

    arg_constraints: dict[str, Any] = {
        "matrix": constraints.independent(constraints.real, 2)
    }  # and symmetric
    _offset = 0.0
    _event_ranks = {"matrix": 2}

    @checked
    def __init__(self, matrix: Tensor, *, validate_args: bool | None = None) -> None:
        validate = validates(validate_args)
        (matrix,) = as_tensors(matrix=matrix)
        if matrix.dim() < 2 or matrix.shape[-1] != matrix.shape[-2] or matrix.shape[-1] < 2:
            raise ValueError(
                f"matrix: got shape {tuple(matrix.shape)}, expected (..., d, d) with d >= 2. Give square "
                f"matrices."
            )
        if validate:
            check_symmetric("matrix", matrix)
        super().__init__({"matrix": matrix}, matrix.shape[:-2], matrix.shape[-1])
        self._validate_args = validate

    @classmethod
    @checked
    def fit(cls, x: Tensor, weights: Tensor | None = None) -> "Bingham":
        r"""The distribution of greatest likelihood, whose second moment :math:`\mathrm E[xx^\top]` is that of the
        rows. The largest eigenvalue of its ``matrix`` is 0.

        :param x: the rows of data, shape ``(n,) + batch + (d,)``: one distribution for each element of the batch.
        :param weights: how often each row was seen, shape ``(n,)`` or ``(n,) + batch``; ones by default.
        :raises ValueError: for rows off the sphere, or in a subspace of fewer than d dimensions (the likelihood
            has no maximum); for weights that are negative, all zero, or of another shape.

        Computed in float64 without gradients; standard errors by :func:`standard_errors`. Reference: Mardia &
        Jupp (2000), sec. 10.3.3.

        >>> x = Bingham(torch.diag(torch.tensor([0.0, -3.0, -9.0]))).sample((2000,))
        >>> bool((Bingham.fit(x).matrix.diagonal() - torch.tensor([0.0, -3.0, -9.0])).norm() < 1.5)
        True
        """
        s, _ = gathered(geoopt.Sphere(), x, weights)
        return cls(s.shaped(bingham(s)))

    @property
    def matrix(self) -> Tensor:
        """A, expanded to ``batch_shape + (d, d)``."""
        return self._parameter("matrix")

    @staticmethod
    def infer_shapes(matrix: Any) -> tuple[torch.Size, torch.Size]:  # type: ignore[override]
        return torch.Size(matrix)[:-2], torch.Size(matrix)[-1:]

    def _symmetric(self) -> Tensor:
        a = self._given["matrix"].double()
        return 0.5 * (a + a.mT)

    def _form(self) -> tuple[Tensor, Tensor]:
        return in_own_axes(self._symmetric())

    def _log_density(self, x: Tensor) -> Tensor:
        a = self._symmetric()
        if is_moderate(a):
            c = matrix_normalizer(a)[0]
            return _OPERATOR(x, a, c) if by_numpy(x) and by_numpy(a, c) else _composed(x, a, c)
        return super()._log_density(x)

    def _normalizer(self, form: Tensor) -> Tensor:
        return matrix_normalizer(-form)[0]

    def _moments(self, form: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log, second = matrix_normalizer(-form)
        return log, second.new_zeros(second.shape[:-1]), second

    def _uniform_divergence(self) -> Tensor:
        return matrix_divergence(self._form()[1].neg())

    def _draw(self, batch: torch.Size, n: int) -> Tensor:
        values, axes = torch.linalg.eigh(self._symmetric())
        d = values.shape[-1]
        coef = (values[..., -1:] - values).to(self._dtype)
        coef, axes = (
            (coef.expand(batch + (d,)), axes.expand(batch + (d, d)))
            if batch
            else (coef.reshape(d), axes.reshape(d, d))
        )
        return apply_matrix(axes.to(self._dtype), bingham_sampler.sample(coef, None, n))

    @property
    def mode(self) -> Tensor:
        """The eigenvector of the largest eigenvalue: one of the two modes, or one of many where that eigenvalue
        is repeated."""
        return self._out(torch.linalg.eigh(self._symmetric().detach())[1][..., -1], 1)
