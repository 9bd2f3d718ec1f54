"""The inverse Wishart distribution of positive definite matrices."""

import math
from collections.abc import Sequence
from typing import Any

import geoopt
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import register_kl

from ..constraints import check_point, on
from ..ops.arguments import checked
from ..ops.batched import unexpand
from ..ops.checks import as_tensors, broadcast_shapes, check_all, common_shape
from ..ops.linalg import sym
from ..ops.precision import full_precision
from ..ops.tracing import is_concrete
from ._repr import ReprMixin, expanded, validates
from .estimation.sample import gathered
from .estimation.wishart import inverse_wishart

__all__ = ["InverseWishart"]

_SPD = geoopt.SymmetricPositiveDefinite()


class InverseWishart(ReprMixin, TorchDistribution):
    r"""The distribution of a matrix whose inverse is Wishart: the conjugate prior of a normal covariance.

    .. math::
        p(X) = \frac{|\Psi X^{-1}|^{\nu/2}\; e^{-\frac12\mathrm{tr}(\Psi X^{-1})}}
                    {2^{n\nu/2 + n(n-1)/4}\,\Gamma_n(\nu/2)}, \qquad X^{-1} \sim \mathrm W(\nu, \Psi^{-1})

    on positive definite n x n matrices. With m observations of :math:`\mathcal N(0, X)` of scatter S the
    posterior is the inverse Wishart distribution of :math:`\nu + m` and :math:`\Psi + S`. The inverse is an
    isometry of the affine-invariant metric, so entropy and divergences are those of the Wishart
    distributions; the entropy depends on :math:`\nu` alone. Draws are reparametrised in both parameters
    (Bartlett's decomposition, in float64).

    :param Tensor df: degrees of freedom :math:`\nu > n - 1`, a number or shape ``batch``.
    :param Tensor scale_matrix: :math:`\Psi`, positive definite, shape ``batch + (n, n)``, in the unit of X.
    :param Tensor scale_tril: its Cholesky factor, instead.
    :raises ValueError: for ``df`` that is not above n - 1, a matrix that is not positive definite, or both
        matrices.

    Base measure: Riemannian volume of the affine-invariant metric,
    :math:`2^{n(n-1)/4}|X|^{-(n+1)/2}\prod_{i\le j}dX_{ij}`. (The density of the literature, with respect to
    :math:`\prod_{i\le j}dX_{ij}`, is p times this factor; that of ``pyro.distributions.Wishart`` is of that kind too.)
    Batch shape: broadcast of the parameters'; event shape ``(n, n)``.

    Reference: Mardia, Kent & Bibby, Multivariate Analysis (1979), sec. 3.8 and ex. 3.4.7 (with
    :math:`m = \nu` degrees of freedom).

    >>> d = InverseWishart(6.0, torch.eye(2))
    >>> d.mean  # Psi / (nu - n - 1)
    tensor([[0.3333, 0.0000],
            [0.0000, 0.3333]])
    """

    arg_constraints: dict[str, Any] = {"df": constraints.positive, "scale_tril": constraints.lower_cholesky}
    has_rsample = True
    manifold = _SPD
    support = on(_SPD)

    @checked
    def __init__(
        self,
        df: Tensor | float,
        scale_matrix: Tensor | None = None,
        *,
        scale_tril: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if (scale_matrix is None) == (scale_tril is None):
            seen = "neither" if scale_matrix is None else "both"
            raise ValueError(
                f"scale_matrix: got {seen} of scale_matrix and scale_tril; expected exactly one. Give one of "
                "them."
            )
        name = "scale_tril" if scale_matrix is None else "scale_matrix"
        df, given = as_tensors(df=df, **{name: scale_tril if scale_matrix is None else scale_matrix})
        if given.dim() < 2 or given.shape[-1] != given.shape[-2]:
            raise ValueError(
                f"{name}: got shape {tuple(given.shape)}, expected (..., n, n). Give square matrices."
            )
        n = given.shape[-1]
        validate = validates(validate_args)
        if validate:
            check_all(
                (df > n - 1) & df.isfinite(), "df", df, f"finite numbers above n - 1 = {n - 1}",
                "Parametrise it as n - 1 + softplus(...).",
            )  # fmt: skip
            if scale_matrix is not None:
                check_point(_SPD, name, given)
            else:
                diagonal = given.diagonal(dim1=-2, dim2=-1)
                ok = given.isfinite().all(-1).all(-1) & (diagonal > 0).all(-1)
                ok = ok & (given.triu(1) == 0).all(-1).all(-1)
                remedy = "Use torch.linalg.cholesky of the matrix."
                check_all(ok, name, given, "lower triangular matrices with a positive diagonal", remedy)
        self._given, self._triangular, self._df = unexpand(given, 2), scale_matrix is None, unexpand(df)
        batch = broadcast_shapes(df=df.shape, **{name: given.shape[:-2]})
        super().__init__(batch, torch.Size([n, n]), validate_args=False)
        self._validate_args = validate

    @classmethod
    @checked
    def fit(cls, x: Tensor, weights: Tensor | None = None) -> "InverseWishart":
        r"""The distribution of greatest likelihood: :math:`\nu` solves one equation, and :math:`\Psi/\nu` is the
        harmonic mean of the rows.

        :param x: the rows of data, shape ``(m,) + batch + (n, n)``: one distribution for each element of the
            batch.
        :param weights: how often each row was seen, shape ``(m,)`` or ``(m,) + batch``; ones by default.
        :raises ValueError: for rows that are not positive definite, fewer than 2, or all equal (``df`` is
            infinite); for weights that are negative, all zero, or of another shape.

        Computed in float64 without gradients; standard errors by :func:`standard_errors`.

        >>> x = InverseWishart(20.0, torch.eye(2)).sample((2000,))
        >>> bool((InverseWishart.fit(x).df - 20).abs() < 2)
        True
        """
        s, _ = gathered(_SPD, x, weights)
        df, scale_matrix = inverse_wishart(s)
        return cls(s.shaped(df), s.shaped(scale_matrix))

    @property
    def df(self) -> Tensor:
        r""":math:`\nu`, expanded to ``batch_shape``."""
        return self._df.expand(self.batch_shape)

    @property
    def scale_tril(self) -> Tensor:
        r"""The Cholesky factor of :math:`\Psi`, expanded to ``batch_shape + (n, n)``."""
        return self._tril.to(self._given.dtype).expand(self.batch_shape + self.event_shape)

    @property
    def _tril(self) -> Tensor:
        """The Cholesky factor in float64, without the batch axes that ``expand`` added."""
        given = self._given.double()
        return given if self._triangular else torch.linalg.cholesky(sym(given))

    @property
    def _psi(self) -> Tensor:
        return self._given @ self._given.mT if self._triangular else self._given

    @property
    def scale_matrix(self) -> Tensor:
        r""":math:`\Psi`, expanded to ``batch_shape + (n, n)``."""
        return self._psi.expand(self.batch_shape + self.event_shape)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "InverseWishart":
        return expanded(self, type(self), batch_shape, _instance, ["_df", "_given", "_triangular"])

    @staticmethod
    def infer_shapes(
        df: Any = (), scale_matrix: Any = None, scale_tril: Any = None
    ) -> tuple[torch.Size, torch.Size]:
        matrix = torch.Size(scale_tril if scale_matrix is None else scale_matrix)
        return torch.broadcast_shapes(torch.Size(df), matrix[:-2]), matrix[-2:]

    def _log_normalizer(self) -> Tensor:
        nu, n = self._df.double(), self.event_shape[0]
        return (nu * n / 2 + n * (n - 1) / 4) * math.log(2) + torch.mvlgamma(nu / 2, n)

    def _mean_log_det(self) -> Tensor:
        r""":math:`\mathrm E\log|\Psi X^{-1}|`."""
        nu, n = self._df.double(), self.event_shape[0]
        half = torch.arange(n, dtype=nu.dtype, device=nu.device) / 2
        return torch.digamma(nu.unsqueeze(-1) / 2 - half).sum(-1) + n * math.log(2)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        nu, tril = self._df.double(), self._tril
        factor, info = torch.linalg.cholesky_ex(sym(value.double()))
        ok = info == 0  # without validation a value may be anything
        factor = torch.where(ok[..., None, None], factor, torch.eye(factor.shape[-1]).to(factor))
        root = torch.linalg.solve_triangular(factor, tril, upper=False)
        # not of root: compiled for 1 x 1 matrices, its backward pass reads memory that is used again (torch 2.13)
        log_det = 2 * (_log_diagonal(tril) - _log_diagonal(factor))
        out = nu / 2 * log_det - root.square().sum((-1, -2)) / 2 - self._log_normalizer()
        out = torch.where(ok, out, -math.inf)
        return out.to(value.dtype).expand(common_shape(value.shape[:-2], self.batch_shape))

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        shape, n = self._extended_shape(torch.Size(sample_shape)), self.event_shape[0]
        nu, tril = self.df.double(), self._tril
        half = (nu.unsqueeze(-1) - torch.arange(n, dtype=nu.dtype, device=nu.device)) / 2
        root = torch._standard_gamma(half.expand(shape[:-1])).mul(2).sqrt()
        noise = torch.randn(shape, dtype=nu.dtype, device=nu.device).tril(-1)
        root = torch.linalg.solve_triangular(
            noise + torch.diag_embed(root), tril.mT.expand(shape), upper=False
        )
        x = sym(root.mT @ root).to(self._given.dtype)
        self._check_held(x)
        return x

    def _check_held(self, x: Tensor) -> None:
        """:raises ValueError: for draws that are not positive definite in their dtype."""
        if not is_concrete(x):
            return
        ok = on(_SPD).check(x.detach())
        if not bool(ok.all()):
            wider = "float64 or " if x.dtype != torch.float64 else ""
            raise ValueError(
                f"df: {int((~ok).sum())} of {ok.numel()} draws have condition numbers that {x.dtype} cannot "
                f"hold; expected more degrees of freedom than n - 1 = {x.shape[-1] - 1} by a margin. Use "
                f"{wider}a larger df."
            )

    @property
    def mean(self) -> Tensor:
        r""":math:`\Psi/(\nu - n - 1)`; infinite for :math:`\nu\le n + 1`."""
        excess = (self._df - self.event_shape[0] - 1)[..., None, None]
        out = self._psi / torch.where(excess > 0, excess, 1.0)
        return torch.where(excess > 0, out, math.inf).expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        r"""Variance of each entry,
        :math:`\frac{(\nu-n+1)\Psi_{ij}^2 + (\nu-n-1)\Psi_{ii}\Psi_{jj}}{(\nu-n)(\nu-n-1)^2(\nu-n-3)}`; infinite for
        :math:`\nu\le n + 3`."""
        psi = self._psi
        excess = (self._df - self.event_shape[0])[..., None, None]
        e = torch.where(excess > 3, excess, 4.0)
        d = psi.diagonal(dim1=-2, dim2=-1)
        outer = d.unsqueeze(-1) * d.unsqueeze(-2)
        out = ((e + 1) * psi.square() + (e - 1) * outer) / (e * (e - 1) ** 2 * (e - 3))
        return torch.where(excess > 3, out, math.inf).expand(self.batch_shape + self.event_shape)

    @property
    def mode(self) -> Tensor:
        r"""Where the density with respect to Riemannian volume is largest, :math:`\Psi/\nu`."""
        psi = self._psi
        return (psi / self._df[..., None, None]).expand(self.batch_shape + self.event_shape)

    def entropy(self) -> Tensor:
        r"""With respect to Riemannian volume: :math:`\log Z - \frac\nu2\mathrm E\log|\Psi X^{-1}| + \frac{n\nu}2`."""
        nu, n = self._df.double(), self.event_shape[0]
        out = self._log_normalizer() - nu / 2 * self._mean_log_det() + nu * n / 2
        return out.to(self._df.dtype).expand(self.batch_shape)


def _log_diagonal(factor: Tensor) -> Tensor:
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


@register_kl(InverseWishart, InverseWishart)
@full_precision
def _kl_inverse_wishart(p: InverseWishart, q: InverseWishart) -> Tensor:
    r""":math:`\frac{\nu_p-\nu_q}2\mathrm E\log|\Psi_pX^{-1}| - \frac{\nu_q}2\log|K| + \frac{\nu_p}2(\mathrm{tr}K - n)
    + \log Z_q - \log Z_p` with :math:`K = \Psi_q\Psi_p^{-1}`."""
    if p.event_shape != q.event_shape:
        raise NotImplementedError("the two distributions are of matrices of different sizes.")
    root = torch.linalg.solve_triangular(p._tril, q._tril, upper=False)
    log_det = 2 * _log_diagonal(root)
    nu, n = p._df.double(), p.event_shape[0]
    out = (nu - q._df.double()) / 2 * p._mean_log_det() - q._df.double() / 2 * log_det
    out = out + nu / 2 * (root.square().sum((-1, -2)) - n) + q._log_normalizer() - p._log_normalizer()
    return out.to(p._df.dtype).expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))
