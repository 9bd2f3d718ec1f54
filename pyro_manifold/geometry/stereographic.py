r"""The stereographic model :math:`\{x \in \mathbb R^d : 1 + K|x|^2 > 0\}` of constant curvature K of either sign.

Write :math:`a = 1 + K|p|^2`, :math:`b = 1 + K|q|^2`, :math:`\delta = q - p`, :math:`\lambda_p = 2/a`. Then

.. math::
    \exp_p(v) &= p + a\,\frac{C S - K|S|^2 p}{a - K|Cp + S|^2}, \qquad
      C = \cos\tfrac{\sqrt K|v|}{2},\quad S = \frac{\sin(\sqrt K|v|/2)}{\sqrt K|v|}\,v \\
    d(p,q) &= \frac{2}{\sqrt K}\arcsin\sqrt{\frac{K|\delta|^2}{ab}}, \qquad
    \log_p(q) = d(p,q)\,\frac{a\delta + K|\delta|^2p}{|a\delta + K|\delta|^2p|}

(v in frame coordinates; cosh, sinh, arsinh for K < 0). This is :math:`p \oplus \tan_K(|v|/2)\,v/|v|` with the
Möbius sum arranged so that for K < 0 every sum has terms of one sign. The frame at p is :math:`e_i/\lambda_p`: parallel
transport from the origin has no rotation in this chart. [1] Ganea, Bécigneul, Hofmann, *Hyperbolic neural networks*, 2018,
eqs. 4-12. [2] Bachmann, Bécigneul, Ganea, *Constant curvature graph convolutional networks*, 2020, sec. 2.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import geoopt
import torch
from torch import Tensor

from ..ops.numerics import arcsinc_sqrt, cos_sqrt, log_sinc_sqrt, norm, sinc_sqrt
from .base import Geometry, register_geometry
from .sphere import SphereGeometry, windings

__all__ = ["StereographicGeometry"]

_EXP_MAX = {torch.float32: 80.0, torch.float64: 600.0}  # sqrt(-K)|v| is cut here, far outside what the ball can hold


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)


def _sq(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True)


@register_geometry(geoopt.Stereographic)
class StereographicGeometry(Geometry):
    r"""Geometry of ``geoopt.Stereographic(k)``, ``PoincareBall(c)`` (K = -c) and ``SphereProjection(k)``; points ``(d,)``.

    Curvature may be learned and may cross 0: every formula is analytic in K, gradients included. It is read from the
    manifold at each call, in the dtype of the points. ``PoincareBall(c=1.0)`` built under a float32 default
    dtype keeps an inverse softplus of c in float32; in float64 that is c = 1 - 3.8e-8, and no rounding recovers what
    was meant. Build it under ``torch.set_default_dtype(torch.float64)``, or use ``Stereographic(k=-1.0)``, which is exact.

    For K < 0 the chart itself cannot hold points beyond geodesic radius :math:`\log(8/\epsilon)/\sqrt{-K}`: 18 (float32) or
    38 (float64) in units of :math:`1/\sqrt{-K}`, and knows a point at radius r only to :math:`\epsilon e^r/4`.
    :meth:`exp` does not clip within that range; a result beyond it is placed on the outermost representable radius
    with a ``RuntimeWarning``. Use ``geoopt.Lorentz`` or float64 for such radii. For K > 0, where the antipode of
    the origin is the point at infinity, it is held at :math:`|x| = 1/(\epsilon\sqrt K)`, right to rounding; K > 0 has
    injectivity radius :math:`\pi/\sqrt K` and the volume of the sphere of that curvature.

    >>> import geoopt
    >>> geo = StereographicGeometry(geoopt.Stereographic(k=-1.0))
    >>> geo.exp_frame(torch.zeros(2), torch.tensor([1.0, 0.0]))  # tanh(1/2)
    tensor([0.4621, 0.0000])
    """

    def __init__(self, manifold: geoopt.Stereographic) -> None:
        super().__init__(manifold)
        raw = next(manifold.parameters())
        if raw.numel() != 1:
            raise ValueError(
                f"manifold: curvature of shape {tuple(raw.shape)}; expected a single number. "
                "Use geoopt.ProductManifold for factors of different curvature."
            )
        # sign of K where the class fixes it: only the formulas of that sign are evaluated
        self._sign = {True: -1, False: 0}[isinstance(manifold, geoopt.PoincareBall)]
        if isinstance(manifold, geoopt.SphereProjection):
            self._sign = 1

    def curvature(self, dtype: torch.dtype | None = None) -> Tensor:
        """K, differentiable in the manifold's parameter, evaluated in ``dtype``."""
        raw = next(self.manifold.parameters()).reshape(())
        raw = raw if dtype is None else raw.to(dtype)
        if self._sign == 0:
            return raw
        return self._sign * torch.nn.functional.softplus(raw)

    @property
    def has_chart(self) -> bool:  # type: ignore[override]
        return self._sign < 0 or (self._sign == 0 and bool(self.curvature() <= 0))

    # --- shapes and membership ---------------------------------------------------------------------------------------
    def dim(self, event_shape: Sequence[int]) -> int:
        return event_shape[-1]

    def point_shape(self, dim: int) -> torch.Size:
        return torch.Size([dim])

    def contains(self, x: Tensor, atol: float | None = None) -> Tensor:
        """Strictly inside; ``atol`` is not used, since every such vector is a point."""
        q = x.square().sum(-1)
        return q.isfinite() & (1 + self.curvature(x.dtype) * q > 0)

    def origin(self, dim: int, *, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        return torch.zeros(dim, dtype=dtype, device=device)

    def project(self, x: Tensor) -> Tensor:
        return self._inside(x, self.curvature(x.dtype))[0]

    def project_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        return u

    def _inside(self, x: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
        """``x``, or for K < 0 and ``x`` not inside, the outermost representable point in its direction; and which."""
        out = 1 + K * _sq(x) <= 0
        edge = (1 - 2 * torch.finfo(x.dtype).eps) / (-K).clamp_min(torch.finfo(x.dtype).tiny).sqrt()
        r = norm(x, keepdim=True)
        return torch.where(out, x * (edge / torch.where(out, r, 1.0)), x), out

    # --- metric ------------------------------------------------------------------------------------------------------
    def to_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        return v * (0.5 * (1 + self.curvature(p.dtype) * _sq(p)))

    def from_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        return u * (2 / (1 + self.curvature(p.dtype) * _sq(p)))

    def exp(self, p: Tensor, u: Tensor) -> Tensor:
        return self.exp_frame(p, self.from_tangent(p, u))

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        return self.to_tangent(p, self.log_frame(p, q))

    def _half_step(self, v: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
        s = 0.25 * K * _sq(v)
        if self._sign <= 0:
            s = s.clamp_min(-0.25 * _EXP_MAX.get(v.dtype, 8.0) ** 2)
        return cos_sqrt(s, self._sign), 0.5 * sinc_sqrt(s, self._sign) * v

    def exp_frame(self, p: Tensor, v: Tensor) -> Tensor:
        K = self.curvature(p.dtype)
        C, S = self._half_step(v, K)
        a = 1 + K * _sq(p)
        A = C * p + S
        D = a - K * _sq(A)
        k_ss = K * _sq(S)
        y = p + (a * (C * S - k_ss * p)) / D
        if self._sign >= 0:
            y = torch.where((K > 0) & ((2 * D < a) | (2 * k_ss > C * C)), self._far_exp(p, C, S, a, k_ss, K), y)
        if self._sign <= 0:
            y = self._checked(y, K)
        return y

    def _checked(self, y: Tensor, K: Tensor) -> Tensor:
        out = 1 + K * _sq(y) <= 0
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self._inside(y, K)[0]
        if not bool(out.any()):
            return y
        warnings.warn(
            f"a point of {self.manifold.name} lies beyond the radius that {y.dtype} coordinates can hold (about "
            f"{math.log(8 / torch.finfo(y.dtype).eps):.0f}/sqrt(-K)) and was placed on it: its density will be wrong. Use "
            "geoopt.Lorentz (same law, other coordinates) or float64.",
            RuntimeWarning,
            stacklevel=3,
        )
        return self._inside(y, K)[0]

    @staticmethod
    def _cross(C: Tensor | float, p: Tensor, S: Tensor, K: Tensor) -> Tensor:
        r"""For K > 0, :math:`C^2 - 2KC\,p\cdot S + K^2|p|^2|S|^2` as a sum of squares: right near 0 (the antipode)."""
        ss, ps = _sq(S), _dot(p, S)
        perp = p - S * (ps / torch.where(ss == 0, 1.0, ss))
        return (C - K * ps).square() + K * K * ss * _sq(perp)

    def _far_exp(self, p: Tensor, C: Tensor, S: Tensor, a: Tensor, k_ss: Tensor, K: Tensor) -> Tensor:
        """Long steps for K > 0, where the result may pass near the point at infinity."""
        eps = torch.finfo(p.dtype).eps
        D = self._cross(C, p, S, K)
        lost = D < a * (eps / 8) ** 2
        y = ((C * C - k_ss - 2 * K * C * _dot(p, S)) * p + a * C * S) / torch.where(lost, 1.0, D)
        infinity = S / (eps * K.clamp_min(torch.finfo(p.dtype).tiny).sqrt() * torch.where(lost, norm(S, keepdim=True), 1.0))
        return torch.where(lost, infinity, y)

    def _chord(self, p: Tensor, q: Tensor) -> tuple[Tensor, ...]:
        r"""K, a, δ, |δ|², ab, and the ratio of half the angle to its sine."""
        K = self.curvature(p.dtype)
        a, b, delta = 1 + K * _sq(p), 1 + K * _sq(q), q - p
        n = _sq(delta)
        ab = a * b
        s = K * n / ab
        if self._sign < 0:
            return K, a, delta, n, ab, arcsinc_sqrt(s, -1)
        far = s > 0.5
        D = torch.where(far, self._cross(1.0, p, -q, K), 1.0) / ab
        cut = D == 0
        sin = torch.where(far, s, 1.0).sqrt()
        angle = torch.where(cut, 0.5 * math.pi, torch.atan2(sin, torch.where(cut, 1.0, D).sqrt()))
        return K, a, delta, n, ab, torch.where(far, angle / sin, arcsinc_sqrt(torch.where(far, 0.0, s), self._sign))

    def log_frame(self, p: Tensor, q: Tensor) -> Tensor:
        K, a, delta, n, ab, f = self._chord(p, q)
        D = ab - K * n
        u = a * delta + K * n * p
        if self._sign >= 0:
            far = (K > 0) & (2 * K * n > ab)
            D = torch.where(far, self._cross(1.0, p, -q, K), D)
            u = torch.where(far, a * q - (1 + K * (2 * _dot(p, q) - _sq(q))) * p, u)
            cut = D == 0
            e = torch.nn.functional.pad(torch.ones_like(p[..., :1]), (0, p.shape[-1] - 1))
            at_cut = e * (math.pi / torch.where(cut, K, 1.0).sqrt())
            return torch.where(cut, at_cut, u * (2 * f / (ab * torch.where(cut, 1.0, D)).sqrt()))
        return u * (2 * f / (ab * D).sqrt())

    def dist(self, p: Tensor, q: Tensor) -> Tensor:
        K, a, delta, n, ab, f = self._chord(p, q)
        return (2 * f * norm(delta, keepdim=True) / ab.sqrt()).squeeze(-1)

    def log_det_exp(self, p: Tensor, v: Tensor) -> Tensor:
        out = (v.shape[-1] - 1) * log_sinc_sqrt(self.curvature(v.dtype) * v.square().sum(-1), self._sign)
        return out.expand(torch.broadcast_shapes(p.shape, v.shape)[:-1])

    def geodesic(self, p: Tensor, u: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        r"""With :math:`B = Cv - K(S\cdot v)p` the velocity is v mirrored in the line of B, over :math:`\lambda`."""
        K = self.curvature(p.dtype)
        v = self.from_tangent(p, u)
        step = torch.as_tensor(t, dtype=p.dtype, device=p.device).unsqueeze(-1) * v
        q = self.exp_frame(p, step)
        C, S = self._half_step(step, K)
        B = C * v - K * _dot(S, v) * p
        bb = _sq(B)
        w = torch.where(bb == 0, v, 2 * _dot(B, v) / torch.where(bb == 0, 1.0, bb) * B - v)
        return q, self.to_tangent(q, w)

    def preimages(self, p: Tensor, v: Tensor, radius: float) -> Tensor:
        if self.has_chart:
            return v.unsqueeze(0)
        return windings(v, radius, math.pi / self.curvature(v.dtype).sqrt())

    # --- globals -----------------------------------------------------------------------------------------------------
    def injectivity_radius(self, event_shape: Sequence[int]) -> float | Tensor:
        return math.inf if self.has_chart else math.pi / self.curvature().sqrt()

    def log_volume(self, event_shape: Sequence[int]) -> Tensor | float:
        if self.has_chart:
            return super().log_volume(event_shape)
        d = event_shape[-1]
        return SphereGeometry(geoopt.Sphere()).log_volume((d + 1,)) - 0.5 * d * self.curvature(torch.float64).log()

    def uniform_sample(
        self, shape: Sequence[int], event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> Tensor:
        if self.has_chart:
            return super().uniform_sample(shape, event_shape, dtype=dtype, device=device)
        z = SphereGeometry(geoopt.Sphere()).uniform_sample(shape, (event_shape[-1] + 1,), dtype=dtype, device=device)
        return sphere_to_stereographic(z, self.curvature(z.dtype))


def sphere_to_stereographic(z: Tensor, K: Tensor) -> Tensor:
    r"""Chart of the unit sphere scaled to curvature K > 0: :math:`z_{2:}/(\sqrt K(1 + z_1))`, and the point at infinity held finite."""
    first, rest = z[..., :1], z[..., 1:]
    q = _sq(rest)
    south, lost = first < 0, q < torch.finfo(z.dtype).eps ** 2
    e = torch.nn.functional.pad(torch.ones_like(first), (0, rest.shape[-1] - 1)) * (1 / torch.finfo(z.dtype).eps)
    far = torch.where(lost, e, rest * ((1 - first) / torch.where(lost, 1.0, q)))
    return torch.where(south, far, rest / torch.where(south, 1.0, 1 + first)) / K.sqrt()


def stereographic_to_sphere(x: Tensor, K: Tensor) -> Tensor:
    r"""Inverse of :func:`sphere_to_stereographic`: :math:`(1 - K|x|^2,\ 2\sqrt K x)/(1 + K|x|^2)`."""
    q = K * _sq(x)
    return torch.cat([(1 - q) / (1 + q), 2 * K.sqrt() * x / (1 + q)], -1)
