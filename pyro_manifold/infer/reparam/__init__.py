"""Reparametrisers that make manifold sites functions of real vectors, for plain HMC, NUTS and Pyro's
autoguides."""

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
