r"""The radial integral of :mod:`pyro_manifold.ops.parabolic_cylinder` and its derivative, by NumPy.

As functions of :math:`p = a/S` both differ from their leading terms by smooth functions, at any order: by
polynomials in p, interpolated once. In few dimensions these have high degrees for a > 0; there the integral
follows from the error function, by the recurrence of moments."""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.polynomial import chebyshev

from .numerics import horner
from .numpy_operator import Array
from .parabolic_cylinder import log_radial_integral_and_slope

__all__ = ["radial_integral"]

_SMOOTH = 8  # dimensions from which on one polynomial serves all a
_RULES = {
    False: (40, 4e-16),
    True: (32, 1e-9),
}  # degree, and the tolerance, for results in float64 and float32


def _leading(a: Array, n: int) -> tuple[Array, Array, Array]:
    mu = n - 0.5
    s = np.sqrt(a * a + 4 * mu)
    ratio = mu / (s + np.abs(a))
    at_zero = math.lgamma(n / 2) + (n / 2 - 1) * math.log(2)
    value = (
        at_zero + a * ratio + mu * np.arcsinh(a / (2 * math.sqrt(mu))) - 0.5 * np.log(s / (2 * math.sqrt(mu)))
    )
    return value, 2 * ratio, s


@lru_cache(maxsize=256)
def _polynomials(n: int, single: bool) -> tuple[list[float], list[float]]:
    """In 2p + 1 on [-1, 0], or, in many dimensions, in p on [-1, 1]."""
    degree, tolerance = _RULES[single]
    z = chebyshev.chebpts1(4 * degree)
    p = z if n >= _SMOOTH else (z - 1) / 2
    a = 2 * math.sqrt(n - 0.5) * p / np.sqrt((1 - p) * (1 + p))
    with torch.no_grad():
        f, slope = (t.numpy() for t in log_radial_integral_and_slope(torch.from_numpy(a), n))
    value, ratio, s = _leading(a, n)
    out = []
    for rest in (f - value, (slope - ratio) * s):
        series = chebyshev.chebtrim(chebyshev.chebfit(z, rest, degree), tolerance)
        out.append(chebyshev.cheb2poly(series).tolist())
    return out[0], out[1]


def _by_polynomials(a: Array, n: int, single: bool) -> tuple[Array, Array]:
    integral, slope = _polynomials(n, single)
    value, ratio, s = _leading(a, n)
    p = a / s
    z = p if n >= _SMOOTH else 2 * p + 1
    return value + horner(integral, z), ratio + horner(slope, z) / s


def _upwards(a: Array, n: int) -> tuple[Array, Array]:
    """For a > 0; moments are scaled by exp(-a^2/2)."""
    last = math.sqrt(math.pi / 2) * torch.erfc(torch.from_numpy(a * -math.sqrt(0.5))).numpy()
    m = np.exp(-0.5 * a * a) + a * last
    for k in range(1, n - 1):
        last, m = m, a * m + k * last
    return np.log(m), (n - 1) * last / m


def radial_integral(a: Array, n: int, single: bool) -> tuple[Array, Array]:
    """F and its derivative at float64 arguments, ``(batch,)``.

    :param single: whether the precision of float32 is enough.
    """
    last = 1e10 * n  # beyond, where powers of a would overflow, the moment is a power of a to rounding
    if np.abs(a).max() > last:
        f, slope = radial_integral(np.clip(a, -last, last), n, single)
        beyond = np.maximum(np.abs(a) / last, 1)
        return f + np.where(a > 0, n - 1, -n) * np.log(beyond), slope / beyond
    up = a > 0
    if n >= _SMOOTH or not up.any():
        return _by_polynomials(a, n, single)
    if up.all():
        return _upwards(a, n)
    f, slope = np.empty_like(a), np.empty_like(a)
    rows, others = np.flatnonzero(up), np.flatnonzero(~up)
    f[rows], slope[rows] = _upwards(a[rows], n)
    f[others], slope[others] = _by_polynomials(a[others], n, single)
    return f, slope
