"""Units of angles, lengths and areas of results."""

import math

from torch import Tensor

from ...geometry import Geometry

__all__ = ["angle_factor", "area_factor", "length_factor", "lengths_are_angles"]

_ANGLES = {"radians": 1.0, "degrees": 180 / math.pi}
_AREAS = {"steradians": 1.0, "square degrees": (180 / math.pi) ** 2}


def _factor(unit: str, known: dict[str, float]) -> float:
    if unit not in known:
        raise ValueError(f"unit: got {unit!r}, expected {' or '.join(map(repr, known))}.")
    return known[unit]


def angle_factor(unit: str) -> float:
    """By how much radians are multiplied.

    >>> angle_factor("radians")
    1.0
    """
    return _factor(unit, _ANGLES)


def area_factor(unit: str) -> float:
    """By how much steradians are multiplied.

    >>> round(area_factor("square degrees"), 1)
    3282.8
    """
    return _factor(unit, _AREAS)


def lengths_are_angles(geo: Geometry, x: Tensor) -> bool:
    """Are lengths on the manifold angles in radians, so that they may be given in degrees?"""
    return geo.unscaled is geo and geo.angles(x) is not None


def length_factor(geo: Geometry, x: Tensor, unit: str) -> float:
    """By how much lengths on the manifold of the points ``x`` are multiplied.

    :raises ValueError: for degrees where lengths are no angles.
    """
    factor = _factor(unit, _ANGLES)
    if factor != 1.0 and not lengths_are_angles(geo, x):
        raise ValueError(
            f"unit: got {unit!r} on {geo.manifold.name}, whose lengths are no angles; expected 'radians', which "
            "leaves the manifold's own unit as it is."
        )
    return factor
