"""Laws on manifolds, every density with respect to Riemannian volume."""

from .uniform import ManifoldUniform
from .wrapped_normal import WrappedNormal

__all__ = [
    "ManifoldUniform",
    "WrappedNormal",
]
