"""What probability needs of a manifold beyond geoopt; found through :func:`geometry`."""

from .base import Geometry, geometry, register_geometry
from .euclidean import EuclideanGeometry
from .product import ProductGeometry
from .sphere import SphereGeometry

__all__ = [
    "EuclideanGeometry",
    "Geometry",
    "ProductGeometry",
    "SphereGeometry",
    "geometry",
    "register_geometry",
]
