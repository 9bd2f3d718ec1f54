r"""exp and log of the hyperboloid, each one operator with a gradient in closed form; component axis first.

Spatial coordinates x, y in units of :math:`\sqrt k`, times :math:`t = \sqrt{1 + |x|^2}`, c = cosh of the distance:

.. math::
    \exp_x(v) = A x + \mathrm{sinhc}|v|\,v,\quad A = \cosh|v| + \mathrm{sinhc}|v|\frac{x\cdot v}{1 + t_x}; \qquad
    \log_x(y) = \frac{d}{\sinh d}(y + a x),\quad a = \frac{x\cdot y}{1 + t_x} - t_y

in the frame transported from the origin; ambient vectors have :math:`A = \cosh|u|` and :math:`a = -c` instead. Where A x and
the other term nearly cancel, the part along x is multiplied out, so that no digit is lost:

.. math:: y + ax = n + hx,\quad n \perp x,\quad h = \frac{\rho(2 + \rho) - |n|^2}{t_x(1 + \rho) + t_y},\quad
    \rho = \frac{x\cdot(y - x)}{|x|^2}
"""

import torch
from torch import Tensor

from .components import combine, dot, fused, join, patch, sq
from .numerics import arcsinc_slope, arcsinc_sqrt, cos_sinc_sqrt, sinc_slope

__all__ = ["hyperboloid_exp", "hyperboloid_log"]


# k is the squared radius, x the spatial part of the point, z or y that of the vector or point
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
    time = (cosh * t + sinhc * b) * k.sqrt()

    def back(x: Tensor, v: Tensor, t: Tensor, cosh: Tensor, sinhc: Tensor) -> Tensor:
        sigma = torch.addcmul(x, sinhc, v)
        rho = -dot(x, sigma) / sq(x)
        n = torch.addcmul(sigma, rho, x)
        y = n - ((rho * (2 + rho) - sq(n) / k) / (t * (1 + rho) + cosh)) * x
        return join((k + sq(y)).sqrt(), y)

    # sinhc x.v / k is within 3 of positive: nothing cancels but what is as small as the rounding of x
    return patch(3 + sinhc * b, join(time, y), back, x, v, t, cosh, sinhc)


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
    return join(time * k.sqrt(), u)


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
    """The map of frame coordinates and the ambient one, whose arguments have a time that is not read."""

    def bind(frame: bool):  # type: ignore[no-untyped-def]
        whole = _with_radius(lambda *a: pull(*a, frame))
        return fused(
            lambda k, p, z: value(k, p[1:], z[len(z) - len(p) + 1 :], frame),
            lambda k, p, z, *rest: whole(k, p[1:], z[len(z) - len(p) + 1 :], *rest),
        )

    return {frame: bind(frame) for frame in (True, False)}


_EXP, _LOG = _pair(_exp, _exp_pull), _pair(_log, _log_pull)


def hyperboloid_exp(k: Tensor, p: Tensor, z: Tensor, frame: bool) -> Tensor:
    """The point at the end of frame coordinates z, or of the ambient vector z."""
    return _EXP[frame](k, p, z)


def hyperboloid_log(k: Tensor, p: Tensor, q: Tensor, frame: bool) -> Tensor:
    """Frame coordinates, or the ambient vector, from p to q."""
    return _LOG[frame](k, p, q)
