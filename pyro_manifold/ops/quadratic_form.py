r"""Expectations of ratios of quadratic forms in normal vectors, by one quadrature in log time.

With w standard normal in R^d, :math:`\Sigma` positive definite of determinant 1 and eigenvalues :math:`\sigma_j` (Frullani):

.. math::
    \mathrm E\log\frac{w^\top\Sigma w}{w^\top w}
        &= \int_{-\infty}^{\infty}\Big[(1+2e^\tau)^{-d/2} - \prod_j(1+2e^\tau\sigma_j)^{-1/2}\Big]d\tau \\
    \mathrm E\frac{\Sigma^{1/2}ww^\top\Sigma^{1/2}}{w^\top\Sigma w}
        &= \int_{-\infty}^\infty \frac{e^\tau\,\Sigma(I+2e^\tau\Sigma)^{-1}}{\det(I+2e^\tau\Sigma)^{1/2}}\,d\tau

Both integrands are analytic for :math:`|\mathrm{Im}\,\tau|<\pi` and fall exponentially: the trapezoidal rule is exact to
rounding for condition numbers up to 1e16 and beyond.
"""

import torch
from torch import Tensor

__all__ = ["expected_log_ratio", "expected_projector"]

_NODES = 320
_REACH = 40.0


def _nodes(smallest: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes in tau, ``batch + (n,)``, and their spacing, ``batch + (1,)``, for eigenvalues between the two given."""
    low, high = (-_REACH - largest.detach().log()).unsqueeze(-1), (_REACH - smallest.detach().log()).unsqueeze(-1)
    h = (high - low) / _NODES
    return low + h * torch.arange(_NODES + 1, dtype=h.dtype, device=h.device), h


def expected_log_ratio(eigenvalues: Tensor) -> Tensor:
    r""":math:`\mathrm E\log(w^\top\Sigma w/w^\top w)` for float64 eigenvalues, divided by their geometric mean: nonnegative.

    >>> expected_log_ratio(torch.ones(3, dtype=torch.float64)).abs() < 1e-15
    tensor(True)
    """
    log_s = eigenvalues.log()
    s = (log_s - log_s.mean(-1, keepdim=True)).exp()
    tau, h = _nodes(s.amin(-1), s.amax(-1))
    t = 2 * tau.exp()
    form = torch.exp(-0.5 * torch.log1p(t.unsqueeze(-1) * s.unsqueeze(-2)).sum(-1))
    return (h * (torch.exp(-0.5 * s.shape[-1] * torch.log1p(t)) - form)).sum(-1)


def expected_projector(sigma: Tensor) -> Tensor:
    r""":math:`\mathrm E[xx^\top]` of :math:`x = \Sigma^{1/2}w/|\Sigma^{1/2}w|`, float64; no eigenvector is differentiated.

    >>> expected_projector(torch.eye(2, dtype=torch.float64))
    tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]], dtype=torch.float64)
    """
    sigma = sigma / sigma.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    values = torch.linalg.eigvalsh(sigma.detach())
    tau, h = _nodes(values[..., 0], values[..., -1])
    s = sigma.unsqueeze(-3)
    eye = torch.eye(sigma.shape[-1], dtype=sigma.dtype, device=sigma.device)
    factor = torch.linalg.cholesky(eye + 2 * tau.exp()[..., None, None] * s)
    log_weight = tau - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return ((h * log_weight.exp())[..., None, None] * torch.cholesky_solve(s.expand_as(factor), factor)).sum(-3)
