r"""Log densities of normal distributions that exp wraps onto the hyperboloid and onto the ball, for a few
points (see
:mod:`pyro_manifold.ops.few`).

.. math:: \log p(x) = \log\mathcal N(v; 0, \Sigma) - (d-1)\log\frac{\sinh r}r, \qquad v = \log_p(x),\ r = |v|

The logarithms are those of :mod:`pyro_manifold.ops.hyperboloid` and :mod:`pyro_manifold.ops.ball`, which have
the derivations, in units of the radius of curvature. Both give :math:`r/\sinh r` with v."""

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from .ball import ball_log
from .few import Array, Normal, Pull, dot, few, log_normal, near_zero
from .hyperboloid import hyperboloid_log
from .signed_trig import log_sinc_length

__all__ = ["ball_normal", "hyperboloid_normal"]

_BEHIND = 0.25  # y counts as much nearer to the origin than x if t_y < 0.25 t_x


def _arsinhc(q: Array) -> tuple[Array, Array]:
    """arsinh(r)/r and sqrt(1 + r^2), from q = r^2 >= 0."""
    r, c = np.sqrt(np.maximum(q, np.finfo(q.dtype).tiny)), np.sqrt(1 + q)
    f = np.arcsinh(r) / r
    return f, c


def _slope(q: Array, f: Array, c: Array) -> Array:
    """The derivative of arsinh(r)/r in -q."""
    return near_zero("arcsinc", -q, (f - 1 / c) / (2 * q))


def _hyperboloid(p: Array, q: Array, k: Array, spread: Array) -> tuple[Array, Pull]:
    R = np.sqrt(k).astype(p.dtype)[:, None]
    x, y = p[:, 1:] / R, q[:, 1:] / R
    d = x.shape[-1]
    n, xx = y - x, dot(x, x)
    tx = np.sqrt(1 + xx)
    rho = dot(x, n) / np.maximum(xx, np.finfo(x.dtype).eps ** 2)
    n = n - rho[:, None] * x
    ahead, nn = 1 + rho, dot(n, n)
    ty = np.sqrt(1 + nn + ahead * ahead * xx)
    back = ty < _BEHIND * tx  # where y - x would lose the digits of y
    if back.any():
        ahead = np.where(back, dot(x, y) / np.where(back, xx, 1), ahead)
        n = np.where(back[:, None], y - ahead[:, None] * x, n)
        nn, ty = dot(n, n), np.where(back, np.sqrt(1 + dot(y, y)), ty)
    m = (rho * (ahead + 1) - nn) / (ty + np.abs(ahead) * tx) + 2 * np.minimum(ahead, 0) * tx
    ww = nn + m * m * xx
    f, c = _arsinhc(ww)
    v = (f * R[:, 0])[:, None] * (n + m[:, None] * x)
    normal = Normal(v, spread)
    out = -0.5 * normal.square - normal.log_det - 0.5 * d * math.log(2 * math.pi) + (d - 1) * np.log(f)

    def pull(g: Array) -> tuple[Array | None, ...]:
        g_v, g_spread = normal.pull(-0.5 * g, -g)
        slope_c = -2 * c * _slope(ww, f, c)  # of f in c = cosh r
        gx = dot(g_v, x)
        e = dot(g_v, n + m[:, None] * x) * slope_c + g * (d - 1) * slope_c / f / R[:, 0]
        j = f * gx
        a, up = m - ahead, j / (1 + tx) - e
        b = (a + ty) / (1 + tx) / tx
        g_x = (f * a)[:, None] * g_v + up[:, None] * y + (e * ty / tx - j * b)[:, None] * x
        g_y = f[:, None] * g_v + up[:, None] * x + ((e * tx - j) / ty)[:, None] * y
        # homogeneous in (sqrt(k), p, q), so Euler's theorem gives the gradient in k
        g_k = (dot(g_v, v) - R[:, 0] * (dot(g_x, x) + dot(g_y, y))) / (2 * k)
        pad = ((0, 0), (1, 0))
        return np.pad(g_x, pad), np.pad(g_y, pad), g_k, g_spread

    return out, pull


def _ball(p: Array, q: Array, K: Array, spread: Array) -> tuple[Array, Pull]:
    d = p.shape[-1]
    pp, qq, delta = dot(p, p), dot(q, q), q - p
    a, b = 1 + K * pp, 1 + K * qq
    s = K * dot(delta, delta) / (a * b)
    f, c = _arsinhc(-s)
    F = 2 * f / c
    v = (F / b)[:, None] * delta + (F * s)[:, None] * p
    normal = Normal(v, spread)
    out = -0.5 * normal.square - normal.log_det - 0.5 * d * math.log(2 * math.pi) - (d - 1) * np.log(c / f)

    def pull(g: Array) -> tuple[Array | None, ...]:
        g_v, g_spread = normal.pull(-0.5 * g, -g)
        slope = _slope(-s, f, c)
        dF = 2 * slope / c + 0.5 * F / (1 - s)
        gp, gd = dot(g_v, p), dot(g_v, delta) / b
        c_s = (gd + s * gp) * dF + F * gp + g * (d - 1) * (0.5 / (1 - s) + slope / f)
        c_n, c_a, c_b = 2 * c_s * K / (a * b), -c_s * s / a, -(c_s * s + F * gd) / b
        near = (F / b)[:, None] * g_v + c_n[:, None] * delta
        g_p = (F * s)[:, None] * g_v + (2 * K * c_a)[:, None] * p - near
        return g_p, near + (2 * K * c_b)[:, None] * q, c_s * s / K + c_a * pp + c_b * qq, g_spread

    return out, pull


def _together(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    p, q = torch.broadcast_tensors(p, q)
    return p, q


def _composed_hyperboloid(full: bool, p: Tensor, q: Tensor, k: Tensor, spread: Tensor) -> Tensor:
    v = hyperboloid_log(k, *_together(p, q), True)
    return log_normal(v, spread, full) - (v.shape[-1] - 1) * log_sinc_length(v, -1 / k, -1)


def _composed_ball(full: bool, p: Tensor, q: Tensor, K: Tensor, spread: Tensor) -> Tensor:
    v = ball_log(K, *_together(p, q), True)
    return log_normal(v, spread, full) - (v.shape[-1] - 1) * log_sinc_length(v, K, -1)


_OPS = {
    (name, full): few(value, partial(composed, full), (1, 1, 0, 1 + full))
    for name, value, composed in (
        ("hyperboloid", _hyperboloid, _composed_hyperboloid),
        ("ball", _ball, _composed_ball),
    )
    for full in (False, True)
}


def hyperboloid_normal(p: Tensor, q: Tensor, k: Tensor, spread: Tensor, full: bool) -> Tensor:
    """Log density at q of the normal at p, on the hyperboloid with squared radius k; ``spread`` as in
    :func:`log_normal`."""
    return _OPS["hyperboloid", full](p, q, k, spread)


def ball_normal(p: Tensor, q: Tensor, K: Tensor, spread: Tensor, full: bool) -> Tensor:
    """The same on the ball of curvature K < 0."""
    return _OPS["ball", full](p, q, K, spread)
