r"""Expectations of ratios of quadratic forms in normal vectors, by one-dimensional quadrature.

Let w be standard normal in R^d, :math:`\Sigma` positive definite with determinant 1 and eigenvalues
:math:`\sigma_j`, and :math:`x_j = \tau + \log 2\sigma_j`. In the eigenbasis of :math:`\Sigma`, by Frullani's
integral,

.. math::
    \mathrm E\log\frac{w^\top\Sigma w}{w^\top w}
        &= \int_{-\infty}^{\infty}\Big[(1+2e^\tau)^{-d/2} - \prod_j(1+e^{x_j})^{-1/2}\Big]d\tau \\
    \mathrm E\Big[\frac{\Sigma^{1/2}ww^\top\Sigma^{1/2}}{w^\top\Sigma w}\Big]_{jj}
        &= \frac12\int_{-\infty}^\infty \frac{1}{1+e^{-x_j}}\,\prod_k(1+e^{x_k})^{-1/2}\,d\tau

Both integrands are analytic for :math:`|\mathrm{Im}\,\tau|<\pi` and decrease exponentially, so the
trapezoidal rule is exact to rounding for every condition number. All quantities are computed from the
*logarithms of the singular values* of a factor of :math:`\Sigma`, since the small eigenvalues of
:math:`\Sigma` itself are lost to rounding when its condition number exceeds 1e16. """

import math
from typing import Any

import torch
from torch import Tensor

from .autograd import Function, last_order_gradient

__all__ = ["expected_log_ratio", "expected_projector", "log_singular_values"]

_STEP = 0.25
_REACH = 40.0
_LOG_2 = math.log(2)


def _scaled_log(values: Tensor, size: Tensor) -> Tensor:
    """The log of ``values * size``.

    :raises ValueError: if a value is zero.
    """
    if not bool((values > 0).all()):
        raise ValueError(
            "scale_tril: got a matrix that is singular to float64 precision, expected one whose smallest "
            "singular value is above 1e-15 of the largest (or a diagonal one). Rescale its axes, or remove "
            "those with zero variance."
        )
    return values.log() + size.log()


def _normalised(factor: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix divided by its largest entry, and that entry."""
    size = factor.detach().abs().amax((-1, -2))
    return factor / size[..., None, None], size.unsqueeze(-1)


def log_singular_values(factor: Tensor) -> Tensor:
    """The logarithms of the singular values, ``batch + (d,)``; differentiable, also where they are equal.

    :raises ValueError: for a matrix that is singular to rounding.

    >>> log_singular_values(torch.eye(2, dtype=torch.float64))
    tensor([0., 0.], dtype=torch.float64)
    """
    unit, size = _normalised(factor)
    return _scaled_log(torch.linalg.svdvals(unit), size)


def _nodes(log_s: Tensor) -> Tensor:
    """The nodes in tau, ``batch + (n, 1)``, for the logarithms of the eigenvalues."""
    low = -_REACH - log_s.detach().amax(-1, keepdim=True)
    high = _REACH - log_s.detach().amin(-1, keepdim=True)
    n = math.ceil(float((high - low).max()) / _STEP) if log_s.numel() else 0
    return (low + _STEP * torch.arange(n + 1, dtype=low.dtype, device=low.device)).unsqueeze(-1)


def expected_log_ratio(log_eigenvalues: Tensor) -> Tensor:
    r""":math:`\mathrm E\log(w^\top\Sigma w/w^\top w) \ge 0`, where :math:`\Sigma` has the given log
    eigenvalues (float64) and is scaled to determinant 1.

    >>> expected_log_ratio(torch.zeros(3, dtype=torch.float64))
    tensor(0., dtype=torch.float64)
    """
    log_s = log_eigenvalues - log_eigenvalues.mean(-1, keepdim=True)
    x = _nodes(log_s) + _LOG_2
    zero = torch.zeros_like(x)
    log_s = log_s.unsqueeze(-2)
    near = log_s.abs() < 1
    # log (1 + s e^x) / (1 + e^x), without cancellation where log s is small
    small = torch.log1p(torch.sigmoid(x) * torch.expm1(torch.where(near, log_s, 0.0)))
    change = torch.where(near, small, torch.logaddexp(x + log_s, zero) - torch.logaddexp(x, zero))
    even = torch.exp(-0.5 * log_s.shape[-1] * torch.logaddexp(x, zero).squeeze(-1))
    return _STEP * (even * torch.expm1(-0.5 * change.sum(-1)).neg()).sum(-1)


def _weighted(log_s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""The nodes in tau + log 2, ``batch + (n, 1)``, the :math:`x_j`, and the weights, ``batch + (n, 1)``:
    half the product times the step."""
    tau = _nodes(log_s) + _LOG_2
    x = tau + log_s.unsqueeze(-2)
    product = torch.exp(-0.5 * torch.logaddexp(x, torch.zeros_like(x)).sum(-1, keepdim=True))
    return tau, x, 0.5 * _STEP * product


class _Projector(Function):
    """E[xx^T] from a factor of Sigma. The derivative is computed from divided differences, so it is right at
    repeated eigenvalues."""

    @staticmethod
    def forward(factor: Tensor) -> tuple[Tensor, ...]:
        unit, size = _normalised(factor)
        u, s, vh = torch.linalg.svd(unit)
        _, x, w = _weighted(2 * _scaled_log(s, torch.ones_like(size)))
        mean = (w * torch.sigmoid(x)).sum(-2)
        return (u * mean.unsqueeze(-2)) @ u.mT, u, s, vh, size

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs, *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Tensor:  # type: ignore[override]
        factor, u, s, vh, size = ctx.saved_tensors
        g = u.mT @ (0.5 * (grad + grad.mT)) @ u
        tau, x, w = _weighted(2 * s.log())
        inside, outside = torch.sigmoid(x), torch.sigmoid(-x)
        # (m_i - m_j)/(s_i^2 - s_j^2) s_j, where m are the eigenvalues of E[xx^T]
        quotient = ((w * tau.exp() * outside).mT @ outside) * s.unsqueeze(-2)
        # the derivative of m_i in log s_k^2
        slope = torch.diag_embed((w * inside * outside).sum(-2)) - 0.5 * (w * inside).mT @ inside
        diagonal = 2 * (g.diagonal(dim1=-2, dim2=-1).unsqueeze(-2) @ slope).squeeze(-2) / s
        core = 2 * quotient * g
        core = core - torch.diag_embed(core.diagonal(dim1=-2, dim2=-1)) + torch.diag_embed(diagonal)
        return last_order_gradient(u @ core @ vh / size.unsqueeze(-1), factor, grad)


def expected_projector(factor: Tensor) -> Tensor:
    r""":math:`\mathrm E[xx^\top]` for :math:`x = Lw/|Lw|` and a float64 factor L; differentiable once, also
    at repeated singular values.

    :raises ValueError: for a matrix that is singular to rounding.

    >>> expected_projector(torch.eye(2, dtype=torch.float64))
    tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]], dtype=torch.float64)
    """
    return _Projector.apply(factor)[0]
