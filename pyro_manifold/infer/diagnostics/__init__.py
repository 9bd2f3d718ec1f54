"""Diagnostics of draws on manifolds: convergence, Fréchet means, and the draws of Pyro's samplers gathered
for them."""

from .confidence_cone import ConfidenceCone, confidence_cone
from .convergence import align_axes, geodesic_ess, geodesic_r_hat, geodesic_statistics, manifold_summary
from .credible_ball import CredibleBall, credible_ball
from .credible_region import CredibleRegion, credible_region, kernel_density
from .frechet import FrechetMean, frechet_mean
from .samples import gather_samples, is_data, site_manifolds

__all__ = [
    "ConfidenceCone",
    "CredibleBall",
    "CredibleRegion",
    "FrechetMean",
    "align_axes",
    "confidence_cone",
    "credible_ball",
    "credible_region",
    "gather_samples",
    "frechet_mean",
    "geodesic_ess",
    "geodesic_r_hat",
    "geodesic_statistics",
    "is_data",
    "kernel_density",
    "manifold_summary",
    "site_manifolds",
]
