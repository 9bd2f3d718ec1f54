"""Seeded data sets: each function says where its numbers come from; only :func:`earth` and :func:`mnist`
download."""

from .branching import branching_diffusion
from .circle import GaussianOnCircle
from .crossing_bundles import CrossingBundles, crossing_bundles
from .curves import Helix, InterlockedCircles, TrefoilKnot
from .diffusion_scans import ScanFields, diffusion_scan, fit_diffusion_scan
from .digits import digits
from .earth import earth, earth_split
from .image_manifold import ImageManifold, image_manifold
from .lorenz import lorenz
from .mnist import mnist
from .odf import half_icosphere, odf_peaks, odf_to_sphere, sphere_to_odf, tensor_odf
from .polynomial_surface import PolynomialSurface
from .split import train_test_split
from .surfaces import SphereMixture, SwissRoll, TorusOfRevolution
from .torsions import torsions, torsions_split
from .tree import exception_tree, sarkar_embedding, tree_distances, tree_layout

__all__ = [
    "CrossingBundles",
    "ScanFields",
    "crossing_bundles",
    "diffusion_scan",
    "fit_diffusion_scan",
    "half_icosphere",
    "odf_peaks",
    "odf_to_sphere",
    "sphere_to_odf",
    "tensor_odf",
    "GaussianOnCircle",
    "Helix",
    "ImageManifold",
    "InterlockedCircles",
    "PolynomialSurface",
    "SphereMixture",
    "SwissRoll",
    "TorusOfRevolution",
    "TrefoilKnot",
    "branching_diffusion",
    "digits",
    "earth",
    "earth_split",
    "exception_tree",
    "image_manifold",
    "lorenz",
    "mnist",
    "sarkar_embedding",
    "torsions",
    "torsions_split",
    "train_test_split",
    "tree_distances",
    "tree_layout",
]
