r"""The log densities of distributions of directions about an axis, by NumPy (see
:mod:`pyro_manifold.ops.numpy_operator`).

.. math::
    -\tfrac\kappa2|x-\mu|^2 - c, \qquad
    \kappa\log\tfrac{1+\mu\cdot x}2 - c, \qquad
    F_n(a) - \tfrac12|\mu - a^+x|^2 - \tfrac n2\log2\pi, \quad a = \mu\cdot x

are those of von Mises-Fisher, power spherical and projected normal distributions, with c the logarithm of a
normaliser, which is an argument, and F of :mod:`pyro_manifold.ops.parabolic_cylinder`."""

import math

import numpy as np

from .numpy_operator import Array, Slopes, dot
from .numpy_radial import radial_integral

__all__ = ["power_spherical", "projected_normal", "von_mises_fisher"]

_LONG = 1e100


def von_mises_fisher(x: Array, mu: Array, k: Array, c: Array) -> tuple[Array, Slopes]:
    e = x - mu
    h = -0.5 * dot(e, e)

    def slopes() -> tuple[Array | None, ...]:
        in_mu = k * e
        return -in_mu, in_mu, h, np.full_like(c, -1)

    return k * h - c, slopes


def power_spherical(x: Array, mu: Array, k: Array, c: Array) -> tuple[Array, Slopes]:
    """With the logarithm from the shorter of the chords to the axis and its antipode; the antipode itself has no
    gradient."""
    ahead = (dot(mu, x) > 0).astype(x.dtype)
    side = 2 * ahead - 1
    e = x - side * mu
    h = 0.25 * dot(e, e)
    rest = np.maximum(h, ahead)  # 1 ahead, h behind
    antipode = rest == 0 if rest.min() == 0 else None
    log = np.log1p(-ahead * h) + np.log(rest if antipode is None else np.where(antipode, 1, rest))
    out = k * log - c
    if antipode is not None:
        out = np.where(antipode & (k > 0), -np.inf, out)

    def slopes() -> tuple[Array | None, ...]:
        beside = ahead - h if antipode is None else np.where(antipode, np.inf, ahead - h)
        in_x = (-0.5 * k / beside) * e
        return (
            in_x,
            -side * in_x,
            log,
            np.where(np.isneginf(out), 0, -1) if antipode is not None else -np.ones_like(c),
        )

    return out, slopes


def projected_normal(x: Array, mu: Array) -> tuple[Array, Slopes]:
    r"""In float64, with :math:`1 - a/|\mu| = h`, half the square of the chord between the directions, so that no
    digit is lost where they are close: :math:`|\mu - ax|^2 = |\mu|^2h(2-h)`."""
    n, single = len(x), x.dtype == np.float32
    x, mu = x.astype(np.float64), mu.astype(np.float64)
    length = np.sqrt(dot(x, x))  # float32 unit vectors are off by 1e-7, which matters at a length of 1e4
    x = x / length
    unit = np.maximum(np.abs(mu).max(0), np.finfo(np.float64).tiny)
    k = unit * np.sqrt(dot(mu / unit, mu / unit))
    chord = mu / np.where(k == 0, 1, k) - x
    h = 0.5 * dot(chord, chord)
    a = k * (1 - h)
    ahead = a > 0
    f, slope = radial_integral(a, n, single)
    square = (k * h) * (k * (2 - h))
    if k.max() > _LONG:  # where the square of the chord may underflow
        square = dot(k * chord, k * chord) * (1 - 0.5 * h)
    out = f - 0.5 * np.where(ahead, square, k * k) - n / 2 * math.log(2 * math.pi)

    def slopes() -> tuple[Array | None, ...]:
        rest = k * (chord + h * x)  # mu - ax
        in_x = ((slope + np.maximum(a, 0)) / length) * rest
        return in_x, slope * x - np.where(ahead, rest, mu)

    return out, slopes
