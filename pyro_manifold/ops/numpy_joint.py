r"""Log densities of wrapped normal distributions with correlated coordinates, by NumPy (see
:mod:`pyro_manifold.ops.numpy_operator`).

.. math::
    \log p(q) = \log\sum_{k\in\mathbb Z^m} \exp\Big(-\tfrac12|L^{-1}v_k|^2\Big)\prod_j
    \Big|\frac{t_j + 2\pi k_j}{h\sin(t_j/h)}\Big|^{m_j} - \log\det L - \tfrac d2\log2\pi - \log J, \qquad
    v_k = v + \sum_j 2\pi k_je_j

The m axes :math:`e_j` are those along which geodesics close: the direction of the point on a sphere, at the angle
:math:`t_j`, or the coordinates of a torus; J is the volume change of the other factors. The sum is over a cube
of k about the shortest :math:`v_k` of real k, which holds every term that counts: at the corner of a cell
:math:`|L^{-1}v_k|` is at most :math:`\pi\sqrt m/\sigma_{min}(L)` longer than there, so terms with
:math:`|t_j + 2\pi k_j| > \sigma_{max}(L)\sqrt{\pi^2m/\sigma_{min}^2 + c^2}` are below rounding."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch

from .numpy_logarithm import Polar, Tangent
from .numpy_operator import Array, near_zero, solve
from .numpy_windings import EPS
from .windings import normal_reach

__all__ = ["is_short_joint", "joint_density"]

_TURN = 2 * math.pi
_MOST_TERMS = 125  # of a joint sum up to which it pays here
_REACH = normal_reach(torch.float64)


def _count(largest: float, corner: float, power: int) -> int:
    """How far a joint sum goes on either side, for the largest standard deviation and the distance of a corner."""
    far = (3 if power else 1) * corner  # at a pole the terms next to it are the largest
    bound = math.sqrt(far**2 + (_REACH * largest) ** 2) + largest * math.sqrt(power)
    return math.floor((bound + math.pi) / _TURN) if bound < math.inf else 10**9


def _count_of_many(factor: Array, m: int, power: int) -> int:
    """The same over m axes, for factors ``batch + (d, d)``."""
    sd = np.linalg.svd(factor, compute_uv=False)
    largest, least = float(sd.max()), float(sd.min())
    return _count(largest, math.pi * math.sqrt(m) * largest / least, power)


def is_short_joint(factor: torch.Tensor, m: int, power: int) -> bool:
    """Is the joint sum over m axes, with the sum of their powers, for Cholesky factors for which
    :func:`~pyro_manifold.ops.numpy_windings.is_short` holds, so short that it pays to compute it here?"""
    return m < 2 or (2 * _count_of_many(factor.detach().numpy(), m, power) + 1) ** m <= _MOST_TERMS


@lru_cache(maxsize=64)
def _cube(count: int, m: int) -> Array:
    """All whole turns, ``(m, terms)``."""
    return _TURN * np.array(list(itertools.product(range(-count, count + 1), repeat=m)), dtype=np.float64).T


def joint_density(
    logs: Sequence[Tangent | Polar], factor: Array
) -> tuple[Array, Callable[[], tuple[list[tuple[Array, ...]], Array]]]:
    """The density where coordinates are correlated, by Cholesky factors ``(d, d, n)``; and a function that returns
    its derivatives in the arguments of each logarithm, and in the factors. In float64."""
    factor = factor.astype(np.float64)
    parts = [log.t * log.e if isinstance(log, Polar) else log.v for log in logs]
    n = max(factor.shape[-1], *(x.shape[-1] for x in parts))
    d, starts = len(factor), [0, *itertools.accumulate(map(len, parts))]
    columns, polars = _columns(logs, parts, starts, d, n)
    solved = solve(factor[:, :, None], columns, upper=False)
    m = columns.shape[1] - 1
    y, axes = solved[:, 0], [solved[:, i] for i in range(1, m + 1)]
    turns = np.zeros((0, 1, n))
    if m:
        power = sum(log.power for log in logs if isinstance(log, Polar))
        if m == 1:
            count = _count(1 / math.sqrt(float((axes[0] * axes[0]).sum(0).min())), math.pi, power)
            count = min(count, _MOST_TERMS // 2)  # less than that but for NaN
        else:
            count = _count_of_many(factor.transpose(2, 0, 1), m, power)
        turns = _cube(count, m)[:, :, None] + _nearest(y, axes, polars)
        ys = y[:, None] + sum(z[:, None] * turn for z, turn in zip(axes, turns, strict=True))
    else:
        ys = y[:, None]
    exponent = -0.5 * (ys * ys).sum(0)
    weights = {}
    for j, polar in polars.items():
        if polar.power:
            low, sine = np.maximum(polar.t, EPS), polar.half * np.maximum(polar.sin, EPS / polar.half)
            turned = turns[j] + polar.t
            turned = np.where(np.abs(turned) < EPS, EPS, turned)
            exponent = exponent + polar.power * np.log(np.abs(turned) / sine)
            weights[j] = low, sine, turned
    top = exponent.max(0)
    e = np.exp(exponent - top)
    total = e.sum(0)
    log_det = np.log(factor.diagonal()).sum(-1)
    out = top + np.log(total) - log_det - 0.5 * d * math.log(_TURN)
    for log in logs:
        if isinstance(log, Tangent):
            out = out - log.log_volume

    def slopes() -> tuple[list[tuple[Array, ...]], Array]:
        share = e / total
        shared = share * ys
        second = (shared[:, None] * ys).sum(2)
        bent = [(shared * turns[j]).sum(1)[:, None] for j in polars]
        columns = np.concatenate([second, -shared.sum(1)[:, None], *(-x for x in bent)], 1)
        columns = solve(factor.swapaxes(0, 1)[:, :, None], columns, upper=True)
        in_factor, in_v, in_axes = columns[:, :d], columns[:, d], columns[:, d + 1 :]
        in_factor = in_factor * np.tri(d)[:, :, None]
        i = np.arange(d)
        in_factor[i, i] -= 1 / factor[i, i]
        where = {id(log): (at, j) for at, (j, log) in enumerate(polars.items())}
        found = []
        for log, a, b in zip(logs, starts, starts[1:], strict=False):
            if isinstance(log, Tangent):
                found.append(log.slopes(in_v[a:b], -1.0))
                continue
            (at, j), part = where[id(log)], in_v[a:b]
            in_t = (part * log.e).sum(0)
            if log.power:
                low, sine, turned = weights[j]
                h = log.half
                far = (log.cos / sine - 1 / low) * (h * h / (2 * low))
                in_t = in_t - log.power * (2 * log.t / h**2) * near_zero("log_sinc", (log.t / h) ** 2, far)
                in_t = in_t - log.power * (share * turns[j] / turned).sum(0) / low
            found.append(log.slopes(in_t, log.t * part + in_axes[a:b, at]))
        return found, in_factor

    return out, slopes


def _columns(
    logs: Sequence[Tangent | Polar], parts: Sequence[Array], starts: Sequence[int], d: int, n: int
) -> tuple[Array, dict[int, Polar]]:
    """v and the unit vectors :math:`e_j`, ``(d, 1 + m, n)``, and which of these belong to polar logarithms."""
    m = sum(1 if isinstance(log, Polar) else len(log.v) * log.periodic for log in logs)
    out = np.zeros((d, 1 + m, n))
    polars: dict[int, Polar] = {}
    j = 1
    for log, part, start in zip(logs, parts, starts, strict=False):
        end = start + len(part)
        out[start:end, 0] = part
        if isinstance(log, Polar):
            polars[j - 1] = log
            out[start:end, j] = log.e
            j += 1
        elif log.periodic:
            for i in range(start, end):
                out[i, j] = 1
                j += 1
    return out, polars


def _nearest(y: Array, axes: Sequence[Array], polars: dict[int, Polar]) -> Array:
    """The whole turns nearest to where y plus real turns is shortest, ``(m, 1, n)``."""
    if not polars and len(axes) == len(y):
        return np.zeros((len(axes), 1, y.shape[-1]))  # a torus: that is at coordinates 0
    if len(axes) == 1:
        z = axes[0]
        turns = -(z * y).sum(0) / (z * z).sum(0)
        return (_TURN * np.round(turns / _TURN))[None, None]
    gram = np.array([[np.broadcast_to((a * b).sum(0), y.shape[-1]) for a in axes] for b in axes])
    right = np.array([-(a * y).sum(0) for a in axes])
    turns = np.linalg.solve(gram.transpose(2, 0, 1), right.T[:, :, None])[:, :, 0].T
    return (_TURN * np.round(turns / _TURN))[:, None]
