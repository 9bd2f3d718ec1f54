"""An auto-encoder whose decoder sees only the code nearest to the features."""

import torch
from torch import Tensor, nn

from ..ops.arguments import checked
from ..transforms.injective import principal_axes
from .mlp import MLP
from .quantizer import CodeUsage, VectorQuantizer

__all__ = ["VQAutoencoder"]


class _Skip(nn.Module):
    """A fixed affine map plus a network that is zero at first."""

    matrix: Tensor
    loc: Tensor

    def __init__(self, matrix: Tensor, loc: Tensor, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix.clone())
        self.register_buffer("loc", loc.clone())
        self.net = MLP(matrix.shape[1], matrix.shape[0], hidden).to(matrix)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix.mT + self.net(x) + self.loc


class VQAutoencoder(nn.Module):
    r"""An auto-encoder whose decoder sees only the code :math:`v_k` nearest to the features: training it places the
    codes where they describe the data best.

    .. math::
        \mathbb E\,|x - D(v_{k(z)})|^2 + \beta\,\mathbb E\,|z - v_{k(z)}|^2, \qquad z = E(x)

    Encoder and decoder start as the principal axes of the rows, in units of the rows' spread, so that the codes
    start as those of k-means. The loss moves the codes too (:meth:`VectorQuantizer.update`), but only where
    gradients are on, as in training.

    Reference: van den Oord, Vinyals and Kavukcuoglu, *Neural discrete representation learning*, NeurIPS 2017, eq. 3.

    :param encoder: E, a module from rows of size d to features of size c.
    :param decoder: D, a module back.
    :param VectorQuantizer quantizer: the codes.
    :raises ValueError: by ``from_data``, for more codes than rows, or more features than the rows span.

    >>> x = torch.cat([torch.randn(50, 3), 20 + torch.randn(50, 3)])
    >>> vq = VQAutoencoder.from_data(x, codes=2)
    >>> vq(x).shape, vq.assign(x).bincount(), vq.usage(x).perplexity
    (torch.Size([100, 3]), tensor([50, 50]), 2.0)
    """

    unit: Tensor

    @checked
    def __init__(self, encoder: nn.Module, decoder: nn.Module, quantizer: VectorQuantizer) -> None:
        super().__init__()
        self.encoder, self.decoder, self.quantizer = encoder, decoder, quantizer
        self.register_buffer("unit", torch.ones_like(quantizer.codes[0, 0]))

    @classmethod
    @checked(codes=1, code_dim=1)
    def from_data(
        cls,
        x: Tensor,
        codes: int,
        code_dim: int | None = None,
        *,
        hidden: tuple[int, ...] = (64, 64),
        seed: int = 0,
        decay: float = 0.99,
        restart: float = 0.1,
    ) -> "VQAutoencoder":
        """An auto-encoder for the rows ``x`` with multilayer perceptrons and ``codes`` codes of size
        ``code_dim`` (default: d, at most 8)."""
        loc, axes, scale = principal_axes(x)
        code_dim = min(8, x.shape[1]) if code_dim is None else code_dim
        if not code_dim <= x.shape[1] or not bool(scale[0] > 0):
            raise ValueError(
                f"x, code_dim: got rows of shape {tuple(x.shape)} and {code_dim}; expected rows that differ "
                f"and at most {x.shape[1]} features."
            )
        axes = axes[:, :code_dim]
        encoder = _Skip(axes.mT / scale[0], -(loc @ axes) / scale[0], hidden)
        decoder = _Skip(axes * scale[0], loc, hidden)
        with torch.no_grad():
            quantizer = VectorQuantizer.from_data(encoder(x), codes, seed=seed, decay=decay, restart=restart)
        new = cls(encoder, decoder, quantizer)
        new.unit.copy_(scale.square().mean().sqrt())
        return new

    def forward(self, x: Tensor) -> Tensor:
        """The decoded codes of ``x``."""
        return self.decoder(self.quantizer(self.encoder(x)))

    def assign(self, x: Tensor) -> Tensor:
        """The number of the code of each row."""
        return self.quantizer.assign(self.encoder(x))

    def usage(self, x: Tensor) -> CodeUsage:
        """How many of the rows ``x`` each code is nearest to."""
        return self.quantizer.usage(self.encoder(x))

    def loss(self, x: Tensor, commitment: float = 0.25) -> Tensor:
        """The loss of a batch, in units of the rows' mean variance; moves the codes where gradients are on."""
        z = self.encoder(x)
        quantised = self.quantizer(z)
        error = ((x - self.decoder(quantised)) / self.unit).square().mean()
        loss = error + commitment * (z - quantised.detach()).square().mean()
        if torch.is_grad_enabled():
            self.quantizer.update(z.detach())
        return loss
