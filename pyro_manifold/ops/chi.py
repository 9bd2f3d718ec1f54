r"""Expectations of functions of the length of a standard normal vector."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .quadrature import legendre

__all__ = ["chi_expectation", "chi_quantile"]

_NODES = 200


def chi_expectation(f: Callable[[Tensor], Tensor], dim: int, scale: Tensor, growth: float = 0.0) -> Tensor:
    r"""Expectation of ``f(scale * z)``, z chi-distributed with ``dim`` degrees of freedom, by Gauss-Legendre
    quadrature.

    .. math:: \mathrm E f(\sigma z) = \frac{2^{1-d/2}}{\Gamma(d/2)} \int_0^\infty f(\sigma z)\, z^{d-1}
        e^{-z^2/2}\,dz

    :param f: a function that acts elementwise on tensors of shape ``(nodes,) + scale.shape``.
    :param scale: :math:`\sigma`, any shape; the result has this shape and is differentiable in it.
    :param growth: a bound on the growth of f, ``exp(growth * r)``. The window of integration, mode plus or
        minus 9, is extended accordingly.
    """
    x, w = legendre(_NODES, scale.device)
    mode = math.sqrt(max(dim - 1, 0))
    shift = growth * float(scale.detach().max()) if growth and scale.numel() else 0.0
    low, high = max(0.0, mode - 9), mode + 9 + shift
    z = (high - low) * x + low
    log_weight = ((high - low) * w).log() + (dim - 1) * z.log() - z.square() / 2
    log_constant = (1 - dim / 2) * math.log(2) - math.lgamma(dim / 2)
    shape = (-1,) + (1,) * scale.dim()
    nodes = z.to(scale.dtype).reshape(shape)
    weights = (log_weight + log_constant).exp().to(scale.dtype).reshape(shape)
    return (weights * f(scale * nodes)).sum(0)


def chi_quantile(prob: float, dim: int) -> float:
    r"""The radius of the ball about 0 that holds the share ``prob`` of a standard normal distribution in ``dim``
    dimensions, by bisection.

    >>> round(chi_quantile(0.95, 1), 4), round(chi_quantile(0.95, 2), 4)  # the second is sqrt(-2 log 0.05)
    (1.96, 2.4477)
    """
    half = torch.tensor(dim / 2, dtype=torch.float64)
    low, high = 0.0, math.sqrt(dim) + 40.0
    for _ in range(70):
        middle = 0.5 * (low + high)
        above = torch.special.gammaincc(half, torch.tensor(middle**2 / 2, dtype=torch.float64))
        low, high = (low, middle) if float(above) < 1 - prob else (middle, high)
    return 0.5 * (low + high)
