"""Inference on manifolds."""

from .mcmc import GeodesicHMC, GeodesicNUTS, VectorizedMCMC
from .reparam import CircularReparam

__all__ = ["CircularReparam", "GeodesicHMC", "GeodesicNUTS", "VectorizedMCMC"]
