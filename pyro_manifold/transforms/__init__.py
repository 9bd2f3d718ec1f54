"""Fixed maps onto and between manifolds, as torch transforms with Riemannian volume changes."""

from .exp_map import ExpMap
from .isometries import BallToHyperboloid, SphereToStereographic
from .polar_exp_map import PolarExpMap
from .rotation import Rotation, Translation

__all__ = [
    "BallToHyperboloid",
    "ExpMap",
    "PolarExpMap",
    "Rotation",
    "SphereToStereographic",
    "Translation",
]
