r"""Layers of flows on tori: smooth monotone maps of each angle, whose parameters are computed from other angles.

.. math::
    \theta'_i = \mathrm{wrap}\big(s(\theta_i;\, \phi_i) + \beta_i\big), \qquad
    \log|\det J| = \sum_i \log s'(\theta_i;\, \phi_i)

s is a rational-quadratic spline that fixes :math:`\pm\pi` and has the same slope at both. Networks see angles by
their cosines and sines, so that nothing jumps at the seam. References: [1] Rezende et al., *Normalizing flows on
tori and spheres*, ICML 2020, sec. 2.1.2 and 2.2. [2] Papamakarios et al., *Masked autoregressive flow for density
estimation*, NeurIPS 2017.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..geometry.torus import Torus
from ..nn.conditioner import Conditioner
from ..nn.masked_mlp import MaskedMLP
from ..ops.arguments import checked
from ..ops.bounded_splines import circular_size, circular_spline
from ..ops.circular import harmonics, wrap
from ..ops.tracing import can_write_inplace
from .spline_layer import SplineLayer

__all__ = ["CircularAutoregressive", "CircularSpline"]


class CircularSpline(SplineLayer):
    r"""Circular splines of some angles, given the others; of all angles, with parameters that depend on nothing,
    or on the context alone.

    :param int dim: number of angles.
    :param Sequence[int] transformed_indices: angles that the layer changes; all if omitted.
    :param int bins: bins of each spline.
    :param tuple hidden: units of the hidden layers of the network.
    :param int number: harmonics of the other angles that the network is given.
    :raises ValueError: for indices that are not those of some angles, or sizes that are not positive.

    Angles in radians; those of the result are in :math:`[-\pi, \pi)`. The identity at first.

    >>> layer = CircularSpline(2, [1])
    >>> layer(torch.tensor([3.0, -1.5])).detach().round(decimals=4)
    tensor([ 3.0000, -1.5000])
    """

    identity_indices: Tensor
    transformed_indices: Tensor
    order: Tensor

    @checked(dim=1, bins=2, number=1)
    def __init__(
        self,
        dim: int,
        transformed_indices: Sequence[int] | None = None,
        *,
        bins: int = 16,
        hidden: tuple[int, ...] = (64, 64),
        number: int = 4,
        cache_size: int = 0,
    ) -> None:
        super().__init__(dim, Torus(), number, cache_size)
        transformed = sorted(range(dim) if transformed_indices is None else map(int, transformed_indices))
        if (
            not transformed
            or len(set(transformed)) < len(transformed)
            or not set(transformed) <= set(range(dim))
        ):
            raise ValueError(
                f"transformed_indices: got {transformed} of {dim} angles; expected distinct indices of some of them."
            )
        identity = [i for i in range(dim) if i not in transformed]
        self.register_buffer("identity_indices", torch.tensor(identity, dtype=torch.long))
        self.register_buffer("transformed_indices", torch.tensor(transformed, dtype=torch.long))
        self.register_buffer("order", torch.tensor(identity + transformed).argsort())
        size = len(transformed) * circular_size(bins)
        self.networks = nn.ModuleList([Conditioner(2 * number * len(identity), size, hidden)])

    def _run(self, x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        x = wrap(self.with_batch_of_context(x, 1))
        a, b = x[..., self.identity_indices], x[..., self.transformed_indices]
        raw = self.raw(0, harmonics(a, self.number).flatten(-2)).unflatten(-1, (b.shape[-1], -1))
        b, log_slope = circular_spline(b, raw, inverse=inverse)
        return torch.cat([a, b], -1)[..., self.order], log_slope.sum(-1)

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._run(x, False)

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x, log_slope = self._run(y, True)
        return x, -log_slope


class CircularAutoregressive(SplineLayer):
    r"""Circular splines of all angles, each given those before it: :math:`\theta_i = s^{-1}(\theta'_i;\,
    \phi_i(\theta'_1, \dots, \theta'_{i-1}))`.

    The inverse, and so the density, is one evaluation of the network. The map itself, and so a draw, finds one angle
    after the other: without gradients this is as much arithmetic as one evaluation, with gradients one for each angle.

    :param int dim: number of angles.
    :param bool reverse: count the angles from the last one.
    :param int bins: bins of each spline.
    :param tuple hidden: units of the hidden layers of the network.
    :param int number: harmonics of the other angles that the network is given.
    :raises ValueError: for sizes that are not positive.

    >>> layer = CircularAutoregressive(3)
    >>> layer(torch.tensor([3.0, -1.0, 0.5])).detach().round(decimals=4)
    tensor([ 3.0000, -1.0000,  0.5000])
    """

    @checked(dim=1, bins=2, number=1)
    def __init__(
        self,
        dim: int,
        *,
        reverse: bool = False,
        bins: int = 16,
        hidden: tuple[int, ...] = (64, 64),
        number: int = 4,
        cache_size: int = 0,
    ) -> None:
        super().__init__(dim, Torus(), number, cache_size)
        self.reverse = reverse
        self.networks = nn.ModuleList([MaskedMLP(dim, 2 * number, circular_size(bins), hidden)])

    def _ordered(self, x: Tensor) -> Tensor:
        return x.flip(-1) if self.reverse else x

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        y = self._ordered(wrap(self.with_batch_of_context(y, 1)))
        x, log_slope = circular_spline(y, self.raw(0, harmonics(y, self.number)), inverse=True)
        return self._ordered(x), -log_slope.sum(-1)

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self._ordered(wrap(self.with_batch_of_context(x, 1)))
        if can_write_inplace(x):
            return self._draw(x)
        y = x
        for i in range(self.dim):  # the first i angles of y are known
            raw = self.raw(0, harmonics(y, self.number))
            done, log_slope = circular_spline(x, raw)
            y = torch.cat([done[..., : i + 1], x[..., i + 1 :]], -1)
        return self._ordered(y), log_slope.sum(-1)

    def _draw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same for ordered angles, without a gradient."""
        net: Any = self.networks[0]
        found: list[Tensor] = []

        def variable(i: int, raw: Tensor) -> Tensor:
            found.append(circular_spline(x[..., i], raw)[0])
            return harmonics(found[i], self.number)

        features = net.sequential(variable, x.shape[:-1], self.context)
        _, log_slope = circular_spline(x, self.raw(0, features))
        return self._ordered(torch.stack(found, -1)), log_slope.sum(-1)
