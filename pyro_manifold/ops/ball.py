r"""exp and log of the Poincaré ball of curvature K < 0, each as one operator with a closed-form gradient. The
component axis comes first.

With :math:`a = 1 + K|p|^2,\ b = 1 + K|q|^2,\ \delta = q - p,\ s = K|\delta|^2/(ab)` and H, G the cosh and
sinhc of :math:`\sqrt{-K}|v|`, in the frame :math:`e_i/\lambda_p = \tfrac a2 e_i` (an ambient vector is
:math:`u = \tfrac a2 v`)

.. math::
    \exp_p(v) = \frac{(H - KG\,p\cdot v)p + \tfrac12 aGv}{D},\quad D = a - K|C p + S|^2 = \frac{a}{1 +
    K|\exp_p(v)|^2}, \qquad \log_p(q) = \frac{2\arcsin\sqrt s}{\sqrt{s(1 - s)}}\Big(\frac\delta b + sp\Big)
"""

import math
import warnings

import torch
from torch import Tensor

from .components import Kept, add_scaled, dot, fused, linear_combination, replace_lanes, squared_norm
from .signed_trig import arcsinc_slope, arcsinc_sqrt, arsinhc, cos_sinc_sqrt, sinc_slope
from .tracing import is_concrete

__all__ = ["ball_exp", "ball_log", "inside", "rim_margin", "shortening"]

# where D is below this fraction of its largest term, it is computed from |C p + S|^2, which does not cancel
_LOST = 0.25
# sqrt(-K)|v| is limited to this, far beyond what the ball can represent; to 8 for other dtypes
_EXP_MAX = {torch.float32: 60.0, torch.float64: 600.0}


def shortening(s: Tensor) -> Tensor | float:
    """The factor by which v must be multiplied so that exp does not overflow, from s = K|v|^2."""
    floor = -(_EXP_MAX.get(s.dtype, 8.0) ** 2)
    if s.device.type == "cpu" and is_concrete(s) and (s.numel() == 0 or bool(s.detach().amin() >= floor)):
        return 1.0
    over = s < floor
    return torch.where(over, floor / torch.where(over, s, 1.0), 1.0).sqrt()


def rim_margin(d: int, dtype: torch.dtype) -> float:
    r"""The distance of the outermost representable point of d coordinates from the boundary, relative to the
    radius of the ball: :math:`(4+\sqrt d)\,\epsilon`.

    The squared length of a point is a sum of d rounded terms, whose order depends on the device and the
    layout. Its measured error is about :math:`\epsilon\sqrt d/8` (one standard deviation), a sixteenth of
    this margin."""
    return (4 + math.sqrt(d)) * torch.finfo(dtype).eps


def inside(K: Tensor, y: Tensor) -> Tensor:
    """``y``, where points on or beyond the boundary are replaced by the outermost representable point in the
    same direction, with a warning."""
    margin = rim_margin(len(y), y.dtype)
    q = K * squared_norm(y.detach())
    rim = 2 * margin - 1  # a y this close to the boundary may be the rounding of any point farther out
    if is_concrete(y):
        if y.numel() == 0 or not bool(q.amin() <= rim):
            return y
        warnings.warn(
            f"a point of the ball lies beyond the radius that {y.dtype} coordinates can represent (about "
            f"{math.log(2 / margin):.1f}/sqrt(-K)) and was moved to that radius: its density will be wrong. "
            "Use geoopt.Lorentz (the same distribution in other coordinates) or float64.",
            RuntimeWarning,
            stacklevel=2,
        )
    out = q <= rim
    return torch.where(out, y * ((1 - margin) * torch.where(out, -q, 1.0).rsqrt()), y)


def _arc(K: Tensor, p: Tensor, z: Tensor, frame: bool) -> tuple:  # type: ignore[type-arg]
    """a, the ratio of v to z, 1/D, p.v, s, cosh, sinhc, and D / sinhc times the coefficient of z in exp."""
    a = K * squared_norm(p) + 1
    m = 1.0 if frame else 2 / a
    s, pv = K * squared_norm(z), dot(p, z)
    if not frame:
        s, pv = s * m * m, pv * m
    cut = shortening(s)
    if isinstance(cut, Tensor):
        m, s, pv = m * cut, s * (cut * cut), pv * cut
    H, G = cos_sinc_sqrt(s, -1)
    most = torch.addcmul(torch.ones_like(K), H - 1, 2 - a, value=0.5)
    D = torch.addcmul(most, K * pv, G, value=-1)

    def without_cancellation(p: Tensor, z: Tensor, m: Tensor, s: Tensor, a: Tensor) -> Tensor:
        C, sinc = cos_sinc_sqrt(0.25 * s, -1)
        return a - K * squared_norm(torch.addcmul(C * p, 0.5 * m * sinc, z))

    ratio = torch.as_tensor(m).to(a).expand_as(a)
    D = replace_lanes(torch.sub(D, most, alpha=_LOST), D, without_cancellation, p, z, ratio, s, a)
    return a, m, 1 / D, pv, s, H, G, 0.5 * a * cut if frame else cut


