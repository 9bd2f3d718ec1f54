r"""A monotone spline for each coordinate, with parameters of its own: densities of one coordinate, and of
independent ones.

.. math:: y_i = s(x_i;\, \phi_i), \qquad \log|\det J| = \sum_i \log s'(x_i; \phi_i)
"""

import torch
from torch import Tensor, nn

from ..ops.arguments import checked
from ..ops.splines import rational_quadratic, spline_gradient, spline_size
from ..transforms.module import ModuleTransform

__all__ = ["Spline"]


class Spline(ModuleTransform):
    r"""Rational-quadratic splines of single coordinates, on [-bound, bound]; the identity beyond, and
    everywhere at first.

    :param int dim: size of x.
    :param int bins: bins of each spline.
    :param float bound: half the length of the interval.
    :raises ValueError: for sizes that are not positive.

    >>> layer = Spline(1)
    >>> layer(torch.tensor([0.5])), layer.log_abs_det_jacobian(torch.tensor([0.5]), torch.tensor([0.5])).abs() < 1e-6
    (tensor([0.5000], grad_fn=...), tensor(True))
    """

    @checked(dim=1, bins=2)
    def __init__(self, dim: int, *, bins: int = 16, bound: float = 5.0, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        if not (isinstance(dim, int) and dim >= 1 and bins >= 2 and bound > 0):
            raise ValueError(
                f"dim, bins, bound: got {dim}, {bins}, {bound}; expected 1, 2 or more and a positive number."
            )
        self.dim = self.codomain_dim = dim
        self.bound = float(bound)
        self.raw = nn.Parameter(torch.zeros(dim, spline_size(bins)))

    def _parameters_of(self, x: Tensor) -> Tensor:
        return self.raw.expand(x.shape + self.raw.shape[-1:])

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, log_slope = rational_quadratic(x, self._parameters_of(x), self.bound)
        return y, log_slope.sum(-1)

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x, log_slope = rational_quadratic(y, self._parameters_of(y), self.bound, inverse=True)
        return x, -log_slope.sum(-1)

    def jvp(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """The value at ``x`` and the derivative along ``tangents``, shape ``batch + (k, dim)``."""
        y, slope, _ = spline_gradient(x, self._parameters_of(x), self.bound)
        return y, slope.unsqueeze(-2) * tangents
