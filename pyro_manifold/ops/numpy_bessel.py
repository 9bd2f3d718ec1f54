"""The algorithm of :mod:`pyro_manifold.ops.bessel` for a few arguments, by NumPy, whose calls cost less than
torch's."""

from collections.abc import Sequence

import numpy as np

from .numerics import horner
from .numpy_operator import Array

__all__ = ["numpy_bessel"]


def numpy_bessel(
    k: Array,
    order: float,
    steps: int,
    debye: tuple[Sequence[float], Sequence[float]],
    value: str,
    slope: bool,
) -> tuple[Array | None, Array | None, Array | None, Array | None]:
    """G (or G - k), A, 1 - A and A' at float64 arguments, as :func:`pyro_manifold.ops.bessel.bessel` has
    them; those that were not asked for may be ``None``.

    :param steps: how many orders above ``order`` the recurrences start, with Debye's polynomials ``debye``.
    """
    top = order + steps
    k2 = k * k
    s = np.sqrt(k2 + top**2)
    p, c, r = top / s, k / s, 1 / (s + top)
    z = 2 * p - 1
    t_coefficients, q_coefficients = debye
    t = horner(t_coefficients, z)
    g = product = tau = d_tau = ratio = complement = dratio = None
    if value:
        w = k2 * r / top
        rise = top * w if value == "G" else -2 * top * k / (s + k + top)
        g = rise - horner(q_coefficients, z) * p * w - top * np.log1p(w / 2) - 0.5 * np.log1p(w)
    if value != "G":
        h = top**2 / (s + k) + top
        tau = k * h * r + c * c * t
    if slope:
        dt = horner([2 * m * x for m, x in enumerate(t_coefficients)][1:] or [0.0], z)
        d_tau = (h * top * (1 + p) * r - k * top**2 * (1 + c) / (s + k) ** 2) * r
        d_tau = d_tau + (2 * p * p * c * t - c * c * c * p * dt) / s
    rho = k2 * (r - t * p * p / top**2)
    for i in reversed(range(steps)):
        b = 2.0 * (order + i + 1)
        if value:
            product = rho / b if product is None else product + rho * (product + 1) / b
        inverse = 1 / (rho + b)
        left = None if tau is None else b - tau
        if i == 0:
            break
        if left is not None:
            tau = k * left * inverse
            if d_tau is not None:
                d_tau = (left - tau - (k - tau) * d_tau) * inverse
        rho = k2 * inverse
    if g is not None and product is not None:
        g = g + np.log1p(product)
    if left is not None:
        complement = left * inverse
    if value != "G - k":
        ratio = k * inverse
    if d_tau is not None and ratio is not None and complement is not None and left is not None:
        small = k < order + 1
        d_tau = (left - k * complement - (k - k * complement) * d_tau) * inverse
        far = (complement - d_tau) / np.where(small, order + 1, k)
        dratio = np.where(small, inverse * (1 + rho - k * ratio), far)
    return g, ratio, complement, dratio
