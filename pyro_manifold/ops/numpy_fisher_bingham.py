r"""The densities :math:`e^{b\cdot x + x^\top Ax}` of :mod:`pyro_manifold.ops.fisher_bingham_general` for a few
distributions, by NumPy (see :mod:`pyro_manifold.ops.numpy_operator`); in float64.

With the mode m, :math:`b + 2Am = 2\lambda m`, and :math:`y = x - m` the log density is

.. math:: b\cdot y + 2m^\top Ay + y^\top Ay - S = -y^\top(\lambda I - A)y - S = -\sum_i c_iz_i^2 - S

with z the components of y along the eigenvectors of A, and c the eigenvalues of :math:`\lambda I - A`. The components
of m are the v of the contour integral S. Derivatives are taken with m fixed, as the density does not depend on it."""

import math
from typing import NamedTuple

import numpy as np
import torch

from .fisher_bingham_contour import NODES
from .numpy_axial import direction
from .numpy_operator import Array, Slopes, dot

__all__ = ["Modes", "density", "modes", "normalizer"]

_TINY = float(np.finfo(np.float64).tiny)
_DROP = 38.0  # as in the contour of torch's operators
_ENDS = 1 + 0.125 * np.arange(1, 64)
_HALF = 0.5 * np.arange(NODES + 1)
_STEPS = 30


class Modes(NamedTuple):
    axes: Array  # eigenvectors of A in columns, batch + (d, d), that of the largest eigenvalue first
    rates: Array  # c, batch + (d,)
    own: Array  # m along the axes
    mode: Array


@np.errstate(all="ignore")
def modes(b: Array, a: Array) -> Modes:
    """The modes, as :func:`~.fisher_bingham_general.mode_of`, from b, ``batch + (d,)``, and A, ``batch + (d, d)``."""
    try:
        values, axes = np.linalg.eigh(a)
    except np.linalg.LinAlgError as e:
        raise torch.linalg.LinAlgError(str(e)) from None
    values = values[..., ::-1]
    axes = np.ascontiguousarray(axes[..., ::-1])
    linear = (b[..., None] * axes).sum(-2)
    rates = values[..., :1] - values
    half = 0.5 * np.abs(linear)
    first = half[..., :1]
    t = np.maximum(np.maximum((half - rates).max(-1, keepdims=True), first), 0)
    for _ in range(_STEPS):
        below = np.maximum(rates + t, _TINY)
        share = half / below
        share *= share
        h = share.sum(-1, keepdims=True)
        slope = (share / below).sum(-1, keepdims=True)
        step = np.where(h > 1, (np.sqrt(h) - 1) * h / np.maximum(slope, _TINY), 0)
        t = t + step
        if (step <= 1e-15 * t).all():
            break
    rates = rates + t
    m = np.where(rates > 0, 0.5 * linear / np.where(rates > 0, rates, 1), 0)
    free = t <= first * (1 + 1e-9)  # the first component may be anything up to 1
    if free.any():
        x = m[..., :1]
        rest = np.maximum(1 - (m * m).sum(-1, keepdims=True), 0)
        m = np.concatenate([np.where(free, np.copysign(np.sqrt(x * x + rest), x), x), m[..., 1:]], -1)
    m = m / np.sqrt((m * m).sum(-1, keepdims=True))
    return Modes(axes, rates, m, (axes @ m[..., None])[..., 0])


