r"""Autoregressive layers: each coordinate is changed by a monotone function whose parameters are computed from the
coordinates before it.

.. math::
    y_i = s\big(x_i;\, \phi_i(y_1, \dots, y_{i-1};\, c)\big), \qquad \log|\det J| = \sum_i \log s'(x_i;\, \phi_i)

References: [1] Papamakarios, Pavlakou and Murray, *Masked autoregressive flow for density estimation*, NeurIPS 2017,
eqs. 3-5. [2] Germain et al., *MADE: masked autoencoder for distribution estimation*, ICML 2015.
"""

import copy

import torch
from torch import Tensor

from ..nn.masked_mlp import MaskedMLP
from ..ops.arguments import checked
from ..ops.tracing import can_write_inplace
from ..transforms.module import ModuleTransform
from .coupling import monotone, parameters_of

__all__ = ["Autoregressive"]


class Autoregressive(ModuleTransform):
    r"""Affine or rational-quadratic functions of all coordinates, each given those before it; affine ones are the
    layers of a masked autoregressive flow.

    .. math:: y_i = s\big(x_i;\, \phi_i(y_1, \dots, y_{i-1};\, c)\big)

    The inverse, and so the density, is one evaluation of a masked network. The map itself, and so a draw, finds one
    coordinate after the other: without gradients this is as much arithmetic as one evaluation, with gradients d
    evaluations.

    :param int dim: d.
    :param bool reverse: count the coordinates from the last one.
    :param str kind: ``"affine"``, :math:`s = x e^{3\tanh(\alpha/3)} + \beta`, or ``"spline"``: the identity
        beyond ``bound``.
    :param tuple hidden: units of the hidden layers of the network; a layer of fewer than d units leaves the last
        coordinates without units of their own.
    :param int bins: bins of a spline.
    :param float bound: a spline acts on [-bound, bound].
    :raises ValueError: for an unknown kind, or sizes that are not positive.

    A new layer is the identity. :class:`Conditional` makes its network depend on a context too.

    >>> layer = Autoregressive(3)
    >>> layer(torch.tensor([0.5, 1.0, -1.0]))
    tensor([ 0.5000,  1.0000, -1.0000], grad_fn=...)
    """

    accepts_context = True

    @checked(dim=1)
    def __init__(
        self,
        dim: int,
        *,
        reverse: bool = False,
        kind: str = "affine",
        hidden: tuple[int, ...] = (64, 64),
        bins: int = 8,
        bound: float = 5.0,
        cache_size: int = 0,
    ) -> None:
        super().__init__(cache_size=cache_size)
        self.dim = self.codomain_dim = dim
        self.reverse, self.kind, self.bound = reverse, kind, float(bound)
        self.net = MaskedMLP(dim, 1, parameters_of(kind, bins, bound), hidden)

    def with_context_dim(self, context_dim: int) -> "Autoregressive":
        """A copy whose network, drawn anew, has a context as further input."""
        new = copy.deepcopy(self)
        new.context_dim = context_dim
        new.net = self.net.with_context_dim(context_dim)
        return new

    def _ordered(self, x: Tensor) -> Tensor:
        return x.flip(-1) if self.reverse else x

    def _in_batch(self, x: Tensor) -> Tensor:
        """``x`` in order, with the batch shape that it has together with the context."""
        context = self.needed_context()
        batch = () if context is None else context.shape[:-1]
        return self._ordered(x.expand(torch.broadcast_shapes(x.shape[:-1], batch) + x.shape[-1:]))

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        y = self._in_batch(y)
        x, log_slope = monotone(
            self.kind, y, self.net(y.unsqueeze(-1), self.context), self.bound, inverse=True
        )
        return self._ordered(x), -log_slope.sum(-1)

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self._in_batch(x)
        if can_write_inplace(x):

            def variable(i: int, raw: Tensor) -> Tensor:
                return monotone(self.kind, x[..., i], raw, self.bound)[0].unsqueeze(-1)

            y = self.net.sequential(variable, x.shape[:-1], self.context).squeeze(-1)
            _, log_slope = monotone(self.kind, x, self.net(y.unsqueeze(-1), self.context), self.bound)
            return self._ordered(y), log_slope.sum(-1)
        y = x
        for i in range(self.dim):  # the first i coordinates of y are known
            done, log_slope = monotone(self.kind, x, self.net(y.unsqueeze(-1), self.context), self.bound)
            y = torch.cat([done[..., : i + 1], x[..., i + 1 :]], -1)
        return self._ordered(y), log_slope.sum(-1)
