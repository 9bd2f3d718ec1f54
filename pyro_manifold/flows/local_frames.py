r"""An affine bijection for each code of a codebook: where the chart of that code lies, and how it is turned.

.. math:: y = m_k + W_kx, \qquad k = \arg\min_k |c - v_k|, \qquad \log|\det J| = \log|\det W_k|
"""

import torch
from torch import Tensor

from ..ops.arguments import checked
from ..ops.checks import as_tensors
from .of_codes import OfCodes

__all__ = ["LocalFrames"]


class LocalFrames(OfCodes):
    r"""Fixed affine maps, one for each code, as buffers; the context is a code, and picks its map.

    Behind conditional layers, in an atlas, the layers learn in the coordinates of each chart's principal axes.

    :param Tensor codes: :math:`v_k`, shape ``(K, c)``.
    :param Tensor matrix: :math:`W_k`, invertible, shape ``(K, d, d)``.
    :param Tensor loc: :math:`m_k`, shape ``(K, d)``.
    :raises ValueError: for shapes that do not fit or a matrix that is singular; for a context of another size.

    >>> from pyro_manifold.flows import Conditional
    >>> codes = torch.tensor([[0.0], [1.0]])
    >>> frames = LocalFrames(codes, torch.stack([torch.eye(2), 3 * torch.eye(2)]), torch.zeros(2, 2))
    >>> Conditional(frames, context_dim=1).condition(codes)(torch.ones(2))
    tensor([[1., 1.],
            [3., 3.]])
    """

    matrix: Tensor
    inverse_matrix: Tensor
    loc: Tensor

    @checked
    def __init__(self, codes: Tensor, matrix: Tensor, loc: Tensor, *, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        codes, matrix, loc = as_tensors(codes=codes, matrix=matrix, loc=loc)
        self.dim = self.codomain_dim = loc.shape[-1] if loc.dim() else 0
        if codes.dim() != 2 or loc.shape != (len(codes), self.dim) or matrix.shape != (*loc.shape, self.dim):
            raise ValueError(
                f"codes, matrix, loc: got shapes {tuple(codes.shape)}, {tuple(matrix.shape)} and {tuple(loc.shape)}; "
                "expected (K, c), (K, d, d) and (K, d)."
            )
        self.context_dim = codes.shape[1]
        for name, t in (("codes", codes), ("matrix", matrix), ("inverse_matrix", matrix), ("loc", loc)):
            self.register_buffer(name, t.detach().clone())
        self.place(codes, matrix, loc)

    @torch.no_grad()
    def place(self, codes: Tensor, matrix: Tensor, loc: Tensor) -> None:
        """Replace codes and maps by others of the same shapes."""
        inverse, wrong = torch.linalg.inv_ex(matrix.double())
        if bool(wrong.any()) or not bool(inverse.isfinite().all()):
            k = int((wrong.bool() | ~inverse.isfinite().flatten(1).all(-1)).nonzero()[0])
            raise ValueError(
                f"matrix: that of chart {k} is singular or infinite; expected invertible matrices."
            )
        for own, new in (
            (self.codes, codes),
            (self.matrix, matrix),
            (self.inverse_matrix, inverse),
            (self.loc, loc),
        ):
            own.copy_(new)

    def _log_volume(self, k: Tensor, y: Tensor) -> Tensor:
        return torch.linalg.slogdet(self.matrix)[1][k].expand(y.shape[:-1])

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        k = self._chart()
        y = self.loc[k] + self._apply_matrix(self.matrix, k, x)
        return y, self._log_volume(k, y)

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        k = self._chart()
        x = self._apply_matrix(self.inverse_matrix, k, y - self.loc[k])
        return x, self._log_volume(k, x)

    def jvp(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """The value at ``x`` and the derivative along ``tangents``, shape ``batch + (k, d)``."""
        k = self._chart()
        y = self.loc[k] + self._apply_matrix(self.matrix, k, x)
        return y, tangents @ self.matrix[k].mT
