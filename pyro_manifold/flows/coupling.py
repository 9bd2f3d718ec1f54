r"""Coupling layers: some coordinates are changed by monotone functions whose parameters are computed from the
others.

.. math::
    y_a = x_a, \qquad y_b = s\big(x_b;\, \phi(x_a, c)\big), \qquad
    \log|\det J| = \sum_b \log s'(x_b), \qquad
    \dot y_b = s'\,\dot x_b + \frac{\partial s}{\partial\phi}\,D\phi\,\dot x_a

The last is the derivative along a tangent, in which :math:`\partial s/\partial\phi` is computed in closed
form, once for all tangents. References: [1] Dinh et al., *Density estimation using Real NVP*, ICLR
2017, eqs. 4-8. [2] Durkan et al., *Neural spline flows*, NeurIPS 2019, sec. 3.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..nn.mlp import MLP
from ..ops.arguments import checked
from ..ops.splines import rational_quadratic, spline_gradient, spline_size
from ..transforms.module import ModuleTransform

__all__ = ["Coupling"]

_LOG_SCALE = 3.0  # log scales of an affine coupling stay within +- this: e^3 a layer, as a soft bound


def parameters_of(kind: str, bins: int, bound: float) -> int:
    """The number of parameters of one monotone function.

    :raises ValueError: for an unknown kind, less than 2 bins, or a bound that is not positive.
    """
    if kind not in ("affine", "spline"):
        raise ValueError(f"kind: got {kind!r}; expected 'affine' or 'spline'.")
    if bins < 2 or not bound > 0:
        raise ValueError(f"bins, bound: got {bins}, {bound}; expected at least 2 bins and a positive bound.")
    return 2 if kind == "affine" else spline_size(bins)


def monotone(kind: str, x: Tensor, raw: Tensor, bound: float, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """s(x), or its inverse, and the log of its slope; ``raw`` has the parameters on its last axis."""
    if kind == "spline":
        return rational_quadratic(x, raw, bound, inverse=inverse)
    log_scale = _LOG_SCALE * (raw[..., 0] / _LOG_SCALE).tanh()
    if inverse:
        return (x - raw[..., 1]) * (-log_scale).exp(), -log_scale
    return x * log_scale.exp() + raw[..., 1], log_scale


class Coupling(ModuleTransform):
    r"""Affine or rational-quadratic coupling of the coordinates ``transformed_indices``, given the others.

    :param int dim: size of x.
    :param Sequence[int] transformed_indices: indices of :math:`x_b`; all of them only for a layer that is
        made to depend on a context.
    :param str kind: ``"affine"``, :math:`s = x e^{3\tanh(\alpha/3)} + \beta`, or ``"spline"``: the identity
        beyond ``bound``.
    :param tuple hidden: units of the hidden layers of :math:`\phi`.
    :param int bins: bins of a spline.
    :param float bound: a spline acts on [-bound, bound].
    :raises ValueError: for indices that are not those of some coordinates, an unknown kind, or sizes that are
        not positive.

    A new layer is the identity. :class:`Conditional` makes its network depend on a context too.

    >>> layer = Coupling(3, transformed_indices=[2])
    >>> x = torch.tensor([0.5, 1.0, -1.0])
    >>> layer(x), layer.log_abs_det_jacobian(x, layer(x)).abs() < 1e-6
    (tensor([ 0.5000,  1.0000, -1.0000], grad_fn=...), tensor(True))
    """

    accepts_context = True

    @checked(dim=1)
    def __init__(
        self,
        dim: int,
        transformed_indices: Sequence[int],
        *,
        kind: str = "spline",
        hidden: tuple[int, ...] = (64, 64),
        bins: int = 8,
        bound: float = 5.0,
        cache_size: int = 0,
    ) -> None:
        super().__init__(cache_size=cache_size)
        transformed = sorted(int(i) for i in transformed_indices)
        identity = [i for i in range(dim) if i not in transformed]
        if (
            not transformed
            or len(set(transformed)) < len(transformed)
            or transformed[0] < 0
            or transformed[-1] >= dim
        ):
            raise ValueError(
                f"transformed_indices: got {transformed} of {dim} coordinates; expected distinct "
                "indices of some of them."
            )
        size = parameters_of(kind, bins, bound)
        self.dim = self.codomain_dim = dim
        self.kind, self.bound = kind, float(bound)
        self.size = size
        self.hidden = hidden
        self.net: Any = MLP(len(identity), len(transformed) * self.size, hidden) if identity else None
        self.register_buffer("identity_indices", torch.tensor(identity, dtype=torch.long))
        self.register_buffer("transformed_indices", torch.tensor(transformed, dtype=torch.long))
        self.register_buffer("order", torch.tensor(identity + transformed).argsort())

    def with_context_dim(self, context_dim: int) -> "Coupling":
        """A copy whose network, drawn anew, has a context as further input."""
        new = copy.deepcopy(self)
        new.context_dim = context_dim
        sizes = len(self.identity_indices), len(self.transformed_indices) * self.size
        like = self._like()
        new.net = MLP(*sizes, self.hidden, context_dim).to(torch.zeros(()) if like is None else like)
        return new

    @property
    def _network(self) -> MLP:
        net = self.net
        if net is None:
            raise ValueError(
                "context: this Coupling transforms all of its coordinates, so that its parameters can depend "
                "on a context only, and it has none; use Conditional(layer, context_dim).condition(context)."
            )
        return net

    # --- the elementwise map --------------------------------------------------------------------------------
    def _map(self, x: Tensor, raw: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        return monotone(self.kind, x, raw, self.bound, inverse)

    def _gradient(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """s, ds/dx and ds/draw."""
        if self.kind == "spline":
            return spline_gradient(x, raw, self.bound)
        bounded = (raw[..., 0] / _LOG_SCALE).tanh()
        slope = (_LOG_SCALE * bounded).exp()
        in_raw = torch.stack([x * slope * (1 - bounded.square()), torch.ones_like(x)], -1)
        return x * slope + raw[..., 1], slope, in_raw

    def _operands(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """x_b, shape ``(b, rows)``, and its parameters, ``(b, rows, size)``, from the network's last hidden
        layer. The rows lie next to each other in memory, which makes splines and matrix products faster."""
        last, rows = self.net.last, x.expand(h.shape[:-1] + x.shape[-1:]).reshape(-1, self.dim)
        raw = torch.addmm(last.bias.unsqueeze(-1), last.weight, h.reshape(-1, h.shape[-1]).mT)
        return rows.mT.index_select(0, self.transformed_indices), raw.unflatten(0, (-1, self.size)).movedim(
            1, -1
        )

    def _run(self, x: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        a = x.index_select(-1, self.identity_indices)
        h = self._network.hidden(a, self.needed_context())
        b, log_slope = self._map(*self._operands(h, x), inverse)
        return self._join(a, b.mT.reshape(h.shape[:-1] + b.shape[:1])), log_slope.sum(0).reshape(h.shape[:-1])

    def _join(self, a: Tensor, b: Tensor) -> Tensor:
        joined = torch.cat([a.expand(b.shape[:-1] + a.shape[-1:]), b], -1)
        return joined.reshape(-1, self.dim).index_select(-1, self.order).reshape(joined.shape)

    # --- the transform --------------------------------------------------------------------------------------
    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._run(x)

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x, log_slope = self._run(y, inverse=True)
        return x, -log_slope

    def jvp(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """The value at ``x`` and the derivative along ``tangents``, shape ``batch + (k, dim)``."""
        rows = tangents.reshape(-1, self.dim)  # of a matrix, torch selects four times as fast
        ta, tb = (
            rows.index_select(-1, i).reshape(tangents.shape[:-1] + i.shape)
            for i in (self.identity_indices, self.transformed_indices)
        )
        a = x.index_select(-1, self.identity_indices)
        h, hidden = self._network.hidden_jvp(a, ta, self.needed_context())
        batch, many = h.shape[:-1], len(self.transformed_indices)
        b, slope, in_raw = self._gradient(*self._operands(h, x))
        b, slope = (v.mT.reshape(*batch, many) for v in (b, slope))
        weight = self._network.last.weight.unflatten(0, (-1, self.size))  # (b, size, units)
        if tangents.shape[-2] * self.size > weight.shape[-1]:  # cheaper to contract with the layer first
            moved = hidden @ (in_raw @ weight).movedim(0, -1).reshape(*batch, weight.shape[-1], many)
        else:
            along = (hidden @ self._network.last.weight.mT).unflatten(-1, (many, self.size))  # (k, b, size)
            moved = (in_raw.transpose(0, 1).reshape(*batch, 1, many, self.size) * along).sum(-1)
        return self._join(a, b), self._join(ta, torch.addcmul(moved, slope.unsqueeze(-2), tb))