def _weights(K: Tensor, a: Tensor, r: Tensor, pv: Tensor, H: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
    """The coefficients of p and v in exp."""
    return (H - K * pv * G) * r, 0.5 * a * (G * r)


def _exp(K: Tensor, p: Tensor, z: Tensor, frame: bool) -> tuple[Tensor, ...]:
    a, m, r, pv, s, H, G, cut = _arc(K, p, z, frame)
    y = linear_combination(torch.addcmul(H, K * pv, G, value=-1) * r, p, G * r * cut, z)
    near = y.numel() == 0 or (is_concrete(y) and bool((a * r).amin() > 200 * rim_margin(len(y), y.dtype)))
    return y if near else inside(K, y), a, torch.as_tensor(m).to(a).expand_as(a), r, pv, s, H, G


def _exp_pull(
    K: Tensor, p: Tensor, z: Tensor, y: Tensor, g: Tensor, kept: Kept, needs_k: bool, frame: bool
) -> tuple[Tensor | None, ...]:
    a, m, r, pv, s, H, G = kept or _arc(K, p, z, frame)[:7]
    N, M = _weights(K, a, r, pv, H, G)  # y = N p + M v
    gp = dot(g, p)
    gv = m * dot(g, z)
    Mg = M * gv
    gn = gp * r
    gd = (N * gp + Mg) * r  # the gradient in -D
    e, KG = gn - gd, K * G
    c_v = -KG * e
    c_s = (K * gv * r * a - 2 * K * K * pv * e) * sinc_slope(s, H, G) - KG * (gn - 0.5 * gd * (2 - a))
    c_p = K * ((H - 1) * gd + G * gv * r)
    if not frame:
        c_p = c_p - (2 / a) * (K * (Mg + c_v * pv) + c_s * s)
    gk = 0.5 * (c_s * s / K + c_p * squared_norm(p) + 2 * c_v * pv).sum() / K if needs_k else None
    v = c_v * m
    return (
        gk,
        linear_combination(N, g, v, z, c_p, p),
        linear_combination(M * m, g, v, p, c_s * (m * m), z),
    )


def _chord(K: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, ...]:
    """delta, a, b, s and arcsin(sqrt(s)) / sqrt(s)."""
    a, b, delta = 1 + K * squared_norm(p), 1 + K * squared_norm(q), q - p
    s = K * squared_norm(delta) / (a * b)
    return delta, a, b, s, arcsinc_sqrt(s, -1)


def _log(K: Tensor, p: Tensor, q: Tensor, frame: bool) -> tuple[Tensor, ...]:
    a, b, delta = K * squared_norm(p) + 1, K * squared_norm(q) + 1, q - p
    s = K * squared_norm(delta) / (a * b)
    f, c = arsinhc(-s)
    F = f * (2.0 if frame else a) / c
    return add_scaled(torch.mul(delta, F / b), F * s, p), a, b, s, f


def _log_pull(
    K: Tensor, p: Tensor, q: Tensor, v: Tensor, g: Tensor, kept: Kept, needs_k: bool, frame: bool
) -> tuple[Tensor | None, ...]:
    delta, a, b, s, f = (q - p, *kept) if kept else _chord(K, p, q)
    m, F = 1.0 if frame else 0.5 * a, 2 * f * (1 - s).rsqrt()
    dF = 2 * (1 - s).rsqrt() * arcsinc_slope(s, f) + 0.5 * F / (1 - s)
    gp, gd = m * dot(g, p), m * dot(g, delta) / b
    along = gd + s * gp
    c_s = along * dF + F * gp
    c_n, c_a, c_b = 2 * c_s * K / (a * b), -c_s * s / a, -(c_s * s + F * gd) / b
    if not frame:
        c_a = c_a + along * F / a
    near = linear_combination(m * F / b, g, c_n, delta)
    gk = (c_s * s / K + c_a * squared_norm(p) + c_b * squared_norm(q)).sum() if needs_k else None
    gp = torch.sub(linear_combination(m * F * s, g, 2 * K * c_a, p), near)
    return gk, gp, add_scaled(near, 2 * K * c_b, q)


def _pair(value, pull):  # type: ignore[no-untyped-def]
    """The operators for frame coordinates (key ``True``) and for ambient vectors (``False``)."""
    return {
        frame: fused(lambda *a, f=frame: value(*a, f), lambda *a, f=frame: pull(*a, f))
        for frame in (True, False)
    }


_EXP, _LOG = _pair(_exp, _exp_pull), _pair(_log, _log_pull)


def ball_exp(K: Tensor, p: Tensor, z: Tensor, frame: bool) -> Tensor:
    """exp at p of the frame coordinates z (``frame``) or of the ambient vector z. Points beyond the
    representable radius are moved to it, with a warning."""
    return _EXP[frame](K, p, z)


def ball_log(K: Tensor, p: Tensor, q: Tensor, frame: bool) -> Tensor:
    """log at p of q, as frame coordinates (``frame``) or as an ambient vector."""
    return _LOG[frame](K, p, q)
