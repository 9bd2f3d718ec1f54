r"""The log density of a normal distribution that exp wraps onto the unit sphere, for a few points (see
:mod:`pyro_manifold.ops.few`).

.. math:: \log p(x) = -\log\det L - \tfrac d2\log2\pi + w(\theta, s), \qquad s = |L^{-1}e|^{-1}

with :math:`\theta` the angle between centre and point, e the coordinates of the unit vector from one towards
the other in the frame transported from :math:`e_1`, and w the sum over windings of
:mod:`pyro_manifold.ops.windings`. In float64, since float32 cannot resolve the distance to a pole. Gradients
are along the sphere."""

import math

import numpy as np

from .few import Array, Normal, Pull, dot
from .few_windings import windings

__all__ = ["sphere_normal"]


def _unit(x: Array) -> tuple[Array, Array]:
    x = x.astype(np.float64)
    r = np.sqrt(dot(x, x))[:, None]
    return x / r, r


def _towards(p: Array, q: Array) -> tuple[Array, Array, Array]:
    """Sine and cosine of the angle between unit vectors, and the unit tangent vector at p towards q: without
    loss of digits where they are close or opposite; there zero, if they are equal or opposite."""
    e = q - p
    pe = dot(p, e)
    far = pe < -1
    if far.any():
        e = np.where(far[:, None], q + p, e)
        pe = np.where(far, dot(p, e), pe)
    w = e - pe[:, None] * p
    sin = np.sqrt(dot(w, w))
    return sin, np.where(far, pe - 1, pe + 1), w / np.where(sin == 0, 1, sin)[:, None]


class _Frame:
    r"""Coordinates of tangent vectors u at p in the frame transported from the first axis,
    :math:`u' - ((p'\cdot u')T + u_0)p'` with T = 1/(1 + p_0) and primes for the other components."""

    def __init__(self, p: Array) -> None:
        self.rest, first = p[:, 1:], p[:, 0]
        self.south = first < 0
        self.T = 1 / (1 + np.maximum(first, 0))
        if self.south.any():  # from |p'|, and 0 at the pole, where the transported frame has no limit
            self.rest2 = dot(self.rest, self.rest)
            self.rest2 = np.where(self.rest2 == 0, np.inf, self.rest2)
            self.T = np.where(self.south, (1 - first) / self.rest2, self.T)

    def coordinates(self, u: Array) -> Array:
        self.u = u[:, 1:]
        self.along = dot(self.rest, self.u)
        self.alpha = self.along * self.T + u[:, 0]
        return self.u - self.alpha[:, None] * self.rest

    def pull(self, g: Array) -> tuple[Array, Array]:
        """Gradients in u and in p."""
        c = dot(g, self.rest)
        g_u = np.concatenate([-c[:, None], g - (c * self.T)[:, None] * self.rest], 1)
        g_T = -c * self.along
        g_first, g_rest = -g_T * self.T * self.T, -self.alpha[:, None] * g - (c * self.T)[:, None] * self.u
        if self.south.any():
            g_first = np.where(self.south, -g_T / self.rest2, g_first)
            g_rest = g_rest - np.where(self.south, 2 * g_T * self.T / self.rest2, 0)[:, None] * self.rest
        return g_u, np.concatenate([g_first[:, None], g_rest], 1)


def sphere_normal(p: Array, q: Array, spread: Array) -> tuple[Array, Pull]:
    """The density at q of the normal at p, and the function to its gradients; ``spread`` as in
    :class:`Normal`, not wider than
    :data:`WIDEST`."""
    (p, p_length), (q, q_length) = _unit(p), _unit(q)
    d = p.shape[-1] - 1
    sin, cos, u = _towards(p, q)
    frame = _Frame(p)
    e = frame.coordinates(u)
    polar = sin == 0
    if polar.any():
        e = np.where(polar[:, None], np.arange(d) == 0, e)
    normal = Normal(e, spread.astype(np.float64))
    s = 1 / np.sqrt(normal.square)
    w, derivatives = windings(np.arctan2(sin, cos), sin, cos, s, d - 1)
    out = w - normal.log_det - 0.5 * d * math.log(2 * math.pi)

    def pull(g: Array) -> tuple[Array | None, ...]:
        slope, wider = derivatives()
        g_e, g_spread = normal.pull(-0.5 * g * wider * s**3, -g)
        g_u, g_p = frame.pull(g_e)
        g_w = (g_u - dot(g_u, u)[:, None] * u) / np.where(polar, np.inf, sin)[:, None]
        g_w -= dot(g_w, p)[:, None] * p
        t = (g * slope)[:, None]
        g_q = t * (cos[:, None] * u - sin[:, None] * p) + g_w
        g_p = np.where(polar[:, None], 0, g_p) - t * u - cos[:, None] * g_w
        g_p, g_q = g_p - dot(g_p, p)[:, None] * p, g_q - dot(g_q, q)[:, None] * q
        return g_p / p_length, g_q / q_length, g_spread

    return out, pull
