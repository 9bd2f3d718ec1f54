r"""Scalar functions with the derivatives and divided differences that matrix functions of them need.

.. math:: f[a,b] = \frac{f(a)-f(b)}{a-b},\quad f[a,a] = f'(a), \qquad f[a,b,c] = \frac{f[c,b]-f[b,a]}{c-a}

Divided differences are evaluated without cancellation: in closed form, by division if the arguments are well
separated, or else by integrating a derivative between them.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .quadrature import legendre

__all__ = [
    "EXP",
    "INV_SQRT",
    "LOG",
    "LOG1P",
    "SQRT",
    "Spectral",
    "divided_difference",
    "second_divided_differences",
]

_Scalar = Callable[[Tensor], Tensor]


class Spectral(NamedTuple):
    """A scalar function f and its derivatives.

    :param f: the function, elementwise.
    :param df: its derivative; ``None`` if ``quotient`` is given, which gives it at a = b.
    :param d2f: its second derivative.
    :param scale: at each argument, a length over which a few Taylor terms describe f well, such as the
        distance to a singularity. Divided differences over much shorter distances are integrated instead of
        divided.
    :param quotient: the divided difference f[a, b], if it has a closed form without cancellation.
    """

    f: _Scalar
    df: _Scalar | None
    d2f: _Scalar
    scale: _Scalar
    quotient: Callable[[Tensor, Tensor], Tensor] | None = None


def _unit_rate(g: _Scalar, x: Tensor) -> Tensor:
    """g(x)/x for x >= 0, where g(x) ~ x at 0."""
    zero = x == 0
    return torch.where(zero, 1.0, g(x) / torch.where(zero, 1.0, x))


def _exp_quotient(a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(a, b).exp() * _unit_rate(lambda x: -torch.expm1(-x), (a - b).abs())


def _log_quotient(a: Tensor, b: Tensor) -> Tensor:
    low = torch.minimum(a, b)
    return _unit_rate(torch.log1p, (a - b).abs() / low) / low


def _inv_sqrt_quotient(a: Tensor, b: Tensor) -> Tensor:
    ra, rb = a.sqrt(), b.sqrt()
    return -1 / (ra * rb * (ra + rb))


EXP = Spectral(torch.exp, None, torch.exp, lambda x: torch.full_like(x, 4.0), _exp_quotient)
LOG = Spectral(torch.log, None, lambda x: -1 / x**2, torch.abs, _log_quotient)
LOG1P = Spectral(
    torch.log1p,
    None,
    lambda x: -1 / (1 + x) ** 2,
    lambda x: 1 + x,
    lambda a, b: (
        _unit_rate(torch.log1p, (a - b).abs() / (1 + torch.minimum(a, b))) / (1 + torch.minimum(a, b))
    ),
)
SQRT = Spectral(
    torch.sqrt,
    None,
    lambda x: -0.25 * x**-1.5,
    torch.abs,
    lambda a, b: 1 / (a.sqrt() + b.sqrt()),
)
INV_SQRT = Spectral(torch.rsqrt, None, lambda x: 0.75 * x**-2.5, torch.abs, _inv_sqrt_quotient)

_NODES = tuple(zip(*(t.flatten().tolist() for t in legendre(6, torch.device("cpu"))), strict=True))
# differences below this fraction of the scale are integrated; above, division loses at most one digit, and
# below, 6 nodes are accurate to 1e-15
_NEAR = 0.25


def divided_difference(spec: Spectral, a: Tensor, b: Tensor) -> Tensor:
    """f[a, b], elementwise."""
    if spec.quotient is not None:
        return spec.quotient(a, b)
    assert spec.df is not None
    gap = a - b
    near = gap.abs() < _NEAR * torch.minimum(spec.scale(a), spec.scale(b))
    mean = sum(w * spec.df(b + t * gap) for t, w in _NODES)
    return torch.where(near, mean, (spec.f(a) - spec.f(b)) / torch.where(near, 1.0, gap))


def second_divided_differences(spec: Spectral, x: Tensor) -> Tensor:
    """f[x_i, x_k, x_j] for all i, k, j of the last axis: by division by the largest difference, or by
    integration (Hermite-Genocchi formula)."""
    n = x.shape[-1]
    shape = x.shape[:-1] + (n, n, n)
    i, k, j = x[..., :, None, None], x[..., None, :, None], x[..., None, None, :]
    a, b, c = torch.stack([y.expand(shape) for y in (i, k, j)]).sort(0).values
    gap = c - a
    near = gap < _NEAR * torch.minimum(spec.scale(a), spec.scale(c))
    far = (divided_difference(spec, c, b) - divided_difference(spec, b, a)) / torch.where(near, 1.0, gap)
    mean = sum(w * t * v * spec.d2f(a + t * (b - a) + t * s * (c - b)) for t, w in _NODES for s, v in _NODES)
    return torch.where(near, mean, far)
