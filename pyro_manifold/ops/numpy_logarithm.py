"""What densities need to know of a logarithm that NumPy computes (see :mod:`pyro_manifold.ops.numpy_operator`)."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from .numpy_operator import Array

__all__ = ["Logarithm", "Polar", "Tangent", "flat_logarithm"]


class Tangent(NamedTuple):
    """A logarithm in coordinates, ``(d, n)``; the log of the volume change of exp there; and a function from the
    derivatives in both to those in the arguments. ``periodic``: the point is the same a turn away along any axis."""

    v: Array
    log_volume: Array | float
    slopes: Callable[[Array, Array | float], tuple[Array, ...]]
    periodic: bool = False


class Polar(NamedTuple):
    """A logarithm as an angle t, ``(n,)``, with sine and cosine of t/h, and a unit vector e, ``(d, n)``, where exp
    changes the volume by :math:`|h\\sin(t/h)/t|^m`; and a function from the derivatives in t and e to those in the
    arguments."""

    t: Array
    e: Array
    sin: Array
    cos: Array
    power: int
    half: int
    slopes: Callable[[Array, Array], tuple[Array, ...]]


def flat_logarithm(p: Array, q: Array) -> Tangent:
    return Tangent(q - p, 0.0, lambda in_v, _: (-in_v, in_v))


class Logarithm(NamedTuple):
    """How to compute the logarithm of a geometry: a function of p, q and parameters; these; the number of axes along
    which geodesics close; and the power m of a polar one."""

    value: Callable[..., Tangent | Polar]
    parameters: tuple[Tensor, ...] = ()
    axes: int = 0
    power: int = 0
