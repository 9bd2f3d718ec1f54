r"""Outlines of spherical caps on a map: cones of confidence and credible balls.

.. math:: x(t) = \cos r\,c + \sin r\,(\cos t\,e_1 + \sin t\,e_2), \qquad 0\le t\le2\pi
"""

import math
from typing import Any

import torch
from torch import Tensor

from ..infer.diagnostics.units import angle_factor
from ..ops.lon_lat import lon_lat
from ..ops.newton import householder_basis
from ._axes import COLORS, styled
from .sphere import world_axes

__all__ = ["sphere_caps"]

_POINTS = 361


def sphere_caps(
    center: Tensor, radius: Tensor | float, ax: Any = None, *, unit: str = "radians", **style: Any
) -> Any:
    """Outline the caps of :math:`S^2` about given points, for example ``sphere_caps(*confidence_cone(x))`` or
    ``sphere_caps(*credible_ball(geoopt.Sphere(), draws))``.

    :param center: shape ``batch + (3,)``.
    :param radius: angles, a number or shape ``batch``, below half a turn.
    :param ax: axes made by :func:`world_axes`; new ones if omitted.
    :param unit: of the radius, "radians" or "degrees".
    :param style: keyword arguments for matplotlib's ``plot``.
    :raises ValueError: for centres of another shape, radii outside [0, 180] degrees, another unit.
    """
    if center.shape[-1:] != (3,):
        raise ValueError(f"center: got shape {tuple(center.shape)}, expected batch + (3,), points of S^2.")
    c = center.detach().cpu().double().reshape(-1, 3)
    r = torch.as_tensor(radius).detach().cpu().double() / angle_factor(unit)
    if not bool(((r >= 0) & (r <= math.pi)).all()):
        raise ValueError(f"radius: got {radius}; expected angles from 0 to half a turn, in {unit}.")
    r = r.expand(center.shape[:-1]).reshape(-1, 1, 1)
    ax = world_axes(ax, labels=False) if ax is None else ax
    across = householder_basis(c.unsqueeze(-1))[..., 1:]
    t = torch.linspace(0, 2 * math.pi, _POINTS, dtype=torch.float64)
    around = torch.stack([t.cos(), t.sin()], -1) @ across.mT
    look = styled("line", style, color=COLORS[1], linewidth=1.0)
    for lon, lat in zip(*lon_lat(r.cos() * c.unsqueeze(1) + r.sin() * around), strict=True):
        jump = torch.nn.functional.pad(lon.diff().abs() > math.pi, (1, 0))  # to the other edge of the map
        ax.plot(lon.masked_fill(jump, math.nan).numpy(), lat.numpy(), **look)
    return ax
