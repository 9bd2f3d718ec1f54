r"""The Bingham normaliser as a function of a symmetric matrix, differentiable at repeated eigenvalues.

.. math::
    \log C(A) = \log\int_{S^{d-1}} e^{x^\top Ax}\,dS, \qquad
    \frac{\partial\log C}{\partial A} = \mathrm E[xx^\top], \qquad
    \mathrm d\,\mathrm E[xx^\top]\cdot H = \mathrm{Cov}(xx^\top, x^\top Hx)

In the eigenbasis of A these are diagonal matrices and elementwise products with
:math:`\mathrm E[x_i^2x_j^2]`. No eigenvector is differentiated, so nothing is divided by a difference of
eigenvalues."""

from typing import Any

import torch
from torch import Tensor

from .autograd import BatchFunction, OnceDifferentiable, Undifferentiable, save_tensors
from .fisher_bingham import relative_moments, square_products, uniform_divergence

__all__ = ["matrix_divergence", "matrix_normalizer"]


def _gaps(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest eigenvalue, its differences to all eigenvalues (the rates, in ascending order), and the
    eigenvectors in that order."""
    values, v = torch.linalg.eigh(a)
    values, v = values.flip(-1), v.flip(-1)
    return values[..., 0], values[..., :1] - values, v


def _in_basis(v: Tensor, diagonal: Tensor) -> Tensor:
    return (v * diagonal.unsqueeze(-2)) @ v.mT


class _MatrixNormalizer(BatchFunction):
    """log C and E[xx^T]; also the rates, the axes and the moments along them, which the derivatives need."""

    ranks = (2,)

    @staticmethod
    def forward(a: Tensor) -> tuple[Tensor, ...]:
        top, rates, v = _gaps(a)
        log, moments = relative_moments(rates)
        second = torch.cat([moments[..., :1] - 1, moments[..., 1:]], -1)  # E(1 - x_1)^2 is 1 + E x_1^2
        return top + log, _in_basis(v, second), rates, v, second

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, ...]) -> None:
        save_tensors(ctx, *output[1:])
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        moment, rates, v, second = ctx.saved_tensors
        return (
            (moment * tangent).sum((-1, -2)),
            _MomentGradient.apply(rates, v, second, tangent),
            None,
            None,
            None,
        )

    @staticmethod
    def backward(ctx: Any, c0: Tensor | None, c2: Tensor | None, *_: Any) -> Tensor | None:  # type: ignore[override]
        moment, rates, v, second = ctx.saved_tensors
        out = None if c0 is None else c0[..., None, None] * moment
        if c2 is not None:
            curved = _MomentGradient.apply(rates, v, second, c2)
            out = curved if out is None else out + curved
        return out


class _MomentGradient(Undifferentiable):
    ranks = (1, 2, 1, 2)
    limit = "log C of a Bingham distribution has derivatives up to the second order here, no third."

    @staticmethod
    def forward(rates: Tensor, v: Tensor, second: Tensor, c2: Tensor) -> Tensor:
        g = v.mT @ (0.5 * (c2 + c2.mT)) @ v
        n = square_products(rates)
        covariance = n - second.unsqueeze(-1) * second.unsqueeze(-2)
        diagonal = (covariance @ g.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)).squeeze(-1)
        return v @ (2 * n * g + torch.diag_embed(diagonal)) @ v.mT


class _MatrixDivergence(OnceDifferentiable):
    """The divergence from the uniform distribution. It depends on the eigenvalues alone, so its gradient is
    diagonal in the eigenbasis."""

    ranks = (2,)

    @staticmethod
    def forward(a: Tensor) -> tuple[Tensor, Tensor]:
        _, rates, v = _gaps(a)
        with torch.enable_grad():
            c = rates.detach().requires_grad_()
            value = uniform_divergence(c)
            (slope,) = torch.autograd.grad(value.sum(), c)
        # c_i = top - value_i; the first rate is fixed at 0
        own = torch.cat([slope[..., 1:].sum(-1, keepdim=True), -slope[..., 1:]], -1)
        return value.detach(), _in_basis(v, own)


def matrix_divergence(a: Tensor) -> Tensor:
    r"""The divergence of :math:`e^{x^\top Ax}/C(A)` from the uniform distribution, in float64; differentiable
    once.

    >>> matrix_divergence(torch.zeros(3, 3))
    tensor(0., dtype=torch.float64)
    """
    a = a.double()
    return _MatrixDivergence.apply(0.5 * (a + a.mT))[0]


def matrix_normalizer(a: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\log C(A)` and :math:`\mathrm E[xx^\top]`, in float64, for the symmetric part of A.

    :math:`\log C` may be differentiated twice, the second moment once.

    :param Tensor a: A, shape ``batch + (d, d)``.

    >>> matrix_normalizer(torch.zeros(2, 2))[0]  # log 2 pi
    tensor(1.8379, dtype=torch.float64)
    """
    a = a.double()
    return _MatrixNormalizer.apply(0.5 * (a + a.mT))[:2]
