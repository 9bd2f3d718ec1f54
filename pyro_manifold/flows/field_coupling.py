r"""Couplings of fields: some coordinates of all pixels are changed by monotone functions whose parameters a
convolutional network computes from the others.

.. math::
    y_A = x_A, \qquad y_B = s\big(x_B;\ \phi(x_A, c)\big), \qquad \log|\det J| = \sum_{B, i, j} \log s'(x_{Bij})

A and B are sets of the C d coordinates of a pixel.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from ..nn.conv_net import ConvNet
from ..ops.arguments import checked
from .coupling import monotone, parameters_of
from .fields import CoordinateLayer

__all__ = ["FieldCoupling"]


class FieldCoupling(CoordinateLayer):
    r"""Affine or rational-quadratic coupling of coordinates of a field, given the others and those of the pixels
    around.

    .. math:: y_A = x_A, \qquad y_B = s\big(x_B;\ \phi(x_A, c)\big), \qquad
        \log|\det J| = \sum_{B, i, j} \log s'(x_{Bij})

    :param tuple shape: of a field of coordinates, (C, H, W, d).
    :param Sequence[int] transformed_indices: of B among the C d coordinates of a pixel, channel by channel; all of
        them only for a layer that is made to depend on a context.
    :param str kind: ``"affine"``, :math:`s = x e^{3\tanh(\alpha/3)} + \beta`, or ``"spline"``: the identity beyond
        ``bound``.
    :param int hidden: channels of the network :math:`\phi`, a :class:`~pyro_manifold.nn.ConvNet`.
    :param int depth: its residual layers.
    :param int kernel: height and width of its kernels, odd; 1 where pixels shall not read their neighbours.
    :param int bins: bins of a spline.
    :param float bound: a spline acts on [-bound, bound], in units.
    :param float unit: the size of coordinates, by which they are divided before and multiplied after.
    :raises ValueError: for indices that are not those of some coordinates, or an unknown kind.

    A new layer is the identity. :class:`Conditional` makes its network depend on a context, a field of the same height
    and width as a vector: ``context_dim`` is then a multiple of H W.

    >>> layer = FieldCoupling((1, 2, 2, 3), [2])
    >>> x = torch.randn(1, 2, 2, 3)
    >>> torch.equal(layer(x), x)
    True
    """

    accepts_context = True

    @checked(hidden=1, depth=0, kernel=1)
    def __init__(
        self,
        shape: tuple[int, ...],
        transformed_indices: Sequence[int],
        *,
        kind: str = "affine",
        hidden: int = 32,
        depth: int = 1,
        kernel: int = 3,
        bins: int = 8,
        bound: float = 5.0,
        unit: float = 1.0,
        cache_size: int = 0,
    ) -> None:
        super().__init__(shape, cache_size)
        n = self.shape[0] * self.shape[3]
        transformed = sorted(int(i) for i in transformed_indices)
        identity = [i for i in range(n) if i not in transformed]
        distinct = len(set(transformed)) == len(transformed)
        if not transformed or not distinct or transformed[0] < 0 or transformed[-1] >= n:
            raise ValueError(
                f"transformed_indices: got {transformed} of {n} coordinates; expected distinct indices of some of them."
            )
        if not unit > 0:
            raise ValueError(f"unit: got {unit}; expected a positive number.")
        self.kind, self.bound, self.unit = kind, float(bound), float(unit)
        self.size = parameters_of(kind, bins, bound)
        self.options = dict(hidden=hidden, depth=depth, kernel=kernel)
        self.net: ConvNet | None = self._network(len(identity), len(transformed)) if identity else None
        self.register_buffer("identity_indices", torch.tensor(identity, dtype=torch.long))
        self.register_buffer("transformed_indices", torch.tensor(transformed, dtype=torch.long))
        self.register_buffer("order", torch.tensor(identity + transformed).argsort())

    def _network(self, read: int, changed: int, context_channels: int = 0) -> ConvNet:
        return ConvNet(read, changed * self.size, context_channels=context_channels, **self.options)

    def with_context_dim(self, context_dim: int) -> "FieldCoupling":
        """A copy whose network, drawn anew, has a context as further input."""
        if context_dim % self.pixels:
            raise ValueError(
                f"context_dim: got {context_dim}; expected a multiple of {self.pixels}, the pixels of a field of "
                f"{self.shape[1]} x {self.shape[2]}: the context is a field of that size as a vector."
            )
        new = copy.deepcopy(self)
        new.context_dim = context_dim
        sizes = len(self.identity_indices), len(self.transformed_indices)
        like = self._like()
        net = new._network(*sizes, context_dim // self.pixels)
        new.net = net.to(torch.zeros(()) if like is None else like)
        return new

    def _parameters_of(self, a: Tensor) -> Tensor:
        """The parameters of the monotone functions, ``batch + (B, H, W, size)``."""
        if self.net is None:
            raise ValueError(
                "context: this FieldCoupling transforms all coordinates, so that its parameters can depend on a "
                "context only, and it has none; use Conditional(layer, context_dim).condition(context)."
            )
        context = self.needed_context()
        if context is not None:
            context = context.unflatten(-1, (-1, *self.shape[1:3]))
        return self.net(a, context).unflatten(-3, (-1, self.size)).movedim(-3, -1)

    def _run(self, x: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        h = x.movedim(-1, -3).flatten(-4, -3) / self.unit  # (C d, H, W)
        a = h.index_select(-3, self.identity_indices)
        raw = self._parameters_of(a)
        b = h.index_select(-3, self.transformed_indices).expand(raw.shape[:-1])
        b, log_slope = monotone(self.kind, b, raw, self.bound, inverse)
        joined = torch.cat([a.expand(b.shape[:-3] + a.shape[-3:]), b], -3).index_select(-3, self.order)
        field = joined.unflatten(-3, (self.shape[0], self.shape[3])).movedim(-3, -1)
        return self.unit * field, log_slope.sum((-1, -2, -3))

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._run(x)

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x, log_slope = self._run(y, inverse=True)
        return x, -log_slope
