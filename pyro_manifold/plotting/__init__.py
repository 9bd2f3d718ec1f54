"""Plots of points and densities on planes, the Poincaré disk and the sphere, of images, Markov chains,
calibration runs and scans over dimensions.

Every function draws on the matplotlib axes passed as ``ax``, or on new ones, and returns them. Matplotlib is
imported at the first call; install it with ``pip install matplotlib`` or the extra
``pyro-manifold[tutorials]``.
"""

from ..ops.lon_lat import from_lon_lat, lon_lat
from .atlas import atlas_draws
from .glyphs import odf_glyphs, tensor_glyphs
from .images import image_grid
from .mcmc import disk_posterior, plot_rank, plot_sbc, sphere_trace
from .plane import geodesic, latent_axes, latent_scatter, to_plane
from .sphere import sphere_density, sphere_points, world_axes
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
    "sphere_density",
    "sphere_points",
    "sphere_trace",
    "tensor_glyphs",
    "to_plane",
    "world_axes",
]
