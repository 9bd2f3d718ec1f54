r"""Expectations of ratios of quadratic forms in normal vectors, by one quadrature in log time.

With w standard normal in R^d, :math:`\Sigma` positive definite of determinant 1 and eigenvalues
:math:`\sigma_j` (Frullani), and in the eigenbasis of :math:`\Sigma`, with
:math:`x_j = \tau + \log 2\sigma_j`:

.. math::
    \mathrm E\log\frac{w^\top\Sigma w}{w^\top w}
        &= \int_{-\infty}^{\infty}\Big[(1+2e^\tau)^{-d/2} - \prod_j(1+e^{x_j})^{-1/2}\Big]d\tau \\
    \mathrm E\Big[\frac{\Sigma^{1/2}ww^\top\Sigma^{1/2}}{w^\top\Sigma w}\Big]_{jj}
        &= \frac12\int_{-\infty}^\infty \frac{1}{1+e^{-x_j}}\,\prod_k(1+e^{x_k})^{-1/2}\,d\tau

Both integrands are analytic for :math:`|\mathrm{Im}\,\tau|<\pi` and fall exponentially: the trapezoidal rule
is exact to rounding, whatever the condition number. Everything is computed from the *logarithms of singular
values* of a factor of
:math:`\Sigma`: :math:`\Sigma` itself has lost the small ones when its condition number passes 1e16.
"""

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
    if not bool((values > 0).all()):
        raise ValueError(
            "scale_tril: got a matrix that float64 cannot tell from a singular one, expected one whose "
            "least singular value is above 1e-15 of the largest (or a diagonal one). Rescale its axes, or "
            "leave out those without spread."
        )
    return values.log() + size.log()


def _normalised(factor: Tensor) -> tuple[Tensor, Tensor]:
    size = factor.detach().abs().amax((-1, -2))
    return factor / size[..., None, None], size.unsqueeze(-1)


def log_singular_values(factor: Tensor) -> Tensor:
    """Logarithms of the singular values, ``batch + (d,)``, differentiable, also where they are equal.

    :raises ValueError: for a matrix that is singular to rounding.

    >>> log_singular_values(torch.eye(2, dtype=torch.float64))
    tensor([0., 0.], dtype=torch.float64)
    """
    unit, size = _normalised(factor)
    return _scaled_log(torch.linalg.svdvals(unit), size)


def _nodes(log_s: Tensor) -> Tensor:
    """Nodes in tau, ``batch + (n, 1)``, for logarithms of eigenvalues."""
    low, high = (
        -_REACH - log_s.detach().amax(-1, keepdim=True),
        _REACH - log_s.detach().amin(-1, keepdim=True),
    )
    n = math.ceil(float((high - low).max()) / _STEP) if log_s.numel() else 0
    return (low + _STEP * torch.arange(n + 1, dtype=low.dtype, device=low.device)).unsqueeze(-1)


def expected_log_ratio(log_eigenvalues: Tensor) -> Tensor:
    r""":math:`\mathrm E\log(w^\top\Sigma w/w^\top w)` for float64 log eigenvalues, less their mean:
    nonnegative.

    >>> expected_log_ratio(torch.zeros(3, dtype=torch.float64))
    tensor(0., dtype=torch.float64)
    """
    log_s = log_eigenvalues - log_eigenvalues.mean(-1, keepdim=True)
    x = _nodes(log_s) + _LOG_2
    zero = torch.zeros_like(x)
    log_s = log_s.unsqueeze(-2)
    near = log_s.abs() < 1
    # log (1 + s e^x) / (1 + e^x): of the size of log s where that is small
    small = torch.log1p(torch.sigmoid(x) * torch.expm1(torch.where(near, log_s, 0.0)))
    change = torch.where(near, small, torch.logaddexp(x + log_s, zero) - torch.logaddexp(x, zero))
    even = torch.exp(-0.5 * log_s.shape[-1] * torch.logaddexp(x, zero).squeeze(-1))
    return _STEP * (even * torch.expm1(-0.5 * change.sum(-1)).neg()).sum(-1)


def _weighted(log_s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Nodes in tau + log 2, ``batch + (n, 1)``, x_j, and half the product times the step,
    ``batch + (n, 1)``."""
    tau = _nodes(log_s) + _LOG_2
    x = tau + log_s.unsqueeze(-2)
    product = torch.exp(-0.5 * torch.logaddexp(x, torch.zeros_like(x)).sum(-1, keepdim=True))
    return tau, x, 0.5 * _STEP * product


class _Projector(Function):
    """E[xx^T] from a factor of Sigma; the derivative from divided differences, so that eigenvalues may
    meet."""

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
        quotient = ((w * tau.exp() * outside).mT @ outside) * s.unsqueeze(
            -2
        )  # (m_i - m_j)/(s_i^2 - s_j^2) s_j
        slope = (
            torch.diag_embed((w * inside * outside).sum(-2)) - 0.5 * (w * inside).mT @ inside
        )  # of m_i in log s_k^2
        diagonal = 2 * (g.diagonal(dim1=-2, dim2=-1).unsqueeze(-2) @ slope).squeeze(-2) / s
        core = 2 * quotient * g
        core = core - torch.diag_embed(core.diagonal(dim1=-2, dim2=-1)) + torch.diag_embed(diagonal)
        return last_order_gradient(u @ core @ vh / size.unsqueeze(-1), factor, grad)


def expected_projector(factor: Tensor) -> Tensor:
    r""":math:`\mathrm E[xx^\top]` of :math:`x = Lw/|Lw|` for a float64 factor L, differentiable once; no
    eigenvector is.

    :raises ValueError: for a matrix that is singular to rounding.

    >>> expected_projector(torch.eye(2, dtype=torch.float64))
    tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]], dtype=torch.float64)
    """
    return _Projector.apply(factor)[0]
