"""Map projections of the sphere: axes, points and densities."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..ops.lon_lat import from_lon_lat, lon_lat
from ._axes import COLORS, axes_or_new, styled

__all__ = ["sphere_density", "sphere_points", "world_axes"]


def world_axes(
    ax: Any = None, *, projection: str = "mollweide", spacing: float = 30.0, labels: bool = True
) -> Any:
    """Axes for :math:`S^2` in an equal-area projection, with a grid of meridians and parallels.

    The third coordinate axis points up (north), the first to the centre of the map (longitude 0). Matplotlib's
    coordinates on these axes are longitude and latitude as returned by :func:`lon_lat`. Coastlines are not
    drawn.

    :param ax: matplotlib axes with projection "mollweide" or "hammer"; new axes if omitted.
    :param projection: projection of new axes.
    :param spacing: degrees between meridians and between parallels.
    :param labels: label the grid with degrees.
    :raises ValueError: for a projection that does not preserve areas, or a spacing outside (0, 90].
    """
    name = projection if ax is None else ax.name
    if name not in ("mollweide", "hammer"):
        what = "ax" if ax is not None else "projection"
        raise ValueError(
            f"{what}: got a {name} projection; expected an equal-area one, 'mollweide' or 'hammer', "
            "e.g. plt.subplot(projection='mollweide')."
        )
    if not 0 < spacing <= 90:
        raise ValueError(f"spacing: got {spacing}; expected degrees in (0, 90], e.g. 30.")
    ax = axes_or_new(ax, figsize=(8, 4.4), subplot_kw={"projection": projection}, layout="constrained")
    ax.set_longitude_grid(spacing)
    ax.set_latitude_grid(spacing)
    ax.grid(True, color="0.6", alpha=0.45, linewidth=0.5)
    ax.tick_params(labelsize=6, colors="0.45")
    if not labels:
        ax.set_xticklabels([])
        ax.set_yticklabels([])
    return ax


def sphere_points(x: Tensor, ax: Any = None, **style: Any) -> Any:
    """Draw points of :math:`S^2` on a map; ``style`` is passed to matplotlib's ``scatter``.

    :param x: points, shape (n, 3).
    :param ax: axes made by :func:`world_axes`; new ones if omitted.
    """
    lon, lat = (t.detach().cpu().numpy() for t in lon_lat(x))
    ax = world_axes() if ax is None else ax
    ax.scatter(lon, lat, **styled("points", style, s=6, color=COLORS[0], linewidths=0, zorder=3))
    return ax


def sphere_density(
    log_prob: Callable[[Tensor], Tensor],
    ax: Any = None,
    *,
    points: Tensor | None = None,
    resolution: int = 200,
    decades: float | None = None,
    projection: str = "mollweide",
) -> Any:
    """Draw a density on the sphere :math:`S^2` in an equal-area projection, so that equal areas of equal colour
    have equal probability.

    The third coordinate axis points up, the first to the centre of the map.

    :param log_prob: function from points of shape (..., 3) to log densities, for example the method of a
        distribution.
    :param points: points to mark, shape (n, 3).
    :param resolution: number of cells from pole to pole.
    :param decades: use a logarithmic colour scale over this many powers of ten below the largest density;
        linear if omitted.
    :param projection: "mollweide" or "hammer", for new axes.
    :raises ValueError: for axes of another projection.
    """
    ax = world_axes(ax, projection=projection, labels=False)
    edge_lat = torch.linspace(-math.pi / 2, math.pi / 2, resolution + 1)
    edge_lon = torch.linspace(-math.pi, math.pi, 2 * resolution + 1)
    lat, lon = torch.meshgrid(
        (edge_lat[1:] + edge_lat[:-1]) / 2, (edge_lon[1:] + edge_lon[:-1]) / 2, indexing="ij"
    )
    x = from_lon_lat(lon, lat)
    with torch.no_grad():
        density = log_prob(x).exp()
    scale: dict[str, Any] = {}
    if decades is not None:
        import matplotlib.colors

        top = float(density.max())
        scale = {"norm": matplotlib.colors.LogNorm(top * 10.0**-decades, top)}
        density = density.clamp_min(top * 10.0**-decades)
    mesh = ax.pcolormesh(
        edge_lon.numpy(), edge_lat.numpy(), density.numpy(), cmap="magma", rasterized=True, **scale
    )
    ax.figure.colorbar(mesh, ax=ax, label="density per unit area", shrink=0.8)
    if points is not None:
        sphere_points(points, ax, color="white", edgecolors="black", linewidths=0.3)
    ax.grid(True, color="white", alpha=0.25, linewidth=0.5)
    return ax
