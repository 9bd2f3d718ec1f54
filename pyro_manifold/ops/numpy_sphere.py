r"""The log density of a normal distribution that exp wraps onto the unit sphere, by NumPy (see
:mod:`pyro_manifold.ops.numpy_operator`).

.. math:: \log p(x) = -\log\det L - \tfrac d2\log2\pi + w(\theta, s), \qquad s = |L^{-1}e|^{-1}

with :math:`\theta` the angle between centre and point, e the coordinates of the unit vector from one towards
the other in the frame transported from :math:`e_1`, and w the sum over windings of
:mod:`pyro_manifold.ops.windings`. In float64, since float32 cannot resolve the distance to a pole. Gradients
are along the sphere."""

import math

import numpy as np

from .numpy_operator import Array, Normal, Slopes, dot
from .numpy_windings import windings

__all__ = ["sphere_normal"]


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


def sphere_normal(p: Array, q: Array, spread: Array) -> tuple[Array, Slopes]:
    """The density at q of the normal at p, and the function to its derivatives; ``spread`` as in
    :class:`Normal`, not wider than
    :data:`WIDEST`."""
    (p, p_length), (q, q_length) = _unit(p), _unit(q)
    d = len(p) - 1
    sin, cos, u = _towards(p, q)
    frame = _Frame(p)
    e = frame.coordinates(u)
    polar = sin == 0
    if polar.any():
        e = np.where(polar, np.arange(d)[:, None] == 0, e)
    normal = Normal(e, spread.astype(np.float64))
    s = 1 / np.sqrt(normal.square)
    w, derivatives = windings(np.arctan2(sin, cos), sin, cos, s, d - 1)
    out = w - normal.log_det - 0.5 * d * math.log(2 * math.pi)

    def slopes() -> tuple[Array | None, ...]:
        slope, wider = derivatives()
        in_e, in_spread = normal.slopes(-0.5 * wider * s / normal.square, -1.0)
        in_u, in_p = frame.slopes(in_e)
        across = (in_u - dot(in_u, u) * u) / np.where(polar, np.inf, sin)
        across -= dot(across, p) * p
        in_q = slope * (cos * u - sin * p) + across
        in_p = np.where(polar, 0, in_p) - slope * u - cos * across
        in_p, in_q = in_p - dot(in_p, p) * p, in_q - dot(in_q, q) * q
        return in_p / p_length, in_q / q_length, in_spread

    return out, slopes
