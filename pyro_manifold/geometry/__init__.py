"""What probability needs of a manifold beyond geoopt; found through :func:`geometry`."""

from .base import Geometry, geometry, register_geometry
from .euclidean import EuclideanGeometry
from .hyperboloid import HyperboloidGeometry
from .product import ProductGeometry
from .rotations import SpecialOrthogonal, SpecialOrthogonalGeometry
from .spd import SPDGeometry
from .sphere import SphereGeometry
from .stereographic import StereographicGeometry
from .stiefel import StiefelGeometry
from .torus import Torus, TorusGeometry

__all__ = [
    "EuclideanGeometry",
    "Geometry",
    "HyperboloidGeometry",
    "ProductGeometry",
    "SPDGeometry",
    "SpecialOrthogonal",
    "SpecialOrthogonalGeometry",
    "SphereGeometry",
    "StereographicGeometry",
    "StiefelGeometry",
    "Torus",
    "TorusGeometry",
    "geometry",
    "register_geometry",
]
