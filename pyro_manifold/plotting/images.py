"""Grids of images."""

import math
from typing import Any

import torch
from torch import Tensor

from ._axes import axes_or_new

__all__ = ["image_grid"]


def image_grid(
    images: Tensor, ax: Any = None, *, columns: int | None = None, title: str | None = None
) -> Any:
    """Draw grey-scale images in [0, 1] side by side; 0 is white and 1 is black.

    :param images: shape (n, height, width).
    :param columns: images per row; by default the grid is as square as possible.
    """
    if images.dim() != 3 or not len(images):
        raise ValueError(f"images: got shape {tuple(images.shape)}; expected (n, height, width) with n > 0.")
    n, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    tile = torch.nn.functional.pad(images.detach().cpu().float(), (1, 1, 1, 1), value=0.15)
    tile = torch.cat([tile, tile.new_zeros(rows * columns - n, height + 2, width + 2)])
    canvas = tile.reshape(rows, columns, height + 2, width + 2).transpose(1, 2).flatten(2).flatten(0, 1)
    ax = axes_or_new(ax, figsize=(0.6 * columns, 0.6 * rows + 0.3), layout="constrained")
    ax.imshow(canvas.numpy(), cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.set_frame_on(False)
    if title:
        ax.set_title(title, fontsize=10, loc="left")
    return ax
