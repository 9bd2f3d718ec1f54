"""The algorithm of :mod:`pyro_manifold.ops.fisher_bingham_contour` for a few rows, by NumPy, whose calls cost less
than torch's; with the components of rows on the first axis."""

import math

import numpy as np

from .numpy_operator import Array

__all__ = ["contour_moments"]

_SETTLED = 1e-9  # as there
_DROP = 38.0
_STEPS = np.arange(1, 8, dtype=np.float64)


def _saddle(c: Array) -> Array:
    first, others = c[0], c[1:].min(0)
    alone = 0.25 * (1 + 1 / (np.hypot(1, 4 * first) + 4 * first))
    slack = 4 * others - 1
    root = np.hypot(slack, 4 * np.sqrt(first))
    above = 2 * first / np.maximum(slack + root, np.finfo(np.float64).tiny)
    ridge = np.where(slack > 0, above, (root - slack) / 8)
    t = np.maximum(np.maximum(alone, ridge), 0.5 - others)
    for i in range(12):
        v = 1 / (c + t)
        v1 = v[0]
        excess = 0.5 * v.sum(0) - (t * v1) * ((2 * first + t) * v1)
        slope = 0.5 * (v * v).sum(0) + 2 * (first * v1) ** 2 * v1
        h = 1 + excess
        step = 2 * h * excess / ((1 + np.sqrt(h)) * slope)
        t = t + step
        if i > 2 and (step <= _SETTLED * t).all():
            break
    return t


def _end(a: Array, sigma: Array, v: Array, r: Array, linear: Array) -> Array:
    low = np.ones_like(a)
    for step in (1.0, 0.125):
        w = low + step * _STEPS
        drop = a * (np.cosh(w) - 1)
        x, y = drop * v, sigma * np.sinh(w) * v
        x1 = 1 - x
        m = y * y + x1 * x1
        rx, ry, z = r * x[0], r * y[0], x1[0]
        bent = ((rx * rx - ry * ry) * z - 2 * rx * ry * y[0]) / m[0]
        fall = drop * linear - w + 0.25 * np.log(m).sum(0) - bent
        low = low + step * (fall < _DROP).sum(-1, keepdims=True)
    return low + 0.125


def contour_moments(rows: Array, nodes: int, narrow: float | None) -> tuple[Array, Array | None]:
    """S and the means of :math:`(1-x_1)^2, x_2^2, \\dots`, ``(rows, d)``, for float64 rates of that shape.

    :param narrow: the spread below which the first mean is computed from the others; ``None`` for S alone.
    """
    with np.errstate(all="ignore"):
        return _contour_moments(np.ascontiguousarray(rows.T), nodes, narrow)


def _contour_moments(c: Array, nodes: int, narrow: float | None) -> tuple[Array, Array | None]:
    d, first = len(c), c[0]
    t = _saddle(c)
    v = 1 / (c + t)
    v1 = v[0]
    share = first * v1
    linear = ((t * v1) * ((2 * first + t) * v1))[:, None]
    r = (np.sqrt(first) * np.sqrt(share))[:, None]
    sigma = 1 / np.sqrt(0.5 * (v * v).sum(0) + 2 * share * share * v1)
    sv = sigma * v
    bent = sigma * ((sv * sv * sv).sum(0) + 6 * sigma * (share * sv[0]) ** 2) * (5 / 12)
    a, sigma = np.minimum(sigma, bent)[:, None], sigma[:, None]
    vs, column, column1 = v[:, :, None], t[:, None], v1[:, None]
    h = _end(a, sigma, vs, r, linear) / nodes
    e = np.exp(0.5 * h * np.arange(nodes + 1, dtype=np.float64))
    half_sinh, half_cosh = 0.5 * (e - 1 / e), 0.5 * (e + 1 / e)
    drop, sinh = 2 * half_sinh * half_sinh, 2 * half_sinh * half_cosh
    x, y = -a * drop, sigma * sinh
    re, im = 1 + x * vs, y * vs
    m = re * re + im * im
    inverse = (re[0] - 1j * im[0]) / m[0]
    rz = (r * (x * column1)) + 1j * (r * (y * column1))
    exponent = (x + 1j * y) * linear + rz * rz * inverse
    exponent = exponent - 0.5 * (0.5 * np.log(m).sum(0) + 1j * np.arctan2(im, re).sum(0))
    f = np.exp(exponent) * (sigma * (1 + drop) + 1j * (a * sinh))
    f[:, 0] *= 0.5
    total = f.real.sum(-1, keepdims=True)
    log = t * (t * v1) + 0.5 * np.log(v).sum(0) + np.log((h * total)[:, 0])
    log = log + (math.log(2) + (d / 2 - 1) * math.log(math.pi))
    if narrow is None:
        return log, None
    weights = f / total
    half = 0.5 * ((re - 1j * im) / m * vs)
    w = ((column + x) * column1 + 1j * (y * column1)) * inverse
    moments = (weights * half).sum(-1).real
    moments[0] += (weights * (w * w)).sum(-1).real
    near = (moments[1:].sum(0) < narrow) & (first > 25)
    if near.any():
        others = half[1:]
        square, cube, mean = (2 * others * others).sum(0), (8 * others**3).sum(0), others.sum(0)
        q2 = (weights * (mean * mean + square)).sum(-1).real
        q3 = (weights * (mean**3 + 3 * mean * square + cube)).sum(-1).real
        moments[0] = np.where(near, q2 / 4 + q3 / 8, moments[0])
    return log, moments.T
