"""Learned maps: coupling and linear layers, conditional or not, and the flows made of them."""

from ..transforms.injective_flow import InjectiveFlow
from .affine import Affine
from .conditional import Conditional
from .coupling import Coupling
from .in_chart import InChart
from .latent_flow import LatentDensity, LatentFlow, coupling_chain
from .linear import LULinear
from .multiscale import Haar, Partial, multiscale_layers
from .spline import Spline

__all__ = [
    "Affine",
    "Partial",
    "Conditional",
    "Coupling",
    "Haar",
    "InChart",
    "InjectiveFlow",
    "LULinear",
    "LatentDensity",
    "LatentFlow",
    "Spline",
    "coupling_chain",
    "multiscale_layers",
]
