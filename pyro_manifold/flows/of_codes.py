"""The base of layers that hold one fixed map for each code of a codebook; the context is a code, and picks its map."""

from typing import Any

import torch
from torch import Tensor

from ..ops.pairwise import pairwise_distances
from ..ops.tracing import is_concrete
from ..transforms.module import ModuleTransform

__all__ = ["OfCodes"]

_LARGE = 16  # dimension from which rows are sorted by their charts


class OfCodes(ModuleTransform):
    """A layer with a buffer ``codes``, shape ``(K, c)``, that applies map k where code k is nearest to the context."""

    accepts_context = True
    codes: Tensor

    def with_context_dim(self, context_dim: int) -> Any:
        """Itself: its context is a code."""
        if context_dim != self.context_dim:
            raise ValueError(
                f"context_dim: got {context_dim}; expected {self.context_dim}, the size of a code."
            )
        return self

    def _chart(self) -> Tensor:
        context = self.needed_context()
        assert context is not None
        return (
            pairwise_distances(context.detach().reshape(-1, self.context_dim), self.codes)
            .argmin(-1)
            .reshape(context.shape[:-1])
        )

    def _apply_matrix(self, matrix: Tensor, k: Tensor, x: Tensor) -> Tensor:
        """Those of the charts ``k`` times ``x``. A matrix for each row would take as many numbers as the rows have
        matrix entries: where rows can be told apart, each chart is applied to its own."""
        if k.dim() == 0:
            return x @ matrix[k].mT
        if x.shape[-1] < _LARGE or not is_concrete(k) or not is_concrete(x):
            return (matrix[k] @ x.unsqueeze(-1)).squeeze(-1)
        batch = torch.broadcast_shapes(k.shape, x.shape[:-1])
        chart, order = k.expand(batch).reshape(-1).sort()
        parts = (
            x.expand(batch + x.shape[-1:])
            .reshape(-1, x.shape[-1])[order]
            .split(chart.bincount(minlength=len(matrix)).tolist())
        )
        y = torch.cat([part @ w.mT for part, w in zip(parts, matrix, strict=True)])
        return y[order.argsort()].reshape(batch + matrix.shape[-2:-1])
