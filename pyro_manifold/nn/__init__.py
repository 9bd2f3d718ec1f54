"""Neural network layers that map feature vectors to points of a manifold and back."""

from .charts import ExpMapHead, LogMapLayer
from .conditioner import Conditioner
from .decoder import ManifoldDecoder
from .encoder import ManifoldEncoder
from .gyroplane import GyroplaneLayer
from .masked_mlp import MaskedMLP
from .mlp import MLP
from .mobius import MobiusLinear

__all__ = [
    "Conditioner",
    "ExpMapHead",
    "GyroplaneLayer",
    "LogMapLayer",
    "ManifoldDecoder",
    "ManifoldEncoder",
    "MobiusLinear",
    "MLP",
    "MaskedMLP",
]
