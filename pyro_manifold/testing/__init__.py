"""Checks for your own manifolds, transforms, distributions and modules; this package's tests run them on all
it ships."""

from .check_distribution import DISTRIBUTION_CHECKS, check_distribution, check_stress
from .check_fit import check_fit
from .check_geometry import GEOMETRY_CHECKS, check_geometry
from .check_module import MODULE_CHECKS, check_module
from .check_precision import check_precision
from .check_transform import TRANSFORM_CHECKS, check_transform
from .gof import energy_distance, pairwise_dist, two_sample_test
from .not_applicable import NotApplicable
from .quadrature import Rule, directions, image_rule, manifold_rule, normalisation, random_rule

__all__ = [
    "DISTRIBUTION_CHECKS",
    "GEOMETRY_CHECKS",
    "MODULE_CHECKS",
    "NotApplicable",
    "TRANSFORM_CHECKS",
    "Rule",
    "check_distribution",
    "check_fit",
    "check_geometry",
    "check_module",
    "check_precision",
    "check_stress",
    "check_transform",
    "directions",
    "energy_distance",
    "image_rule",
    "manifold_rule",
    "normalisation",
    "pairwise_dist",
    "random_rule",
    "two_sample_test",
]
