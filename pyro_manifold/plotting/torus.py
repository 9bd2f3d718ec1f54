"""The flat torus of two angles as a square: axes, points, densities, credible regions and tangent fields.

Equal areas of the picture are equal areas of the torus; opposite edges are the same circle.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..geometry import Torus
from ..ops.arguments import checked
from ._axes import COLORS, axes_or_new, colour_scale, log_density_at, outlined, styled

__all__ = ["torus_axes", "torus_density", "torus_field", "torus_points", "torus_regions"]


def torus_axes(ax: Any = None, *, labels: Sequence[str] = ("φ", "ψ")) -> Any:
    """Square axes for two angles from -180 to 180 degrees; the labels are those of a Ramachandran plot.

    :param ax: matplotlib axes; new ones if omitted.
    :param labels: names of the two angles.
    """
    ax = axes_or_new(ax, figsize=(5, 4.6), layout="constrained")
    ticks = range(-180, 181, 90)
    ax.set(xlim=(-180, 180), ylim=(-180, 180), xticks=ticks, yticks=ticks, aspect="equal")
    first, second = labels
    ax.set(xlabel=f"{first} (degrees)", ylabel=f"{second} (degrees)")
    return ax


def _middles(resolution: int) -> tuple[Tensor, Tensor, Tensor]:
    """Edges of the cells in degrees, and the angles of their middles in radians, both (rows, columns)."""
    edges = torch.linspace(-180.0, 180.0, resolution + 1)
    middle = ((edges[1:] + edges[:-1]) / 2).deg2rad()
    psi, phi = torch.meshgrid(middle, middle, indexing="ij")
    return edges, phi, psi


@checked
def torus_points(x: Tensor, ax: Any = None, **style: Any) -> Any:
    """Draw points of the 2-torus; ``style`` is passed to matplotlib's ``scatter``.

    :param x: angles in radians, shape (n, 2); they are reduced to [-pi, pi).
    :param ax: axes made by :func:`torus_axes`; new ones if omitted.
    :raises ValueError: for another shape.
    """
    if x.dim() != 2 or x.shape[-1] != 2:
        raise ValueError(f"x: got shape {tuple(x.shape)}; expected (n, 2), two angles in radians a row.")
    ax = torus_axes() if ax is None else ax
    degrees = Torus().projx(x.detach().cpu()).rad2deg()
    ax.scatter(*degrees.T.numpy(), **styled("points", style, s=6, color=COLORS[0], linewidths=0, zorder=3))
    return ax


@checked
def torus_density(
    log_prob: Callable[[Tensor], Tensor],
    ax: Any = None,
    *,
    points: Tensor | None = None,
    resolution: int = 200,
    decades: float | None = None,
) -> Any:
    """Draw a density of two angles, with respect to area in square radians.

    :param log_prob: function from angles in radians, shape (..., 2), to log densities, for example the method of
        a distribution.
    :param ax: axes made by :func:`torus_axes`; new ones if omitted.
    :param points: angles to mark, shape (n, 2).
    :param resolution: number of cells along each angle.
    :param decades: use a logarithmic colour scale over this many powers of ten below the largest density;
        linear if omitted.
    """
    ax = torus_axes() if ax is None else ax
    edges, phi, psi = _middles(resolution)
    density, scale = colour_scale(log_density_at(log_prob, torch.stack([phi, psi], -1)).exp(), decades)
    mesh = ax.pcolormesh(
        edges.numpy(), edges.numpy(), density.numpy(), cmap="magma", rasterized=True, **scale
    )
    ax.figure.colorbar(mesh, ax=ax, label="density per square radian", shrink=0.8)
    if points is not None:
        torus_points(points, ax, color="white", edgecolors="black", linewidths=0.3)
    return ax


@checked
def torus_regions(
    log_prob: Callable[[Tensor], Tensor],
    ax: Any = None,
    *,
    probs: Sequence[float] = (0.5, 0.9),
    resolution: int = 200,
    **style: Any,
) -> Any:
    r"""Outline the smallest regions of the 2-torus that hold the shares ``probs`` of the probability.

    .. math:: R_p = \{x : \log p(x) \ge t_p\}, \qquad \int_{R_p} p\,dx = p \int_{T^2} p\,dx

    :param log_prob: function from angles in radians, shape (..., 2), to log densities, normalised or not.
    :param ax: axes made by :func:`torus_axes`; new ones if omitted.
    :param probs: shares in (0, 1).
    :param resolution: number of cells along each angle; a region must span several.
    :param style: keyword arguments for matplotlib's ``contour``.
    :raises ValueError: for other shares.
    """
    ax = torus_axes() if ax is None else ax
    _, phi, psi = _middles(resolution)
    log = log_density_at(log_prob, torch.stack([phi, psi], -1))
    outlined(ax, phi.rad2deg(), psi.rad2deg(), log, torch.ones_like(log), probs, style)
    return ax


@checked
def torus_field(
    field: Callable[[Tensor], Tensor], ax: Any = None, *, spacing: float = 20.0, **style: Any
) -> Any:
    """Draw a field of tangent vectors of the 2-torus as arrows, all in one unit of length that matplotlib chooses.

    :param field: function from angles in radians, shape (n, 2), to tangent vectors of the same shape.
    :param ax: axes made by :func:`torus_axes`; new ones if omitted.
    :param spacing: degrees between neighbouring arrows.
    :param style: keyword arguments for matplotlib's ``quiver``.
    :raises ValueError: for a spacing outside (0, 180].
    """
    if not 0 < spacing <= 180:
        raise ValueError(f"spacing: got {spacing}; expected degrees in (0, 180], e.g. 20.")
    ax = torus_axes() if ax is None else ax
    _, phi, psi = _middles(math.ceil(360 / spacing))
    x = torch.stack([phi.flatten(), psi.flatten()], -1)
    with torch.no_grad():
        v = field(x)
    look = {"color": "0.2", "width": 0.0025, "zorder": 2, **style}
    ax.quiver(*x.rad2deg().T.numpy(), *v.T.numpy(), angles="xy", pivot="middle", **look)
    return ax
