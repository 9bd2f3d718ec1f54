"""A user's program as a type checker sees it: annotations of the installed package count (``py.typed``)."""

import geoopt
import torch

from pyro_manifold.geometry import geometry
from pyro_manifold.infer import geodesic_ess

dim: int = geometry(geoopt.Sphere()).dim((3,))
ess: str = geodesic_ess(geoopt.Sphere(), torch.zeros(2, 4, 3))  # expected: an error, a Tensor is no string
