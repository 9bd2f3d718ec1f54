"""Seeded data sets: each function says where its numbers come from; only :func:`earth` downloads."""

from .branching import branching_diffusion
from .circle import GaussianOnCircle
from .digits import digits
from .earth import earth, earth_split
from .image_manifold import ImageManifold, image_manifold
from .lhc import LHC, LHCEvents, Posterior, closure, grid_posterior, importance_posterior, load_original
from .lorenz import lorenz
from .manifold_metrics import grid_mmd2, mmd2, ood_auc, roc_auc
from .polynomial_surface import PolynomialSurface
from .split import train_test_split

__all__ = [
    "LHC",
    "GaussianOnCircle",
    "ImageManifold",
    "LHCEvents",
    "PolynomialSurface",
    "Posterior",
    "branching_diffusion",
    "closure",
    "digits",
    "earth",
    "earth_split",
    "grid_mmd2",
    "grid_posterior",
    "image_manifold",
    "importance_posterior",
    "load_original",
    "lorenz",
    "mmd2",
    "ood_auc",
    "roc_auc",
    "train_test_split",
]
