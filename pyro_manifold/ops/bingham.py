r"""The Bingham normaliser as a function of a symmetric matrix, safe at repeated eigenvalues.

.. math::
    \log C(A) = \log\int_{S^{d-1}} e^{x^\top Ax}\,dS, \qquad
    \frac{\partial\log C}{\partial A} = \mathrm E[xx^\top], \qquad
    \mathrm d\,\mathrm E[xx^\top]\cdot H = \mathrm{Cov}(xx^\top, x^\top Hx)

In the eigenbasis of A all three are diagonal or elementwise products with :math:`\mathrm E[x_i^2x_j^2]`; no
eigenvector is differentiated, so no difference of eigenvalues is divided by.
"""

from typing import Any

import torch
from torch import Tensor

from .autograd import BatchFunction, last_order_gradient
from .fisher_bingham import relative_moments, square_products, uniform_divergence

__all__ = ["matrix_divergence", "matrix_normalizer"]


def _gaps(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The greatest eigenvalue, what the others lack of it (the rates, descending eigenvalues) and the
    axes."""
    values, v = torch.linalg.eigh(a)
    values, v = values.flip(-1), v.flip(-1)
    return values[..., 0], values[..., :1] - values, v


def _in_basis(v: Tensor, diagonal: Tensor) -> Tensor:
    return (v * diagonal.unsqueeze(-2)) @ v.mT


class _MatrixNormalizer(BatchFunction):
    """log C and E[xx^T], and rates, axes and moments along them for the derivatives."""

    ranks = (2,)

    @staticmethod
    def forward(a: Tensor) -> tuple[Tensor, ...]:
        top, rates, v = _gaps(a)
        log, moments = relative_moments(rates)
        second = torch.cat([moments[..., :1] - 1, moments[..., 1:]], -1)  # E(1 - x_1)^2 is 1 + E x_1^2
        return top + log, _in_basis(v, second), rates, v, second

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*output[1:])
        ctx.save_for_forward(*output[1:])
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


class _MomentGradient(BatchFunction):
    ranks = (1, 2, 1, 2)

    @staticmethod
    def forward(rates: Tensor, v: Tensor, second: Tensor, c2: Tensor) -> Tensor:
        g = v.mT @ (0.5 * (c2 + c2.mT)) @ v
        n = square_products(rates)
        covariance = n - second.unsqueeze(-1) * second.unsqueeze(-2)
        diagonal = (covariance @ g.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)).squeeze(-1)
        return v @ (2 * n * g + torch.diag_embed(diagonal)) @ v.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None: ...

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError(
            "log C of a Bingham distribution has derivatives up to the second order here, no third."
        )

    jvp = backward


class _MatrixDivergence(BatchFunction):
    """The divergence from the uniform distribution: a function of the eigenvalues alone, so its gradient has
    the same axes."""

    ranks = (2,)

    @staticmethod
    def forward(a: Tensor) -> tuple[Tensor, Tensor]:
        _, rates, v = _gaps(a)
        with torch.enable_grad():
            c = rates.detach().requires_grad_()
            value = uniform_divergence(c)
            (slope,) = torch.autograd.grad(value.sum(), c)
        # c_i = top - value_i, with the first rate fixed at 0
        own = torch.cat([slope[..., 1:].sum(-1, keepdim=True), -slope[..., 1:]], -1)
        return value.detach(), _in_basis(v, own)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, output[1])
        ctx.save_for_forward(*inputs, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        a, slope = ctx.saved_tensors
        return last_order_gradient((slope * tangent).sum((-1, -2)), a, tangent), None

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> Tensor:  # type: ignore[override]
        a, slope = ctx.saved_tensors
        return last_order_gradient(grad[..., None, None] * slope, a, grad)


def matrix_divergence(a: Tensor) -> Tensor:
    r"""The divergence of :math:`e^{x^\top Ax}/C(A)` from the uniform distribution, float64; differentiable
    once.

    >>> matrix_divergence(torch.zeros(3, 3))
    tensor(0., dtype=torch.float64)
    """
    a = a.double()
    return _MatrixDivergence.apply(0.5 * (a + a.mT))[0]


def matrix_normalizer(a: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\log C(A)` and :math:`\mathrm E[xx^\top]`, in float64, of the symmetric part of A, shape
    ``batch + (d, d)``.

    The first may be differentiated twice, the second once.

    >>> matrix_normalizer(torch.zeros(2, 2))[0]  # log 2 pi
    tensor(1.8379, dtype=torch.float64)
    """
    a = a.double()
    return _MatrixNormalizer.apply(0.5 * (a + a.mT))[:2]
