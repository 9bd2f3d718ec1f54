"""Learned maps: coupling and linear layers with their conditional twins, and the flows made of them."""

from .coupling import ConditionalCoupling, Coupling
from .injective_flow import InjectiveFlow
from .latent_flow import LatentFlow, coupling_chain
from .linear import ConditionalLULinear, LULinear
from .morphing import MorphingHead
from .multiscale import Among, Haar, multiscale_layers
from .perceptron import Perceptron

__all__ = [
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
    "coupling_chain",
    "multiscale_layers",
]
