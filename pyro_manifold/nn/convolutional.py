"""A small pair of convolutional networks for square images."""

import math

from torch import Tensor, nn

from ..ops.arguments import checked
from .sizes import check_last, check_size

__all__ = ["ConvDecoder", "ConvEncoder"]


def _sides(side: int) -> list[int]:
    """The side of the image, and of what each of two layers of stride 2 makes of it."""
    return [side, (side + 1) // 2, ((side + 1) // 2 + 1) // 2]


def _check_side(side: int) -> None:
    if check_size("side", side) < 4:
        raise ValueError(f"side: got {side}; expected at least 4 pixels, for two layers that halve it.")


class ConvEncoder(nn.Module):
    r"""Two convolutions of stride 2 and a linear layer: square images to features.

    .. math:: x \mapsto \mathrm{relu}(W\,\mathrm{relu}(K_2 * \mathrm{relu}(K_1 * x)) + b)

    :param int side: height and width of an image, in pixels.
    :param int out_features: number of features.
    :param int channels: of an image.
    :param int width: channels of the first convolution; the second has twice as many.
    :raises ValueError: for sizes that are not positive, a side below 4, or rows of another size.

    Rows are images as vectors, channel by channel and row by row, ``batch + (channels * side * side,)``.

    >>> import torch
    >>> ConvEncoder(side=8, out_features=50)(torch.zeros(5, 64)).shape
    torch.Size([5, 50])
    """

    @checked(side=1, out_features=1, channels=1, width=1)
    def __init__(self, side: int, out_features: int = 200, *, channels: int = 1, width: int = 16) -> None:
        super().__init__()
        _check_side(side)
        self.image = (channels, side, side)
        self.width = width * side * side  # of the largest intermediate tensor, for one row
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * _sides(side)[-1] ** 2, out_features),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        check_last("x", x, math.prod(self.image))
        batch = x.shape[:-1]
        y = self.layers(x.reshape((math.prod(batch), *self.image)))
        return y.reshape(batch + y.shape[1:])


class ConvDecoder(nn.Module):
    r"""A linear layer and two transposed convolutions of stride 2: features to numbers for the pixels of a square
    image.

    .. math:: h \mapsto K_2^\top * \mathrm{relu}(K_1^\top * \mathrm{relu}(W h + b))

    :param int in_features: number of features.
    :param int side: height and width of an image, in pixels.
    :param int channels: numbers for each pixel.
    :param int width: channels that the last convolution starts from; the first one has twice as many.
    :raises ValueError: for sizes that are not positive, a side below 4, or features of another size.

    Output rows are images as vectors, channel by channel and row by row, ``batch + (channels * side * side,)``.

    >>> import torch
    >>> ConvDecoder(in_features=50, side=8)(torch.zeros(5, 50)).shape
    torch.Size([5, 64])
    """

    @checked(in_features=1, side=1, channels=1, width=1)
    def __init__(self, in_features: int, side: int, *, channels: int = 1, width: int = 16) -> None:
        super().__init__()
        _check_side(side)
        whole, half, quarter = _sides(side)
        self.in_features = in_features
        self.width = width * side * side
        self.layers = nn.Sequential(
            nn.Linear(in_features, 2 * width * quarter**2),
            nn.ReLU(),
            nn.Unflatten(1, (2 * width, quarter, quarter)),
            nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1 - half % 2),
            nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 3, stride=2, padding=1, output_padding=1 - whole % 2),
            nn.Flatten(),
        )

    def forward(self, h: Tensor) -> Tensor:
        check_last("h", h, self.in_features)
        batch = h.shape[:-1]
        y = self.layers(h.reshape((math.prod(batch), self.in_features)))
        return y.reshape(batch + y.shape[1:])
