r"""exp and log of hyperbolic space, each one operator with a gradient in closed form; component axis first.

Hyperboloid, spatial coordinates x, y in units of :math:`\sqrt k`, times :math:`t = \sqrt{1 + |x|^2}`, c = cosh of the distance:

.. math::
    \exp_x(v) = A x + \mathrm{sinhc}|v|\,v,\quad A = \cosh|v| + \mathrm{sinhc}|v|\frac{x\cdot v}{1 + t_x}; \qquad
    \log_x(y) = \frac{d}{\sinh d}(y + a x),\quad a = \frac{x\cdot y}{1 + t_x} - t_y

in the frame transported from the origin; ambient vectors have :math:`A = \cosh|u|` and :math:`a = -c` instead. Where A x and
the other term nearly cancel, the part along x is multiplied out, so that no digit is lost:

.. math:: y + ax = n + hx,\quad n \perp x,\quad h = \frac{\rho(2 + \rho) - |n|^2}{t_x(1 + \rho) + t_y},\quad
    \rho = \frac{x\cdot(y - x)}{|x|^2}

Ball of curvature K < 0, with :math:`a = 1 + K|p|^2,\ b = 1 + K|q|^2,\ \delta = q - p,\ s = K|\delta|^2/(ab)` and H, G
the cosh and sinhc of :math:`\sqrt{-K}|v|`:

.. math:: \exp_p(v) = \frac{(H - KG\,p\cdot v)p + \tfrac12 aGv}{a - K|C p + S|^2}, \qquad
    \log_p(q) = \frac{2\arcsin\sqrt s}{\sqrt{s(1 - s)}}\Big(\frac\delta b + sp\Big)
"""

import torch
from torch import Tensor

from .numerics import arcsinc_slope, arcsinc_sqrt, combine, cos_sinc_sqrt, dot, fused, patch, sinc_slope, sq

__all__ = ["ball_exp", "ball_log", "hyperboloid_exp", "hyperboloid_log"]


# --- hyperboloid: k is the squared radius, x the spatial part of the point, z or y that of the vector or point -----------
def _lift(k: Tensor, y: Tensor) -> Tensor:
    return torch.cat([(k + sq(y)).sqrt().unsqueeze(0), y])


def _step(k: Tensor, x: Tensor, z: Tensor, frame: bool) -> tuple[Tensor, ...]:
    """t_x, x.v/k, cosh, sinhc and the frame coordinates of z."""
    t = (1 + sq(x) / k).sqrt()
    b = dot(x, z) / k
    if not frame:
        b = b / t
        z = torch.addcmul(z, b / (-1 - t), x)
    return t, b, *cos_sinc_sqrt(sq(z) / -k, -1), z


def _exp(k: Tensor, x: Tensor, z: Tensor, frame: bool) -> Tensor:
    t, b, cosh, sinhc, v = _step(k, x, z, frame)
    y = torch.addcmul((cosh + sinhc * b / (1 + t) if frame else cosh) * x, sinhc, z)

    def back(x: Tensor, v: Tensor, t: Tensor, cosh: Tensor, sinhc: Tensor) -> Tensor:
        sigma = torch.addcmul(x, sinhc, v)
        rho = -dot(x, sigma) / sq(x)
        n = torch.addcmul(sigma, rho, x)
        return n - ((rho * (2 + rho) - sq(n) / k) / (t * (1 + rho) + cosh)) * x

    # sinhc x.v / k is within 3 of positive: nothing cancels but what is as small as the rounding of x
    return _lift(k, patch(3 + sinhc * b, y, back, x, v, t, cosh, sinhc))


def _exp_pull(k: Tensor, x: Tensor, z: Tensor, y: Tensor, g: Tensor, frame: bool) -> tuple[Tensor, ...]:
    t, b, cosh, sinhc, v = _step(k, x, z, frame)
    gs = torch.addcmul(g[1:], g[0] / y[0], y[1:])
    ga, gz = dot(gs, x), dot(gs, z)
    h = 1 / (1 + t) if frame else 0.0
    e = (ga * sinhc - 2 * (gz + ga * b * h) * sinc_slope(sq(v) / -k, cosh, sinhc)) / k
    if frame:
        m = ga * sinhc * h / k
        gx, n = cosh + sinhc * b * h, -m * b * h / t
    else:
        m = -e * b / t
        gx, n = cosh, -m * b / t
    return combine(gx, gs, m, z, n, x), combine(sinhc, gs, e, z, m, x)


