r"""Flows of images at several scales: the details of an image are split off, and the flow goes on with the
half-size image that remains.

.. math::
    (x_c, x_d) = \mathrm{Haar}(x), \qquad (y_c, y_d) = f(x_c, x_d), \qquad z = (F(y_c), y_d)

with couplings f between the coarse half-size image and the details, and F the same again for the smaller
image. References: [1] Dinh et al., *Density estimation using Real NVP*, ICLR 2017, sec. 3.6. [2] Ardizzone et
al., *Guided image generation with conditional invertible neural networks*, 2019, sec. 3.2 (Haar wavelets in
place of a checkerboard).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..ops.arguments import checked
from ..transforms.injective import principal_axes
from ..transforms.layers import HoldsLayers, check_layers
from ..transforms.module import ModuleTransform
from .affine import Affine
from .coupling import Coupling
from .linear import LULinear

__all__ = ["Partial", "Haar", "multiscale_layers"]


class Partial(HoldsLayers):
    r"""Layers that act on the first k coordinates,
    :math:`(x_{1:k}, x_{k+1:d}) \mapsto (f(x_{1:k}), x_{k+1:d})`.

    :param int dim: d.
    :param int first: k.
    :param layers: transforms of vectors of size k, as in :class:`InjectiveFlow`.
    :raises ValueError: for a k that is not from 1 to d, or a layer that does not fit.

    >>> from torch.distributions import ExpTransform
    >>> Partial(3, 1, [ExpTransform()])(torch.zeros(3))
    tensor([1., 0., 0.])
    """

    @checked(dim=1)
    def __init__(self, dim: int, first: int, layers: Sequence[Any], *, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        if not 1 <= first <= dim:
            raise ValueError(f"first: got {first} of {dim} coordinates; expected from 1 to all of them.")
        check_layers(layers, first)
        self.dim = self.codomain_dim = dim
        self.first = first
        self.hold(layers)

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, log_volume = self.chain.forward_and_log_volume(x[..., : self.first])
        return self._with_rest(y, x), log_volume

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x, log_volume = self.chain.inverse_and_log_volume(y[..., : self.first])
        return self._with_rest(x, y), log_volume

    def _with_rest(self, first: Tensor, x: Tensor) -> Tensor:
        rest = x[..., self.first :]
        return torch.cat([first, rest.expand(first.shape[:-1] + rest.shape[-1:])], -1)

    def jvp(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """The value at ``x`` and the derivative along ``tangents``, shape ``batch + (k, dim)``."""
        y, t = self.chain.jvp(x[..., : self.first], tangents[..., : self.first])
        return self._with_rest(y, x), self._with_rest(t, tangents)


class Haar(ModuleTransform):
    r"""From a half-size image and three bands of detail to the image, all as vectors; orthogonal, so of
    volume change 1.

    .. math:: \begin{pmatrix} x_{2i,2j} & x_{2i,2j+1} \\ x_{2i+1,2j} & x_{2i+1,2j+1} \end{pmatrix} = \tfrac12
        \begin{pmatrix} c+h+v+q & c-h+v-q \\ c+h-v-q & c-h-v+q \end{pmatrix}_{ij}

    The inverse gives the vector (c, h, v, q).

    :param int height: of the image, even.
    :param int width: of the image, even.
    :raises ValueError: for sizes that are not even and positive.

    >>> Haar(2, 2).inv(torch.ones(4))
    tensor([2., 0., 0., 0.])
    """

    @checked(height=1, width=1)
    def __init__(self, height: int, width: int, *, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        if height < 2 or width < 2 or height % 2 or width % 2:
            raise ValueError(
                f"height, width: got {height} and {width}; expected even numbers, to halve. Pad the images."
            )
        self.height, self.width = height, width
        self.dim = self.codomain_dim = height * width

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._image(x), x.new_zeros(x.shape[:-1])

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._bands(y), y.new_zeros(y.shape[:-1])

    def _image(self, z: Tensor) -> Tensor:
        c, h, v, q = z.unflatten(-1, (4, self.height // 2, self.width // 2)).unbind(-3)
        rows = [
            torch.stack(pair, -1).flatten(-2)
            for pair in ((c + h + v + q, c - h + v - q), (c + h - v - q, c - h - v + q))
        ]
        return 0.5 * torch.stack(rows, -2).flatten(-3)

    def _bands(self, x: Tensor) -> Tensor:
        x = x.unflatten(-1, (self.height, self.width))
        a, b, c, d = (x[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
        bands = [a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d]
        return 0.5 * torch.stack(bands, -3).flatten(-3)

    def jvp(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """The value at ``x`` and the derivative along ``tangents``: linear."""
        return self._image(x), self._image(tangents)


@checked(dim=1, levels=0, depth=0)
def multiscale_layers(
    x: Tensor,
    shape: tuple[int, int],
    dim: int,
    *,
    levels: int = 1,
    depth: int = 1,
    hidden: tuple[int, ...] = (128, 128),
) -> list[Any]:
    """Layers from (u, 0), u of size ``dim``, to images; for :class:`InjectiveFlow` after a ``Pad``.

    At the coarsest scale they start as the n principal axes of the shrunken rows ``x``; all couplings start
    as the identity.

    :param Tensor x: images as rows, (rows, height * width).
    :param shape: height and width.
    :param int dim: n, at most the pixels of the coarsest image.
    :param int levels: how often the image is halved.
    :param int depth: couplings at each scale, which change the details given the coarse image and back in
        turn (at the coarsest, all coordinates but the first n, and these).
    :raises ValueError: for rows of another size, an n that is too large, or sizes that cannot be halved as
        often.

    >>> x = torch.rand(50, 64)
    >>> g = multiscale_layers(x, (8, 8), dim=3)
    >>> [type(layer).__name__ for layer in g]
    ['Partial', 'Coupling', 'Haar']
    """
    d = x.shape[-1]
    if d != shape[0] * shape[1] or not 1 <= dim <= d:
        raise ValueError(
            f"x, dim: got rows of {d} and n={dim} for images of {shape}; expected rows of "
            f"{shape[0] * shape[1]} and n at most the pixels of the coarsest image. Use fewer levels."
        )
    if levels == 0:
        parts = (range(dim, d), range(dim))
        couplings = [
            Coupling(d, parts[i % 2], kind="affine", hidden=hidden).to(x)
            for i in range(depth if dim < d else 0)
        ]
        loc, axes, scale = principal_axes(x)
        if not bool(scale[dim - 1] > 0):
            raise ValueError(
                f"dim: got {dim}; expected at most the {int((scale > 0).sum())} that the shrunken rows of x "
                f"span."
            )
        # the n axes of most variance keep their scales; the others get that of the n-th, even where the images
        # vary less along them
        return [*couplings, LULinear(d).to(x), Affine(axes * scale.clamp_min(scale[dim - 1]), loc)]
    haar = Haar(*shape).to(x)
    k = d // 4
    coarse = haar.inv(x)[:, :k]
    inner = multiscale_layers(
        coarse, (shape[0] // 2, shape[1] // 2), dim, levels=levels - 1, depth=depth, hidden=hidden
    )
    parts = (range(k, d), range(k))
    couplings = [Coupling(d, parts[i % 2], kind="affine", hidden=hidden).to(x) for i in range(depth)]
    return [Partial(d, k, inner), *couplings, haar]
