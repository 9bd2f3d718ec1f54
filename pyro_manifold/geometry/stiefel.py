r"""Orthonormal p-frames in :math:`\mathbb R^n`, the Stiefel manifold :math:`V_{n,p}`, in both metrics that
geoopt has.

A tangent vector is :math:`u = XA + X_\perp B` with A skew. Its coordinates are the entries of A below the
diagonal and those of B; for the Euclidean metric the former times :math:`\sqrt2`:

.. math::
    |u|^2_{\rm canonical} = \tfrac12|A|^2 + |B|^2, \qquad |u|^2_{\rm Euclidean} = |A|^2 + |B|^2

Geodesics, with :math:`A = X^\top u,\ S = u^\top u` [1, eq. 2.41 and 2.42 without the QR step]:

.. math::
    \gamma_c(t) = [X, u]\,e^{tW_c}\!\begin{bmatrix} I\\0\end{bmatrix},\;
    W_c = \begin{bmatrix} 0 & -(S + A^2)\\ I & A\end{bmatrix},
    \quad
    \gamma_e(t) = [X, u]\,e^{tW_e}\!\begin{bmatrix} I\\0\end{bmatrix} e^{-tA},\; W_e = \begin{bmatrix} A &
    -S\\ I & A\end{bmatrix}

References: [1] Edelman, Arias & Smith, SIAM J. Matrix Anal. 20 (1998); [2] Zimmermann & Hueper, SIAM J.
Matrix Anal. 43 (2022), shooting for the logarithm; [3] Rentmeesters (2013), thesis, ch. 5, and Zimmermann &
Stoye (2024), injectivity radii. geoopt's ``expmap`` for the canonical metric is a Cayley retraction, and its
``proju`` there is no projection.
"""

import math
from collections.abc import Sequence
from typing import Any

import geoopt
import torch
from torch import Tensor

from ..ops.gram_schmidt import orthonormal_columns
from ..ops.matrix_exp import matrix_exp
from ..ops.numerics import norm
from ..ops.orthogonal import haar, hat, polar, vee
from ..ops.spherical import log_sphere_area
from .base import Geometry, moments_of_unit_columns, turned
from .noise import NoiseMap, ProjectionNoise
from .registry import register_geometry
from .stiefel_log import ShootingLog
from .windings import check_unwrapped, log_wound_normal, windings

__all__ = ["StiefelGeometry"]


def _signs(x: Tensor) -> Tensor:
    """D of :meth:`StiefelGeometry.complement`, shape ``batch + (p,)``."""
    p = x.shape[-1]
    s, signs = x[..., :p, :], []
    eye = torch.eye(p, dtype=x.dtype, device=x.device)
    inner = torch.linalg.solve_ex(eye + s.mT, x[..., p:, :].mT).result  # tangents of half the angles to E
    good = inner.abs().amax((-1, -2)).unsqueeze(-1) < 20
    for _ in range(p):
        pivot = s[..., 0, 0]
        signs.append(torch.where(pivot < 0, -1.0, 1.0).to(x.dtype))
        s = s[..., 1:, 1:] - s[..., 1:, :1] * s[..., :1, 1:] / (pivot + signs[-1])[..., None, None]
    return torch.where(good, 1.0, torch.stack(signs, -1))


