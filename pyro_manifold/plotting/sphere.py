"""Maps of the sphere: a world to draw on, points and densities."""

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
    """Axes for :math:`S^2` in an equal-area projection, with a graticule: area on paper is area on the
    sphere.

    The third axis points up (north), the first to the centre (0 E); matplotlib's coordinates there are those
    of
    :func:`lon_lat`. No coastlines: those are data of their own.

    :param ax: matplotlib axes of projection "mollweide" or "hammer"; made anew if omitted.
    :param projection: of new axes.
    :param spacing: degrees between meridians and between parallels.
    :param labels: write the degrees at the graticule.
    :raises ValueError: for another projection, which would not keep areas, or a spacing outside (0, 90].
    """
    name = projection if ax is None else ax.name
    if name not in ("mollweide", "hammer"):
        what = "ax" if ax is not None else "projection"
        raise ValueError(
            f"{what}: got a {name} projection; expected one that keeps areas, 'mollweide' or 'hammer', "
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
    """Points of :math:`S^2` on a map; ``style`` goes to matplotlib's ``scatter``.

    :param x: points, shape (n, 3).
    :param ax: axes of :func:`world_axes`, made anew if omitted.
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
    """A density on the sphere :math:`S^2` in an equal-area projection, so that mass is what the eye sees.

    The third axis points up, the first to the centre of the map.

    :param log_prob: log density of points of shape (..., 3), for example a distribution's method.
    :param points: points to mark, shape (n, 3).
    :param resolution: cells from pole to pole.
    :param decades: colours on a logarithmic scale over this many powers of ten below the largest density;
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
