"""What probability needs of a manifold beyond geoopt; found through :func:`geometry`."""

from .base import Geometry
from .embedded import EmbeddedGeometry, EmbeddedManifold
from .euclidean import EuclideanGeometry
from .grassmann import Grassmann, GrassmannGeometry
from .hyperboloid import HyperboloidGeometry
from .implicit import ImplicitGeometry, ImplicitManifold
from .manifold import GeometricManifold
from .product import ProductGeometry
from .registry import geometry, register_geometry
from .rotations import SpecialOrthogonal, SpecialOrthogonalGeometry
from .scaled import ScaledGeometry
from .spd import SPDGeometry
from .sphere import SphereGeometry
from .stereographic import StereographicGeometry
from .stiefel import StiefelGeometry
from .submanifold import Submanifold, SubmanifoldGeometry
from .symmetric import SymmetricGeometry
from .torus import Torus, TorusGeometry

__all__ = [
    "EmbeddedGeometry",
    "EmbeddedManifold",
    "EuclideanGeometry",
    "GeometricManifold",
    "Geometry",
    "Grassmann",
    "GrassmannGeometry",
    "HyperboloidGeometry",
    "ImplicitGeometry",
    "ImplicitManifold",
    "ProductGeometry",
    "SPDGeometry",
    "ScaledGeometry",
    "SpecialOrthogonal",
    "SpecialOrthogonalGeometry",
    "SphereGeometry",
    "StereographicGeometry",
    "StiefelGeometry",
    "Submanifold",
    "SubmanifoldGeometry",
    "SymmetricGeometry",
    "Torus",
    "TorusGeometry",
    "geometry",
    "register_geometry",
]
