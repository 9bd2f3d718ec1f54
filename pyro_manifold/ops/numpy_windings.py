r"""The sum over windings of :mod:`pyro_manifold.ops.windings` and its derivatives, by NumPy (see
:mod:`pyro_manifold.ops.numpy_operator`).

.. math::
    w(t, s) = \log\sum_k \Big|\frac{t_k}{h\sin(t_k/h)}\Big|^m e^{-t_k^2/2s^2} = \log\Big(1 + \sum_{k\ne0}
    E_k\Big) - \frac{t^2}{2s^2} - m\log\frac{h\sin(t/h)}t, \qquad E_k = \Big|\frac{t_k}t\Big|^m e^{-2\pi k(\pi
    k+t)/s^2}

With the weights :math:`P_k` of the terms, which add up to 1,

.. math::
    \partial_tw = m\Big(\frac1t-\frac{\cot(t/h)}h\Big) - \frac t{s^2} - \sum_{k\ne0}P_k\,2\pi
    k\Big(\frac m{t\,t_k}+\frac1{s^2}\Big), \qquad
    \partial_sw = \frac{t^2}{s^3} + \sum_{k\ne0}P_k\,\frac{2\pi k(2\pi k+2t)}{s^3}
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .numpy_operator import Array, near_zero
from .windings import normal_reach

__all__ = ["EPS", "WIDEST", "is_short", "windings"]

_TURN = 2 * math.pi
WIDEST = 3.0  # a wider normal has more terms than pay here
_POWERS = 16  # up to which power no term overflows
EPS = float(np.finfo(np.float64).eps)
_NARROWEST = math.sqrt(EPS) / 50  # see ops.windings
_REACH = normal_reach(torch.float64)


@lru_cache
def _turns(last: int) -> Array:
    """Whole turns up to ``last`` on either side but for none, as a column."""
    return _TURN * np.array([k for k in range(-last, last + 1) if k], dtype=np.float64)[:, None]


def is_short(spread: Tensor, power: int) -> bool:
    """Is the sum for a normal with these standard deviations, or Cholesky factors, so short that it pays to
    compute it here?"""
    if power > _POWERS:
        return False
    x = np.abs(spread.detach().numpy())
    if not x.max() <= WIDEST:
        return False
    # along no direction is a factor longer than its entries together
    return x.ndim < 2 or x.shape[-1] != x.shape[-2] or float((x * x).sum((-1, -2)).max()) <= WIDEST**2


def windings(
    t: Array, sin: Array, cos: Array, s: Array, power: int, half: int = 1
) -> tuple[Array, Callable[[], tuple[Array, Array]]]:
    r"""w, in float64, and a function that returns its derivatives in t and s.

    :param t: in :math:`[0, \pi]`.
    :param sin: :math:`\sin(t/h)`; ``cos`` likewise.
    """
    last = math.floor(float(s.max()) * (math.sqrt(power) + _REACH) / _TURN + 1.5)
    turn = _turns(last)
    over = turn / np.maximum(s, _NARROWEST)
    ratio = t / s
    e = -over * (0.5 * over + ratio)
    w = -0.5 * ratio * ratio
    if power:
        low, sine = np.maximum(t, EPS), half * np.maximum(sin, EPS / half)
        turned = turn + t
        e += power * np.log(np.abs(turned) / low)
        w -= power * np.log(sine / low)
    e = np.exp(e)
    total = 1 + e.sum(0)

    def derivatives() -> tuple[Array, Array]:
        p = turn * e / total
        narrow2 = np.maximum(s, _NARROWEST) ** 2
        slope = -ratio / s - p.sum(0) / narrow2
        if power:
            far = (cos / sine - 1 / low) * (half * half / (2 * low))  # of log(sine / t), in (t/h)^2
            slope -= power * (2 * t / half**2) * near_zero("log_sinc", (t / half) ** 2, far)
            slope -= power * (p / turned).sum(0) / low
        return slope, (ratio * ratio + (p * (turn + 2 * t)).sum(0) / narrow2) / s

    return w + np.log(total), derivatives
