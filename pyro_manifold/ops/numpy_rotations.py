r"""Logarithms on the rotations SO(3) and on the flat torus, by NumPy (see
:mod:`pyro_manifold.ops.numpy_operator`): the axis e and the angle :math:`\theta` of :math:`P^\top R`, from its
quaternion :math:`(\cos\frac\theta2, e\sin\frac\theta2)`. In float64."""

import math

import numpy as np

from .numpy_logarithm import Polar, Tangent
from .numpy_operator import Array, dot

__all__ = ["rotation_logarithm", "torus_logarithm"]


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


def rotation_logarithm(p: Array, q: Array) -> Polar:
    """The logarithm of q at p."""
    p, q = (x.astype(np.float64).transpose(2, 0, 1) for x in (p, q))
    quaternion, products, length = _quaternion(p.swapaxes(-1, -2) @ q)
    cos, e = quaternion[0], quaternion[1:]
    sin = np.sqrt(dot(e, e))
    fixed = sin == 0
    e = np.where(fixed, np.arange(3)[:, None] == 0, e / np.where(fixed, 1, sin))

    def slopes(in_t: Array, in_e: Array) -> tuple[Array, ...]:
        across = (in_e - dot(in_e, e) * e) / np.where(fixed, np.inf, sin)
        t = np.where(fixed, 0, 2 * in_t)
        in_quaternion = np.concatenate([-(t * sin)[None], (t * cos) * e + across]) / length
        in_r = (in_quaternion.T[:, None, :] @ products).reshape(-1, 3, 3)
        return (q @ in_r.swapaxes(-1, -2)).transpose(1, 2, 0), (p @ in_r).transpose(1, 2, 0)

    return Polar(2 * np.arctan2(sin, cos), e, sin, cos, 2, 2, slopes)


def torus_logarithm(p: Array, q: Array) -> Tangent:
    """The same on the torus, for angles of at most a turn."""
    x = q.astype(np.float64) - p
    x = x - 2 * math.pi * np.round(x / (2 * math.pi))
    return Tangent(x, 0.0, lambda in_v, _: (-in_v, in_v), True)
