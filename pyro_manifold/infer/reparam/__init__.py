"""Manifold sites as functions of real vectors, so that plain HMC, NUTS and Pyro's autoguides take them."""

from .ambient import AmbientReparam
from .circular import CircularReparam
from .projected_normal import ProjectedNormalReparam
from .strategy import ManifoldReparam
from .wrapped_normal import WrappedNormalReparam

__all__ = [
    "AmbientReparam",
    "CircularReparam",
    "ManifoldReparam",
    "ProjectedNormalReparam",
    "WrappedNormalReparam",
]
