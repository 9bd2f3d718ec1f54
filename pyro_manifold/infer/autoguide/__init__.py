"""Guides that know the manifold."""

from .manifold_normal import AutoManifoldNormal

__all__ = ["AutoManifoldNormal"]
