r"""Symmetric positive definite matrices, with the affine-invariant or the log-Euclidean metric.

Affine-invariant (``default_metric="AIM"``; :math:`P = LL^T` with any L, exp and log of symmetric matrices):

.. math::
    \exp_P(U) = L\exp(L^{-1}UL^{-T})L^T, \qquad d(P,Q) = |\log(L^{-1}QL^{-T})|_F, \qquad
    \log\det d\exp_P(v) = \sum_{i<j}\log\frac{\sinh((\lambda_i-\lambda_j)/2)}{(\lambda_i-\lambda_j)/2}

with :math:`\lambda` the eigenvalues of the symmetric matrix W whose coordinates are v. The frame at P is
:math:`P^{1/2}WP^{1/2}`, the identity's, transported along the geodesic. Log-Euclidean (``"LEM"``): log is an
isometry to flat space, :math:`d(P,Q) = |\log P-\log Q|_F`, the frame at P is :math:`D\exp(\log P)[W]`.

geoopt's gradients are NaN at repeated eigenvalues (``dist(I, I)``, ``expmap(I, U)``); hence
:mod:`pyro_manifold.ops.linalg`.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import geoopt
import torch
from torch import Tensor

from ..ops.batched import unexpand
from ..ops.gaps import log_sinhc_gaps
from ..ops.linalg import sym, sym_derivative, sym_eigenvalues, sym_function, sym_to_vec, vec_to_sym
from ..ops.numerics import norm, scalar
from ..ops.numpy_logarithm import Logarithm
from ..ops.numpy_normal import density
from ..ops.numpy_operator import BLOCK, log_normal, numpy_operator
from ..ops.numpy_spd import log_euclidean_logarithm, spd_logarithm
from ..ops.spectral import EXP, INV_SQRT, LOG, LOG1P, SQRT, Spectral
from .base import Geometry
from .registry import register_geometry

__all__ = ["SPDGeometry"]


def _congruence(a: Tensor, x: Tensor) -> Tensor:
    return sym(a @ x @ a.mT)


def _cholesky(p: Tensor) -> tuple[Tensor, Tensor]:
    """L and its inverse."""
    factor = torch.linalg.cholesky(sym(unexpand(p, 2)))
    eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
    return factor, torch.linalg.solve_triangular(factor, eye, upper=False)


def _log_quotient(inverse: Tensor, p: Tensor, q: Tensor) -> Tensor:
    r"""log(A Q A^T) for A P A^T = I, from the difference Q - P where that is small: log Q would lose its
    digits to log P.

    With t the mean of the diagonal it is :math:`\log t + \log(1 + (AQA^T - t)/t)`, of relative accuracy at
    any t.
    """
    n = p.shape[-1]
    minus = q - p
    near = (inverse.square().sum((-1, -2)) * norm(minus.flatten(-2)) < 0.5)[..., None, None]
    b = _congruence(inverse, torch.where(near, minus, q))
    t = b.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    level = torch.where(near, torch.log1p(torch.where(near, t, 0.0)), torch.where(near, 1.0, t).log())
    eye = torch.eye(n, dtype=p.dtype, device=p.device)
    return sym_function((b - t * eye) / torch.where(near, 1 + t, t), LOG1P) + level * eye


def _composed_normal(flat: bool, full: bool, p: Tensor, q: Tensor, spread: Tensor) -> Tensor:
    p, q = torch.broadcast_tensors(p, q)
    if flat:
        return log_normal(sym_to_vec(sym_function(q, LOG) - sym_function(p, LOG)), spread, full)
    v = sym_to_vec(_log_quotient(sym_function(p, INV_SQRT), p, q))
    return log_normal(v, spread, full) - log_sinhc_gaps(vec_to_sym(v, p.shape[-1]))


_NORMAL = {
    (flat, full): numpy_operator(
        density(log_euclidean_logarithm if flat else spd_logarithm),
        partial(_composed_normal, flat, full),
        (2, 2, 1 + full),
    )
    for flat in (False, True)
    for full in (False, True)
}


@register_geometry(geoopt.SymmetricPositiveDefinite)
class SPDGeometry(Geometry):
    r"""Geometry of the n x n symmetric positive definite matrices, dimension n(n+1)/2, origin the identity.

    The manifold's ``default_metric`` chooses the affine-invariant metric (non-positive curvature, invariant
    under :math:`P \mapsto APA^T`) or the log-Euclidean one (flat). Either way exp is a bijection. Tangent
    coordinates are the diagonal, then :math:`\sqrt2` times the entries above it. Riemannian volume is, in the
    entries :math:`i \le j` of X, :math:`2^{n(n-1)/4}\det(X)^{-(n+1)/2}\prod dX_{ij}` (affine-invariant).

    A matrix holds its smallest eigenvalue to rounding of the largest: float32 carries condition numbers up to
    about 1e6, float64 1e15, that is distances from the identity of 10 and 24 for n = 2; beyond, a matrix is
    not numerically positive. geoopt's own methods (``inner``, ``retr``, hence its optimisers) use the
    affine-invariant metric whatever the default.

    :raises ValueError: for the metric ``"SM"`` (Stein), a divergence without a Riemannian structure of its
        own.

    References: Pennec, Fillard & Ayache, IJCV 66 (2006), sec. 3; Arsigny et al., SIAM J. Matrix Anal. 29
    (2007), sec. 3; volume: Said et al., IEEE Trans. Inf. Theory 63 (2017), eq. 12.

    >>> import geoopt
    >>> geo = SPDGeometry(geoopt.SymmetricPositiveDefinite())
    >>> geo.dist(torch.eye(2), torch.diag(torch.tensor([1.0, 3.0]).exp()))  # sqrt(1 + 9)
    tensor(3.1623)
    """

    event_dim = 2
    membership = "symmetric matrices with positive eigenvalues"
    has_chart = True

    def __init__(self, manifold: geoopt.Manifold) -> None:
        super().__init__(manifold)
        metric = manifold.default_metric.value
        if metric not in ("AIM", "LEM"):
            raise ValueError(
                f"manifold: got SymmetricPositiveDefinite(default_metric={metric!r}); the Stein metric is a "
                "divergence with no exponential map of its own, expected 'AIM' (affine-invariant) or 'LEM' "
                "(log-Euclidean)."
            )
        self.is_flat = metric == "LEM"
        self.acting_group = "orthogonal" if self.is_flat else "linear"

    def dim(self, event_shape: Sequence[int]) -> int:
        n, m = event_shape[-2:]
        if n != m:
            raise ValueError(f"points: got matrices of shape {(n, m)}, expected square ones, (n, n).")
        return n * (n + 1) // 2

    def point_shape(self, dim: int) -> torch.Size:
        n = (math.isqrt(8 * dim + 1) - 1) // 2
        if n * (n + 1) // 2 != dim:
            raise ValueError(
                f"dim: got {dim}, expected n(n+1)/2 (1, 3, 6, 10, ...), the dimension of n x n matrices."
            )
        return torch.Size([n, n])

    def contains(self, x: Tensor, atol: float | None = None) -> Tensor:
        """Symmetric to ``atol`` times the largest entry, and with a Cholesky factor."""
        atol = math.sqrt(torch.finfo(x.dtype).eps) if atol is None else atol
        finite = x.isfinite().all(-1).all(-1)
        x = torch.where(finite[..., None, None], x, torch.zeros_like(x))
        symmetric = (x - x.mT).abs().amax((-1, -2)) <= atol * x.abs().amax((-1, -2))
        return finite & symmetric & (torch.linalg.cholesky_ex(sym(x)).info == 0)

    def reach(self, event_shape: Sequence[int], like: Tensor) -> float:
        r"""At distance r the condition number is at most :math:`e^{\sqrt2r}`, and the matrix positive up to
        1/(10 n eps)."""
        return -math.log(10 * event_shape[-1] * torch.finfo(like.dtype).eps) / math.sqrt(2)

    def base_point(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> Tensor:
        self.dim(event_shape)
        return torch.eye(event_shape[-1], dtype=dtype, device=device)

    def project(self, x: Tensor) -> Tensor:
        """The symmetric part, its eigenvalues raised to at least 10 n eps times the largest in size (eps, if
        all are 0)."""
        x = sym(x)
        eps = torch.finfo(x.dtype).eps
        top = sym_eigenvalues(x.detach()).abs().amax(-1, keepdim=True)
        floor = torch.where(top == 0, eps, 10 * x.shape[-1] * eps * top)
        lift = Spectral(
            lambda y: torch.maximum(y, floor),
            None,
            torch.zeros_like,
            torch.abs,
            lambda a, b: _lift_quotient(a, b, floor.unsqueeze(-1)),
        )
        return sym_function(x, lift)

    def project_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        return sym(u).expand(torch.broadcast_shapes(p.shape, u.shape))

    def to_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        w = vec_to_sym(v, p.shape[-1])
        if self.is_flat:
            return sym_derivative(sym_function(unexpand(p, 2), LOG), w, EXP)
        return _congruence(sym_function(unexpand(p, 2), SQRT), w)

    def from_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        if self.is_flat:
            return sym_to_vec(sym_derivative(p, u, LOG))
        return sym_to_vec(_congruence(sym_function(unexpand(p, 2), INV_SQRT), u))

    def act(self, g: Tensor, x: Tensor) -> Tensor:
        """The congruence :math:`gXg^T`; for the log-Euclidean metric an isometry if g is orthogonal."""
        return _congruence(g, x)

    def killing_fields(self, p: Tensor) -> Tensor:
        r"""The congruences :math:`AP + PA` with A symmetric; for the log-Euclidean metric the translations of
        log P."""
        if self.is_flat:
            return self.frame(p)
        n = p.shape[-1]
        a = vec_to_sym(torch.eye(n * (n + 1) // 2, dtype=p.dtype, device=p.device), n)
        moved = a @ p.unsqueeze(-3)
        return moved + moved.mT

    def exp(self, p: Tensor, u: Tensor) -> Tensor:
        if self.is_flat:
            return sym_function(sym_function(unexpand(p, 2), LOG) + sym_derivative(p, u, LOG), EXP)
        factor, inverse = _cholesky(p)
        return _congruence(factor, sym_function(_congruence(inverse, u), EXP))

    def exp_frame(self, p: Tensor, v: Tensor) -> Tensor:
        w, p = vec_to_sym(v, p.shape[-1]), unexpand(p, 2)
        if self.is_flat:
            return sym_function(sym_function(p, LOG) + w, EXP)
        return _congruence(sym_function(p, SQRT), sym_function(w, EXP))

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        if self.is_flat:
            a = sym_function(unexpand(p, 2), LOG)
            return sym_derivative(a, sym_function(q, LOG) - a, EXP)
        factor, inverse = _cholesky(p)
        return _congruence(factor, _log_quotient(inverse, p, q))

    def log_frame(self, p: Tensor, q: Tensor) -> Tensor:
        if self.is_flat:
            return sym_to_vec(sym_function(q, LOG) - sym_function(unexpand(p, 2), LOG))
        return sym_to_vec(_log_quotient(sym_function(unexpand(p, 2), INV_SQRT), p, q))

    def dist(self, p: Tensor, q: Tensor) -> Tensor:
        if self.is_flat:
            return norm(self.log_frame(p, q))
        return norm(sym_to_vec(_log_quotient(_cholesky(p)[1], p, q)))

    def log_det_exp(self, p: Tensor, v: Tensor) -> Tensor:
        n, batch = p.shape[-1], torch.broadcast_shapes(p.shape[:-2], v.shape[:-1])
        if self.is_flat or n == 1:
            return v.new_zeros(batch)
        return log_sinhc_gaps(vec_to_sym(v, n)).expand(batch)

    def log_normal_by_numpy(self, p: Tensor, q: Tensor, spread: Tensor, full: bool) -> Tensor | None:
        if p.shape[-1] == 2 and max(p.numel(), q.numel()) > BLOCK:
            return None  # torch's operators take the eigenvalues of (2, 2) matrices from their closed form
        return _NORMAL[self.is_flat, full](p, q, spread)

    def numpy_logarithm(self, event_shape: Sequence[int], p: Tensor, q: Tensor) -> Logarithm:
        return Logarithm(log_euclidean_logarithm if self.is_flat else spd_logarithm)

    def geodesic(self, p: Tensor, u: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=p.dtype, device=p.device)[..., None, None]
        if self.is_flat:
            h = sym_derivative(p, u, LOG)
            a = sym_function(p, LOG) + t * h
            return sym_function(a, EXP), sym_derivative(a, h, EXP)
        factor, inverse = _cholesky(p)
        w = _congruence(inverse, u)
        e = sym_function(t * w, EXP)
        return _congruence(factor, e), _congruence(factor, sym(w @ e))

    def transport(self, p: Tensor, q: Tensor, u: Tensor) -> Tensor:
        """Log-Euclidean: that of the logarithms; otherwise by the geodesic symmetry."""
        return self.to_tangent(q, self.from_tangent(p, u)) if self.is_flat else super().transport(p, q, u)

    def exact_mean(self, x: Tensor, w: Tensor) -> Tensor | None:
        """Log-Euclidean: exp of the mean of the logarithms."""
        if not self.is_flat:
            return None
        return sym_function((w[..., None, None] * sym_function(x, LOG)).sum(0), EXP)

    def constant_curvature(self, like: Tensor) -> Tensor | None:
        return scalar(0.0, like) if self.is_flat else None


def _lift_quotient(a: Tensor, b: Tensor, floor: Tensor) -> Tensor:
    gap = a - b
    change = torch.maximum(a, floor) - torch.maximum(b, floor)
    return torch.where(gap == 0, (a > floor).to(a.dtype), change / torch.where(gap == 0, 1.0, gap))
