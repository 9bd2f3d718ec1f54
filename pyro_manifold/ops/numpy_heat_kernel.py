r"""The heat kernel of SO(3) (:mod:`pyro_manifold.ops.rotation_heat_kernel`) about a rotation P, by NumPy (see
:mod:`pyro_manifold.ops.numpy_operator`); in float64.

.. math:: \log p_\sigma(\omega), \qquad P^\top R = I + \sin\omega\,[e]_\times + (1-\cos\omega)\,[e]_\times^2

Where :math:`\tau = \sigma^2 > 1` the sum over characters is a polynomial in :math:`\cos\omega`; elsewhere two other
windings count. With :math:`a = 2\pi/\tau`, :math:`u_\pm = e^{-a(\pi\mp\omega)}`, :math:`C = u_++u_-` and
:math:`S = (u_+-u_-)/\omega`

.. math::
    p = (2\pi\tau)^{-3/2}e^{\tau/8-\omega^2/2\tau}\,\frac{\omega/2}{\sin\frac\omega2}\,(1+o), \qquad
    o = 2\pi S - C, \qquad \frac{o'}{\omega} = 2\pi\,\frac{aC-S}{\omega^2} - aS

The derivatives in R and P are tangent: :math:`\tfrac12R\,[e]_\times\,\partial_\omega\log p`, and the negative with P
for R."""

import math
from collections.abc import Callable

import numpy as np

from .numerics import horner
from .numpy_axial import across, matrix_product
from .numpy_operator import Array, Slopes, dot, near_zero
from .rotation_heat_kernel import LOG_VOLUME, NARROWEST, WIDEST
from .signed_trig import SERIES_BELOW

__all__ = ["heat_kernel"]

_TINY = 1e-150
_BESIDE = 1e-6  # the other windings are constant below this angle
_CLOSE = 16.0  # of a: beyond it only one of the other windings counts
_STEEP = 1e3  # of a: beyond it none counts at an angle of 0
_EXPONENT = 45.0  # of the last character

Parts = tuple[Array, Callable[[], tuple[Array, Array]]]


def _characters(last: int) -> Array:
    r"""Coefficients of :math:`(2l+1)\chi_l` for l up to ``last``, in powers of :math:`2\cos\omega`."""
    rows = np.zeros((last + 1, last + 1))
    rows[0, 0] = rows[1, 0] = rows[1, 1] = 1
    for m in range(2, last + 1):
        rows[m] = np.roll(rows[m - 1], 1) - rows[m - 2]
    return rows * (2 * np.arange(last + 1)[:, None] + 1)


_CHARACTERS = _characters(9)


def _wide(cos: Array, scale: Array) -> Parts:
    """The log density, and its derivatives: that in the angle over four times its sine, and that in the scale."""
    scale = np.minimum(scale, WIDEST)
    narrowest = max(1.0, float(scale.min()) ** 2)
    last = max(2, math.ceil(math.sqrt(2 * _EXPONENT / narrowest + 0.25) - 0.5))
    of = np.arange(last + 1)[:, None]
    rate = -0.5 * of * (of + 1)
    weight = np.exp(rate * scale**2)
    powers = _CHARACTERS[: last + 1, : last + 1].T
    coefficients = powers @ weight
    z = 2 * cos
    p = horner(list(coefficients), z)

    def slopes() -> tuple[Array, Array]:
        in_z = horner(list(of[1:] * coefficients[1:]), z)
        return -0.5 * in_z / p, 2 * scale * horner(list(powers @ (rate * weight)), z) / p

    return np.log(p) - LOG_VOLUME, slopes


