r"""Maps that make a point of a manifold of standard normal numbers: what reparametrisers put before a site.

.. math:: x = f(y), \qquad y \sim n(y)\,w(y) \;\Rightarrow\; x \sim q

with n the standard normal density of :attr:`NoiseMap.size` numbers, w a weight of mean 1 and q a density on
the manifold (uniform, where there is such a distribution).
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..ops.circular import wrap
from ..ops.numerics import norm

if TYPE_CHECKING:
    from .base import Geometry

__all__ = ["ChartNoise", "NoiseMap", "ProjectionNoise", "TurnNoise", "draw_turns"]


class NoiseMap:
    """f for the points of one geometry and event shape; ``size`` numbers make a point."""

    def __init__(self, geo: "Geometry", event_shape: Sequence[int], size: int) -> None:
        self.geo = geo
        self.shape = torch.Size(event_shape)
        self.size = size

    def push(self, y: Tensor) -> Tensor:
        """The point f(y), ``batch + event``, of noise ``batch + (size,)``."""
        raise NotImplementedError

    def lift(self, x: Tensor, draw: bool = False) -> Tensor:
        """Typical noise that makes x; with ``draw``, a draw of y given f(y) = x."""
        raise NotImplementedError

    def log_change(self, y: Tensor) -> Tensor:
        r""":math:`\log w(y) - \log q(f(y))`."""
        raise NotImplementedError


class ChartNoise(NoiseMap):
    """The global chart, normal coordinates at the base point."""

    def __init__(self, geo: "Geometry", event_shape: Sequence[int]) -> None:
        super().__init__(geo, event_shape, geo.dim(event_shape))

    def push(self, y: Tensor) -> Tensor:
        return self.geo.chart(y)

    def lift(self, x: Tensor, draw: bool = False) -> Tensor:
        return self.geo.chart_inv(x)

    def log_change(self, y: Tensor) -> Tensor:
        origin = self.geo.base_point(self.shape, dtype=y.dtype, device=y.device)
        normal = -y.square().sum(-1) / 2 - self.size / 2 * math.log(2 * math.pi)
        return self.geo.log_det_exp(origin, y) - normal


class TurnNoise(NoiseMap):
    """Angles: normals of nine radians wrap to the uniform distribution, to 1e-17."""

    def push(self, y: Tensor) -> Tensor:
        return wrap(9 * y)

    def lift(self, x: Tensor, draw: bool = False) -> Tensor:
        return (draw_turns(x, 9.0) if draw else x) / 9

    def log_change(self, y: Tensor) -> Tensor:
        return y.new_zeros(y.shape[:-1]) + self.geo.log_volume(self.shape)


class ProjectionNoise(NoiseMap):
    """The point that ``geo.project`` makes of a normal (n, p) matrix. Rotations commute with it, so that the
    distribution of the point is uniform.

    :param columns: p; a vector is a matrix of one column.
    :param signed: does the least singular value of the matrices have either sign, as for rotations?
    """

    def __init__(
        self, geo: "Geometry", event_shape: Sequence[int], columns: int, signed: bool = False
    ) -> None:
        self.rows = event_shape[0]
        self.columns = columns
        self.signed = signed
        super().__init__(geo, event_shape, self.rows * columns)

    def push(self, y: Tensor) -> Tensor:
        return self.geo.project(y.reshape(y.shape[:-1] + self.shape))

    def basis(self, x: Tensor) -> Tensor:
        """Orthonormal columns that are mapped to x, ``batch + (n, p)``."""
        return x.reshape(x.shape[: x.dim() - len(self.shape)] + (self.rows, self.columns))

    def lift(self, x: Tensor, draw: bool = False) -> Tensor:
        r"""Normals that give x: :math:`Y = \sqrt n\,X`, or a draw :math:`Y = X S^{1/2}` with S ~ Wishart(n +
        1, I) (given X; for rotations the least singular value has either sign)."""
        basis = self.basis(x)
        if not draw:
            return (math.sqrt(self.rows) * basis).flatten(-2)
        batch = basis.shape[:-2]
        if self.columns == 1:
            freedom = basis.new_full(batch + (1, 1), self.rows + 1.0)
            return (torch.distributions.Chi2(freedom).sample().sqrt() * basis).flatten(-2)
        z = torch.randn(batch + (self.rows + 1, self.columns), dtype=x.dtype, device=x.device)
        _, s, v = torch.linalg.svd(z, full_matrices=False)
        if self.signed:
            sign = 1.0 - 2.0 * torch.randint(2, batch, device=x.device).to(x)
            s = torch.cat([s[..., :-1], s[..., -1:] * sign.unsqueeze(-1)], -1)
        return (basis @ (v.mT * s.unsqueeze(-2)) @ v).flatten(-2)

    def log_change(self, y: Tensor) -> Tensor:
        r"""With the weight :math:`|Y| = \det(Y^\top Y)^{1/2}` over its mean, which changes no distribution of
        directions."""
        half = torch.tensor([(self.rows + 1) / 2, self.rows / 2], dtype=torch.float64)
        above, below = torch.mvlgamma(half, self.columns).tolist()
        log_mean = self.columns / 2 * math.log(2) + above - below
        extent = _log_extent(y.reshape(y.shape[:-1] + (self.rows, self.columns)))
        return extent - log_mean + self.geo.log_volume(self.shape)


def _log_extent(y: Tensor) -> Tensor:
    """Log of the volume that the columns span."""
    if y.shape[-1] == 1:
        return norm(y, dim=-2).squeeze(-1).log()
    return torch.linalg.qr(y).R.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)


def draw_turns(angle: Tensor, scale: float) -> Tensor:
    r"""A draw of :math:`y \sim \mathcal N(0, s^2)` given wrap(y) = angle: :math:`y = \theta + 2\pi k` with
    :math:`P(k) \propto e^{-(\theta + 2\pi k)^2/2s^2}`, over all k within 9 s (the rest has mass 1e-18)."""
    most = math.ceil(9 * scale / (2 * math.pi)) + 1
    turns = 2 * math.pi * torch.arange(-most, most + 1, dtype=angle.dtype, device=angle.device)
    drawn = []
    for x in wrap(angle).flatten().split(max(1, 2**22 // len(turns))):
        y = x.unsqueeze(-1) + turns
        k = torch.distributions.Categorical(logits=-0.5 * (y / scale).square(), validate_args=False).sample()
        drawn.append(y.gather(-1, k.unsqueeze(-1)).squeeze(-1))
    return torch.cat(drawn).reshape(angle.shape) if drawn else angle
