"""Glyphs of a field of diffusion tensors or orientation distribution functions: one surface for each voxel."""

from typing import Any

import geoopt
import torch
from torch import Tensor

from ..constraints import check_point
from ..ops.icosphere import icosphere
from ._axes import axes_or_new

__all__ = ["odf_glyphs", "tensor_glyphs"]

_LIGHT = (0.4, -0.5, 0.77)


def tensor_glyphs(
    tensors: Tensor,
    ax: Any = None,
    *,
    mask: Tensor | None = None,
    size: float = 0.95,
    title: str | None = None,
) -> Any:
    r"""Draw symmetric positive definite 3 x 3 matrices as ellipsoids, whose half axes are proportional to the
    eigenvalues; red, green and blue are directions along the three axes.

    :param Tensor tensors: shape ``(height, width, 3, 3)``.
    :param Tensor mask: Boolean, ``(height, width)``: where glyphs are drawn; everywhere if omitted.
    :param float size: of the longest axis of a glyph, relative to the voxel.
    """
    if tensors.dim() != 4 or tensors.shape[-2:] != (3, 3):
        raise ValueError(f"tensors: got shape {tuple(tensors.shape)}; expected (height, width, 3, 3).")
    check_point(geoopt.SymmetricPositiveDefinite(), "tensors", tensors if mask is None else tensors[mask])
    vertices, triangles = icosphere(8)
    d = tensors.detach().cpu().double()
    surface = vertices @ d  # symmetric: the image of the sphere
    largest = torch.linalg.eigvalsh(d)[..., -1:, None]
    return _draw(surface / largest, triangles, ax, mask, size, title)


def odf_glyphs(
    odf: Tensor,
    axes: Tensor,
    ax: Any = None,
    *,
    mask: Tensor | None = None,
    baseline: float = 0.7,
    size: float = 0.95,
    title: str | None = None,
) -> Any:
    r"""Draw orientation distribution functions: the distance of the surface from the middle, along each direction, is
    the value less ``baseline`` times the lowest value.

    :param Tensor odf: probabilities of m axes, shape ``(height, width, m)``.
    :param Tensor axes: unit vectors, shape ``(m, 3)``.
    :param Tensor mask: Boolean, ``(height, width)``: where glyphs are drawn; everywhere if omitted.
    :param float baseline: in [0, 1); 0 for the values themselves.
    :param float size: of a glyph, relative to the voxel.
    """
    if odf.dim() != 3 or odf.shape[-1] != len(axes):
        raise ValueError(
            f"odf: got shape {tuple(odf.shape)}; expected (height, width, {len(axes)}), as many as axes."
        )
    vertices, triangles = icosphere(8)
    u, p = axes.detach().cpu().double(), odf.detach().cpu().double()
    # between axes, a mean of the values at those around
    sharpness = 1.0 * len(u)  # its width is about the angle between neighbours
    weights = torch.softmax(sharpness * (vertices @ u.mT).square(), -1)
    radius = p @ weights.mT
    radius = (radius - baseline * radius.amin(-1, keepdim=True)).clamp_min(0)
    radius = radius / radius.amax(-1, keepdim=True).clamp_min(1e-12)
    return _draw(radius.unsqueeze(-1) * vertices, triangles, ax, mask, size, title)


def _draw(
    surface: Tensor, triangles: Tensor, ax: Any, mask: Tensor | None, size: float, title: str | None
) -> Any:
    """Surfaces (height, width, v, 3) seen along the third axis."""
    height, width = surface.shape[:2]
    ax = axes_or_new(ax, figsize=(0.7 * width + 0.2, 0.7 * height + 0.5), layout="constrained")
    from matplotlib.collections import PolyCollection

    centre = torch.stack(
        torch.meshgrid(-torch.arange(height), torch.arange(width), indexing="ij")[::-1], -1
    ).double()
    corners = surface[:, :, triangles]  # (h, w, t, 3, 3)
    normal = torch.linalg.cross(
        corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :]
    )
    normal = torch.nn.functional.normalize(normal, dim=-1)
    front = normal[..., 2] > 0
    front = front if mask is None else front & mask.cpu()[..., None]
    middle = torch.nn.functional.normalize(corners.mean(-2), dim=-1)
    light = 0.55 + 0.45 * (normal @ torch.tensor(_LIGHT, dtype=torch.float64)).clamp(0, 1)
    colours = (middle.abs() * light.unsqueeze(-1)).clamp(0, 1)
    flat = 0.5 * size * corners[..., :2] + centre[:, :, None, None]
    order = corners[..., 2].mean(-1)
    rank = order[front].argsort()
    shapes, faces = flat[front][rank].numpy(), colours[front][rank].numpy()
    ax.add_collection(PolyCollection(list(shapes), facecolors=faces, edgecolors="face", linewidths=0.2))
    ax.set(xlim=(-0.6, width - 0.4), ylim=(0.6 - height, 0.6), xticks=[], yticks=[], aspect="equal")
    ax.set_frame_on(False)
    if title:
        ax.set_title(title, fontsize=10, loc="left")
    return ax
