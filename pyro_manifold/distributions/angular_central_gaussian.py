"""The angular central Gaussian distribution."""

from collections.abc import Sequence
from typing import Any

import geoopt
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from ..constraints import on
from ..ops.arguments import checked
from ..ops.batched import apply_matrix, solve_lower, unexpand
from ..ops.checks import as_tensors, check_all, common_shape
from ..ops.linalg import sym
from ..ops.numerics import norm
from ..ops.quadratic_form import expected_log_ratio, expected_projector, log_singular_values
from ..ops.spherical import log_sphere_area
from ._repr import ReprMixin, expanded, validates
from .bingham import check_symmetric
from .estimation.axes import tyler
from .estimation.sample import gathered

__all__ = ["AngularCentralGaussian"]


class AngularCentralGaussian(ReprMixin, TorchDistribution):
    r"""The direction of a centred normal vector: :math:`x = z/|z|`, :math:`z\sim\mathcal N(0,\Sigma)`.

    .. math:: p(x) = |S^{d-1}|^{-1}\, |\Sigma|^{-1/2}\, (x^\top\Sigma^{-1}x)^{-d/2}

    on :math:`S^{d-1}`, d >= 2. Like :class:`Bingham` it is a distribution of axes (p(x) = p(-x)), but with
    heavier tails, a closed-form density and reparametrised draws. :math:`\Sigma` and :math:`c\Sigma` give the
    same distribution. The map from z to x loses the length of z, so this is not a ``TransformedDistribution``.
    Standard deviations along the axes may differ by a factor of up to 1e15 (1e300 for a diagonal
    ``scale_tril``); only their ratios matter.

    :param Tensor scale_tril: Cholesky factor of :math:`\Sigma`, shape ``batch + (d, d)``.
    :param Tensor covariance_matrix: :math:`\Sigma`, the covariance of z, shape ``batch + (d, d)``. Give exactly
        one of the two.
    :raises ValueError: for a ``scale_tril`` that is not lower triangular with a positive diagonal, a
        ``covariance_matrix`` that is not symmetric and positive definite, or not exactly one of them.

    Base measure: surface area. Batch shape: that of the parameter; event shape ``(d,)``.

    References: Tyler, Biometrika 74 (1987), eq. 1; Mardia & Jupp, Directional Statistics (2000), sec. 9.4.4.

    >>> d = AngularCentralGaussian(torch.eye(3))
    >>> d.log_prob(torch.tensor([0.0, 0.0, 1.0]))  # -log 4 pi
    tensor(-2.5310)
    """

    arg_constraints: dict[str, Any] = {
        "scale_tril": constraints.independent(constraints.real, 2)
    }  # __init__ checks that it is lower triangular with a positive diagonal
    has_rsample = True

    @checked
    def __init__(
        self,
        scale_tril: Tensor | None = None,
        *,
        covariance_matrix: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if (scale_tril is None) == (covariance_matrix is None):
            seen = "neither" if scale_tril is None else "both"
            raise ValueError(
                f"scale_tril: got {seen} of scale_tril and covariance_matrix; expected exactly one."
            )
        validate = validates(validate_args)
        tril, cov = as_tensors(scale_tril=scale_tril, covariance_matrix=covariance_matrix)
        name, matrix = ("scale_tril", tril) if cov is None else ("covariance_matrix", cov)
        if matrix.dim() < 2 or matrix.shape[-1] != matrix.shape[-2] or matrix.shape[-1] < 2:
            raise ValueError(
                f"{name}: got shape {tuple(matrix.shape)}, expected (..., d, d) with d >= 2. Give square "
                f"matrices."
            )
        batch = matrix.shape[:-2]
        matrix = unexpand(matrix, 2)
        if cov is None:
            tril = matrix
            if validate:
                ok = (matrix.diagonal(dim1=-2, dim2=-1) > 0).all(-1) & (matrix.triu(1) == 0).all(-1).all(-1)
                ok = ok & matrix.isfinite().all(-1).all(-1)
                check_all(
                    ok,
                    name,
                    matrix,
                    "lower triangular with a positive diagonal",
                    "Use torch.linalg.cholesky.",
                )
        else:
            if validate:
                check_symmetric(name, matrix)
            tril, info = torch.linalg.cholesky_ex(sym(matrix))
            if validate:
                check_all(
                    info == 0, name, matrix, "a positive definite matrix", "Add a jitter to its diagonal."
                )
        self._tril = tril
        super().__init__(batch, tril.shape[-1:], validate_args=False)
        self._validate_args = validate

    @classmethod
    @checked
    def fit(cls, x: Tensor, weights: Tensor | None = None) -> "AngularCentralGaussian":
        r"""The distribution of greatest likelihood, by Tyler's iteration; the trace of its
        ``covariance_matrix`` is d.

        .. math:: \Sigma = d\sum_iw_i\,\frac{x_ix_i^\top}{x_i^\top\Sigma^{-1}x_i}

        :param x: the rows of data, shape ``(n,) + batch + (d,)``: one distribution for each element of the batch.
        :param weights: how often each row was seen, shape ``(n,)`` or ``(n,) + batch``; ones by default.
        :raises ValueError: for rows off the sphere; for d rows or fewer, or a subspace of m dimensions that holds
            the share m/d of them or more (the likelihood has no maximum); for weights that are negative, all
            zero, or of another shape.

        Computed in float64 without gradients; standard errors by :func:`standard_errors`. Reference: Tyler,
        Biometrika 74 (1987), eq. 3.

        >>> x = AngularCentralGaussian(torch.diag(torch.tensor([1.0, 2.0, 3.0]))).sample((2000,))
        >>> cov = AngularCentralGaussian.fit(x).covariance_matrix
        >>> bool((cov.diagonal() * 14 / 3 - torch.tensor([1.0, 4.0, 9.0])).norm() < 1.5)
        True
        """
        s, _ = gathered(geoopt.Sphere(), x, weights)
        return cls(s.shaped(tyler(s)))

    @property
    def support(self) -> on:  # type: ignore[override]
        return on(geoopt.Sphere())

    @property
    def scale_tril(self) -> Tensor:
        r"""Cholesky factor of :math:`\Sigma`, expanded to ``batch_shape + (d, d)``."""
        return self._tril.expand(self.batch_shape + self._tril.shape[-2:])

    @property
    def covariance_matrix(self) -> Tensor:
        r""":math:`\Sigma`, the covariance of the normal vector z, not of x (which is
        :attr:`second_moment`)."""
        return self.scale_tril @ self.scale_tril.mT

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "AngularCentralGaussian":
        return expanded(self, AngularCentralGaussian, batch_shape, _instance, ["_tril"])

    @staticmethod
    def infer_shapes(scale_tril: Any = None, covariance_matrix: Any = None) -> tuple[torch.Size, torch.Size]:  # type: ignore[override]
        shape = torch.Size(covariance_matrix if scale_tril is None else scale_tril)
        return shape[:-2], shape[-1:]

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        w = torch.randn(shape, dtype=self._tril.dtype, device=self._tril.device)
        z = apply_matrix(self._tril, w)
        return z / norm(z, keepdim=True)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        d, x, tril = self.event_shape[0], value.double(), self._tril.double()
        batch = common_shape(value.shape[:-1], self.batch_shape)
        size = tril.detach().abs().amax((-1, -2))
        w = solve_lower(tril / size[..., None, None], x)
        half_log_det = (tril.diagonal(dim1=-2, dim2=-1) / size.unsqueeze(-1)).log().sum(-1)
        # dividing by |x|, which is 1 up to rounding, makes the formula independent of the length of x
        out = -log_sphere_area(d - 1) - half_log_det - d * (norm(w) / norm(x)).log()
        return out.to(value.dtype).expand(batch)

    def _out(self, x: Tensor, rank: int) -> Tensor:
        return x.to(self._tril.dtype).expand(self.batch_shape + x.shape[x.dim() - rank :])

    @property
    def mean(self) -> Tensor:
        """0, by symmetry."""
        return self._tril.new_zeros(self.batch_shape + self.event_shape)

    @property
    def second_moment(self) -> Tensor:
        r""":math:`\mathrm E[xx^\top]`, the covariance of x, by one-dimensional quadrature;
        ``batch_shape + (d, d)``, trace 1."""
        return self._out(expected_projector(self._tril.double()), 2)

    @property
    def variance(self) -> Tensor:
        """Diagonal of :attr:`second_moment`."""
        return self.second_moment.diagonal(dim1=-2, dim2=-1)

    @property
    def mode(self) -> Tensor:
        r"""The eigenvector of the largest eigenvalue of :math:`\Sigma`: one of the two modes, or one of many
        where that eigenvalue is repeated."""
        return self._out(torch.linalg.svd(self._tril.detach().double())[0][..., 0], 1)

    def _divergence(self, precision_factor: Tensor | None) -> Tensor:
        r"""KL divergence from the distribution with Cholesky factor M (from the uniform distribution if
        ``None``): :math:`\tfrac d2\mathrm E\log(w^\top Kw/w^\top w)`, with
        :math:`K = L^\top M^{-\top}M^{-1}L` scaled to determinant 1."""
        tril = self._tril.double()
        if precision_factor is not None:
            tril = torch.linalg.solve_triangular(precision_factor, tril, upper=False)
        return self.event_shape[0] / 2 * expected_log_ratio(2 * log_singular_values(tril))

    def entropy(self) -> Tensor:
        r""":math:`\log|S^{d-1}| - \tfrac d2\mathrm E\log(w^\top\Sigma w/w^\top w)`, w standard normal,
        :math:`|\Sigma|=1`."""
        return self._out(log_sphere_area(self.event_shape[0] - 1) - self._divergence(None), 0)
