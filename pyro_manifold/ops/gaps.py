r"""The log volume change of the exponential map of positive definite matrices, twice differentiable: a sum
over the pairs of eigenvalues of a symmetric matrix.

.. math::
    F(A) = \sum_{i<j}\psi(\lambda_i-\lambda_j), \quad \psi(t) = \log\frac{\sinh(t/2)}{t/2}, \qquad
    \nabla F = U\,\mathrm{diag}(h)\,U^T, \quad h_i = \sum_j \psi'(\lambda_i-\lambda_j), \qquad
    D\nabla F[H] = U (M + \mathrm{diag}(D\,\mathrm{diag}\,K)) U^T

with :math:`K = U^THU`, :math:`D_{ij} = \partial h_i/\partial\lambda_j` and, off the diagonal,
:math:`M_{ij} = K_{ij}(h_i-h_j)/(\lambda_i-\lambda_j)
= K_{ij}\sum_k\psi'[\lambda_i-\lambda_k,\lambda_j-\lambda_k]` in divided differences, which are regular at repeated
eigenvalues. Reference: Lewis & Sendov, *Twice differentiable spectral functions*, SIAM J. Matrix Anal. 23
(2001), thm 3.3."""

import math
from typing import Any

import torch
from torch import Tensor

from .autograd import BatchFunction, last_order_gradient, save_tensors
from .linalg import eigh, sym
from .signed_trig import log_sinhc
from .spectral import Spectral, divided_difference

__all__ = ["log_sinhc_gaps"]

_BERNOULLI = (
    1 / 6,
    -1 / 30,
    1 / 42,
    -1 / 30,
    5 / 66,
    -691 / 2730,
    7 / 6,
    -3617 / 510,
    43867 / 798,
    -174611 / 330,
)


def _series(t: Tensor, power: int) -> Tensor:
    """The Taylor series of psi' (power 1) or psi'' (power 0); its radius of convergence is 2 pi."""
    q, out = t * t, torch.zeros_like(t)
    for k in range(len(_BERNOULLI), 0, -1):
        out = out * q + _BERNOULLI[k - 1] * (1 if power else 2 * k - 1) / math.factorial(2 * k)
    return out * t if power else out


def _psi1(t: Tensor) -> Tensor:
    near = t.abs() < 1
    far = torch.where(near, 1.0, t)
    return torch.where(near, _series(t, 1), 0.5 / (far / 2).tanh() - 1 / far)


def _psi2(t: Tensor) -> Tensor:
    near = t.abs() < 1
    far = torch.where(near, 1.0, t)
    return torch.where(near, _series(t, 0), 1 / (far * far) - 0.25 / (far / 2).sinh().square())


_PSI1 = Spectral(_psi1, _psi2, torch.zeros_like, lambda t: torch.full_like(t, 2.0))


def _differences(x: Tensor) -> Tensor:
    return x.unsqueeze(-1) - x.unsqueeze(-2)


class _Gaps(BatchFunction):
    ranks = (2,)

    @staticmethod
    def forward(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, u = eigh(a)
        i, j = torch.triu_indices(a.shape[-1], a.shape[-1], 1, device=a.device)
        return log_sinhc((x[..., j] - x[..., i]) / 2).sum(-1), x, u

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        save_tensors(ctx, *inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Tensor:  # type: ignore[override]
        return grad[..., None, None] * _Gradient.apply(*ctx.saved_tensors)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return (sym(tangent) * _Gradient.apply(*ctx.saved_tensors)).sum((-1, -2)), None, None


class _Gradient(BatchFunction):
    """The gradient of F, from A and its eigenvalues and eigenvectors. Its derivative in A is self-adjoint."""

    ranks = (2, 1, 2)

    @staticmethod
    def forward(a: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return (u * _psi1(_differences(x)).sum(-1).unsqueeze(-2)) @ u.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        save_tensors(ctx, *inputs)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:  # type: ignore[override]
        a, x, u = ctx.saved_tensors
        return last_order_gradient(_second(tangent, x, u), a, tangent)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _Gradient.jvp(ctx, grad), None, None


def _second(h: Tensor, x: Tensor, u: Tensor) -> Tensor:
    """D(grad F)[H] in the eigenbasis (x, u) of A."""
    k = u.mT @ sym(h) @ u
    gaps = _differences(x)
    quotients = divided_difference(
        _PSI1, gaps.unsqueeze(-2), gaps.unsqueeze(-3)
    )  # [i, j, k]: of x_i-x_k, x_j-x_k
    m = quotients.sum(-1) * k
    slope = _psi2(gaps)
    slope = torch.diag_embed(slope.sum(-1)) - slope  # the terms with i = j cancel
    along = (slope @ k.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)).squeeze(-1)
    m = m - torch.diag_embed(m.diagonal(dim1=-2, dim2=-1)) + torch.diag_embed(along)
    return u @ m @ u.mT


def log_sinhc_gaps(a: Tensor) -> Tensor:
    r""":math:`F` of the symmetric part of ``a``, shape ``(..., n, n)``; a third derivative raises.

    >>> log_sinhc_gaps(torch.diag(torch.tensor([0.0, 2.0])))  # log sinh 1
    tensor(0.1614)
    """
    return _Gaps.apply(a)[0]
