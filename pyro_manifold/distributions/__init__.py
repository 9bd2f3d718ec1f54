"""Laws on manifolds, every density with respect to Riemannian volume."""

from . import kl as kl  # registers the divergences
from .riemannian_normal import RiemannianNormal
from .uniform import ManifoldUniform
from .wrapped_normal import WrappedNormal

__all__ = [
    "ManifoldUniform",
    "RiemannianNormal",
    "WrappedNormal",
]
