"""Map projections of the sphere: axes, points, densities, credible regions and tangent fields."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..ops.arguments import checked
from ..ops.lon_lat import from_lon_lat, lon_lat
from ._axes import COLORS, axes_or_new, colour_scale, log_density_at, outlined, styled

__all__ = ["sphere_density", "sphere_field", "sphere_points", "sphere_regions", "world_axes"]


def _middles(resolution: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Edges of the cells in longitude and latitude, and longitude and latitude of their middles, the north last."""
    lat = torch.linspace(-math.pi / 2, math.pi / 2, resolution + 1)
    lon = torch.linspace(-math.pi, math.pi, 2 * resolution + 1)
    north, east = torch.meshgrid((lat[1:] + lat[:-1]) / 2, (lon[1:] + lon[:-1]) / 2, indexing="ij")
    return lon, lat, east, north


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


@checked
def sphere_points(x: Tensor, ax: Any = None, **style: Any) -> Any:
    """Draw points of :math:`S^2` on a map; ``style`` is passed to matplotlib's ``scatter``.

    :param x: points, shape (n, 3).
    :param ax: axes made by :func:`world_axes`; new ones if omitted.
    """
    lon, lat = (t.detach().cpu().numpy() for t in lon_lat(x))
    ax = world_axes() if ax is None else ax
    ax.scatter(lon, lat, **styled("points", style, s=6, color=COLORS[0], linewidths=0, zorder=3))
    return ax


@checked
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
    edge_lon, edge_lat, lon, lat = _middles(resolution)
    density, scale = colour_scale(log_density_at(log_prob, from_lon_lat(lon, lat)).exp(), decades)
    mesh = ax.pcolormesh(
        edge_lon.numpy(), edge_lat.numpy(), density.numpy(), cmap="magma", rasterized=True, **scale
    )
    ax.figure.colorbar(mesh, ax=ax, label="density per unit area", shrink=0.8)
    if points is not None:
        sphere_points(points, ax, color="white", edgecolors="black", linewidths=0.3)
    ax.grid(True, color="white", alpha=0.25, linewidth=0.5)
    return ax


@checked
def sphere_regions(
    log_prob: Callable[[Tensor], Tensor],
    ax: Any = None,
    *,
    probs: Sequence[float] = (0.5, 0.9),
    resolution: int = 200,
    **style: Any,
) -> Any:
    r"""Outline the smallest regions of :math:`S^2` that hold the shares ``probs`` of the probability.

    .. math:: R_p = \{x : \log p(x) \ge t_p\}, \qquad \int_{R_p} p\,dA = p \int_{S^2} p\,dA

    :param log_prob: function from points of shape (..., 3) to log densities, normalised or not.
    :param ax: axes made by :func:`world_axes`; new ones if omitted.
    :param probs: shares in (0, 1).
    :param resolution: number of cells from pole to pole; a region must span several.
    :param style: keyword arguments for matplotlib's ``contour``.
    :raises ValueError: for other shares.
    """
    ax = world_axes(ax, labels=False)
    _, _, lon, lat = _middles(resolution)
    log = log_density_at(log_prob, from_lon_lat(lon, lat))
    outlined(ax, lon, lat, log, lat.cos(), probs, style)
    return ax


@checked
def sphere_field(
    field: Callable[[Tensor], Tensor], ax: Any = None, *, spacing: float = 15.0, **style: Any
) -> Any:
    """Draw a field of tangent vectors of :math:`S^2` as arrows at places about equally far apart.

    Arrows point where the field does on the map, and are as long as its vectors, all in one unit that matplotlib
    chooses.

    :param field: function from points of shape (n, 3) to tangent vectors of the same shape, for example a
        ``TangentField`` at one time.
    :param ax: axes made by :func:`world_axes`; new ones if omitted.
    :param spacing: degrees between neighbouring arrows.
    :param style: keyword arguments for matplotlib's ``quiver``.
    :raises ValueError: for a spacing outside (0, 90].
    """
    if not 0 < spacing <= 90:
        raise ValueError(f"spacing: got {spacing}; expected degrees in (0, 90], e.g. 15.")
    ax = world_axes(ax, labels=False)
    rows = math.ceil(180 / spacing)
    lat = (torch.arange(rows) + 0.5) * math.pi / rows - math.pi / 2
    counts = [max(1, round(2 * rows * math.cos(p))) for p in lat.tolist()]
    lon = torch.cat([(torch.arange(n) + 0.5) * 2 * math.pi / n - math.pi for n in counts])
    lat = lat.repeat_interleave(torch.tensor(counts))
    with torch.no_grad():
        v = field(from_lon_lat(lon, lat))
    east = torch.stack([-lon.sin(), lon.cos(), torch.zeros_like(lon)], -1)
    north = torch.stack([-lat.sin() * lon.cos(), -lat.sin() * lon.sin(), lat.cos()], -1)
    to_east, to_north = (v * east).sum(-1), (v * north).sum(-1)
    # matplotlib takes the direction of (d longitude, d latitude) on the map, and the length of the vector
    step = torch.stack([to_east / lat.cos(), to_north])
    step = step * torch.hypot(to_east, to_north) / torch.hypot(*step).clamp_min(1e-30)
    look = {"color": "0.2", "width": 0.0018, "zorder": 2, **style}
    ax.quiver(lon.numpy(), lat.numpy(), *step.numpy(), angles="xy", pivot="middle", **look)
    return ax
