"""Layers between feature vectors and points of a manifold, and vector fields."""

from .charts import ExpMapHead, LogMapLayer
from .conditioner import Conditioner
from .conv_net import ConvNet
from .convolutional import ConvDecoder, ConvEncoder
from .decoder import ManifoldDecoder
from .encoder import ManifoldEncoder
from .group_action import GroupActionHead
from .gyroplane import GyroplaneLayer
from .heads import ManifoldHead, PointFeatures
from .masked_mlp import MaskedMLP
from .mlp import MLP
from .mobius import MobiusLinear
from .neighbour_regions import NeighbourRegions
from .quantizer import VectorQuantizer
from .tangent_field import KillingField, TangentField
from .vq_autoencoder import VQAutoencoder

__all__ = [
    "Conditioner",
    "ConvNet",
    "ConvDecoder",
    "ConvEncoder",
    "ExpMapHead",
    "GroupActionHead",
    "GyroplaneLayer",
    "KillingField",
    "LogMapLayer",
    "ManifoldDecoder",
    "ManifoldEncoder",
    "ManifoldHead",
    "PointFeatures",
    "MobiusLinear",
    "MLP",
    "MaskedMLP",
    "NeighbourRegions",
    "TangentField",
    "VQAutoencoder",
    "VectorQuantizer",
]
