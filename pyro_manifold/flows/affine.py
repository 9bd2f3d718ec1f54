r"""A fixed affine bijection: the units in which the layers before it learn.

.. math:: y = m + Wx, \qquad \log|\det J| = \log|\det W|
"""

import torch
from torch import Tensor

from ..ops.arguments import checked
from ..ops.checks import as_tensors
from ..transforms.injective import principal_axes
from ..transforms.module import ModuleTransform

__all__ = ["Affine"]


class Affine(ModuleTransform):
    r"""A fixed invertible matrix and shift, as buffers: nothing of it is learned.

    Behind learned layers it takes standardised coordinates to those of the data, so that a step of an
    optimiser is as long, relative to the data, whatever their units.

    :param Tensor matrix: W, invertible, shape ``(d, d)``.
    :param Tensor loc: m, shape ``(d,)``; 0 if omitted.
    :raises ValueError: for a matrix that is not finite or invertible, or shapes that do not fit.

    >>> layer = Affine.from_pca(torch.tensor([[0.0, 1.0], [4.0, 1.0], [8.0, 1.0]]), floor=0.5)
    >>> layer(torch.zeros(2)), layer.inv(torch.tensor([8.0, 1.0])).abs()
    (tensor([4., 1.]), tensor([1., 0.]))
    """

    @checked
    def __init__(self, matrix: Tensor, loc: Tensor | None = None, *, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        (matrix,) = as_tensors(matrix=matrix)
        loc = matrix.new_zeros(matrix.shape[:1]) if loc is None else as_tensors(matrix=matrix, loc=loc)[1]
        if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or loc.shape != matrix.shape[:1]:
            raise ValueError(
                f"matrix, loc: got shapes {tuple(matrix.shape)}, {tuple(loc.shape)}; expected (d, d) and "
                f"(d,)."
            )
        inverse, wrong = torch.linalg.inv_ex(matrix.detach().double())
        if wrong or not bool(inverse.isfinite().all()):
            raise ValueError("matrix: got a singular or infinite matrix, expected an invertible one.")
        self.dim = self.codomain_dim = len(loc)
        self.register_buffer("matrix", matrix.detach().clone())
        self.register_buffer("loc", loc.detach().clone())

    @classmethod
    def from_pca(cls, x: Tensor, *, floor: float = 0.0) -> "Affine":
        """The layer that gives standard normal vectors mean and covariance of the rows of ``x``, first
        coordinates along the axes of most variance. Axes of no variance get a thousandth of the least other
        scale, or 1 if there is none.

        :param float floor: least scale of an axis, as a share of the largest. (Where axes of no variance are
            to be bent over by other layers, a scale far below that of the bends makes the inverse explode.)
        """
        loc, axes, scale = principal_axes(x)
        least = scale[scale > 0].amin() * 1e-3 if bool((scale > 0).any()) else scale.new_ones(())
        return cls(axes * torch.where(scale > 0, scale, least).clamp_min(floor * float(scale[0])), loc)

    def _log_volume(self, x: Tensor) -> Tensor:
        return torch.linalg.slogdet(self.matrix)[1].expand(x.shape[:-1])

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.loc + x @ self.matrix.mT, self._log_volume(x)

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        z = y - self.loc
        x = torch.linalg.solve(self.matrix, z.reshape(-1, self.dim).mT).mT.reshape(z.shape)
        return x, self._log_volume(x)

    def jvp(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """The value at ``x`` and the derivative along ``tangents``, shape ``batch + (k, dim)``."""
        return self.loc + x @ self.matrix.mT, tangents @ self.matrix.mT
