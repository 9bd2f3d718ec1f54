r"""The logarithm on the unit sphere, by NumPy (see :mod:`pyro_manifold.ops.numpy_operator`): the angle between two
points, and the coordinates of the unit vector from one towards the other in the frame transported from
:math:`e_1`. In float64, since float32 cannot resolve the distance to a pole; gradients are along the sphere."""

import numpy as np

from .numpy_logarithm import Polar
from .numpy_operator import Array, dot

__all__ = ["sphere_logarithm"]


def _unit(x: Array) -> tuple[Array, Array]:
    x = x.astype(np.float64)
    r = np.sqrt(dot(x, x))
    return x / r, r


def _towards(p: Array, q: Array) -> tuple[Array, Array, Array]:
    """Sine and cosine of the angle between unit vectors, and the unit tangent vector at p towards q: without
    loss of digits where they are close or opposite; there zero, if they are equal or opposite."""
    e = q - p
    pe = dot(p, e)
    far = pe < -1
    if far.any():
        e = np.where(far, q + p, e)
        pe = np.where(far, dot(p, e), pe)
    w = e - pe * p
    sin = np.sqrt(dot(w, w))
    return sin, np.where(far, pe - 1, pe + 1), w / np.where(sin == 0, 1, sin)


class _Frame:
    r"""Coordinates of tangent vectors u at p in the frame transported from the first axis,
    :math:`u' - ((p'\cdot u')T + u_0)p'` with T = 1/(1 + p_0) and primes for the other components."""

    def __init__(self, p: Array) -> None:
        self.rest, first = p[1:], p[0]
        self.south = first < 0
        self.T = 1 / (1 + np.maximum(first, 0))
        if self.south.any():  # from |p'|, and 0 at the pole, where the transported frame has no limit
            self.rest2 = dot(self.rest, self.rest)
            self.rest2 = np.where(self.rest2 == 0, np.inf, self.rest2)
            self.T = np.where(self.south, (1 - first) / self.rest2, self.T)

    def coordinates(self, u: Array) -> Array:
        self.u = u[1:]
        self.along = dot(self.rest, self.u)
        self.alpha = self.along * self.T + u[0]
        return self.u - self.alpha * self.rest

    def slopes(self, in_coordinates: Array) -> tuple[Array, Array]:
        """Derivatives in u and in p of a function of the coordinates, from those in the coordinates."""
        g = in_coordinates
        c = dot(g, self.rest)
        in_u = np.concatenate([-c[None], g - (c * self.T) * self.rest])
        in_T = -c * self.along
        in_first, in_rest = -in_T * self.T * self.T, -self.alpha * g - (c * self.T) * self.u
        if self.south.any():
            in_first = np.where(self.south, -in_T / self.rest2, in_first)
            in_rest = in_rest - np.where(self.south, 2 * in_T * self.T / self.rest2, 0) * self.rest
        return in_u, np.concatenate([in_first[None], in_rest])


def sphere_logarithm(p: Array, q: Array) -> Polar:
    """The logarithm of q at p."""
    (p, p_length), (q, q_length) = _unit(p), _unit(q)
    d = len(p) - 1
    sin, cos, u = _towards(p, q)
    frame = _Frame(p)
    e = frame.coordinates(u)
    polar = sin == 0
    if polar.any():
        e = np.where(polar, np.arange(d)[:, None] == 0, e)

    def slopes(in_t: Array, in_e: Array) -> tuple[Array, ...]:
        in_u, in_p = frame.slopes(in_e)
        across = (in_u - dot(in_u, u) * u) / np.where(polar, np.inf, sin)
        across -= dot(across, p) * p
        in_q = in_t * (cos * u - sin * p) + across
        in_p = np.where(polar, 0, in_p) - in_t * u - cos * across
        in_p, in_q = in_p - dot(in_p, p) * p, in_q - dot(in_q, q) * q
        return in_p / p_length, in_q / q_length

    return Polar(np.arctan2(sin, cos), e, sin, cos, d - 1, 1, slopes)