def _between(k: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """t_x, t_y, n, h, rho, h|x|^2 and sinh^2 of the distance."""
    delta, xx = y - x, sq(x) / k
    tx, ty = (1 + xx).sqrt(), (1 + sq(y) / k).sqrt()
    rho = dot(x, delta) / k / xx.clamp_min(torch.finfo(x.dtype).eps ** 2)
    n = torch.addcmul(delta, rho, x, value=-1)
    nn, ahead = sq(n) / k, 1 + rho
    h = (rho * (1 + ahead) - nn) / (tx * ahead.abs() + ty)
    h = patch(ahead, h, lambda a, s, t: a * s - t, ahead, tx, ty)
    return tx, ty, n, h, rho, h * xx, nn + h * h * xx


def _log(k: Tensor, x: Tensor, y: Tensor, frame: bool) -> Tensor:
    t, _, n, h, _, hx, ww = _between(k, x, y)
    f = arcsinc_sqrt(-ww, -1)
    if frame:
        return torch.addcmul(f * n, f * h, x)
    time = f * hx  # u_0 over sqrt(k)
    u = torch.addcmul(f * n, f * h + time / (1 + t), x)
    return torch.cat([(time * k.sqrt()).unsqueeze(0), u])


def _log_pull(k: Tensor, x: Tensor, y: Tensor, out: Tensor, g: Tensor, frame: bool) -> tuple[Tensor, ...]:
    if torch.is_grad_enabled():  # to be differentiated again: smooth everywhere, at the price of digits far out
        tx, ty = (1 + sq(x) / k).sqrt(), (1 + sq(y) / k).sqrt()
        a = dot(x, y) / k / (1 + tx) - ty
        ww = sq(y + a * x) / k
    else:
        tx, ty, _, h, rho, _, ww = _between(k, x, y)
        a = h - 1 - rho
    f, c = arcsinc_sqrt(-ww, -1), (1 + ww).sqrt()
    slope = -2 * c * arcsinc_slope(-ww, f)  # df/dc
    if frame:
        gx = dot(g, x)
        e, j = dot(g, out) / f * slope / k, f * gx / k
        m = j / (1 + tx) - e
        b = (a + ty) / (1 + tx) / tx
        return combine(f * a, g, m, y, e * ty / tx - j * b, x), combine(f, g, m, x, (e * tx - j) / ty, y)
    u, r = out[1:], g[0] / (k.sqrt() * tx)
    gs = torch.addcmul(g[1:], r, x)
    e = (dot(gs, u) / f * slope - f * dot(gs, x)) / k
    gx = combine(-f * c, gs, -e, y, e * ty / tx - r * out[0] / (k.sqrt() * tx), x, r, u)
    return gx, combine(f, gs, -e, x, e * tx / ty, y)


def _with_radius(pull):  # type: ignore[no-untyped-def]
    """The maps are homogeneous of degree 1 in (sqrt(k), x, z): Euler's relation gives the gradient in k."""

    def full(k: Tensor, x: Tensor, z: Tensor, out: Tensor, g: Tensor, needs_k: bool) -> tuple[Tensor | None, ...]:
        gx, gz = pull(k, x, z, out, g)
        return ((g * out).sum() - (gx * x).sum() - (gz * z).sum()) / (2 * k) if needs_k else None, gx, gz

    return full


def _pair(value, pull):  # type: ignore[no-untyped-def]
    """The map of frame coordinates and the ambient one."""

    def bind(frame: bool):  # type: ignore[no-untyped-def]
        return fused(lambda *a: value(*a, frame), _with_radius(lambda *a: pull(*a, frame)))

    return {frame: bind(frame) for frame in (True, False)}


_EXP, _LOG = _pair(_exp, _exp_pull), _pair(_log, _log_pull)


def hyperboloid_exp(k: Tensor, x: Tensor, z: Tensor, frame: bool) -> Tensor:
    """The point (time first) at the end of frame coordinates z, or of the ambient vector with spatial part z."""
    return _EXP[frame](k, x, z)


def hyperboloid_log(k: Tensor, x: Tensor, y: Tensor, frame: bool) -> Tensor:
    """Frame coordinates, or the ambient vector (time first), from x to y."""
    return _LOG[frame](k, x, y)


# --- ball ----------------------------------------------------------------------------------------------------------------
def _arc(K: Tensor, p: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    """a, p.v, s, cosh, sinhc, the denominator."""
    s, a = K * sq(v), 1 + K * sq(p)
    C, sinc = cos_sinc_sqrt(0.25 * s, -1)
    D = a - K * sq(torch.addcmul(C * p, 0.5 * sinc, v))
    return a, dot(p, v), s, 2 * C * C - 1, C * sinc, D


def _ball_exp(K: Tensor, p: Tensor, v: Tensor) -> Tensor:
    a, pv, _, H, G, D = _arc(K, p, v)
    return torch.addcmul(((H - K * G * pv) / D) * p, (0.5 * a) * G / D, v)


def _ball_exp_pull(K: Tensor, p: Tensor, v: Tensor, y: Tensor, g: Tensor, needs_k: bool) -> tuple[Tensor | None, ...]:
    a, pv, s, H, G, D = _arc(K, p, v)
    dG = sinc_slope(s, H, G)
    r = 1 / D
    N = H - K * G * pv
    gn, ga, gd = dot(g, p) * r, 0.5 * dot(g, v) * r, -dot(g, y) * r
    c_h, c_g = gn + 0.5 * gd * (2 - a), a * ga - K * pv * (gn + gd)
    c_pv, c_pp = -K * G * (gn + gd), K * (0.5 * (1 - H) * gd + G * ga)
    c_s = c_g * dG - 0.5 * c_h * G
    gp = combine(N * r, g, c_pv, v, 2 * c_pp, p)
    gv = combine(0.5 * a * G * r, g, c_pv, p, 2 * K * c_s, v)
    return (c_s * sq(v) + (c_pp * sq(p) + c_pv * pv) / K).sum() if needs_k else None, gp, gv


def _chord(K: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, ...]:
    """a, b, delta, s, the arc over its sine, and the factor of log."""
    a, b, delta = 1 + K * sq(p), 1 + K * sq(q), q - p
    s = K * sq(delta) / (a * b)
    f = arcsinc_sqrt(s, -1)
    return a, b, delta, s, f, 2 * f * (1 - s).rsqrt()


def _ball_log(K: Tensor, p: Tensor, q: Tensor) -> Tensor:
    _, b, delta, s, _, F = _chord(K, p, q)
    return torch.addcmul((F / b) * delta, F * s, p)


def _ball_log_pull(K: Tensor, p: Tensor, q: Tensor, v: Tensor, g: Tensor, needs_k: bool) -> tuple[Tensor | None, ...]:
    a, b, delta, s, f, F = _chord(K, p, q)
    dF = 2 * (1 - s).rsqrt() * arcsinc_slope(s, f) + 0.5 * F / (1 - s)
    gp, gd = dot(g, p), dot(g, delta) / b
    c_s = (gd + s * gp) * dF + F * gp
    c_n, c_a, c_b = c_s * K / (a * b), -c_s * s / a, -(c_s * s + F * gd) / b
    near = combine(F / b, g, 2 * c_n, delta)
    gk = (c_s * s / K + c_a * sq(p) + c_b * sq(q)).sum() if needs_k else None
    return gk, combine(F * s, g, 2 * K * c_a, p) - near, torch.addcmul(near, 2 * K * c_b, q)


ball_exp = fused(_ball_exp, _ball_exp_pull)
ball_log = fused(_ball_log, _ball_log_pull)
