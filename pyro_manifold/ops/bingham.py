r"""The Bingham normaliser as a function of a symmetric matrix, safe at repeated eigenvalues.

.. math::
    \log C(A) = \log\int_{S^{d-1}} e^{x^\top Ax}\,dS, \qquad
    \frac{\partial\log C}{\partial A} = \mathrm E[xx^\top], \qquad
    \mathrm d\,\mathrm E[xx^\top]\cdot H = \mathrm{Cov}(xx^\top, x^\top Hx)

In the eigenbasis of A all three are diagonal or elementwise products with :math:`\mathrm E[x_i^2x_j^2]`; no eigenvector is
differentiated, so no difference of eigenvalues is divided by.
"""

from typing import Any

import torch
from torch import Tensor

from .fisher_bingham import normalizer_and_moments, square_products

__all__ = ["matrix_normalizer"]


def _in_basis(v: Tensor, diagonal: Tensor) -> Tensor:
    return (v * diagonal.unsqueeze(-2)) @ v.mT


class _MatrixNormalizer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> tuple[Tensor, ...]:
        values, v = torch.linalg.eigh(a)
        log_c, second, _ = normalizer_and_moments(-values)
        moment = _in_basis(v, second)
        ctx.save_for_backward(values, v, second, moment)
        ctx.set_materialize_grads(False)
        return log_c, moment

    @staticmethod
    def backward(ctx: Any, c0: Tensor | None, c2: Tensor | None) -> Tensor | None:  # type: ignore[override]
        values, v, second, moment = ctx.saved_tensors
        out = None if c0 is None else c0[..., None, None] * moment
        if c2 is not None:
            curved = _MomentGradient.apply(values, v, second, c2)
            out = curved if out is None else out + curved
        return out


class _MomentGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, v: Tensor, second: Tensor, c2: Tensor) -> Tensor:
        g = v.mT @ (0.5 * (c2 + c2.mT)) @ v
        n = square_products(-values)
        covariance = n - second.unsqueeze(-1) * second.unsqueeze(-2)
        diagonal = (covariance @ g.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)).squeeze(-1)
        return v @ (2 * n * g + torch.diag_embed(diagonal)) @ v.mT

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError("log C of a Bingham law has derivatives up to the second order here, no third.")


def matrix_normalizer(a: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\log C(A)` and :math:`\mathrm E[xx^\top]`, in float64, of the symmetric part of A, shape ``batch + (d, d)``.

    The first may be differentiated twice, the second once.

    >>> matrix_normalizer(torch.zeros(2, 2))[0]  # log 2 pi
    tensor(1.8379, dtype=torch.float64)
    """
    a = a.double()
    return _MatrixNormalizer.apply(0.5 * (a + a.mT))
