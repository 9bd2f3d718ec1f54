"""Fixed maps onto and between manifolds, as torch transforms with Riemannian volume changes."""

from .base import MapTransform
from .conformal import ConformalEmbedding
from .cube import CubeToRotations, CubeToSphere, CubeToTorus, CubeTransform
from .exp_chart import ExpChart
from .exp_map import ExpMap
from .hutchinson import hutchinson_log_volume
from .injective import Chart, InjectiveTransform, LinearEmbedding, Pad
from .isometries import BallToHyperboloid, SphereToStereographic
from .module import ModuleTransform
from .polar_exp_map import PolarExpMap
from .rotation import LeftMultiplication, Rotation, Translation
from .stereographic import StereographicChart
from .symmetric_volume import SymmetricVolume

__all__ = [
    "BallToHyperboloid",
    "Chart",
    "ConformalEmbedding",
    "CubeToRotations",
    "CubeToSphere",
    "CubeToTorus",
    "CubeTransform",
    "ExpChart",
    "ExpMap",
    "InjectiveTransform",
    "LeftMultiplication",
    "LinearEmbedding",
    "MapTransform",
    "ModuleTransform",
    "Pad",
    "PolarExpMap",
    "Rotation",
    "SphereToStereographic",
    "StereographicChart",
    "SymmetricVolume",
    "Translation",
    "hutchinson_log_volume",
]
