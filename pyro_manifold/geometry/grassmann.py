r"""Subspaces: the Grassmann manifold :math:`\mathrm{Gr}(n,k)` of the k-dimensional subspaces of
:math:`\mathbb R^n`, each given by its orthogonal projector P.

.. math::
    P = P^\top = P^2,\ \mathrm{tr}\,P = k, \qquad
    \langle u, w\rangle = \tfrac12\,\mathrm{tr}(uw), \qquad d(P,Q) = |\theta|

with :math:`\theta` the principal angles between the subspaces. Reflections :math:`s_P = 2P - I` embed the
manifold in the orthogonal matrices, so that exp and log are those of rotations: with :math:`\Omega = [u, P]`,
skew,

.. math::
    s_{\exp_P(u)} = e^{2\Omega} s_P, \qquad \log_P(Q) = \tfrac12\log(s_Qs_P)\,s_P, \qquad
    \log\det d\exp_P = \sum_{i<j}\log|\mathrm{sinc}(\theta_i-\theta_j)\,\mathrm{sinc}(\theta_i+\theta_j)|
        + |n - 2k| \sum_i \log|\mathrm{sinc}\,\theta_i|

where :math:`\theta_i` are the singular values of the block B of the tangent vector: the restricted roots
:math:`\theta_i\pm\theta_j` (once) and :math:`\theta_i` (:math:`|n-2k|` times) of the symmetric space. That is
half of the log-determinant of exp on SO(n) at :math:`2\Omega`, whose eigenvalues are :math:`\pm2i\theta_j`
and 0.

References: Edelman, Arias & Smith, SIAM J. Matrix Anal. 20 (1998), sec. 2.5; Bendokat, Zimmermann & Absil, *A
Grassmann manifold handbook* (2020), sec. 2 to 5 (same metric, as in Manifolds.jl; geomstats takes
:math:`\mathrm{tr}(uw)`, lengths longer by :math:`\sqrt2`); Helgason, *Differential Geometry, Lie Groups and
Symmetric Spaces* (1978), ch. IV, thm. 4.1 (the volume).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..ops.arguments import checked
from ..ops.linalg import sym, sym_eigenvalues, sym_function
from ..ops.numerics import norm
from ..ops.orthogonal import haar, polar, vee
from ..ops.rotation_exp_log import log_det_dexp, rotation_exp, rotation_log
from ..ops.spectral import Spectral
from ..ops.spherical import log_sphere_area
from ..ops.tracing import maybe_any
from .base import Geometry, turned
from .manifold import GeometricManifold
from .noise import ProjectionNoise
from .registry import register_geometry
from .windings import check_unwrapped, log_wound_normal, windings

__all__ = ["Grassmann", "GrassmannGeometry"]


class Grassmann(GeometricManifold):
    r"""The k-dimensional subspaces of :math:`\mathbb R^n` as a geoopt manifold: symmetric (n, n) projectors
    of rank k, with the metric :math:`\tfrac12\mathrm{tr}(uw)`.

    Distance is the root sum of squares of the principal angles (radians). Works with
    ``geoopt.ManifoldParameter`` and the Riemannian optimisers.

    :param int n: dimension of the space, at least 2.
    :param int k: dimension of the subspaces, from 1 to n - 1.
    :raises ValueError: for other numbers.

    >>> lines = Grassmann(2, 1)
    >>> lines.dist(torch.diag(torch.tensor([1.0, 0.0])), torch.full((2, 2), 0.5))  # an angle of 45 degrees
    tensor(0.7854)
    """

    @checked(n=2, k=1)
    def __init__(self, n: int, k: int) -> None:
        if not 1 <= k < n:
            raise ValueError(f"n, k: got {n} and {k}, expected 1 <= k < n, a subspace of dimension k of R^n.")
        super().__init__((n, n), f"Gr({n}, {k})")
        self.n = n
        self.k = k

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return 2 * self.proju(x, u)


class _SpanNoise(ProjectionNoise):
    """The projector onto the columns of a normal (n, k) matrix."""

    def push(self, y: Tensor) -> Tensor:
        q = torch.linalg.qr(y.reshape(y.shape[:-1] + (self.rows, self.columns))).Q
        return q @ q.mT

    def basis(self, x: Tensor) -> Tensor:
        """A basis of the subspace, uniform among the orthonormal ones."""
        v = torch.linalg.eigh(x).eigenvectors[..., -self.columns :]
        turn = haar(v.shape[:-2] + (self.columns, self.columns), dtype=x.dtype, device=x.device)
        return v @ turn


@register_geometry(Grassmann)
class GrassmannGeometry(Geometry):
    r"""Geometry of :math:`\mathrm{Gr}(n,k)`, points of shape ``(n, n)``, origin :math:`\mathrm{diag}(I_k,
    0)`.

    Coordinates of a tangent vector at the origin are the entries of its lower left block B, ``(n - k, k)``;
    the frame at P is that of the origin, transported along the geodesic. Injectivity radius :math:`\pi/2`,
    volume :math:`\prod_{j=n-k}^{n-1}|S^j| / \prod_{j=0}^{k-1}|S^j|`. Where an angle is :math:`\pi/2`,
    :meth:`log` returns one of the shortest vectors. Wrapped normals on lines and hyperplanes (k = 1, n - 1)
    sum their windings, :math:`(r + \pi m)v/|v|`; for other k only narrow or truncated ones have a density.

    >>> geo = GrassmannGeometry(Grassmann(3, 1))
    >>> geo.dist(geo.origin(2), geo.exp_frame(geo.origin(2), torch.tensor([0.3, 0.4])))
    tensor(0.5000)
    """

    event_dim = 2
    membership = "symmetric projectors of the rank of its subspaces"
    constant_inner = True
    has_finite_volume = True
    manifold: Grassmann

    def dim(self, event_shape: Sequence[int]) -> int:
        n, k = self.manifold.n, self.manifold.k
        if tuple(event_shape) != (n, n):
            raise ValueError(f"points: got event shape {tuple(event_shape)}, expected ({n}, {n}).")
        return k * (n - k)

    def point_shape(self, dim: int) -> torch.Size:
        n, k = self.manifold.n, self.manifold.k
        if dim != k * (n - k):
            raise ValueError(f"dim: {self.manifold.name} has dimension {k * (n - k)}, got {dim}.")
        return torch.Size([n, n])

    def base_point(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> Tensor:
        self.dim(event_shape)
        n, k = self.manifold.n, self.manifold.k
        return torch.diag((torch.arange(n, device=device) < k).to(dtype or torch.get_default_dtype()))

    def contains(self, x: Tensor, atol: float | None = None) -> Tensor:
        atol = math.sqrt(torch.finfo(x.dtype).eps) if atol is None else atol
        symmetric = (x - x.mT).abs().amax((-1, -2)) <= atol  # a NaN compares false
        idempotent = (x @ x - x).abs().amax((-1, -2)) <= atol
        trace = x.diagonal(dim1=-2, dim2=-1).sum(-1)
        return symmetric & idempotent & ((trace - self.manifold.k).abs() < 0.5)

    def project(self, x: Tensor) -> Tensor:
        """The projector onto the eigenvectors of the k largest eigenvalues of the symmetric part."""
        values = sym_eigenvalues(sym(x).detach())
        below = self.manifold.n - self.manifold.k
        level = values[..., below - 1 : below + 1].mean(-1, keepdim=True)

        def quotient(a: Tensor, b: Tensor) -> Tensor:
            change = (a > level.unsqueeze(-1)).to(a) - (b > level.unsqueeze(-1)).to(a)
            return torch.where(change == 0, 0.0, change / torch.where(change == 0, 1.0, a - b))

        step = Spectral(
            lambda y: (y > (level if y.dim() == level.dim() else level.unsqueeze(-1))).to(y),
            None,
            torch.zeros_like,
            torch.ones_like,
            quotient,
        )
        return sym_function(x, step)

    def project_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        pu = p @ sym(u)
        return pu + pu.mT - 2 * pu @ p

    # --- frames ---------------------------------------------------------------------------------------------
    def _reflection(self, p: Tensor) -> Tensor:
        return 2 * p - torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)

    def _turn(self, p: Tensor) -> Tensor:
        r"""The rotation :math:`(s_Ps_E)^{1/2}` that takes the subspace of the origin E to that of P along the
        geodesic: the nearest one to :math:`I + s_Ps_E`. Where P contains a line (nearly) orthogonal to E,
        that matrix is (nearly) singular and the rotation inaccurate; a second one then takes the subspace it
        reaches to that of P."""
        k = self.manifold.k
        eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
        s = self._reflection(p)
        start = eye + s @ self._reflection(self.base_point(p.shape[-2:], dtype=p.dtype, device=p.device))
        turn = polar(start)
        reached = turn[..., :k] @ turn[..., :k].mT
        miss = (reached - p).abs().amax((-1, -2), keepdim=True)
        if not maybe_any(miss > 50 * torch.finfo(p.dtype).eps):
            return turn
        bent = polar(start + 0.1 * (torch.ones_like(eye).tril() - torch.ones_like(eye).triu()))
        turn = torch.where(miss > 0.5, bent, turn)
        return polar(eye + s @ self._reflection(turn[..., :k] @ turn[..., :k].mT)) @ turn

    def _block(self, v: Tensor) -> Tensor:
        """Coordinates to skew matrices :math:`\\Omega` at the origin, with B below the diagonal and -B^T
        above."""
        n, k = self.manifold.n, self.manifold.k
        b = v.reshape(v.shape[:-1] + (n - k, k))
        low = torch.nn.functional.pad(b, (0, n - k, k, 0))
        return low - low.mT

    def to_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        turn, k = self._turn(p), self.manifold.k
        u = turn @ self._block(v)[..., :k] @ turn[..., :k].mT
        return u + u.mT

    def from_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        turn, k = self._turn(p), self.manifold.k
        return (turn[..., k:].mT @ u @ turn[..., :k]).flatten(-2)

    def embed_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        return self.to_tangent(p, v) / math.sqrt(2)

    def ambient_coordinates(self, x: Tensor) -> Tensor:
        return x.flatten(-2) / math.sqrt(2)

    def from_features(self, h: Tensor, event_shape: Sequence[int]) -> Tensor:
        """The subspace of the k largest eigenvalues of the symmetric part; the base point where the k-th equals the
        next one (to rounding)."""
        h = h.reshape(h.shape[:-1] + tuple(event_shape))
        values = sym_eigenvalues(sym(h).detach())
        below = self.manifold.n - self.manifold.k
        gap = values[..., below] - values[..., below - 1]
        lost = gap <= 8 * self.manifold.n * torch.finfo(h.dtype).eps * values.abs().amax(-1)
        origin = self.base_point(event_shape, dtype=h.dtype, device=h.device)
        return self.project(torch.where(lost[..., None, None], origin, h))

    def inner(self, p: Tensor, u: Tensor, w: Tensor) -> Tensor:
        return (u * w).sum((-1, -2)) / 2

    def killing_fields(self, p: Tensor) -> Tensor:
        r"""The rotations in the planes of two axes, :math:`AP - PA` with A skew."""
        moved = turned(p, 2)
        return moved + moved.mT

    # --- exponential map ------------------------------------------------------------------------------------
    def _move(self, p: Tensor, omega: Tensor) -> Tensor:
        eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
        return 0.5 * (eye + sym(rotation_exp(vee(2 * omega)) @ self._reflection(p)))

    def _log(self, p: Tensor, q: Tensor) -> Tensor:
        return 0.5 * rotation_log(self._reflection(q) @ self._reflection(p))

    def geodesic(self, p: Tensor, u: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=p.dtype, device=p.device)[..., None, None]
        omega = u @ p - p @ u
        q = self._move(p, t * omega)
        return q, self.project_tangent(q, omega @ q - q @ omega)

    def exp(self, p: Tensor, u: Tensor) -> Tensor:
        return self._move(p, u @ p - p @ u)

    def exp_frame(self, p: Tensor, v: Tensor) -> Tensor:
        turn = self._turn(p)
        e = self.base_point(p.shape[-2:], dtype=p.dtype, device=p.device)
        return sym(turn @ self._move(e, self._block(v)) @ turn.mT)

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        omega = self._log(p, q)
        u = self.project_tangent(p, omega @ self._reflection(p))
        # with two right angles or more the logarithm of the rotation need not be tangent
        square = vee(omega.detach()).square().sum(-1)  # of the distance; of two right angles it is 4.9
        lost = (square > 4) & (self.inner(p, u, u) < 0.999 * square)
        if not maybe_any(lost):
            return u
        p, q = torch.broadcast_tensors(p, q)
        return torch.where(lost[..., None, None], self._log_by_principal_vectors(p.detach(), q.detach()), u)

    def _log_by_principal_vectors(self, p: Tensor, q: Tensor) -> Tensor:
        r""":math:`\sum_i\theta_i(x_ie_i^\top + e_ix_i^\top)` with :math:`\cos\theta_i` the singular values of
        :math:`V^\top W`, for bases V of P and W of Q, and :math:`e_i` the direction from :math:`x_i` to its
        partner in Q."""
        k = self.manifold.k
        v = torch.linalg.eigh(p).eigenvectors[..., -k:]
        w = torch.linalg.eigh(q).eigenvectors[..., -k:]
        left, cos, right = torch.linalg.svd(v.mT @ w)
        x = v @ left
        e = w @ right.mT - x * cos.unsqueeze(-2)
        sin = torch.linalg.vector_norm(e, dim=-2)
        e = e / torch.where(sin == 0, 1.0, sin).unsqueeze(-2)
        u = (x * torch.atan2(sin, cos).unsqueeze(-2)) @ e.mT
        return u + u.mT

    def dist(self, p: Tensor, q: Tensor) -> Tensor:
        return norm(vee(self._log(p, q)))

    def log_det_exp(self, p: Tensor, v: Tensor) -> Tensor:
        return (0.5 * log_det_dexp(vee(2 * self._block(v)))).expand(
            torch.broadcast_shapes(p.shape[:-2], v.shape[:-1])
        )

    def _is_projective(self) -> bool:
        return self.manifold.k in (1, self.manifold.n - 1)

    def preimages(self, p: Tensor, v: Tensor, radius: float) -> Tensor:
        """Windings about the axis for k = 1 and n - 1; otherwise ``v`` alone, which is all there is within
        the injectivity radius.

        :raises NotImplementedError: for other k and a ``radius`` beyond it.
        """
        if self._is_projective():
            return windings(v, radius, math.pi / 2)
        if radius > math.pi / 2:
            raise NotImplementedError(
                f"{self.manifold.name}: preimages beyond pi/2 are known for k = 1 and n - 1 only, got {radius:.3g}."
            )
        return v.unsqueeze(0)

    def wrapped_limit(self, event_shape: Sequence[int]) -> float:
        """Between k = 1 and n - 1 the largest singular value of a normal B, about sd :math:`(\\sqrt k +
        \\sqrt{n-k})` and 6 sd on top, must stay below π/2."""
        if self._is_projective():
            return math.inf
        n, k = self.manifold.n, self.manifold.k
        return math.pi / 2 / (6 + math.sqrt(k) + math.sqrt(n - k))

    def log_wrapped(self, p: Tensor, v: Tensor, base: Any) -> Tensor:
        """The sum over windings for k = 1 and n - 1; otherwise the only term of a narrow normal.

        :raises NotImplementedError: for other k and a wider normal.
        """
        if self._is_projective():
            return log_wound_normal(v, base, v.shape[-1] - 1, half=2, root=2.0)
        check_unwrapped(self, base, self.wrapped_limit(p.shape[-2:]))
        return base.log_prob(v) - self.log_det_exp(p, v)

    # --- globals --------------------------------------------------------------------------------------------
    def injectivity_radius(self, event_shape: Sequence[int]) -> float:
        return math.pi / 2

    def log_volume(self, event_shape: Sequence[int]) -> float:
        self.dim(event_shape)
        n, k = self.manifold.n, self.manifold.k
        frames = sum(log_sphere_area(j) for j in range(n - k, n))
        return frames - sum(log_sphere_area(j) for j in range(k))

    def uniform_moments(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Mean :math:`(k/n) I`; variances :math:`2k(n-k)/n^2(n+2)` on the diagonal and
        :math:`k(n-k)/n(n-1)(n+2)` beside it."""
        n, k = self.manifold.n, self.manifold.k
        eye = torch.eye(n, dtype=dtype, device=device)
        on = 2 * k * (n - k) / (n * n * (n + 2))
        beside = k * (n - k) / (n * (n - 1) * (n + 2))
        return k / n * eye, torch.where(eye > 0, on, torch.full_like(eye, beside))

    def uniform_sample(
        self,
        shape: Sequence[int],
        event_shape: Sequence[int],
        *,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> Tensor:
        self.dim(event_shape)
        columns = haar(torch.Size(shape) + (self.manifold.n, self.manifold.k), dtype=dtype, device=device)
        return columns @ columns.mT

    def noise_map(self, event_shape: Sequence[int]) -> ProjectionNoise:
        return _SpanNoise(self, event_shape, self.manifold.k)
