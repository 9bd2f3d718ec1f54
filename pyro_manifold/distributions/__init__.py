"""Distributions on manifolds, every density with respect to Riemannian volume."""

from . import kl as kl  # registers the divergences
from .angular_central_gaussian import AngularCentralGaussian
from .atlas import Atlas
from .bingham import Bingham
from .estimation import families as families  # registers the coordinates of parameters
from .estimation import standard_errors
from .fisher_bingham import FisherBingham
from .fit import fit_mixture
from .inverse_wishart import InverseWishart
from .isotropic_gaussian import IsotropicGaussian
from .kent import Kent
from .kernels import kernel_mixture
from .manifold_distribution import ManifoldDistribution
from .matrix_fisher import MatrixFisher
from .power_spherical import PowerSpherical
from .product import ProductDistribution
from .projected_normal import ProjectedNormal
from .pushforward import ConditionalPushforward, Pushforward
from .riemannian_normal import RiemannianNormal
from .uniform import ManifoldUniform
from .uniform_on import UniformOn
from .von_mises_fisher import VonMisesFisher
from .watson import Watson
from .wrapped_cauchy import WrappedCauchy
from .wrapped_normal import WrappedNormal

__all__ = [
    "AngularCentralGaussian",
    "Bingham",
    "ConditionalPushforward",
    "FisherBingham",
    "InverseWishart",
    "IsotropicGaussian",
    "Kent",
    "ManifoldDistribution",
    "ManifoldUniform",
    "MatrixFisher",
    "PowerSpherical",
    "ProductDistribution",
    "ProjectedNormal",
    "Pushforward",
    "Atlas",
    "RiemannianNormal",
    "UniformOn",
    "VonMisesFisher",
    "Watson",
    "WrappedCauchy",
    "WrappedNormal",
    "fit_mixture",
    "kernel_mixture",
    "standard_errors",
]
