r"""Activation normalisation: a learned scale and shift of each coordinate of each channel, the same at all pixels.

.. math::
    y_{cijk} = e^{s_{ck}} x_{cijk} + b_{ck}, \qquad \log|\det J| = HW \sum_{ck} s_{ck}
"""

import torch
from torch import Tensor, nn

from ..ops.arguments import checked
from .fields import CoordinateLayer

__all__ = ["ActNorm"]

_LEAST = 1e-3  # of the largest standard deviation: what does not vary is not blown up


class ActNorm(CoordinateLayer):
    r"""A learned scale and shift for each coordinate of each channel.

    .. math:: y_{cijk} = e^{s_{ck}} x_{cijk} + b_{ck}, \qquad \log|\det J| = HW \sum_{ck} s_{ck}

    Inside :class:`InChart` it is one of a field of points: it scales tangent vectors at the base point. A new layer
    is the identity; :meth:`initialise` takes mean and standard deviation from data, so that its inverse has 0 and
    ``spread``.

    :param tuple shape: of a field of coordinates, (C, H, W, d).
    :param float spread: positive.
    :raises ValueError: for a shape that is not four positive integers.

    Reference: Kingma and Dhariwal, *Glow*, NeurIPS 2018, sec. 3.1.

    >>> layer = ActNorm((1, 2, 2, 1))
    >>> layer.initialise(torch.tensor([1.0, 3.0, 1.0, 3.0]).reshape(1, 1, 2, 2, 1))
    >>> layer(torch.ones(1, 2, 2, 1)).flatten()
    tensor([3., 3., 3., 3.], grad_fn=...)
    """

    @checked
    def __init__(self, shape: tuple[int, ...], *, spread: float = 1.0, cache_size: int = 0) -> None:
        super().__init__(shape, cache_size)
        if not spread > 0:
            raise ValueError(f"spread: got {spread}; expected a positive number.")
        self.spread = float(spread)
        c, _, _, d = self.shape
        self.log_scale = nn.Parameter(torch.zeros(c, d))
        self.loc = nn.Parameter(torch.zeros(c, d))

    @torch.no_grad()
    def initialise(self, y: Tensor) -> None:
        """Take ``loc`` and scale from fields ``y``, shape ``(n, C, H, W, d)``."""
        self.check_input(y, self.inverse_shape)
        flat = y.movedim(-4, 0).reshape(self.shape[0], -1, self.shape[-1])
        if flat.shape[1] == 0:
            raise ValueError(f"y: got shape {tuple(y.shape)}; expected at least one field.")
        scale = flat.std(1, correction=0)
        top = scale.amax()
        self.loc.copy_(flat.mean(1))
        self.log_scale.copy_((torch.where(top > 0, scale.clamp_min(_LEAST * top), 1.0) / self.spread).log())

    def _spread(self, parameter: Tensor) -> Tensor:
        return parameter[:, None, None, :]

    def _log_volume(self, x: Tensor) -> Tensor:
        return (self.pixels * self.log_scale.sum()).expand(x.shape[:-4])

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * self._spread(self.log_scale).exp() + self._spread(self.loc), self._log_volume(x)

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return (y - self._spread(self.loc)) * (-self._spread(self.log_scale)).exp(), self._log_volume(y)

    def jvp(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """The value at ``x`` and the derivative along ``tangents``, shape ``batch + (k,) + event``."""
        scale = self._spread(self.log_scale).exp()
        return x * scale + self._spread(self.loc), tangents * scale
