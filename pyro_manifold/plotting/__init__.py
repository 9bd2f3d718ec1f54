"""Plots of points, densities, credible regions and tangent fields on the sphere, the torus, planes and the
Poincaré disk, of images, Markov chains, calibration runs and scans over dimensions.

Every function draws on the matplotlib axes passed as ``ax``, or on new ones, and returns them. Matplotlib is
imported at the first call; install it with ``pip install matplotlib`` or the extra
``pyro-manifold[tutorials]``.
"""

from ..ops.lon_lat import from_lon_lat, lon_lat
from .atlas import atlas_draws
from .caps import sphere_caps
from .glyphs import odf_glyphs, tensor_glyphs
from .images import image_grid
from .mcmc import disk_posterior, plot_rank, plot_sbc
from .plane import geodesic, latent_axes, latent_scatter, to_plane
from .sphere import sphere_density, sphere_field, sphere_points, sphere_regions, world_axes
from .torus import torus_axes, torus_density, torus_field, torus_points, torus_regions
from .trace import sphere_trace
from .training import elbow

__all__ = [
    "atlas_draws",
    "disk_posterior",
    "elbow",
    "from_lon_lat",
    "geodesic",
    "image_grid",
    "latent_axes",
    "latent_scatter",
    "lon_lat",
    "odf_glyphs",
    "plot_rank",
    "plot_sbc",
    "sphere_caps",
    "sphere_density",
    "sphere_field",
    "sphere_points",
    "sphere_regions",
    "sphere_trace",
    "tensor_glyphs",
    "to_plane",
    "torus_axes",
    "torus_density",
    "torus_field",
    "torus_points",
    "torus_regions",
    "world_axes",
]
