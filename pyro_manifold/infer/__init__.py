"""Inference on manifolds."""

from .arviz import to_inference_data
from .autoguide import (
    AutoManifoldDelta,
    AutoManifoldFlow,
    AutoManifoldMultivariateNormal,
    AutoManifoldNormal,
)
from .compiled_elbo import CompiledELBO
from .diagnostics import (
    ConfidenceCone,
    CredibleBall,
    CredibleRegion,
    FrechetMean,
    align_axes,
    confidence_cone,
    credible_ball,
    credible_region,
    frechet_mean,
    geodesic_ess,
    geodesic_r_hat,
    geodesic_statistics,
    kernel_density,
    manifold_summary,
)
from .mcmc import GeodesicHMC, GeodesicNUTS, ParallelMCMC, VectorizedMCMC
from .optim import RiemannianAdam, RiemannianSGD
from .reparam import (
    AmbientReparam,
    CircularReparam,
    ManifoldReparam,
    ProjectedNormalReparam,
    WrappedNormalReparam,
)
from .sbc import LogLikelihood, SBCResult, default_statistics, sbc

__all__ = [
    "AmbientReparam",
    "AutoManifoldDelta",
    "AutoManifoldFlow",
    "AutoManifoldMultivariateNormal",
    "AutoManifoldNormal",
    "CircularReparam",
    "CompiledELBO",
    "ConfidenceCone",
    "CredibleBall",
    "CredibleRegion",
    "FrechetMean",
    "GeodesicHMC",
    "GeodesicNUTS",
    "LogLikelihood",
    "ManifoldReparam",
    "ParallelMCMC",
    "ProjectedNormalReparam",
    "RiemannianAdam",
    "RiemannianSGD",
    "SBCResult",
    "VectorizedMCMC",
    "WrappedNormalReparam",
    "align_axes",
    "confidence_cone",
    "credible_ball",
    "credible_region",
    "default_statistics",
    "frechet_mean",
    "geodesic_ess",
    "geodesic_r_hat",
    "geodesic_statistics",
    "kernel_density",
    "manifold_summary",
    "sbc",
    "to_inference_data",
]
