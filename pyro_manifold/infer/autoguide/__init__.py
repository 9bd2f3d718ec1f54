"""Guides that know the manifold."""

from .delta import AutoManifoldDelta
from .manifold_flow import AutoManifoldFlow
from .manifold_normal import AutoManifoldNormal
from .multivariate_normal import AutoManifoldMultivariateNormal

__all__ = ["AutoManifoldDelta", "AutoManifoldFlow", "AutoManifoldMultivariateNormal", "AutoManifoldNormal"]
