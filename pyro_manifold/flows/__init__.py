"""Learned maps: coupling and linear layers with their conditional twins, and the flows made of them."""

from .affine import Affine
from .coupling import ConditionalCoupling, Coupling
from .injective_flow import InjectiveFlow
from .latent_flow import LatentFlow, coupling_chain
from .linear import ConditionalLULinear, LULinear
from .morphing import MorphingHead
from .multiscale import Among, Haar, multiscale_layers
from .perceptron import Perceptron
from .spline import Spline

__all__ = [
    "Affine",
    "Among",
    "ConditionalCoupling",
    "ConditionalLULinear",
    "Coupling",
    "Haar",
    "InjectiveFlow",
    "LULinear",
    "LatentFlow",
    "MorphingHead",
    "Perceptron",
    "Spline",
    "coupling_chain",
    "multiscale_layers",
]
