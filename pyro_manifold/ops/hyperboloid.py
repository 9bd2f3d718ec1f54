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

from .components import Into, Kept, combine, dot, extend, fused, join, patch, sq
from .numerics import arcsinc_slope, arcsinc_sqrt, cos_sinc_sqrt, sinc_slope

__all__ = ["hyperboloid_exp", "hyperboloid_log"]


# k is the squared radius. Points and vectors keep their time as component 0 (frame coordinates get one), since whole rows are
# read faster than parts of them; what is there is never used, and written last.
def _timed(y: Tensor, time: Tensor | float) -> Tensor:
    y[0] = time
    return y


def _lead(v: Tensor) -> Tensor:
    return join(torch.zeros_like(v[0]), v)


def _step(k: Tensor, x: Tensor, z: Tensor, frame: bool) -> tuple[Tensor, ...]:
    """t_x, x.v/k, |v|^2/k, cosh, sinhc and the frame coordinates v of z."""
    t = (1 + sq(x, 1) / k).sqrt()
    b = dot(x, z, 1) / k
    if not frame:
        b = b / t
        z = torch.addcmul(z, b / (-1 - t), x)
    s = sq(z, 1) / -k
    return t, b, s, *cos_sinc_sqrt(s, -1), z


def _exp(k: Tensor, x: Tensor, z: Tensor, into: Tensor | None, frame: bool) -> tuple[Tensor, ...]:
    t, b, s, cosh, sinhc, v = _step(k, x, z, frame)
    y = combine(cosh + sinhc * b / (1 + t) if frame else cosh, x, sinhc, z, into=into)

    def back(x: Tensor, v: Tensor, t: Tensor, cosh: Tensor, sinhc: Tensor) -> Tensor:
        sigma = torch.addcmul(x, sinhc, v)
        rho = -dot(x, sigma, 1) / sq(x, 1)
        n = torch.addcmul(sigma, rho, x)
        y = n - ((rho * (2 + rho) - sq(n, 1) / k) / (t * (1 + rho) + cosh)) * x
        return _timed(y, (k + sq(y, 1)).sqrt())

    # sinhc x.v / k is within 3 of positive: nothing cancels but what is as small as the rounding of x
    rise = sinhc * b
    y = patch(3 + rise, _timed(y, torch.addcmul(rise, cosh, t) * k.sqrt()), back, x, v, t, cosh, sinhc)
    return y, t, b, s, cosh, sinhc


def _exp_pull(k: Tensor, x: Tensor, z: Tensor, y: Tensor, g: Tensor, kept: Kept, into: Into, frame: bool) -> tuple[Tensor, ...]:
    t, b, s, cosh, sinhc = kept or _step(k, x, z, frame)[:5]
    gs = torch.addcmul(g, g[0] / y[0], y)
    ga, gz = dot(gs, x, 1), dot(gs, z, 1)
    h = 1 / (1 + t) if frame else 0.0
    e = (ga * sinhc - 2 * (gz + ga * b * h) * sinc_slope(s, cosh, sinhc)) / k
    if frame:
        m = ga * sinhc * h / k
        gx, n = cosh + sinhc * b * h, -m * b * h / t
    else:
        m = -e * b / t
        gx, n = cosh, -m * b / t
    return combine(gx, gs, m, z, n, x, into=into[0]), combine(sinhc, gs, e, z, m, x, into=into[1])


