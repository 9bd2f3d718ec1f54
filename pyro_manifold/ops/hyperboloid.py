r"""exp and log of the hyperboloid, each as one operator with a closed-form gradient. The component axis comes
first.

Let x and y be the spatial coordinates of two points in units of :math:`\sqrt k`, and
:math:`t = \sqrt{1 + |x|^2}` the time coordinate of the first. Tangent vectors v are in the frame transported
from the origin. An ambient vector with spatial part u has the time component :math:`b = x\cdot u/t`; it is
:math:`v = u - \tfrac{b}{1 + t}x` in this frame, and :math:`b = x\cdot v`.

.. math::
    \exp_x(v) &= \Big(\cosh|v| + \mathrm{sinhc}|v|\frac{b}{1 + t}\Big)x + \mathrm{sinhc}|v|\,v, \qquad
    \log_x(y) = \frac{d}{\sinh d}(n + mx),\quad \sinh^2 d = |n|^2 + m^2|x|^2, \\
    n &= y - x - \rho x \perp x,\quad \rho = \frac{x\cdot(y - x)}{|x|^2},\quad
    m = t_x(1 + \rho) - t_y = \frac{\rho(2 + \rho) - |n|^2}{t_x(1 + \rho) + t_y},

For the ambient logarithm replace m by :math:`t_xm`. The formula for log contains no difference of large
terms; where the terms of exp nearly cancel, its component along x is expanded in the same way. In ambient
vectors all gradients are combinations of two vectors: with :math:`\sigma = g + (g_0/t_y)y,\ w = u - (b/t)x`
those of exp are :math:`\cosh\sigma - (eb/t)w` and :math:`\mathrm{sinhc}\,\sigma + ew`; with
:math:`\sigma = g + (g_0/t_x)x` and f = d / sinh d those of log are :math:`(g_0/t_x - e)w - f\cosh(d)\sigma`
and :math:`f\sigma + (et_x/t_y)w`. """

import torch
from torch import Tensor

from .components import (
    Kept,
    add_scaled,
    dot,
    fused,
    join,
    linear_combination,
    replace_lanes,
    replace_lanes_each,
    scaled,
    squared_norm,
)
from .signed_trig import arcsinc_sqrt, arsinhc, arsinhc_slope, cos_sinc_sqrt, sinc_slope

__all__ = ["hyperboloid_exp", "hyperboloid_log"]

_NEAR = 0.25  # y counts as much nearer to the origin than x if t_y < 0.25 t_x


# k is the squared radius. All vectors have a time component 0 (one is added to frame coordinates), since whole
# tensors are read faster than parts of them; its value is ignored in computations and set at the end.
def _with_time(y: Tensor, time: Tensor | float) -> Tensor:
    """``y`` with the time component ``time``."""
    y = y.clone() if torch.is_grad_enabled() else y
    y[0] = time
    return y


def _add_time(v: Tensor) -> Tensor:
    """Frame coordinates with a time component 0 in front."""
    return join(torch.zeros_like(v[0]), v)


def _step(k: Tensor, x: Tensor, z: Tensor, frame: bool) -> tuple[Tensor, ...]:
    """t, b, -|v|^2/k, cosh, sinhc and v, for frame coordinates z or an ambient vector z."""
    R, t, b = k.sqrt(), (squared_norm(x, 1) + k).sqrt_(), dot(x, z, 1)
    if frame:
        b = b / R
    else:
        b = b / t
        z = torch.addcmul(z, b / (-R - t), x)
    s = squared_norm(z, 1) / -k
    return t, b, s, *cos_sinc_sqrt(s, -1), z


