r"""Log densities of normal distributions that exp wraps onto the hyperboloid and onto the ball, by NumPy (see
:mod:`pyro_manifold.ops.numpy_operator`).

.. math:: \log p(x) = \log\mathcal N(v; 0, \Sigma) - (d-1)\log\frac{\sinh r}r, \qquad v = \log_p(x),\ r = |v|

The logarithms are those of :mod:`pyro_manifold.ops.hyperboloid` and :mod:`pyro_manifold.ops.ball`, which have
the derivations, in units of the radius of curvature. Both give :math:`r/\sinh r` with v."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from .ball import ball_log
from .hyperboloid import hyperboloid_log
from .numpy_logarithm import Tangent
from .numpy_normal import density
from .numpy_operator import Array, dot, log_normal, near_zero, numpy_operator
from .signed_trig import log_sinc_length

__all__ = ["ball_logarithm", "ball_normal", "hyperboloid_logarithm", "hyperboloid_normal"]

_BEHIND = 0.25  # y counts as much nearer to the origin than x if t_y < 0.25 t_x


def _arsinhc(q: Array) -> tuple[Array, Array]:
    """arsinh(r)/r and sqrt(1 + r^2), from q = r^2 >= 0."""
    r, c = np.sqrt(np.maximum(q, np.finfo(q.dtype).tiny)), np.sqrt(1 + q)
    f = np.arcsinh(r) / r
    return f, c


def _slope(q: Array, f: Array, c: Array) -> Array:
    """The derivative of arsinh(r)/r in -q."""
    return near_zero("arcsinc", -q, (f - 1 / c) / (2 * q))


def hyperboloid_logarithm(p: Array, q: Array, k: Array) -> Tangent:
    R = np.sqrt(k).astype(p.dtype)
    x, y = p[1:] / R, q[1:] / R
    d = len(x)
    n, xx = y - x, dot(x, x)
    tx = np.sqrt(1 + xx)
    rho = dot(x, n) / np.maximum(xx, np.finfo(x.dtype).eps ** 2)
    n = n - rho * x
    ahead, nn = 1 + rho, dot(n, n)
    ty = np.sqrt(1 + nn + ahead * ahead * xx)
    back = ty < _BEHIND * tx  # where y - x would lose the digits of y
    if back.any():
        ahead = np.where(back, dot(x, y) / np.where(back, xx, 1), ahead)
        n = np.where(back, y - ahead * x, n)
        nn, ty = dot(n, n), np.where(back, np.sqrt(1 + dot(y, y)), ty)
    m = (rho * (ahead + 1) - nn) / (ty + np.abs(ahead) * tx) + 2 * np.minimum(ahead, 0) * tx
    ww = nn + m * m * xx
    f, c = _arsinhc(ww)
    along = n + m * x
    v = (f * R) * along

    def slopes(in_v: Array, in_log_volume: Array | float) -> tuple[Array, ...]:
        slope_c = -2 * c * _slope(ww, f, c)  # of f in c = cosh r
        gx = dot(in_v, x)
        e = dot(in_v, along) * slope_c - in_log_volume * (d - 1) * slope_c / f / R
        j = f * gx
        a, up = m - ahead, j / (1 + tx) - e
        b = (a + ty) / (1 + tx) / tx
        in_x = (f * a) * in_v + up * y + (e * ty / tx - j * b) * x
        in_y = f * in_v + up * x + ((e * tx - j) / ty) * y
        # homogeneous in (sqrt(k), p, q), so Euler's theorem gives the derivative in k
        in_k = (dot(in_v, v) - R * (dot(in_x, x) + dot(in_y, y))) / (2 * k)
        zero = np.zeros_like(up)[None]
        return np.concatenate([zero, in_x]), np.concatenate([zero, in_y]), in_k

    return Tangent(v, -(d - 1) * np.log(f), slopes)


def ball_logarithm(p: Array, q: Array, K: Array) -> Tangent:
    d = len(p)
    pp, qq, delta = dot(p, p), dot(q, q), q - p
    a, b = 1 + K * pp, 1 + K * qq
    s = K * dot(delta, delta) / (a * b)
    f, c = _arsinhc(-s)
    F = 2 * f / c
    v = (F / b) * delta + (F * s) * p

    def slopes(in_v: Array, in_log_volume: Array | float) -> tuple[Array, ...]:
        slope = _slope(-s, f, c)
        dF = 2 * slope / c + 0.5 * F / (1 - s)
        gp, gd = dot(in_v, p), dot(in_v, delta) / b
        c_s = (gd + s * gp) * dF + F * gp - in_log_volume * (d - 1) * (0.5 / (1 - s) + slope / f)
        c_n, c_a, c_b = 2 * c_s * K / (a * b), -c_s * s / a, -(c_s * s + F * gd) / b
        near = (F / b) * in_v + c_n * delta
        in_p = (F * s) * in_v + (2 * K * c_a) * p - near
        return in_p, near + (2 * K * c_b) * q, c_s * s / K + c_a * pp + c_b * qq

    return Tangent(v, (d - 1) * np.log(c / f), slopes)


def _together(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    p, q = torch.broadcast_tensors(p, q)
    return p, q


def _composed_hyperboloid(full: bool, p: Tensor, q: Tensor, spread: Tensor, k: Tensor) -> Tensor:
    v = hyperboloid_log(k, *_together(p, q), True)
    return log_normal(v, spread, full) - (v.shape[-1] - 1) * log_sinc_length(v, -1 / k, -1)


def _composed_ball(full: bool, p: Tensor, q: Tensor, spread: Tensor, K: Tensor) -> Tensor:
    v = ball_log(K, *_together(p, q), True)
    return log_normal(v, spread, full) - (v.shape[-1] - 1) * log_sinc_length(v, K, -1)


_OPS = {
    (name, full): numpy_operator(density(logarithm), partial(composed, full), (1, 1, 1 + full, 0))
    for name, logarithm, composed in (
        ("hyperboloid", hyperboloid_logarithm, _composed_hyperboloid),
        ("ball", ball_logarithm, _composed_ball),
    )
    for full in (False, True)
}


def hyperboloid_normal(p: Tensor, q: Tensor, spread: Tensor, k: Tensor, full: bool) -> Tensor:
    """Log density at q of the normal at p, on the hyperboloid with squared radius k; ``spread`` as in
    :func:`log_normal`."""
    return _OPS["hyperboloid", full](p, q, spread, k)


def ball_normal(p: Tensor, q: Tensor, spread: Tensor, K: Tensor, full: bool) -> Tensor:
    """The same on the ball of curvature K < 0."""
    return _OPS["ball", full](p, q, spread, K)
