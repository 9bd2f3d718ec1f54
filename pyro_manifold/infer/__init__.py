"""Inference on manifolds."""

from .autoguide import AutoManifoldDelta, AutoManifoldMultivariateNormal, AutoManifoldNormal
from .calibration import SBCResult, sbc
from .mcmc import GeodesicHMC, GeodesicNUTS, VectorizedMCMC
from .optim import RiemannianAdam, RiemannianSGD
from .reparam import AmbientReparam, CircularReparam, ManifoldReparam, ProjectedNormalReparam, WrappedNormalReparam

__all__ = [
    "AmbientReparam",
    "AutoManifoldDelta",
    "AutoManifoldMultivariateNormal",
    "AutoManifoldNormal",
    "CircularReparam",
    "GeodesicHMC",
    "GeodesicNUTS",
    "ManifoldReparam",
    "ProjectedNormalReparam",
    "RiemannianAdam",
    "RiemannianSGD",
    "SBCResult",
    "VectorizedMCMC",
    "WrappedNormalReparam",
    "sbc",
]
