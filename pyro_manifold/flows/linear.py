r"""Invertible linear layers by their LU decomposition.

.. math::
    y = PLUx + b, \qquad \log|\det J| = \sum_i \log|U_{ii}|

with L unit lower triangular, U upper triangular and P a fixed permutation. Reference: Kingma and Dhariwal,
*Glow*, NeurIPS 2018, sec. 3.2.
"""

import copy

import torch
from torch import Tensor, nn

from ..nn.mlp import MLP
from ..ops.arguments import checked
from ..ops.checks import as_tensors
from ..transforms.module import ModuleTransform

__all__ = ["LULinear"]


class LULinear(ModuleTransform):
    r"""A learned invertible matrix and shift; the identity at first, or what ``matrix`` and ``loc`` say.

    :param int dim: size of x.
    :param Tensor matrix: initial invertible matrix, shape ``(dim, dim)``.
    :param Tensor loc: initial b, shape ``(dim,)``.
    :raises ValueError: for a singular matrix or shapes that do not fit.

    >>> layer = LULinear(2, matrix=torch.tensor([[0.0, 2.0], [1.0, 0.0]]))
    >>> layer(torch.tensor([1.0, 1.0]))
    tensor([2., 1.], grad_fn=...)
    """

    accepts_context = True

    @checked(dim=1)
    def __init__(
        self,
        dim: int,
        matrix: Tensor | None = None,
        loc: Tensor | None = None,
        *,
        cache_size: int = 0,
    ) -> None:
        super().__init__(cache_size=cache_size)
        if not (isinstance(dim, int) and dim >= 1):
            raise ValueError(f"dim: got {dim!r}; expected a positive integer.")
        matrix = torch.eye(dim) if matrix is None else as_tensors(matrix=matrix)[0].detach()
        self.check_dtype(matrix, "matrix")
        loc = matrix.new_zeros(dim) if loc is None else as_tensors(matrix=matrix, loc=loc)[1].detach()
        if matrix.shape != (dim, dim) or loc.shape != (dim,):
            raise ValueError(
                f"matrix, loc: got shapes {tuple(matrix.shape)}, {tuple(loc.shape)}; expected ({dim}, {dim}) "
                f"and ({dim},)."
            )
        P, L, U = torch.linalg.lu(matrix)
        diagonal = U.diagonal()
        if not bool((diagonal.abs() > torch.finfo(matrix.dtype).eps * matrix.abs().amax()).all()):
            raise ValueError(
                "matrix: got a singular matrix, expected an invertible one. LinearEmbedding has lower "
                "dimensions."
            )
        self.dim = self.codomain_dim = dim
        self.register_buffer("permutation", P)
        self.register_buffer("signs", diagonal.sign())
        self.register_buffer("free", ~torch.eye(dim, dtype=torch.bool, device=matrix.device))
        self.loc = nn.Parameter(loc.clone())
        self.log_diagonal = nn.Parameter(diagonal.abs().log())
        self.lu = nn.Parameter(torch.where(self.free, L.tril(-1) + U.triu(1), 0.0)[self.free])
        self.net: MLP | None = None  # of a context, see with_context_dim

    def with_context_dim(self, context_dim: int) -> "LULinear":
        """A copy to whose parameters a network of a context is added; the same map at first."""
        new = copy.deepcopy(self)
        new.context_dim = context_dim
        new.net = MLP(context_dim, self.dim * (self.dim + 1), (64,)).to(self.loc)
        return new

    def _factors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """L below its diagonal of ones, U, log of its diagonal, b."""
        lu, log_diagonal, loc = self.lu, self.log_diagonal, self.loc
        context = self.needed_context()
        if self.net is not None and context is not None:
            extra = self.net(context)
            lu = lu + extra[..., : -2 * self.dim]
            log_diagonal, loc = (
                log_diagonal + extra[..., -2 * self.dim : -self.dim],
                loc + extra[..., -self.dim :],
            )
        full = lu.new_zeros(lu.shape[:-1] + (self.dim, self.dim))
        full = full.masked_scatter(self.free.expand(full.shape), lu)
        U = torch.where(self.free, full.triu(1), (self.signs * log_diagonal.exp()).unsqueeze(-1))
        return full.tril(-1), U, log_diagonal, loc

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        matrix, log_diagonal, loc = self._matrix()
        y = x @ matrix.mT if matrix.dim() == 2 else (x.unsqueeze(-2) @ matrix.mT).squeeze(-2)
        return y + loc, self._log_volume(log_diagonal, y)

    def _matrix(self) -> tuple[Tensor, Tensor, Tensor]:
        """P L U, log of the diagonal of U, b."""
        L, U, log_diagonal, loc = self._factors()
        return self.permutation @ (U + L @ U), log_diagonal, loc

    @staticmethod
    def _log_volume(log_diagonal: Tensor, y: Tensor) -> Tensor:
        log_det = log_diagonal.sum(-1)
        return log_det.expand(torch.broadcast_shapes(log_det.shape, y.shape[:-1]))

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        L, U, log_diagonal, loc = self._factors()
        z = (y - loc) @ self.permutation
        one = L.dim() == 2  # one matrix: the batch as columns
        columns = z.reshape(-1, self.dim).mT if one else z.unsqueeze(-1)
        columns = torch.linalg.solve_triangular(L, columns, upper=False, unitriangular=True)
        columns = torch.linalg.solve_triangular(U, columns, upper=True)
        x = columns.mT.reshape(z.shape) if one else columns.squeeze(-1)
        return x, self._log_volume(log_diagonal, x)

    def jvp(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """The value at ``x`` and the derivative along ``tangents``, shape ``batch + (k, dim)``."""
        matrix, _, loc = self._matrix()
        y = x @ matrix.mT if matrix.dim() == 2 else (x.unsqueeze(-2) @ matrix.mT).squeeze(-2)
        return y + loc, tangents @ matrix.mT