def _blocks(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.cat([torch.cat([a, b], -1), torch.cat([c, d], -1)], -2)


def _expm_and_derivative(w: Tensor, dw: Tensor) -> tuple[Tensor, Tensor]:
    """e^W, and its derivatives along the matrices ``dw``, stacked in front."""
    n, wide = w.shape[-1], w.expand_as(dw)
    out = matrix_exp(_blocks(wide, dw, torch.zeros_like(dw), wide))
    return matrix_exp(w), out[..., :n, n:]


@register_geometry(geoopt.Stiefel)
class StiefelGeometry(Geometry):
    r"""Geometry of :math:`V_{n,p}`, points of shape ``(n, p)``; ``geoopt.Stiefel(canonical=True)`` or
    ``False`` picks the metric.

    The volume is :math:`\prod_{k=n-p}^{n-1} |S^k|` (canonical), times :math:`2^{p(p-1)/4}` (Euclidean).
    :meth:`log` shoots: Newton's method along a path from p to q, right within the injectivity radius, beyond
    it a geodesic that need not be the shortest, or an error. :meth:`log_det_exp` is the log-determinant of
    the automatic Jacobian. The frame is smooth wherever :math:`I + X_{1:p}` is well conditioned.

    :raises ValueError: for p > n; in :meth:`log`, if no geodesic is found.

    >>> import geoopt
    >>> geo = StiefelGeometry(geoopt.Stiefel())
    >>> geo.dim((4, 2))
    5
    """

    event_dim = 2
    membership = "matrices with orthonormal columns"
    is_symmetric = False
    has_global_log = False
    has_finite_volume = True

    def __init__(self, manifold: geoopt.Manifold) -> None:
        super().__init__(manifold)
        self.canonical = isinstance(manifold, geoopt.CanonicalStiefel)
        self._weight = 1.0 if self.canonical else math.sqrt(2)  # coordinates of A are its entries times this

    def dim(self, event_shape: Sequence[int]) -> int:
        n, p = event_shape
        if p > n:
            raise ValueError(
                f"points: got event shape {tuple(event_shape)}, expected (n, p) with p <= n; transpose the "
                f"matrix."
            )
        return n * p - p * (p + 1) // 2

    def contains(self, x: Tensor, atol: float | None = None) -> Tensor:
        atol = math.sqrt(torch.finfo(x.dtype).eps) if atol is None else atol
        gram = x.mT @ x - torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return gram.abs().amax((-1, -2)) <= atol  # a NaN compares false

    def base_point(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> Tensor:
        return torch.eye(*event_shape, dtype=dtype, device=device)

    def project(self, x: Tensor) -> Tensor:
        return polar(x)

    def in_double(self, x: Tensor) -> Tensor:
        """On the manifold to the last digit, since geodesics reach no other points and shooting would go on."""
        return x if x.dtype == torch.float64 else polar(x.double())

    def project_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        a = p.mT @ u
        return u - p @ (a + a.mT) / 2

    # --- frames ---------------------------------------------------------------------------------------------
    @staticmethod
    def complement(x: Tensor) -> Tensor:
        r"""Orthonormal :math:`X_\perp = E_\perp - (XD + E)(I + DX_1^\top)^{-1} D X_2^\top`, rational in X.

        The signs D are 1 unless that would be badly conditioned; then those of a stable elimination without
        pivoting.
        """
        n, p = x.shape[-2:]
        eye = torch.eye(n, dtype=x.dtype, device=x.device)
        if n == p:
            return x[..., :0]
        y = x * _signs(x.detach()).unsqueeze(-2)
        inner = torch.linalg.solve(eye[:p, :p] + y[..., :p, :].mT, y[..., p:, :].mT)
        return eye[:, p:] - (y + eye[:, :p]) @ inner

    def to_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        n, k = p.shape[-2:]
        da = k * (k - 1) // 2
        u = self.complement(p) @ v[..., da:].reshape(v.shape[:-1] + (n - k, k))
        return u + p @ hat(v[..., :da] / self._weight) if da else u

    def from_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        b = (self.complement(p).mT @ u).flatten(-2)
        return torch.cat([vee(p.mT @ u) * self._weight, b], -1) if p.shape[-1] > 1 else b

    def from_features(self, h: Tensor, event_shape: Sequence[int]) -> Tensor:
        """The columns of h, made orthonormal one after the other."""
        return orthonormal_columns(h.reshape(h.shape[:-1] + tuple(event_shape)))

    def killing_fields(self, p: Tensor) -> Tensor:
        r"""The rotations in the planes of two axes, :math:`AX` with A skew."""
        return turned(p, 2)

    # --- geodesics ------------------------------------------------------------------------------------------
    def geodesic(self, p: Tensor, u: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=p.dtype, device=p.device)[..., None, None]
        u = t * u
        k = p.shape[-1]
        a, s = p.mT @ u, u.mT @ u
        a = (a - a.mT) / 2
        # [X, u/c] instead of [X, u] balances W; c cancels, so it carries no gradient
        c = torch.linalg.matrix_norm(u.detach())[..., None, None]
        c = torch.where(c == 0, 1.0, c)
        eye = torch.eye(k, dtype=p.dtype, device=p.device).expand_as(a)
        corner = (s + a @ a) / c if self.canonical else s / c
        top = torch.cat([torch.zeros_like(a) if self.canonical else a, -corner], -1)
        flow = torch.cat([p.expand_as(u), u / c], -1) @ matrix_exp(
            torch.cat([top, torch.cat([c * eye, a], -1)], -2)
        )
        q, w = flow[..., :k], flow[..., k:] * c
        if not self.canonical:
            turn = matrix_exp(-a)
            q, w = q @ turn, w @ turn
        return q, w / torch.where(t == 0, 1.0, t)

    def exp(self, p: Tensor, u: Tensor) -> Tensor:
        return self.geodesic(p, u, 1.0)[0]

    def jacobian(self, p: Tensor, v: Tensor) -> Tensor:
        """d exp_p at v in the frames at p and at exp_p(v), ``batch + (dim, dim)``."""
        d = v.shape[-1]
        batch = torch.broadcast_shapes(p.shape[:-2], v.shape[:-1])
        p, v = p.expand(batch + p.shape[-2:]), v.expand(batch + (d,))
        basis = (
            torch.eye(d, dtype=v.dtype, device=v.device)
            .reshape((d,) + (1,) * len(batch) + (d,))
            .repeat((1,) + batch + (1,))
        )
        q, columns = self._exp_and_derivative(p, self.to_tangent(p, v), self.to_tangent(p, basis))
        return self.from_tangent(q, columns).movedim(0, -1)

    def _exp_and_derivative(self, p: Tensor, u: Tensor, du: Tensor) -> tuple[Tensor, Tensor]:
        r"""exp_p(u), and its derivatives along the tangent vectors ``du``, stacked in front; with

        .. math:: \exp\begin{bmatrix} W & dW\\ 0 & W\end{bmatrix} = \begin{bmatrix} e^W & d(e^W)\\ 0 &
            e^W\end{bmatrix}
        """
        k = p.shape[-1]
        a, s = p.mT @ u, u.mT @ u
        a = (a - a.mT) / 2
        da, ds = p.mT @ du, u.mT @ du
        da, ds = (da - da.mT) / 2, ds + ds.mT
        c = torch.linalg.matrix_norm(u.detach())[..., None, None]
        c = torch.where(c == 0, 1.0, c)  # as in geodesic
        zero, eye = torch.zeros_like(a), torch.eye(k, dtype=p.dtype, device=p.device).expand_as(a)
        corner, dcorner = (s + a @ a, ds + da @ a + a @ da) if self.canonical else (s, ds)
        w = _blocks(zero if self.canonical else a, -corner / c, c * eye, a)
        dw = _blocks(torch.zeros_like(da) if self.canonical else da, -dcorner / c, torch.zeros_like(da), da)
        flow, dflow = _expm_and_derivative(w, dw)
        left = torch.cat([p, u / c], -1)
        q = left @ flow[..., :k]
        dq = (du / c) @ flow[..., k:, :k] + left @ dflow[..., :k]
        if self.canonical:
            return q, dq
        turn, dturn = _expm_and_derivative(-a, -da)
        return q @ turn, dq @ turn + q @ dturn

    def log_det_exp(self, p: Tensor, v: Tensor) -> Tensor:
        return torch.linalg.slogdet(self.jacobian(p, v)).logabsdet

    def log_frame(self, p: Tensor, q: Tensor) -> Tensor:
        p, q = torch.broadcast_tensors(p, q)
        return ShootingLog.apply(p, q, self)

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        return self.to_tangent(p, self.log_frame(p, q))

    def dist(self, p: Tensor, q: Tensor) -> Tensor:
        return norm(self.log_frame(p, q))

    def preimages(self, p: Tensor, v: Tensor, radius: float) -> Tensor:
        """Windings on the sphere (p = 1); else ``v`` alone, which is all there is within the injectivity
        radius.

        :raises NotImplementedError: for a ``radius`` beyond it.
        """
        if p.shape[-1] == 1:
            return windings(v, radius, math.pi)
        reach = self.injectivity_radius(p.shape[-2:])
        if radius > reach:
            raise NotImplementedError(
                f"{self.manifold.name}: preimages longer than {reach:.3g} are not known, got {radius:.3g}."
            )
        return v.unsqueeze(0)

    def wrapped_limit(self, event_shape: Sequence[int]) -> float:
        """For p > 1 the length of a normal vector must stay within the injectivity radius."""
        if event_shape[1] == 1:
            return math.inf
        return self.injectivity_radius(event_shape) / (6 + math.sqrt(self.dim(event_shape)))

    def log_wrapped(self, p: Tensor, v: Tensor, base: Any) -> Tensor:
        """The sphere's sum (p = 1), or the only term of a normal that stays within the injectivity radius.

        :raises NotImplementedError: for a wider normal.
        """
        if p.shape[-1] == 1:
            return log_wound_normal(v, base, v.shape[-1] - 1)
        check_unwrapped(self, base, self.wrapped_limit(p.shape[-2:]))
        return base.log_prob(v) - self.log_det_exp(p, v)

    def injectivity_radius(self, event_shape: Sequence[int]) -> float:
        """π (Euclidean, spheres, rotations), at least :math:`\\sqrt{4/5}\\,\\pi` (canonical) [3]."""
        n, p = event_shape
        if not self.canonical:
            return math.sqrt(2) * math.pi if n == p else math.pi
        return math.pi if p == 1 or p >= n - 1 else math.sqrt(0.8) * math.pi

    def log_volume(self, event_shape: Sequence[int]) -> float:
        n, p = event_shape
        return sum(log_sphere_area(k) for k in range(n - p, n)) + p * (p - 1) / 2 * math.log(self._weight)

    def uniform_moments(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> tuple[Tensor, Tensor]:
        return moments_of_unit_columns(event_shape, dtype, device)

    def uniform_sample(
        self,
        shape: Sequence[int],
        event_shape: Sequence[int],
        *,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> Tensor:
        return haar(torch.Size(shape) + torch.Size(event_shape), dtype=dtype, device=device)

    def embed_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        u = self.to_tangent(p, v)
        return u + (math.sqrt(0.5) - 1) * p @ (p.mT @ u) if self.canonical else u

    def ambient_coordinates(self, x: Tensor) -> Tensor:
        """The entries; isometric for the Euclidean metric, for the canonical one up to a factor of
        :math:`\\sqrt2` in the directions :math:`XA`."""
        return x.flatten(-2)

    def noise_map(self, event_shape: Sequence[int]) -> NoiseMap:
        return ProjectionNoise(self, event_shape, event_shape[1])