def _narrow(angle: Array, sin: Array, cos: Array, scale: Array) -> Parts:
    """The same from the windings."""
    a = 2 * math.pi / np.maximum(scale, NARROWEST) ** 2
    ratio = angle / scale
    low = np.maximum(angle, _BESIDE)
    up = a * (math.pi - low)
    down = a * (math.pi + low)
    u_up = np.exp(-up)
    u_down = np.exp(-down) if a.min() < _CLOSE else np.zeros(1)
    c = u_up + u_down
    s = (u_up - u_down) / low
    total = 1 + (2 * math.pi * s - c)
    sinc = np.maximum(angle, _TINY) / np.maximum(2 * np.sin(0.5 * angle), _TINY)
    out = np.log(total * sinc) - 0.5 * ratio * ratio
    out += 0.125 * scale**2 - 1.5 * math.log(2 * math.pi) - 3 * np.log(scale)

    def slopes() -> tuple[Array, Array]:
        square = low * low
        apart = (a * c - s) / square
        q = a * a * square
        near = np.flatnonzero(q < SERIES_BELOW)
        if len(near):
            b = np.broadcast_to(np.minimum(a, _STEEP), q.shape)[near]
            apart[near] = -4 * b**3 * np.exp(-math.pi * b) * near_zero("sinc", -q[near], q[near])
        half = 0.5 * low
        far = (half * sin / (1 - cos) - 1) / (2 * half * half)
        slope = (2 * math.pi * apart - a * s) / total - 0.5 * near_zero("log_sinc", half * half, far)
        turned = up * u_up
        back = down * u_down
        wider = (2 * math.pi / low) * (turned - back) - (turned + back)
        in_scale = (ratio * ratio + 2 * wider / total - 3) / scale + 0.25 * scale
        return 0.25 * (slope * angle - ratio / scale) / np.maximum(sin, _TINY), in_scale

    return out, slopes


def _by_width(sin: Array, cos: Array, scale: Array) -> Parts:
    wide = scale > 1
    if wide.all():
        return _wide(cos, scale)
    angle = np.arctan2(sin, cos)
    if not wide.any():
        return _narrow(angle, sin, cos, scale)
    rows = np.flatnonzero(wide)
    others = np.flatnonzero(~wide)
    angle, sin, cos = (np.broadcast_to(x, scale.shape) for x in (angle, sin, cos))
    broad = _wide(cos[rows], scale[rows])
    steep = _narrow(angle[others], sin[others], cos[others], scale[others])

    def joined(x: Array, y: Array) -> Array:
        out = np.empty(len(scale))
        out[rows], out[others] = x, y
        return out

    def slopes() -> tuple[Array, Array]:
        x, y = broad[1](), steep[1]()
        return joined(x[0], y[0]), joined(x[1], y[1])

    return joined(broad[0], steep[0]), slopes


def heat_kernel(r: Array, p: Array, scale: Array) -> tuple[Array, Slopes]:
    r"""The log density at R, and its derivatives.

    M = :math:`P^\top R` is a rotation Q times :math:`1+E` with a small symmetric E, of 1e-7 in float32. The matrix of
    its cofactors is :math:`Q(1+\mathrm{tr}E-E)`, so the sum N of both is :math:`2\lambda Q` with
    :math:`4\lambda = 1+|M|^2`."""
    r, p, scale = (x.astype(np.float64) for x in (r, p, scale))
    m = matrix_product(p.swapaxes(0, 1), r)
    (m00, m01, m02), (m10, m11, m12), (m20, m21, m22) = m
    minors = m11 * m22 - m12 * m21 + m00 * m22 - m02 * m20 + m00 * m11 - m01 * m10
    v = np.stack([m21 - m12, m02 - m20, m10 - m01])
    e = v + (m * v[:, None]).sum(0)  # of N
    length = np.sqrt(dot(e, e))
    lam4 = 1 + (m * m).sum((0, 1))
    cos = m00 + m11 + m22 + minors - 0.5 * lam4
    out, derivatives = _by_width(length / lam4, cos / lam4, scale)

    def slopes() -> tuple[Array | None, ...]:
        slope, in_scale = derivatives()
        k = (2 * slope / lam4) * e
        return across(r, k), -across(p, k), in_scale

    return out, slopes
