r"""The stereographic model :math:`\{x \in \mathbb R^d : 1 + K|x|^2 > 0\}` of constant curvature K of either
sign.

Write :math:`a = 1 + K|p|^2`, :math:`b = 1 + K|q|^2`, :math:`\delta = q - p`, :math:`\lambda_p = 2/a`. Then

.. math::
    \exp_p(v) &= p + a\,\frac{C S - K|S|^2 p}{a - K|Cp + S|^2}, \qquad
      C = \cos\tfrac{\sqrt K|v|}{2},\quad S = \frac{\sin(\sqrt K|v|/2)}{\sqrt K|v|}\,v \\
    d(p,q) &= \frac{2}{\sqrt K}\arcsin\sqrt{\frac{K|\delta|^2}{ab}}, \qquad
    \log_p(q) = d(p,q)\,\frac{a\delta + K|\delta|^2p}{|a\delta + K|\delta|^2p|}

(v in frame coordinates; cosh, sinh, arsinh for K < 0). This is :math:`p \oplus \tan_K(|v|/2)\,v/|v|` with the
Möbius sum arranged so that for K < 0 every sum has terms of one sign. The frame at p is
:math:`e_i/\lambda_p`: parallel transport from the origin has no rotation in this chart. [1] Ganea, Bécigneul,
Hofmann, *Hyperbolic neural networks*, 2018, eqs. 4-12. [2] Bachmann, Bécigneul, Ganea, *Constant curvature
graph convolutional networks*, 2020, sec. 2.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import geoopt
import torch
from torch import Tensor

from ..ops.ball import ball_exp, ball_log, inside, rim_margin, shortening
from ..ops.ball_origin import ball_exp_origin, ball_radius
from ..ops.checks import common_shape
from ..ops.components import by_components, extremes, squared_norm
from ..ops.memo import module_tensors
from ..ops.numerics import cut_short, fewer_turns, safe_sqrt
from ..ops.numpy_hyperbolic import ball_logarithm, ball_normal
from ..ops.numpy_logarithm import Logarithm
from ..ops.signed_trig import arcsinc_sqrt, arctanc_sqrt, cos_sinc_sqrt, log_sinc_length
from ..ops.tracing import is_concrete, maybe_any
from .base import Geometry, turned
from .registry import register_geometry
from .sphere import SphereGeometry
from .windings import log_wound_normal, windings

__all__ = ["StereographicGeometry"]

_SMALL = (
    2048  # elements up to which plain torch operations are faster than operators with their own gradients
)


def _cross(K: Tensor, C: Tensor | float, p: Tensor, S: Tensor) -> Tensor:
    r"""For K > 0, :math:`C^2 - 2KC\,p\cdot S + K^2|p|^2|S|^2` as a sum of squares, right where it vanishes
    (the antipode)."""
    ss, ps = squared_norm(S), (p * S).sum(0)
    none = ss == 0
    perp = p - S * (ps / torch.where(none, 1.0, ss))
    squares = (C - K * ps).square() + K * K * ss * squared_norm(perp)
    # at S = 0 there is no direction to be normal to: the polynomial has its derivatives there
    return torch.where(none, C * C - 2 * K * C * ps + K * K * squared_norm(p) * ss, squares)


@register_geometry(geoopt.Stereographic)
class StereographicGeometry(Geometry):
    r"""Geometry of ``geoopt.Stereographic(k)``, ``PoincareBall(c)`` (K = -c) and ``SphereProjection(k)``;
    points ``(d,)``.

    Curvature may be learned and may cross 0: every formula is analytic in K, gradients included. It is read
    from the manifold at each call, in the dtype of the points. ``PoincareBall(c=1.0)`` built under a float32
    default dtype keeps an inverse softplus of c in float32; in float64 that is c = 1 - 3.8e-8, and no
    rounding recovers what was meant. Build it under ``torch.set_default_dtype(torch.float64)``, or use
    ``Stereographic(k=-1.0)``, which is exact.

    For K < 0 the chart itself cannot hold points beyond geodesic radius :math:`\log(2/\epsilon)/\sqrt{-K}`:
    16 (float32) or 36 (float64) in units of :math:`1/\sqrt{-K}`, and knows a point at radius r only to
    :math:`\epsilon e^r/4`. :meth:`exp` does not clip within that range; a result beyond it is placed on the
    outermost representable radius with a ``RuntimeWarning``. Use ``geoopt.Lorentz`` or float64 for such
    radii. For K > 0, where the antipode of the origin is the point at infinity, it is held at
    :math:`|x| = 1/(\epsilon\sqrt K)`, right to rounding; K > 0 has injectivity radius :math:`\pi/\sqrt K` and
    the volume of the sphere of that curvature.

    >>> import geoopt
    >>> geo = StereographicGeometry(geoopt.Stereographic(k=-1.0))
    >>> geo.exp_frame(torch.zeros(2), torch.tensor([1.0, 0.0]))  # tanh(1/2)
    tensor([0.4621, 0.0000])
    """

    def __init__(self, manifold: geoopt.Stereographic) -> None:
        super().__init__(manifold)
        raw = self._raw()
        if raw.numel() != 1:
            raise ValueError(
                f"manifold: curvature of shape {tuple(raw.shape)}; expected a single number. Use "
                "geoopt.ProductManifold for factors of different curvature."
            )
        # sign of K where the class fixes it: only the formulas of that sign are evaluated
        self._sign = isinstance(manifold, geoopt.SphereProjection) - isinstance(manifold, geoopt.PoincareBall)

    def _raw(self) -> Tensor:
        return next(t for t in module_tensors(self.manifold) if t is not None)

    def curvature(self, like: Tensor) -> Tensor:
        """K, differentiable in the manifold's parameter; in that parameter's dtype first, so that it is
        geoopt's own number."""
        raw = self._raw().reshape(())
        return (self._sign * torch.nn.functional.softplus(raw) if self._sign else raw).to(
            dtype=like.dtype, device=like.device
        )

    def constant_curvature(self, like: Tensor) -> Tensor:
        return self.curvature(like)

    @property
    def has_chart(self) -> bool:  # type: ignore[override]
        return self._sign < 0 or (self._sign == 0 and bool(self.manifold.k <= 0))

    @property
    def has_finite_volume(self) -> bool:  # type: ignore[override]
        return not self.has_chart

    @property
    def is_flat(self) -> bool:  # type: ignore[override]
        """Curvature 0, and not learned: a gradient in it is one of the curved formulas."""
        raw = self._raw()
        return self._sign == 0 and not raw.requires_grad and bool(raw == 0)

    # --- shapes and membership ------------------------------------------------------------------------------
    def dim(self, event_shape: Sequence[int]) -> int:
        return event_shape[-1]

    def point_shape(self, dim: int) -> torch.Size:
        return torch.Size([dim])

    def contains(self, x: Tensor, atol: float | None = None) -> Tensor:
        """Strictly inside; ``atol`` is not used, since every such vector is a point."""
        q = x.square().sum(-1)
        return q.isfinite() & (1 + self.curvature(x) * q > 0)

    def base_point(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> Tensor:
        return torch.zeros(event_shape[-1], dtype=dtype, device=device)

    def project(self, x: Tensor) -> Tensor:
        margin = rim_margin(x.shape[-1], x.dtype)
        q = -self.curvature(x) * x.square().sum(-1, keepdim=True)
        out = q >= 1 - margin
        return torch.where(out, x * ((1 - margin) * torch.where(out, q, 1.0).rsqrt()), x)

    def reach(self, event_shape: Sequence[int], like: Tensor) -> float:
        K = float(self.curvature(like.detach()).detach())
        return math.log(2 / rim_margin(event_shape[-1], like.dtype)) / math.sqrt(-K) if K < 0 else math.inf

    def farthest(self, x: Tensor) -> float:
        root = math.sqrt(max(-float(self.curvature(x.detach()).detach()), 0.0))
        r = root * float(torch.linalg.vector_norm(x.detach(), dim=-1).max())
        return 2 * math.atanh(r) / root if root and r < 1 else super().farthest(x)

    def project_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        return u

    # --- metric ---------------------------------------------------------------------------------------------
    def to_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        return v * (0.5 * (1 + self.curvature(p) * p.square().sum(-1, keepdim=True)))

    def from_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        return u * (2 / (1 + self.curvature(p) * p.square().sum(-1, keepdim=True)))

    def killing_fields(self, p: Tensor) -> Tensor:
        r"""The Möbius translations along the axes, :math:`(1 - K|x|^2)e_i + 2Kx_ix`, which span for K <= 0;
        otherwise the rotations too."""
        K = self.curvature(p)
        eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
        square = p.square().sum(-1)[..., None, None]
        moved = (1 - K * square) * eye + 2 * K * p.unsqueeze(-1) * p.unsqueeze(-2)
        if self.has_chart or p.shape[-1] < 2:
            return moved
        return torch.cat([moved, turned(p, 1)], -2)

    def exp_frame(self, p: Tensor, v: Tensor) -> Tensor:
        K = self.curvature(p)
        if self._hyperbolic(K):
            return ball_exp(K, p, cut_short(v), True)
        v = (
            fewer_turns(v, math.pi * K.abs().clamp_min(torch.finfo(K.dtype).tiny).rsqrt())
            if self._sign > 0
            else cut_short(v)
        )
        return by_components(partial(self._exp, K), p, v)

    def log_frame(self, p: Tensor, q: Tensor) -> Tensor:
        K = self.curvature(p)
        return ball_log(K, p, q, True) if self._hyperbolic(K) else by_components(partial(self._log, K), p, q)

    def exp(self, p: Tensor, u: Tensor) -> Tensor:
        K = self.curvature(p)
        return (
            ball_exp(K, p, cut_short(u), False)
            if self._hyperbolic(K)
            else self.exp_frame(p, self.from_tangent(p, u))
        )

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        K = self.curvature(p)
        return ball_log(K, p, q, False) if self._hyperbolic(K) else self.to_tangent(p, self.log_frame(p, q))

    def dist(self, p: Tensor, q: Tensor) -> Tensor:
        if self._from_origin(p, q):
            return ball_radius(self.curvature(q), q)
        return by_components(partial(self._dist, self.curvature(p)), p, q)

    def log_det_exp(self, p: Tensor, v: Tensor) -> Tensor:
        out = (v.shape[-1] - 1) * log_sinc_length(v, self.curvature(v), self._sign)
        return out.expand(common_shape(p.shape, v.shape)[:-1])

    def log_isotropic(self, p: Tensor, q: Tensor, scale: Tensor) -> Tensor | None:
        r"""With s and f of :meth:`log_frame`, :math:`r^2 = 4f^2|\delta|^2/(ab)` and
        :math:`\sinh r/r = \sqrt{1-s}/f` (for K = -1)."""
        K = self.curvature(p)
        if q.numel() >= _SMALL or not self._hyperbolic(K):
            return None
        d, delta = q.shape[-1], q - p
        ab = (K * p.square().sum(-1) + 1) * (K * q.square().sum(-1) + 1)
        s = K * delta.square().sum(-1) / ab
        f = arcsinc_sqrt(s, -1)
        square = (delta / scale.unsqueeze(-1)).square().sum(-1) * f.square() / ab
        log_det = (d - 1) * (torch.log1p(-s) / 2 - f.log())
        return -2 * square - log_det - d * (scale.log() + 0.5 * math.log(2 * math.pi))

    def log_normal_by_numpy(self, p: Tensor, q: Tensor, spread: Tensor, full: bool) -> Tensor | None:
        K = self.curvature(p)
        return ball_normal(p, q, spread, K, full) if self._hyperbolic(K) else None

    def numpy_logarithm(self, event_shape: Sequence[int], p: Tensor, q: Tensor) -> Logarithm | None:
        K = self.curvature(p)
        return Logarithm(ball_logarithm, (K,)) if self._hyperbolic(K) else None

    def _from_origin(self, p: Tensor, q: Tensor) -> bool:
        """Is p the one origin of a ball, known and fixed, so that the distance of q is a function of |q|?"""
        known = p.dim() == 1 and not p.requires_grad and p.device.type == "cpu" and is_concrete(p)
        return known and is_concrete(q) and self._sign < 0 and not bool(p.any())

    def geodesic(self, p: Tensor, u: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=p.dtype, device=p.device).unsqueeze(-1)
        return by_components(partial(self._geodesic, self.curvature(p)), p, u, t)

    # The same, with the component axis first (see ops.components.by_components).
    def _half_step(self, K: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """C and S."""
        s = K * squared_norm(v)
        if self._sign <= 0:
            cut = shortening(s)
            v, s = cut * v, s * (cut * cut)
        C, sinc = cos_sinc_sqrt(0.25 * s, self._sign)
        return C, 0.5 * sinc * v

    def _hyperbolic(self, K: Tensor) -> bool:
        """Is K < 0 known without asking a GPU or a trace?"""
        return self._sign < 0 or (
            self._sign == 0 and K.device.type == "cpu" and is_concrete(K) and bool(K < 0)
        )

    def _exp(self, K: Tensor, p: Tensor, v: Tensor) -> Tensor:
        C, S = self._half_step(K, v)
        a, k_ss = 1 + K * squared_norm(p), 1 - C * C if self._sign else K * squared_norm(S)
        step = a / (a - K * squared_norm(C * p + S))
        y = (1 - step * k_ss) * p + (step * C) * S
        far = (K > 0) & ((2 < step) | (2 * k_ss > C * C))
        if maybe_any(far):
            y = torch.where(far, self._far_exp(K, p, C, S, a, k_ss), y)
        return inside(K, y) if self._sign <= 0 else y

    @staticmethod
    def _far_exp(K: Tensor, p: Tensor, C: Tensor, S: Tensor, a: Tensor, k_ss: Tensor) -> Tensor:
        """Long steps for K > 0, where the result may pass near the point at infinity."""
        eps = torch.finfo(p.dtype).eps
        D = _cross(K, C, p, S)
        lost = D < a * (eps / 8) ** 2
        y = ((C * C - k_ss - 2 * K * C * (p * S).sum(0)) * p + a * C * S) / torch.where(lost, 1.0, D)
        unit = S / torch.where(lost, safe_sqrt(squared_norm(S)), 1.0)
        return torch.where(lost, unit / (eps * torch.where(lost, K, 1.0).sqrt()), y)

    def _chord(self, K: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, ...]:
        r"""a, δ, |δ|², ab, whether q is beyond a right angle, and the ratio of half the angle to its sine."""
        a, b, delta = 1 + K * squared_norm(p), 1 + K * squared_norm(q), q - p
        n, ab = squared_norm(delta), a * b
        s = K * n / ab
        far = s > 0.5
        if self._sign < 0 or not maybe_any(far):
            return a, delta, n, ab, far, arcsinc_sqrt(s, self._sign)
        sin = torch.where(far, s, 1.0).sqrt()
        cos = safe_sqrt(torch.where(far, _cross(K, 1.0, p, -q) / ab, 1.0))
        return (
            a,
            delta,
            n,
            ab,
            far,
            torch.where(
                far,
                torch.atan2(cos, sin).neg().add(0.5 * math.pi) / sin,
                arcsinc_sqrt(torch.where(far, 0.0, s), self._sign),
            ),
        )

    def _log(self, K: Tensor, p: Tensor, q: Tensor) -> Tensor:
        a, delta, n, ab, far, f = self._chord(K, p, q)
        kn = K * n
        scale = 2 * f * (ab * torch.where(far, ab, ab - kn)).rsqrt()
        v = (scale * a) * delta + (scale * kn) * p
        if not maybe_any(far):
            return v
        u = torch.where(far, a * q - (1 + K * (2 * (p * q).sum(0) - squared_norm(q))) * p, 0.0)
        length = safe_sqrt(squared_norm(u))
        cut = far & (length == 0)
        u = torch.where(cut, torch.cat([torch.ones_like(p[:1]), torch.zeros_like(p[1:])]), u)
        dist = 2 * f * (torch.where(far, n, 1.0) / ab).sqrt()
        return torch.where(far, u * (dist / torch.where(far & ~cut, length, 1.0)), v)

    def _dist(self, K: Tensor, p: Tensor, q: Tensor) -> Tensor:
        _, _, n, ab, _, f = self._chord(K, p, q)
        return 2 * f * safe_sqrt(n / ab)

    def _geodesic(self, K: Tensor, p: Tensor, u: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""With :math:`B = Cv - K(S\cdot v)p` the velocity is v mirrored in the line of B, over
        :math:`\lambda`."""
        v = u * (2 / (1 + K * squared_norm(p)))
        y = self.exp_frame(p.t(), (t * v).t()).t()
        C, S = self._half_step(K, t * v)
        B = C * v - (K * (S * v).sum(0)) * p
        bb = squared_norm(B)
        w = (2 * (B * v).sum(0) / torch.where(bb == 0, 1.0, bb)) * B - v
        return y, torch.where(bb == 0, v, w) * (0.5 * (1 + K * squared_norm(y)))

    def embed_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        """For K > 0 the velocity on the sphere of radius :math:`1/\\sqrt K` in one dimension more."""
        if self.has_chart:
            return v
        K = self.curvature(p)
        along = 2 * (p * v).sum(-1, keepdim=True) / (1 + K * p.square().sum(-1, keepdim=True))
        return torch.cat([-K.sqrt() * along, v - K * along * p], -1)

    def ambient_coordinates(self, x: Tensor) -> Tensor | None:
        if self.has_chart:
            return None
        K = self.curvature(x)
        return stereographic_to_sphere(x, K) / K.sqrt()

    def lift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """:math:`2x/(1 + K|x|^2)` and :math:`(1 - K|x|^2)/(1 + K|x|^2)`."""
        ks = self.curvature(x) * x.square().sum(-1, keepdim=True)
        half = (1 + ks).reciprocal()
        return 2 * half * x, (1 - ks) * half

    def chart(self, v: Tensor) -> Tensor:
        r""":math:`\tfrac12\mathrm{tanc}(\tfrac14 K|v|^2)\,v` with tanc :math:`s = \tan\sqrt s/\sqrt s`; by
        :meth:`exp_frame` where a result may lie beyond what the coordinates hold."""
        K = self.curvature(v)
        if not (self._hyperbolic(K) and v.device.type == "cpu" and is_concrete(v) and v.numel()):
            return super().chart(v)
        longest = max(map(abs, extremes(v))) * math.sqrt(v.shape[-1])
        if not longest * math.sqrt(-float(K.detach())) < math.log(2 / rim_margin(v.shape[-1], v.dtype)) - 1:
            return super().chart(v)
        return ball_exp_origin(K, v)

    def chart_inv(self, x: Tensor) -> Tensor:
        r""":math:`2\arctan(\sqrt s)/\sqrt s\;x` at :math:`s = K|x|^2`."""
        K = self.curvature(x)
        s = K * x.square().sum(-1, keepdim=True)
        if not (self._hyperbolic(K) and s.device.type == "cpu" and is_concrete(s) and s.numel()):
            return super().chart_inv(x)
        if not float(s.detach().amin()) > rim_margin(x.shape[-1], x.dtype) - 1:
            return super().chart_inv(x)
        return (2 * arctanc_sqrt(s, -1)) * x

    def feature_size(self, event_shape: Sequence[int]) -> int:
        return event_shape[-1] if self.has_chart else event_shape[-1] + 1

    def from_features(self, h: Tensor, event_shape: Sequence[int]) -> Tensor:
        """At positive curvature by way of the sphere, whose south pole is infinity."""
        if self.has_chart:
            return super().from_features(h, event_shape)
        sphere = SphereGeometry(geoopt.Sphere()).from_features(h, h.shape[-1:])
        return sphere_to_stereographic(sphere, self.curvature(h))

    def to_features(self, x: Tensor) -> Tensor:
        return super().to_features(x) if self.has_chart else stereographic_to_sphere(x, self.curvature(x))

    def preimages(self, p: Tensor, v: Tensor, radius: float) -> Tensor:
        return v.unsqueeze(0) if self.has_chart else windings(v, radius, math.pi / self.curvature(v).sqrt())

    def log_wrapped(self, p: Tensor, v: Tensor, base: Any) -> Tensor:
        if self.has_chart:
            return super().log_wrapped(p, v, base)
        return log_wound_normal(v, base, v.shape[-1] - 1, root=self.curvature(v).sqrt())

    # --- globals --------------------------------------------------------------------------------------------
    def injectivity_radius(self, event_shape: Sequence[int]) -> float:
        return math.inf if self.has_chart else math.pi / math.sqrt(self.manifold.k.item())

    def log_volume(self, event_shape: Sequence[int]) -> Tensor | float:
        if self.has_chart:
            return super().log_volume(event_shape)
        d = event_shape[-1]
        K = self.curvature(next(self.manifold.parameters()).double())
        return SphereGeometry(geoopt.Sphere()).log_volume((d + 1,)) - 0.5 * d * K.log()

    def uniform_moments(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> tuple[Tensor, Tensor]:
        d = event_shape[-1]
        if self.has_chart or d < 2:  # on the circle E|x| diverges
            return super().uniform_moments(event_shape, dtype=dtype, device=device)
        mean = torch.zeros(torch.Size(event_shape), dtype=dtype, device=device)
        variance = (
            math.inf if d == 2 else 1 / (self.curvature(mean) * (d - 2))
        )  # |x|^2 is u/(1 - u) / K, u Beta(d/2, d/2)
        return mean, torch.ones_like(mean) * variance

    def uniform_sample(
        self,
        shape: Sequence[int],
        event_shape: Sequence[int],
        *,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> Tensor:
        if self.has_chart:
            return super().uniform_sample(shape, event_shape, dtype=dtype, device=device)
        z = SphereGeometry(geoopt.Sphere()).uniform_sample(
            shape, (event_shape[-1] + 1,), dtype=dtype, device=device
        )
        return sphere_to_stereographic(z, self.curvature(z))


def sphere_to_stereographic(z: Tensor, K: Tensor) -> Tensor:
    r"""Chart of the unit sphere scaled to curvature K > 0: :math:`z_{2:}/(\sqrt K(1 + z_1))`, infinity held
    finite."""
    first, rest = z[..., :1], z[..., 1:]
    q = rest.square().sum(-1, keepdim=True)
    south, lost = first < 0, q < torch.finfo(z.dtype).eps ** 2
    e = torch.nn.functional.pad(torch.ones_like(first), (0, rest.shape[-1] - 1)) * (
        1 / torch.finfo(z.dtype).eps
    )
    far = torch.where(lost, e, rest * ((1 - first) / torch.where(lost, 1.0, q)))
    return torch.where(south, far, rest / torch.where(south, 1.0, 1 + first)) / K.sqrt()


def stereographic_to_sphere(x: Tensor, K: Tensor) -> Tensor:
    r"""Inverse of :func:`sphere_to_stereographic`: :math:`(1 - K|x|^2,\ 2\sqrt K x)/(1 + K|x|^2)`."""
    q = K * x.square().sum(-1, keepdim=True)
    return torch.cat([(1 - q) / (1 + q), 2 * K.sqrt() * x / (1 + q)], -1)
