r"""The stereographic chart of a sphere, as a map from flat space.

.. math::
    y \mapsto \frac{(1 - |y|^2,\ 2y)}{1 + |y|^2}, \qquad \log|\det J(y)| = d\,\log\frac{2}{1 + |y|^2}
"""

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from ..constraints import on
from ..geometry.stereographic import sphere_to_stereographic, stereographic_to_sphere
from ..ops.arguments import checked
from .base import SeparateVolume

__all__ = ["StereographicChart"]


class StereographicChart(SeparateVolume):
    r"""From flat space to the unit sphere but for one point, the antipode of its origin :math:`e_1`.

    .. math:: y \mapsto \frac{(1 - |y|^2,\ 2y)}{1 + |y|^2}, \qquad \log|\det J(y)| = d\,\log\frac{2}{1 + |y|^2}

    Any flow of vectors in front of it makes a density on the sphere, ``[flow, StereographicChart(d)]``: the baseline
    that flows on the sphere itself are compared with. Near the missing point, which is infinity in the chart, a smooth
    density of the sphere has polynomial tails there that flows of vectors hardly make. The missing point itself is
    taken to a vector of length :math:`1/\epsilon`.

    :param int dim: d.
    :raises ValueError: unless it is positive.

    Reference: Gemici, Rezende and Mohamed, *Normalizing flows on Riemannian manifolds*, 2016, sec. 3.

    >>> chart = StereographicChart(2)
    >>> chart(torch.tensor([1.0, 0.0])), chart.log_volume(torch.tensor([1.0, 0.0]))
    (tensor([0., 1., 0.]), tensor(0.))
    """

    domain = constraints.real_vector

    @checked(dim=1)
    def __init__(self, dim: int, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.dim = dim
        self.codomain = on(geoopt.Sphere())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StereographicChart) and self.dim == other.dim

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"StereographicChart({self.dim})"

    def _sized(self, shape: torch.Size, seen: int, made: int) -> torch.Size:
        if len(shape) < 1 or shape[-1] != seen:
            raise ValueError(
                f"value: got shape {tuple(shape)}; expected vectors of size {seen} on the last axis."
            )
        return torch.Size(shape[:-1]) + torch.Size([made])

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return self._sized(shape, self.dim, self.dim + 1)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self._sized(shape, self.dim + 1, self.dim)

    def _call(self, x: Tensor) -> Tensor:
        return stereographic_to_sphere(x, x.new_ones(()))

    def _inverse(self, y: Tensor) -> Tensor:
        return sphere_to_stereographic(y, y.new_ones(()))

    def log_volume(self, x: Tensor) -> Tensor:
        return self.dim * (2 / (1 + x.square().sum(-1))).log()