def _exp(k: Tensor, x: Tensor, z: Tensor, frame: bool) -> tuple[Tensor, ...]:
    t, b, s, cosh, sinhc, v = _step(k, x, z, frame)
    R, rise = k.sqrt(), sinhc * b

    def towards_origin(x: Tensor, z: Tensor) -> Tensor:
        t, _, _, cosh, sinhc, v = _step(k, x, z, frame)
        sigma = torch.addcmul(x, sinhc, v)
        rho = -dot(x, sigma, 1) / squared_norm(x, 1)
        n = torch.addcmul(sigma, rho, x)
        y = n - ((rho * (2 + rho) - squared_norm(n, 1) / k) / (t / R * (1 + rho) + cosh)) * x
        return _with_time(y, (k + squared_norm(y, 1)).sqrt())

    A = torch.addcdiv(cosh, rise, t + R)
    y = linear_combination(A, x, sinhc, z) if frame else add_scaled(scaled(v, sinhc), A, x)
    y = _with_time(y, torch.addcmul(rise, cosh, t))
    # where sinhc x.v / k > -3, cancellation loses no more than the rounding of x does
    return replace_lanes(rise + 3 * R, y, towards_origin, x, z), t, b, s, cosh, sinhc


def _exp_pull(
    k: Tensor, x: Tensor, z: Tensor, y: Tensor, g: Tensor, kept: Kept, frame: bool
) -> tuple[Tensor, ...]:
    t, b, s, cosh, sinhc = kept or _step(k, x, z, frame)[:5]
    gs = torch.addcmul(g, g[0] / y[0], y)
    ga, gz = dot(gs, x, 1), dot(gs, z, 1)
    if frame:
        R = k.sqrt()
        q = b / (R + t)
        m = ga * sinhc / (R * (R + t))
        e = (ga * sinhc - 2 * (gz + ga * q) * sinc_slope(s, cosh, sinhc)) / k
        gx = linear_combination(torch.addcmul(cosh, sinhc, q), gs, m, z, -m * q * R / t, x)
        return gx, linear_combination(sinhc, gs, e, z, m, x)
    e = torch.addcmul(ga * sinhc, gz, sinc_slope(s, cosh, sinhc), value=-2) / k
    b = b / -t
    gz = linear_combination(e, torch.addcmul(z, b, x), sinhc, gs)
    return add_scaled(scaled(gs, torch.addcmul(cosh, sinhc, b, value=-1)), b, gz), gz


