"""Fixed maps onto and between manifolds, as torch transforms with Riemannian volume changes."""

from .conformal import ConformalEmbedding
from .exp_map import ExpMap
from .hutchinson import hutchinson_log_volume
from .injective import Chart, InjectiveTransform, LinearEmbedding, Pad
from .isometries import BallToHyperboloid, SphereToStereographic
from .polar_exp_map import PolarExpMap
from .rotation import Rotation, Translation

__all__ = [
    "BallToHyperboloid",
    "Chart",
    "ConformalEmbedding",
    "ExpMap",
    "InjectiveTransform",
    "LinearEmbedding",
    "Pad",
    "PolarExpMap",
    "Rotation",
    "SphereToStereographic",
    "Translation",
    "hutchinson_log_volume",
]
