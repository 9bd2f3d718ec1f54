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

__all__ = [
    "across",
    "kent",
    "matrix_fisher",
    "matrix_product",
    "power_spherical",
    "projected_normal",
    "quadratic",
    "von_mises_fisher",
    "watson",
]

_LONG = 1e100
_CYCLES = (0, 1, 2), (1, 2, 0), (2, 0, 1)


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


def watson(x: Array, mu: Array, k: Array, c: Array) -> tuple[Array, Slopes]:
    r""":math:`-\kappa(1-t^2) - c`, or :math:`\kappa t^2 - c` for negative :math:`\kappa`, with
    :math:`t = \mu\cdot x` of the directions of both; :math:`1 - t^2 = |\mu - tx|^2`."""
    (x, length), (mu, mu_length) = direction(x), direction(mu)
    t = dot(mu, x)
    side = mu - t * x
    square = np.where(k < 0, t * t, -dot(side, side))

    def slopes() -> tuple[Array | None, ...]:
        in_t = 2 * k * t
        return (in_t / length) * side, (in_t / mu_length) * (x - t * mu), square, np.full_like(c, -1)

    return k * square - c, slopes


def quadratic(x: Array, matrix: Array, c: Array) -> tuple[Array, Slopes]:
    """:math:`x^\\top Ax - c` of the direction x, for symmetric matrices."""
    x, length = direction(x)
    y = matrix[:, :, 0] @ x if matrix.shape[-1] == 1 else (matrix * x).sum(1)
    form = dot(x, y)

    def slopes() -> tuple[Array | None, ...]:
        return (2 / length) * (y - form * x), x[:, None] * x, np.full_like(c, -1)

    return form - c, slopes


def kent(x: Array, axes: Array, k: Array, betas: Array, c: Array) -> tuple[Array, Slopes]:
    r""":math:`-\frac\kappa2|y|^2 + \sum_{j\ge2}\beta_jy_j^2 - c` in the axes, with half the square of the chord to the
    first as :math:`y_1`."""
    half = 0.5 * k.astype(np.float64)
    fall = half - betas
    x, length = direction(x)
    chord = x - axes[:, 0]
    y = axes[:, :, 0].T @ chord if axes.shape[-1] == 1 else (axes * chord[:, None]).sum(0)
    y[0] = 0.5 * dot(chord, chord)
    square = y * y

    def slopes() -> tuple[Array | None, ...]:
        in_y = -2 * y
        in_y[0] *= half
        in_y[1:] *= fall
        beside = axes[:, 1:]
        turned = beside[:, :, 0] @ in_y[1:] if axes.shape[-1] == 1 else (beside * in_y[1:]).sum(1)
        in_chord = turned + in_y[0] * chord
        in_axes = np.concatenate([-in_chord[:, None], chord[:, None] * in_y[1:]], 1)
        in_x = (in_chord - dot(in_chord, x) * x) / length
        return in_x, in_axes, -0.5 * square.sum(0), square[1:], np.full_like(c, -1)

    return -half * square[0] - (fall * square[1:]).sum(0) - c, slopes


def matrix_fisher(r: Array, f: Array, c: Array) -> tuple[Array, Slopes]:
    r""":math:`\mathrm{tr}(F^\top R) - c`, with R one step nearer to a rotation, since float32 is off by 1e-7."""
    near = _nearer(r)
    single = f.shape[-1] == 1
    trace = f.reshape(9) @ near.reshape(9, -1) if single else (near * f).sum((0, 1))

    def slopes() -> tuple[Array | None, ...]:
        (_, n01, n02), (n10, _, n12), (n20, n21, _) = matrix_product(f.swapaxes(0, 1), near)
        k = 0.5 * np.stack([n12 - n21, n20 - n02, n01 - n10])
        return across(near, k), near, np.full_like(c, -1)

    return trace - c, slopes


def _nearer(r: Array) -> Array:
    r""":math:`(R + \mathrm{cof} R)/(1 + \det R)` in float64: for a rotation times 1 + E with a small symmetric E, whose
    matrix of cofactors is that rotation times 1 + tr E - E, the rotation but for squares of E."""
    rows = np.empty((5, *r.shape[1:]))  # and the first two again
    rows[:3] = r
    rows[3:] = rows[:2]
    r, one, other = rows[:3], rows[1:4], rows[2:]
    out = np.empty_like(r)
    for i, j, n in _CYCLES:
        np.multiply(one[:, j], other[:, n], out=out[:, i])
        out[:, i] -= one[:, n] * other[:, j]
    scale = 1 / (1 + dot(r[0], out[0]))
    out += r
    out *= scale
    return out


def across(r: Array, k: Array) -> Array:
    """The vector products of the rows of matrices with k."""
    out = np.empty((3, 3, k.shape[-1]))
    for i, j, n in _CYCLES:
        np.multiply(r[:, j], k[n], out=out[:, i])
        out[:, i] -= r[:, n] * k[j]
    return out


def matrix_product(a: Array, b: Array) -> Array:
    """Products of matrices with the batch axis last."""
    if a.shape[-1] == 1:
        return (a[:, :, 0] @ b.reshape(len(b), -1)).reshape(-1, *b.shape[1:])
    if b.shape[-1] == 1:
        return b[:, :, 0].T @ a
    out = a[:, 0, None] * b[0]
    for i in range(1, len(b)):
        out += a[:, i, None] * b[i]
    return out


def direction(x: Array) -> tuple[Array, Array]:
    """Unit vectors in float64, and the lengths."""
    x = x.astype(np.float64)
    length = np.sqrt(dot(x, x))
    return x / length, length
