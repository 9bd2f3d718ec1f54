"""Plots on the Euclidean plane and the Poincaré disk: axes, geodesics and points."""

import math
from typing import Any

import geoopt
import torch
from torch import Tensor

from ..constraints import check_point
from ..geometry import Geometry, geometry
from ..ops.arguments import checked
from ._axes import COLORS, axes_or_new, styled

__all__ = ["geodesic", "latent_axes", "latent_scatter", "to_plane"]


def _curvature(geo: Geometry, z: Tensor) -> float:
    """
    :raises ValueError: unless the curvature is constant and not positive.
    """
    known = geo.constant_curvature(z)
    curvature = math.nan if known is None else float(known)
    if not geo.has_chart or not curvature <= 0:
        raise ValueError(
            f"manifold: got {geo.manifold.name}, which cannot be drawn in the plane; expected a Euclidean or "
            "hyperbolic one. Use sphere_density for a sphere."
        )
    return curvature


@checked
def to_plane(manifold: geoopt.Manifold, z: Tensor) -> Tensor:
    r"""Map points of a 2-dimensional flat manifold to the plane, or points of any model of the hyperbolic
    plane to the *unit* Poincaré disk.

    .. math:: z \mapsto \tanh\big(\tfrac{\sqrt{c}\,|v|}{2}\big)\,\tfrac{v}{|v|}, \qquad v = \log_o z

    :param manifold: Euclidean, PoincareBall, Lorentz or Stereographic with negative curvature :math:`-c`.
    :param z: points, shape ``(..., event)``.
    :raises ValueError: for another manifold or dimension, or points that are not on the manifold.

    >>> to_plane(geoopt.Lorentz(), torch.tensor([1.0, 0.0, 0.0]))
    tensor([0., 0.])
    """
    geo = geometry(manifold)
    curvature = _curvature(geo, z)
    if geo.dim(z.shape[-1:]) != 2:
        raise ValueError(
            f"z: got shape {tuple(z.shape)}; expected points of a 2-dimensional {manifold.name}."
        )
    check_point(manifold, "z", z)
    return _in_plane(geo, curvature, z)


def _in_plane(geo: Geometry, curvature: float, z: Tensor) -> Tensor:
    v = geo.chart_inv(z).detach()
    if curvature == 0:
        return v
    r = v.norm(dim=-1, keepdim=True)
    return torch.tanh(0.5 * math.sqrt(-curvature) * r) * v / r.clamp_min(torch.finfo(r.dtype).tiny)


def latent_axes(manifold: geoopt.Manifold, ax: Any = None, *, spacing: float = 0.5, lines: int = 8) -> Any:
    """Axes for a 2-dimensional latent space, with a grid of geodesics; for hyperbolic space, the unit disk
    and its boundary.

    The grid lines are the geodesics that cross a coordinate axis at right angles, at distances of ``spacing``
    along it.

    :param manifold: as in :func:`to_plane`.
    :param ax: matplotlib axes to draw on.
    :param spacing: geodesic distance between neighbouring lines along the axis they cross.
    :param lines: number of lines on each side of the origin.
    """
    if not (spacing > 0 and lines >= 0):
        raise ValueError(
            f"spacing, lines: got {spacing} and {lines}; expected a positive number and a count."
        )
    ax = axes_or_new(ax, figsize=(6, 6))
    geo = geometry(manifold)
    like = torch.zeros((), dtype=torch.float64)
    curvature = _curvature(geo, like)
    reach = lines * spacing if curvature == 0 else 12 / math.sqrt(-curvature)
    at = spacing * torch.arange(-lines, lines + 1, dtype=torch.float64)
    along = torch.linspace(-reach, reach, 401, dtype=torch.float64)
    for axis in (0, 1):
        first, second = torch.eye(2, dtype=torch.float64)[[axis, 1 - axis]]
        feet = geo.chart(at.unsqueeze(-1) * first)
        across = (along.unsqueeze(-1) * second).expand(len(at), -1, -1)
        curves = geo.exp_frame(feet.unsqueeze(1).expand(-1, len(along), -1), across)
        for curve in _in_plane(geo, curvature, curves):
            ax.plot(*curve.T.numpy(), color="0.85", linewidth=0.7, zorder=0)
    if curvature < 0:
        import matplotlib.patches

        ax.add_patch(matplotlib.patches.Circle((0, 0), 1, fill=False, color="0.25", linewidth=1.4, zorder=3))
        ax.set(xlim=(-1.03, 1.03), ylim=(-1.03, 1.03))
        ax.axis("off")
    ax.set_aspect("equal")
    return ax


@checked
def geodesic(manifold: geoopt.Manifold, p: Tensor, q: Tensor, ax: Any = None, **style: Any) -> Any:
    """Draw the geodesic segment from ``p`` to ``q``; ``style`` is passed to matplotlib's ``plot``."""
    ax = latent_axes(manifold) if ax is None else ax
    geo = geometry(manifold)
    t = torch.linspace(0, 1, 101, dtype=p.dtype, device=p.device).unsqueeze(-1)
    v = geo.log_frame(p, q).detach()
    curve = to_plane(manifold, geo.exp_frame(p.detach().expand(101, -1), t * v))
    ax.plot(*curve.T.cpu().numpy(), **styled("line", style, color="black", linewidth=1.5))
    return ax


def latent_scatter(
    manifold: geoopt.Manifold,
    z: Tensor,
    labels: Tensor | None = None,
    ax: Any = None,
    *,
    title: str = "class",
    **style: Any,
) -> Any:
    """Draw points of a 2-dimensional latent space, coloured by class, with a legend.

    :param z: points, shape (n,) + event.
    :param labels: integer classes, shape (n,).
    :param title: title of the legend.
    :param style: keyword arguments for matplotlib's ``scatter``.
    """
    if labels is not None and labels.shape != z.shape[:1]:
        raise ValueError(
            f"labels: got shape {tuple(labels.shape)}; expected ({len(z)},), one class per point."
        )
    ax = latent_axes(manifold) if ax is None else ax
    xy = to_plane(manifold, z).cpu()
    look: dict[str, Any] = dict(s=14, linewidths=0, alpha=0.85, zorder=2)
    if labels is None:
        ax.scatter(*xy.T.numpy(), **styled("points", style, color=COLORS[0], **look))
        return ax
    labels = labels.cpu()
    for i, label in enumerate(labels.unique().tolist()):
        own = styled("points", style, color=COLORS[i % len(COLORS)], label=str(label), **look)
        ax.scatter(*xy[labels == label].T.numpy(), **own)
    ax.legend(title=title, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, markerscale=2)
    return ax
