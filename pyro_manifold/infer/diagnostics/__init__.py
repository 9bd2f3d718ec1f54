"""Diagnostics of draws on manifolds: convergence, Fréchet means, and the draws of Pyro's samplers gathered
for them."""

from .convergence import align_axes, geodesic_ess, geodesic_r_hat, geodesic_statistics, manifold_summary
from .frechet import FrechetMean, frechet_mean
from .samples import gather_samples, is_data, site_manifolds

__all__ = [
    "FrechetMean",
    "align_axes",
    "gather_samples",
    "frechet_mean",
    "geodesic_ess",
    "geodesic_r_hat",
    "geodesic_statistics",
    "is_data",
    "manifold_summary",
    "site_manifolds",
]
