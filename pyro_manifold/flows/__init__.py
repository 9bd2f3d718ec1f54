"""Learned maps: coupling and linear layers with their conditional twins, and the flows made of them."""

from .coupling import ConditionalCoupling, Coupling
from .injective_flow import InjectiveFlow
from .latent_flow import LatentFlow, coupling_chain
from .linear import ConditionalLULinear, LULinear
from .perceptron import Perceptron

__all__ = [
    "ConditionalCoupling",
    "ConditionalLULinear",
    "Coupling",
    "InjectiveFlow",
    "LULinear",
    "LatentFlow",
    "Perceptron",
    "coupling_chain",
]
