r"""Chains on the sphere, seen from above their mean.

.. math:: x \mapsto (x\cdot e_1,\ x\cdot e_2), \qquad e_1, e_2, m \text{ orthonormal, } m \text{ the Fréchet mean}
"""

import math
from typing import Any

import geoopt
import torch
from torch import Tensor

from ..constraints import check_point
from ..geometry import geometry
from ..infer.diagnostics.frechet import frechet_mean
from ..ops.lon_lat import from_lon_lat
from ._axes import COLORS, axes_or_new, styled
from .mcmc import grouped

__all__ = ["sphere_trace"]

_NEAR = 25.0  # degrees within which all draws must lie for a close view
_RINGS = [m * 10.0**e for e in range(-9, 2) for m in (1.0, 2.0, 5.0)]  # distances of rings, in degrees


def sphere_trace(
    x: Tensor, ax: Any = None, *, lines: bool = True, zoom: bool | float = True, **style: Any
) -> Any:
    r"""Draw chains on :math:`S^2` in orthographic projection, with the Fréchet mean of the draws at the centre;
    the far side is drawn faintly.

    In a close view, circles about the mean are labelled with their geodesic radius in degrees; the whole sphere
    has meridians and parallels 30 degrees apart.

    :param x: points, shape ``(chains, draws, 3)``.
    :param lines: join successive draws of a chain by arcs of great circles.
    :param zoom: a close view where all draws lie within 25 degrees of their mean (True), the whole sphere
        (False), or the radius of the view in degrees.
    :param style: keyword arguments for matplotlib's ``scatter``.
    :raises ValueError: for another shape, or a radius outside (0, 90].
    """
    x = grouped(x, 1)
    if x.shape[-1] != 3:
        raise ValueError(
            f"x: got shape {tuple(x.shape)}, expected (chains, draws, 3): points of the sphere S^2."
        )
    if not isinstance(zoom, bool) and not 0 < zoom <= 90:
        raise ValueError(f"zoom: got {zoom}; expected degrees in (0, 90], or True or False.")
    ax = axes_or_new(ax, figsize=(5, 5), layout="constrained")
    sphere = geoopt.Sphere()
    geo = geometry(sphere)
    check_point(sphere, "x", x)
    x = geo.project(x.double())  # float32 points are not on the sphere to within float64 tolerance
    mean = frechet_mean(sphere, x.flatten(0, 1), tolerance=1e-4).mean
    up = torch.tensor([0.0, 0.0, 1.0] if abs(float(mean[2])) < 0.9 else [1.0, 0.0, 0.0], dtype=x.dtype)
    up = geo.project(up - (up * mean).sum() * mean)
    view = torch.stack([torch.linalg.cross(up, mean), up, mean])  # right, up, towards the eye

    def draw(path: Tensor, **kwargs: Any) -> None:
        p = path @ view.T
        for front, fade in ((True, 1.0), (False, 0.25)):
            shown = torch.where(((p[..., 2] >= 0) == front).unsqueeze(-1), p[..., :2], torch.nan)
            ax.plot(*shown.T.numpy(), **{**kwargs, "alpha": kwargs.get("alpha", 1.0) * fade})

    radius = _radius(zoom, math.degrees(float(geo.dist(mean.expand_as(x), x).max())))
    if radius is None:
        _globe(ax, draw, x.dtype)
    else:
        _rings(ax, radius)
    s = torch.linspace(0, 1, 12, dtype=x.dtype).unsqueeze(-1)
    for i, chain in enumerate(x):
        color = COLORS[i % len(COLORS)]
        if lines and len(chain) > 1:
            v = geo.log_frame(chain[:-1], chain[1:]).unsqueeze(1)
            arcs = geo.exp_frame(chain[:-1].unsqueeze(1).expand(-1, len(s), -1), s * v)
            draw(arcs.flatten(0, 1), color=color, linewidth=0.5, alpha=0.5, zorder=1)
        p = chain @ view.T
        front = p[:, 2] >= 0
        look = styled("points", style, s=8, linewidths=0, zorder=2, color=color, label=f"chain {i}")
        ax.scatter(*p[front, :2].T.numpy(), **look)
        ax.scatter(*p[~front, :2].T.numpy(), **{**look, "alpha": 0.2, "label": None})
    ax.set_aspect("equal")
    ax.axis("off")
    if len(x) > 1:
        ax.legend(loc="upper left", frameon=False, markerscale=2, fontsize=8)
    return ax


def _radius(zoom: bool | float, furthest: float) -> float | None:
    """The radius of the view in degrees, or None for the whole sphere."""
    if not isinstance(zoom, bool):
        return float(zoom)
    return 1.15 * furthest if zoom and 0 < furthest <= _NEAR else None


def _globe(ax: Any, draw: Any, dtype: torch.dtype) -> None:
    """Meridians, parallels and the rim of the whole sphere."""
    t = torch.linspace(-math.pi, math.pi, 181, dtype=dtype)
    for lat in torch.linspace(-60, 60, 5, dtype=dtype).deg2rad():
        draw(from_lon_lat(t, lat), color="0.8", linewidth=0.6, zorder=0)
    for lon in torch.arange(0, 180, 30, dtype=dtype).deg2rad():
        # latitudes beyond the poles give the other half of the great circle
        draw(from_lon_lat(lon, t), color="0.8", linewidth=0.6, zorder=0)
    ax.plot(t.cos().numpy(), t.sin().numpy(), color="0.25", linewidth=1.2)


def _rings(ax: Any, radius: float) -> None:
    """Circles about the mean, two to four in view, at round distances, which their labels name."""
    step = next(d for d in _RINGS if d >= radius / 4)
    t = torch.linspace(-math.pi, math.pi, 181, dtype=torch.float64)
    for k in range(1, int(radius / step) + 1):
        r = math.sin(math.radians(k * step))
        ax.plot((r * t.cos()).numpy(), (r * t.sin()).numpy(), color="0.8", linewidth=0.6, zorder=0)
        ax.annotate(f"{k * step:.9g}°", (0, -r), fontsize=7, color="0.4", ha="center", va="bottom")
    edge = math.sin(math.radians(radius))
    ax.set(xlim=(-edge, edge), ylim=(-edge, edge))
