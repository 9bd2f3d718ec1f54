"""Inference on manifolds."""

from .autoguide import AutoManifoldNormal
from .calibration import SBCResult, sbc
from .mcmc import GeodesicHMC, GeodesicNUTS, VectorizedMCMC
from .reparam import AmbientReparam, CircularReparam, ManifoldReparam, ProjectedNormalReparam, WrappedNormalReparam

__all__ = [
    "AmbientReparam",
    "AutoManifoldNormal",
    "CircularReparam",
    "GeodesicHMC",
    "GeodesicNUTS",
    "ManifoldReparam",
    "ProjectedNormalReparam",
    "SBCResult",
    "VectorizedMCMC",
    "WrappedNormalReparam",
    "sbc",
]
