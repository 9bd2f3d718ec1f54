r"""Concentrations from mean resultant lengths: the inverse of a Bessel ratio and of its power spherical
counterpart.

.. math::
    1 - A_v(\kappa) = c, \qquad \psi(\kappa + 2b) - \psi(\kappa + b) = m
"""

import math

import torch
from torch import Tensor

from .gamma_ratio import digamma_difference
from .special import bessel_ratio

__all__ = ["inverse_bessel_ratio", "inverse_digamma_difference"]


def inverse_bessel_ratio(complement: Tensor, order: float, most: float = math.inf) -> Tensor:
    r""":math:`\kappa` with :math:`1 - A_v(\kappa)` = ``complement``, in [0, most]: Newton's method in
    :math:`\log\kappa` from Banerjee's formula, float64.

    :param complement: c > 0, to all of its digits also where it is small; 0 is the answer from 1 on.
    :param order: :math:`v = n/2 - 1` for the sphere in R^n.

    Reference: Banerjee et al., J. Mach. Learn. Res. 6 (2005), eq. 2.5.

    >>> inverse_bessel_ratio(torch.tensor([1.0, 0.5, 1e-6], dtype=torch.float64), 0.5)
    tensor([0.0000e+00, 1.7968e+00, 1.0000e+06], dtype=torch.float64)
    """
    c = complement.clamp(torch.finfo(complement.dtype).tiny, 1.0)
    most = min(most, torch.finfo(c.dtype).max / 4)
    n = 2 * order + 2
    ratio = 1 - c
    k = (ratio * (n - ratio.square()) / (c * (1 + ratio))).clamp(1e-12, most)
    for _ in range(6):
        a, off, slope = bessel_ratio(k, order)
        step = (off - c) / (k * slope).clamp_min(torch.finfo(k.dtype).tiny)
        k = (k * step.clamp(-2.0, 2.0).exp()).clamp(1e-12, most)
    return torch.where(c < 1, k, 0.0)


def inverse_digamma_difference(difference: Tensor, b: float) -> Tensor:
    r""":math:`\kappa\ge0` with :math:`\psi(\kappa + 2b) - \psi(\kappa + b)` = ``difference`` > 0; 0 where the
    difference is at least that at 0. Newton's method in :math:`\log\kappa`, float64.

    >>> k = inverse_digamma_difference(torch.tensor([1e-6, 0.5, 2.0], dtype=torch.float64), 1.0)
    >>> k  # 1 / (k + 1) on the sphere in R^3
    tensor([1.0000e+06, 1.0000e+00, 0.0000e+00], dtype=torch.float64)
    """
    largest = float(digamma_difference(torch.tensor(b, dtype=torch.float64), b))
    inside = difference < largest
    m = torch.where(inside, difference, 0.5 * largest)
    k = torch.maximum(b / m - 1.5 * b + 0.5, 1e-3 * (largest - m) / largest)
    for _ in range(60):
        with torch.enable_grad():
            point = k.clone().requires_grad_()
            value = digamma_difference(point + b, b)
            (slope,) = torch.autograd.grad(value.sum(), point)
        step = (value.detach() - m) / (-slope * k)
        k = k * step.clamp(-2.0, 2.0).exp()
        if bool((step.abs() < 1e-14).all()):
            break
    return torch.where(inside, k, 0.0)
