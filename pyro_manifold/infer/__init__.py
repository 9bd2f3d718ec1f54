"""Inference on manifolds."""

from .arviz import to_inference_data
from .autoguide import AutoManifoldDelta, AutoManifoldMultivariateNormal, AutoManifoldNormal
from .calibration import SBCResult, sbc
from .diagnostics import FrechetMean, align_axes, frechet_mean, geodesic_ess, geodesic_r_hat, manifold_summary
from .mcmc import GeodesicHMC, GeodesicNUTS, VectorizedMCMC
from .optim import RiemannianAdam, RiemannianSGD
from .reparam import AmbientReparam, CircularReparam, ManifoldReparam, ProjectedNormalReparam, WrappedNormalReparam

__all__ = [
    "AmbientReparam",
    "AutoManifoldDelta",
    "AutoManifoldMultivariateNormal",
    "AutoManifoldNormal",
    "CircularReparam",
    "FrechetMean",
    "GeodesicHMC",
    "GeodesicNUTS",
    "ManifoldReparam",
    "ProjectedNormalReparam",
    "RiemannianAdam",
    "RiemannianSGD",
    "SBCResult",
    "VectorizedMCMC",
    "WrappedNormalReparam",
    "align_axes",
    "frechet_mean",
    "geodesic_ess",
    "geodesic_r_hat",
    "manifold_summary",
    "sbc",
    "to_inference_data",
]