def normalizer(b: Array, a: Array, axes: Array, rates: Array, own: Array) -> tuple[Array, Slopes]:
    r"""S as a function of b and A, from what :func:`modes` found; with the derivatives E[y] and E[xx^T] - mm^T."""
    c, m = rates, own
    share = m * m
    least = c.min(0)
    t = 0.25 * (1 + 1 / (np.hypot(1, 4 * least) + 4 * least))
    for _ in range(_STEPS):  # to the saddle
        v = 1 / (c + t)
        part = c * v
        excess = (v * (0.5 - share * (t * (1 + part)))).sum(0)
        slope = (v * (0.5 * v + 2 * share * part * part)).sum(0)
        h = 1 + excess
        step = np.maximum(2 * h * excess / ((1 + np.sqrt(h)) * slope), 0)
        t = t + step
        if (step <= 1e-4 * t).all():  # any path near it gives the same integral
            break
    v = 1 / (c + t)
    part = c * v
    linear = (share * (t * v) * (1 + part)).sum(0)[:, None]
    sigma = 1 / np.sqrt((v * (0.5 * v + 2 * share * part * part)).sum(0))
    sv = sigma * v
    bent = sigma * (sv * (sv * sv) + 6 * sigma * share * (part * sv) ** 2).sum(0) * (5 / 12)
    curve, sigma = np.minimum(sigma, bent)[:, None], sigma[:, None]
    vs = v[:, :, None]
    r2 = (share * c * part)[:, :, None]

    def exponents(path: Array) -> tuple[Array, Array]:
        """1 + z, and the exponent less its value at the saddle, where s has moved by ``path``."""
        z = path * vs
        one = 1 + z
        return one, (r2 * (z * (z / one))).sum(0) + path * linear - 0.5 * np.log(one).sum(0)

    ends = exponents(-curve * (np.cosh(_ENDS) - 1) + 1j * (sigma * np.sinh(_ENDS)))[1].real + _ENDS
    width = (1.125 + 0.125 * (ends > -_DROP).sum(-1, keepdims=True)) / NODES
    e = np.exp(width * _HALF)
    half_sinh, half_cosh = 0.5 * (e - 1 / e), 0.5 * (e + 1 / e)
    drop, sinh = 2 * half_sinh * half_sinh, 2 * half_sinh * half_cosh
    path = -curve * drop + 1j * (sigma * sinh)
    one, exponent = exponents(path)
    f = np.exp(exponent) * (sigma * (1 + drop) + 1j * (curve * sinh))
    f[:, 0] *= 0.5
    total = f.real.sum(-1, keepdims=True)
    d = len(c)
    out = t * (share * (t * v)).sum(0) + 0.5 * np.log(v).sum(0) + np.log((width * total)[:, 0])
    out = out + (math.log(2) + (d / 2 - 1) * math.log(math.pi))

    def slopes() -> tuple[Array | None, ...]:
        weights = f / total
        u = vs / one
        centre = -m[:, :, None] * ((t[:, None] + path) * u)
        weighted = weights * centre
        mean = weighted.sum(-1).real
        second = (weighted.swapaxes(0, 1) @ centre.transpose(1, 2, 0)).real  # (rows, d, d)
        i = np.arange(d)
        second[:, i, i] += 0.5 * (weights * u).sum(-1).real.T
        beside = m.T[:, :, None] * mean.T[:, None]
        second += beside + beside.swapaxes(-1, -2)
        turn = axes.transpose(2, 0, 1)
        in_b = (turn @ mean.T[..., None])[..., 0].T
        return in_b, (turn @ second @ turn.swapaxes(-1, -2)).transpose(1, 2, 0), None, None, None

    return out, slopes


def density(
    x: Array, b: Array, a: Array, axes: Array, rates: Array, mode: Array, s: Array
) -> tuple[Array, Slopes]:
    """The log density of the direction x, from S and what :func:`modes` found."""
    x, length = direction(x)
    y = x - mode
    single = axes.shape[-1] == 1
    z = axes[:, :, 0].T @ y if single else (axes * y[:, None]).sum(0)
    cz = rates * z

    def slopes() -> tuple[Array | None, ...]:
        up = -2 * (axes[:, :, 0] @ cz if single else (axes * cz).sum(1))
        in_x = (up - dot(up, x) * x) / length
        return in_x, y, y[:, None] * (x + mode), None, None, None, np.full_like(s, -1)

    return -dot(z, cz) - s, slopes
