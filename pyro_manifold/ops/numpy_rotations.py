r"""Log densities of normal distributions that exp wraps onto the rotations SO(3) and onto the flat torus, by
NumPy (see :mod:`pyro_manifold.ops.numpy_operator`).

.. math:: \log p(R) = -\log\det L - \tfrac32\log2\pi + w(\theta, s), \qquad s = |L^{-1}e|^{-1}

with e the axis and :math:`\theta` the angle of :math:`P^\top R`, from its quaternion
:math:`(\cos\frac\theta2, e\sin\frac\theta2)`, and w the sum over windings of
:mod:`pyro_manifold.ops.windings` with m = h = 2. On the torus the axes are independent. In float64."""

import math

import numpy as np

from .numpy_operator import Array, Normal, Slopes, dot
from .numpy_windings import windings

__all__ = ["rotation_normal", "torus_normal"]


# four times each product q_i q_j of components of the quaternion, as a linear function of the nine entries of
# R, plus 1 for i = j
_PRODUCTS = np.zeros((4, 4, 9))
for _i, _signs in enumerate(((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))):
    _PRODUCTS[_i, _i, [0, 4, 8]] = _signs
for _i, _j, _at, _with, _sign in (
    (0, 1, 7, 5, -1), (0, 2, 2, 6, -1), (0, 3, 3, 1, -1), (1, 2, 1, 3, 1), (1, 3, 2, 6, 1), (2, 3, 5, 7, 1),
):  # fmt: skip
    _PRODUCTS[_i, _j, [_at, _with]] = _PRODUCTS[_j, _i, [_at, _with]] = 1, _sign


def _quaternion(r: Array) -> tuple[Array, Array, Array]:
    """Unit quaternions, ``(4, n)``, the real part first and not negative, of rotations, ``(n, 3, 3)``: from the
    products with the largest of the four components, so that no digit is lost at any angle; and their
    derivatives, ``(n, 4, 9)`` over lengths ``(n,)``."""
    flat = r.reshape(-1, 9, 1)
    largest = (_PRODUCTS[range(4), range(4)] @ flat)[:, :, 0].argmax(-1)
    slopes = _PRODUCTS[largest]
    row = (slopes @ flat)[:, :, 0].T + (np.arange(4)[:, None] == largest)
    length = np.copysign(np.sqrt(dot(row, row)), row[0])
    return row / length, slopes, length


def rotation_normal(p: Array, q: Array, spread: Array) -> tuple[Array, Slopes]:
    """The density at q of the normal at p, and the function to its derivatives; ``spread`` as in
    :class:`Normal`."""
    p, q = (x.astype(np.float64).transpose(2, 0, 1) for x in (p, q))
    quaternion, products, length = _quaternion(p.swapaxes(-1, -2) @ q)
    cos, e = quaternion[0], quaternion[1:]
    sin = np.sqrt(dot(e, e))
    fixed = sin == 0
    e = np.where(fixed, np.arange(3)[:, None] == 0, e / np.where(fixed, 1, sin))
    normal = Normal(e, spread.astype(np.float64))
    s = 1 / np.sqrt(normal.square)
    w, derivatives = windings(2 * np.arctan2(sin, cos), sin, cos, s, 2, half=2)
    out = w - normal.log_det - 1.5 * math.log(2 * math.pi)

    def slopes() -> tuple[Array | None, ...]:
        slope, wider = derivatives()
        in_e, in_spread = normal.slopes(-0.5 * wider * s / normal.square, -1.0)
        across = (in_e - dot(in_e, e) * e) / np.where(fixed, np.inf, sin)
        t = np.where(fixed, 0, 2 * slope)
        in_quaternion = np.concatenate([-(t * sin)[None], (t * cos) * e + across]) / length
        in_r = (in_quaternion.T[:, None, :] @ products).reshape(-1, 3, 3)
        return (q @ in_r.swapaxes(-1, -2)).transpose(1, 2, 0), (p @ in_r).transpose(1, 2, 0), in_spread

    return out, slopes


def torus_normal(p: Array, q: Array, spread: Array) -> tuple[Array, Slopes]:
    """The same on the torus, for standard deviations and angles of at most a turn."""
    spread = spread.astype(np.float64)
    x = q.astype(np.float64) - p
    x = x - 2 * math.pi * np.round(x / (2 * math.pi))
    d, shape = len(x), np.broadcast_shapes(x.shape, spread.shape)
    x, s = np.broadcast_to(x, shape), np.broadcast_to(spread, shape)
    w, derivatives = windings(np.abs(x).ravel(), x.ravel(), x.ravel(), s.ravel(), 0)
    out = (w.reshape(shape) - np.log(s)).sum(0) - 0.5 * d * math.log(2 * math.pi)

    def slopes() -> tuple[Array | None, ...]:
        slope, wider = (y.reshape(shape) for y in derivatives())
        in_x = slope * np.sign(x)
        in_s = wider - 1 / s
        return -in_x, in_x, in_s if len(spread) == d else in_s.sum(0, keepdims=True)

    return out, slopes
