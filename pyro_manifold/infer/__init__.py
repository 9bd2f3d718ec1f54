"""Inference on manifolds."""

from .autoguide import AutoManifoldNormal
from .mcmc import GeodesicHMC, GeodesicNUTS, VectorizedMCMC
from .reparam import CircularReparam

__all__ = ["AutoManifoldNormal", "CircularReparam", "GeodesicHMC", "GeodesicNUTS", "VectorizedMCMC"]
