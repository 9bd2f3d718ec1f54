"""Learned maps: coupling and linear layers with their conditional twins, and injective flows made of them."""

from .coupling import ConditionalCoupling, Coupling
from .injective_flow import InjectiveFlow
from .linear import ConditionalLULinear, LULinear
from .perceptron import Perceptron

__all__ = ["ConditionalCoupling", "ConditionalLULinear", "Coupling", "InjectiveFlow", "LULinear", "Perceptron"]