def _between(k: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """t_x, t_y, n, 1 + rho, m, |x|^2 and sinh^2 of the distance."""
    n, xx = torch.sub(y, x), squared_norm(x, 1)
    tx, rho = (xx + k).sqrt_(), dot(x, n, 1) / xx.clamp_min(k * torch.finfo(x.dtype).eps ** 2)
    n, ahead = add_scaled(n, -rho, x), rho + 1
    nn = squared_norm(n, 1)
    ty = torch.addcmul(nn, ahead * ahead, xx).add_(k).sqrt_()
    inner = torch.sub(ty, tx, alpha=_NEAR)  # negative where y - x would lose the digits of y
    n, ahead, nn, ty = replace_lanes_each(inner, (n, ahead, nn, ty), lambda *a: _nearer(k, *a), x, y, xx)
    m = (rho * (ahead + 1) * k - nn) / torch.addcmul(ty, ahead.abs(), tx)
    # where 1 + rho < 0, both terms of m are negative and it need not be expanded
    m = torch.addcmul(m, ahead.clamp_max(0), tx, value=2) / k.sqrt()
    return tx, ty, n, ahead, m, xx, torch.addcmul(nn, m, m * xx) / k


def _nearer(k: Tensor, x: Tensor, y: Tensor, xx: Tensor) -> tuple[Tensor, ...]:
    """n, 1 + rho, |n|^2 and t_y where y is much nearer to the origin than x."""
    ahead = dot(x, y, 1) / xx
    n = torch.addcmul(y, ahead, x, value=-1)
    return n, ahead, squared_norm(n, 1), (squared_norm(y, 1) + k).sqrt()


def _log(k: Tensor, x: Tensor, y: Tensor, frame: bool) -> tuple[Tensor, ...]:
    tx, ty, n, ahead, m, xx, ww = _between(k, x, y)
    f, c = arsinhc(ww)
    fm = f * m
    if frame:
        return add_scaled(scaled(n, f), fm, x), tx, ty, ww, f, c, m - ahead
    fm = fm / k.sqrt()
    return _with_time(add_scaled(scaled(n, f), fm * tx, x), fm * xx), tx, ty, ww, f, c


def _log_pull(
    k: Tensor, x: Tensor, y: Tensor, out: Tensor, g: Tensor, kept: Kept, frame: bool
) -> tuple[Tensor, ...]:
    R = k.sqrt()
    if kept:
        tx, ty, ww, f, c, *a = kept
    else:  # for a second derivative: a form that is smooth everywhere, but loses digits far from the origin
        tx, ty = (k + squared_norm(x, 1)).sqrt(), (k + squared_norm(y, 1)).sqrt()
        a = [(dot(x, y, 1) / (R + tx) - ty) / R]
        ww = squared_norm(torch.addcmul(y, a[0], x), 1) / k
        f, c = arcsinc_sqrt(-ww, -1), (1 + ww).sqrt()
    slope = arsinhc_slope(ww, c, f)
    if frame:
        gx = dot(g, x, 1)
        e, j = dot(g, out, 1) / f * slope / k, f * gx / k
        m = j * R / (R + tx) - e
        b = (a[0] * R + ty) / (R + tx) * R / tx
        gx = linear_combination(f * a[0], g, m, y, e * ty / tx - j * b, x)
        return gx, linear_combination(f, g, m, x, (e * tx - j * R) / ty, y)
    r = g[0] / tx
    gs = torch.addcmul(g, r, x)
    e = (dot(gs, out, 1) / f * slope / f - dot(gs, x, 1)) / k
    w = torch.addcmul(out, out[0] / -tx, x)
    # w is also f (y - (t_y / t_x) x), with smaller terms where y is much nearer to the origin than x
    back = torch.addcmul(ty, tx, c, value=-1 / 16)
    w = replace_lanes(
        back, w, lambda x, y, f, s, t: f * torch.addcmul(y, t / s, x, value=-1), x, y, f, tx, ty
    )
    gy = linear_combination(f, gs, e * tx / ty, w)
    return add_scaled(scaled(gs, -f * c), r - e, w), gy


def _with_radius(pull):  # type: ignore[no-untyped-def]
    """``pull`` with the gradient in k. The maps are homogeneous of degree 1 in (sqrt(k), x, z), so Euler's
    theorem gives it from the other gradients."""

    def full(
        k: Tensor, x: Tensor, z: Tensor, out: Tensor, g: Tensor, kept: Kept, needs_k: bool
    ) -> tuple[Tensor | None, ...]:
        gx, gz = (_with_time(y, 0.0) for y in pull(k, x, z, out, g, kept))
        return ((g * out).sum() - (gx * x).sum() - (gz * z).sum()) / (2 * k) if needs_k else None, gx, gz

    return full


def _pair(value, pull, frame_in: bool):  # type: ignore[no-untyped-def]
    """The operators for frame coordinates (key ``True``; they are the argument if ``frame_in``, else the
    result) and for ambient vectors (``False``)."""

    def bind(frame: bool):  # type: ignore[no-untyped-def]
        whole = _with_radius(lambda *a: pull(*a, frame))
        if not frame:
            return fused(lambda *a: value(*a, False), whole)

        def frame_value(k: Tensor, p: Tensor, z: Tensor) -> tuple[Tensor, ...]:
            if frame_in:
                return value(k, p, _add_time(z), True)
            u, *kept = value(k, p, z, True)
            return u[1:], *kept

        def frame_pull(
            k: Tensor, p: Tensor, z: Tensor, out: Tensor, g: Tensor, kept: Kept, needs_k: bool
        ) -> tuple[Tensor | None, ...]:
            if not frame_in:
                return whole(k, p, z, _add_time(out), _add_time(g), kept, needs_k)
            gk, gp, gz = whole(k, p, _add_time(z), out, g, kept, needs_k)
            return gk, gp, gz[1:]

        return fused(frame_value, frame_pull)

    return {frame: bind(frame) for frame in (True, False)}


_EXP, _LOG = _pair(_exp, _exp_pull, True), _pair(_log, _log_pull, False)


def hyperboloid_exp(k: Tensor, p: Tensor, z: Tensor, frame: bool) -> Tensor:
    """exp at p of the frame coordinates z (``frame``) or of the ambient vector z."""
    return _EXP[frame](k, p, z)


def hyperboloid_log(k: Tensor, p: Tensor, q: Tensor, frame: bool) -> Tensor:
    """log at p of q, as frame coordinates (``frame``) or as an ambient vector."""
    return _LOG[frame](k, p, q)
