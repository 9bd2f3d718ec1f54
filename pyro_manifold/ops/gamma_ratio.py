r"""Ratios of gamma functions and their derivatives without the cancellation of two large log-gammas.

Stirling's series (DLMF 5.11.1) of both terms is subtracted term by term where the argument is at least 10.
"""

import math

import torch
from torch import Tensor

from .numerics import horner
from .quadrature import legendre
from .tracing import maybe_any

__all__ = ["digamma_difference", "log_gamma_ratio", "power_divergence"]

_STIRLING = [1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400]
_SLOPES = [(2 * m + 1) * c for m, c in enumerate(_STIRLING)]


def log_gamma_ratio(x: Tensor, b: float) -> Tensor:
    r""":math:`\log[\Gamma(x+b)/\Gamma(x)]` for :math:`x > 0, b \ge 0`.

    It consists of differentiable torch operations, so it has derivatives of every order.

    >>> log_gamma_ratio(torch.tensor(1e6), 1.0)  # log x
    tensor(13.8155)
    """
    large = x >= 10
    if not maybe_any(large):
        return torch.lgamma(x + b) - torch.lgamma(x)
    y = torch.where(large, x, 10.0)
    z = y + b
    out = (y - 0.5) * torch.log1p(b / y) + b * z.log() - b
    u, w = 1 / z, 1 / y
    out = out + (u * horner(_STIRLING, u * u) - w * horner(_STIRLING, w * w))
    small = torch.where(large, 1.0, x)
    return torch.where(large, out, torch.lgamma(small + b) - torch.lgamma(small))


def digamma_difference(x: Tensor, b: float) -> Tensor:
    r""":math:`\psi(x+b) - \psi(x)`, the derivative of :func:`log_gamma_ratio`.

    >>> digamma_difference(torch.tensor(1e6), 1.0)  # 1/x
    tensor(1.0000e-06)
    """
    large = x >= 10
    if not maybe_any(large):
        return torch.digamma(x + b) - torch.digamma(x)
    y = torch.where(large, x, 10.0)
    z = y + b
    u, w = (1 / z).square(), (1 / y).square()
    out = torch.log1p(b / y) + b / (2 * y * z) - (u * horner(_SLOPES, u) - w * horner(_SLOPES, w))
    small = torch.where(large, 1.0, x)
    return torch.where(large, out, torch.digamma(small + b) - torch.digamma(small))


def power_divergence(k: Tensor, b: float) -> Tensor:
    r""":math:`f(k) - f(0) - k f'(k) \ge 0` for :math:`f(k) = \log[\Gamma(k+2b)/\Gamma(k+b)]`; its relative
    error is of the order of rounding also near k = 0.

    This is the KL divergence of a power spherical distribution on :math:`S^{2b}` from the uniform one. Near 0
    it is computed as :math:`\int_0^k t\,[\psi'(t+b) - \psi'(t+2b)]\,dt`. Differentiable; computed in float64.

    >>> power_divergence(torch.tensor(1e-8), 1.0)  # k^2 / 2
    tensor(5.0000e-17)
    """
    x = k.double()
    near = x < b
    large = torch.where(near, b, x)
    direct = (
        log_gamma_ratio(large + b, b)
        - (math.lgamma(2 * b) - math.lgamma(b))
        - large * digamma_difference(large + b, b)
    )
    small = torch.where(near, x, 0.0).unsqueeze(-1)
    u, w = (t.squeeze(-1) for t in legendre(12, k.device))
    t = small * u
    two = t.new_full((), 2.0)
    # the trigamma function, as a zeta function: torch.polygamma(1, .) is accurate to 10 digits only
    rate = torch.special.zeta(two, t + b) - torch.special.zeta(two, t + 2 * b)
    return torch.where(near, (small * (w * t * rate)).sum(-1), direct).to(k.dtype)
