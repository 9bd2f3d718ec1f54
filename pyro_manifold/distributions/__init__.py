"""Laws on manifolds, every density with respect to Riemannian volume."""

from . import kl as kl  # registers the divergences
from .uniform import ManifoldUniform
from .wrapped_normal import WrappedNormal

__all__ = [
    "ManifoldUniform",
    "WrappedNormal",
]
