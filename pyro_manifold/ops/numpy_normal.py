r"""Log densities of normal distributions wrapped by exp, from logarithms by NumPy (see
:mod:`pyro_manifold.ops.numpy_operator`).

.. math::
    \log p(q) = \log\mathcal N(v; 0, \Sigma) - \log J(v), \qquad
    \log p(q) = -\log\det L - \tfrac d2\log2\pi + w(t, s), \quad s = |L^{-1}e|^{-1}

The first where exp is injective, with v the logarithm and J the volume change. The second where all geodesics
close, with t the angle and e the direction of the logarithm, and w the sum over windings of
:mod:`pyro_manifold.ops.windings`; in float64, since float32 cannot resolve the distance to a pole."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .numpy_joint import joint_density
from .numpy_logarithm import Polar, Tangent
from .numpy_operator import Array, Normal, Slopes
from .numpy_windings import windings

__all__ = ["density", "product_density"]

_TURN = 2 * math.pi


def _log_density(
    log: Tangent | Polar, spread: Array
) -> tuple[Array, Callable[[], tuple[tuple[Array, ...], Array]]]:
    """The density, and a function that returns its derivatives in the arguments of the logarithm, and in the spread,
    for which see :class:`Normal`."""
    if isinstance(log, Polar):
        normal = Normal(log.e, spread.astype(np.float64))
        s = 1 / np.sqrt(normal.square)
        w, derivatives = windings(log.t, log.sin, log.cos, s, log.power, log.half)
        out = w - normal.log_det - 0.5 * len(log.e) * math.log(_TURN)

        def polar() -> tuple[tuple[Array, ...], Array]:
            slope, wider = derivatives()
            in_e, in_spread = normal.slopes(-0.5 * wider * s / normal.square, -1.0)
            return log.slopes(slope, in_e), in_spread

        return out, polar
    if log.periodic and spread.ndim == 3:
        out, joint = joint_density([log], spread)

        def periodic() -> tuple[tuple[Array, ...], Array]:
            (in_all,), in_spread = joint()
            return in_all, in_spread

        return out, periodic
    if log.periodic:
        return _independent_turns(log, spread.astype(np.float64))
    normal = Normal(log.v, spread)
    out = -0.5 * normal.square - normal.log_det - 0.5 * len(log.v) * math.log(_TURN) - log.log_volume

    def tangent() -> tuple[tuple[Array, ...], Array]:
        in_v, in_spread = normal.slopes(-0.5, -1.0)
        return log.slopes(in_v, -1.0), in_spread

    return out, tangent


def _independent_turns(log: Tangent, spread: Array) -> Any:
    d, shape = len(log.v), np.broadcast_shapes(log.v.shape, spread.shape)
    x, s = np.broadcast_to(log.v, shape), np.broadcast_to(spread, shape)
    flat = x.ravel()
    w, derivatives = windings(np.abs(flat), flat, flat, s.ravel(), 0)
    out = (w.reshape(shape) - np.log(s)).sum(0) - 0.5 * d * math.log(_TURN)

    def slopes() -> tuple[tuple[Array, ...], Array]:
        slope, wider = (y.reshape(shape) for y in derivatives())
        in_s = wider - 1 / s
        return log.slopes(slope * np.sign(x), 0.0), in_s if len(spread) == d else in_s.sum(0, keepdims=True)

    return out, slopes


def density(logarithm: Callable[..., Tangent | Polar]) -> Callable[..., tuple[Array, Slopes]]:
    """The density as a function of p, q, the spread and what else the logarithm depends on."""

    def value(p: Array, q: Array, spread: Array, *others: Array) -> tuple[Array, Slopes]:
        out, slopes = _log_density(logarithm(p, q, *others), spread)

        def in_all() -> tuple[Array | None, ...]:
            (in_p, in_q, *rest), in_spread = slopes()
            return in_p, in_q, in_spread, *rest

        return out, in_all

    return value


def product_density(
    logarithms: Sequence[Callable[..., Tangent | Polar]],
    shapes: Sequence[Sequence[int]],
    numbers: Sequence[int],
    full: bool,
) -> Callable[..., tuple[Array, Slopes]]:
    """The density on a product, whose points are those of the factors side by side.

    :param shapes: of a point of each factor.
    :param numbers: how many further arguments each logarithm has; their derivatives are not computed.
    """
    ends = np.cumsum([math.prod(s) for s in shapes]).tolist()

    def split(x: Array) -> list[Array]:
        return [x[b - math.prod(s) : b].reshape(*s, -1) for b, s in zip(ends, shapes, strict=True)]

    def value(p: Array, q: Array, spread: Array, *others: Array) -> tuple[Array, Slopes]:
        left = iter(others)
        rest = [[next(left) for _ in range(k)] for k in numbers]
        parts = zip(logarithms, split(p), split(q), rest, strict=True)
        logs = [f(a, b, *c) for f, a, b, c in parts]
        out: Any = 0.0
        if full:
            out, joint = joint_density(logs, spread)
        else:
            i, each = 0, []
            for log in logs:
                d = len(log.e if isinstance(log, Polar) else log.v)
                part, slopes = _log_density(log, spread[i : i + d])
                out, i = out + part, i + d
                each.append(slopes)

        def in_all() -> tuple[Array | None, ...]:
            if full:
                in_each, in_spread = joint()
            else:
                found = [slopes() for slopes in each]
                in_each, in_spread = [x for x, _ in found], np.concatenate([x for _, x in found])
            in_p, in_q = (np.concatenate([x[i].reshape(-1, x[i].shape[-1]) for x in in_each]) for i in (0, 1))
            return in_p, in_q, in_spread, *(None for _ in others)

        return out, in_all

    return value
