"""Learned maps: coupling and linear layers with their conditional twins, and the flows made of them."""

from .affine import Affine
from .coupling import ConditionalCoupling, Coupling
from .injective_flow import InjectiveFlow
from .latent_flow import LatentDensity, LatentFlow, coupling_chain
from .linear import ConditionalLULinear, LULinear
from .multiscale import Haar, Partial, multiscale_layers
from .spline import Spline

__all__ = [
    "Affine",
    "Partial",
    "ConditionalCoupling",
    "ConditionalLULinear",
    "Coupling",
    "Haar",
    "InjectiveFlow",
    "LULinear",
    "LatentDensity",
    "LatentFlow",
    "Spline",
    "coupling_chain",
    "multiscale_layers",
]
