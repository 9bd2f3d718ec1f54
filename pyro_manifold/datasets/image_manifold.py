"""Images of known intrinsic dimension."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.arguments import checked

__all__ = ["ImageManifold", "image_manifold"]

_FACTORS = 4  # of each spot: two shifts, width, brightness


class ImageManifold(NamedTuple):
    """Images (num, 1, size, size) with their coordinates (num, n) and the chart ``render`` from the one to
    the other.

    >>> image_manifold(2, size=16, num=5).factors.abs().max() <= 1
    tensor(True)
    """

    images: Tensor
    factors: Tensor
    render: Callable[[Tensor], Tensor]


@checked(n=1, size=1, num=1, seed=0)
def image_manifold(n: int, size: int = 64, num: int = 10_000, seed: int = 0) -> ImageManifold:
    r"""Smooth pictures of spots whose n factors of variation are known.

    .. math::
        I(s; u) = \sum_k b_k\exp\Big(-\frac{|s-c_k|^2}{2r_k^2}\Big), \qquad c_k = C_k + \tfrac h4(u_{4k},
        u_{4k+1}), \quad r_k = \tfrac{h}{8}2^{u_{4k+2}/2}, \quad b_k = \tfrac34 + \tfrac14u_{4k+3}, \qquad u
        \sim U(-1, 1)^n

    One spot for every four factors, each in a cell of its own (centre :math:`C_k`, side h) of a square raster
    of the unit square, pixel centres s; factors that are left out are 0. The map from u to the image is
    analytic and injective, so the images fill a manifold of dimension n exactly, and its density follows from
    the chart: uniform, over the volume of ``render``.

    :param n: intrinsic dimension.
    :param size: pixels along each side.
    :param num: number of images.
    :param seed: of the factors; torch's global generator is not touched.
    :return: images with values from 0 to about 1 and factors in torch's default dtype; ``render`` takes (...,
        n) to (..., 1, size, size), differentiably.
    :raises ValueError: for sizes below 1, or spots of less than two pixels (more than ``size`` / 16 along a
        side).

    >>> images, factors, render = image_manifold(6, size=32, num=10)
    >>> tuple(images.shape), tuple(factors.shape), bool(torch.allclose(render(factors), images))
    ((10, 1, 32, 32), (10, 6), True)
    """
    spots = -(-n // _FACTORS)
    side = math.ceil(spots**0.5)
    if size < 16 * side:
        raise ValueError(
            f"size: got {size} for {spots} spots (n={n}); expected at least {16 * side} pixels to resolve "
            f"them."
        )

    def render(u: Tensor) -> Tensor:
        f = torch.cat([u, u.new_zeros(*u.shape[:-1], spots * _FACTORS - n)], -1).unflatten(
            -1, (spots, _FACTORS)
        )
        k = torch.arange(spots, device=u.device)
        centre = (torch.stack([k % side, k // side], -1).to(u) + 0.5 + 0.25 * f[..., :2]) / side
        pixel = (torch.arange(size, dtype=u.dtype, device=u.device) + 0.5) / size
        inverse = 8 * side * torch.exp2(-0.5 * f[..., 2])
        across, down = (
            (-0.5 * ((pixel - centre[..., i, None]) * inverse[..., None]).square()).exp() for i in (0, 1)
        )  # a Gaussian spot is a product
        bright = 0.75 + 0.25 * f[..., 3]
        return torch.einsum("...k,...ki,...kj->...ij", bright, down, across).unsqueeze(-3)

    u = 2 * torch.rand(num, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1
    u = u.to(torch.get_default_dtype())
    return ImageManifold(torch.cat([render(part) for part in u.split(1024)]), u, render)