def _between(k: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """t_x, t_y, n, h, 1 + rho, h|x|^2 and sinh^2 of the distance."""
    delta, xx, yy = y - x, sq(x, 1) / k, sq(y, 1) / k
    tx, ty = (1 + xx).sqrt(), (1 + yy).sqrt()
    rho = dot(x, delta, 1) / k / xx.clamp_min(torch.finfo(x.dtype).eps ** 2)
    n, ahead = extend(delta, -rho, x), 1 + rho
    inner = 4 * yy - xx  # a y much nearer to the origin is lost in y - x
    ahead = patch(inner, ahead, lambda x, y, xx: dot(x, y, 1) / k / xx, x, y, xx)
    n = patch(inner, n, lambda a, x, y: torch.addcmul(y, -a, x), ahead, x, y)
    nn = sq(n, 1) / k
    h = (rho * (1 + ahead) - nn) / (tx * ahead.abs() + ty)
    h = patch(ahead, h, lambda a, s, t: a * s - t, ahead, tx, ty)
    hx = h * xx
    return tx, ty, n, h, ahead, hx, torch.addcmul(nn, h, hx)


def _log(k: Tensor, x: Tensor, y: Tensor, into: Tensor | None, frame: bool) -> tuple[Tensor, ...]:
    t, ty, n, h, ahead, hx, ww = _between(k, x, y)
    f = arcsinc_sqrt(-ww, -1)
    time = f * hx  # u_0 over sqrt(k)
    u = combine(f, n, f * h if frame else torch.addcdiv(f * h, time, 1 + t), x, into=into)
    return u if frame else _timed(u, time * k.sqrt()), t, ty, h - ahead, ww, f


def _log_pull(k: Tensor, x: Tensor, y: Tensor, out: Tensor, g: Tensor, kept: Kept, into: Into, frame: bool) -> tuple[Tensor, ...]:
    if kept:
        tx, ty, a, ww, f = kept
    else:  # to be differentiated again: smooth everywhere, at the price of digits far out
        tx, ty = (1 + sq(x, 1) / k).sqrt(), (1 + sq(y, 1) / k).sqrt()
        a = dot(x, y, 1) / k / (1 + tx) - ty
        ww = sq(torch.addcmul(y, a, x), 1) / k
        f = arcsinc_sqrt(-ww, -1)
    c = (1 + ww).sqrt()
    slope = -2 * c * arcsinc_slope(-ww, f)  # df/dc
    if frame:
        gx = dot(g, x, 1)
        e, j = dot(g, out, 1) / f * slope / k, f * gx / k
        m = j / (1 + tx) - e
        b = (a + ty) / (1 + tx) / tx
        gx = combine(f * a, g, m, y, e * ty / tx - j * b, x, into=into[0])
        return gx, combine(f, g, m, x, (e * tx - j) / ty, y, into=into[1])
    r = g[0] / (k.sqrt() * tx)
    gs = torch.addcmul(g, r, x)
    e = (dot(gs, out, 1) / f * slope - f * dot(gs, x, 1)) / k
    gx = combine(-f * c, gs, -e, y, e * ty / tx - r * out[0] / (k.sqrt() * tx), x, r, out, into=into[0])
    return gx, combine(f, gs, -e, x, e * tx / ty, y, into=into[1])


def _with_radius(pull):  # type: ignore[no-untyped-def]
    """The maps are homogeneous of degree 1 in (sqrt(k), x, z): Euler's relation gives the gradient in k."""

    def full(
        k: Tensor, x: Tensor, z: Tensor, out: Tensor, g: Tensor, kept: Kept, needs_k: bool, into: Into
    ) -> tuple[Tensor | None, ...]:
        gx, gz = (_timed(y, 0.0) for y in pull(k, x, z, out, g, kept, into))
        return ((g * out).sum() - (gx * x).sum() - (gz * z).sum()) / (2 * k) if needs_k else None, gx, gz

    return full


def _pair(value, pull, frame_in: bool):  # type: ignore[no-untyped-def]
    """The map of frame coordinates (as argument, or else as result) and the ambient one."""

    def bind(frame: bool):  # type: ignore[no-untyped-def]
        whole = _with_radius(lambda *a: pull(*a, frame))
        if not frame:
            return fused(lambda *a: value(*a, False), whole)

        def frame_value(k: Tensor, p: Tensor, z: Tensor, into: Tensor | None) -> tuple[Tensor, ...]:
            if frame_in:
                return value(k, p, _lead(z), into, True)
            u, *kept = value(k, p, z, None, True)
            return u[1:], *kept

        def frame_pull(
            k: Tensor, p: Tensor, z: Tensor, out: Tensor, g: Tensor, kept: Kept, needs_k: bool, into: Into
        ) -> tuple[Tensor | None, ...]:
            if not frame_in:
                return whole(k, p, z, _lead(out), _lead(g), kept, needs_k, into)
            gk, gp, gz = whole(k, p, _lead(z), out, g, kept, needs_k, (into[0], None))
            return gk, gp, gz[1:]

        return fused(frame_value, frame_pull)

    return {frame: bind(frame) for frame in (True, False)}


_EXP, _LOG = _pair(_exp, _exp_pull, True), _pair(_log, _log_pull, False)


def hyperboloid_exp(k: Tensor, p: Tensor, z: Tensor, frame: bool) -> Tensor:
    """The point at the end of frame coordinates z, or of the ambient vector z."""
    return _EXP[frame](k, p, z)


def hyperboloid_log(k: Tensor, p: Tensor, q: Tensor, frame: bool) -> Tensor:
    """Frame coordinates, or the ambient vector, from p to q."""
    return _LOG[frame](k, p, q)
