r"""Exact draws from :math:`p(x)\propto e^{-\sum_i l_ix_i^2 + \kappa x_1}` on the sphere, by rejection from an
angular central Gaussian.

First identify x with -x: :math:`e^{\kappa x_1}` becomes :math:`\cosh\kappa x_1`, and the sign of x is drawn
afterwards. Two tangent bounds then lead to an angular central Gaussian. :math:`\log\cosh\kappa\sqrt w` is
concave in w, so for any c

.. math:: \log\cosh\kappa x_1 \le \log\cosh\kappa c + \tau(x_1^2 - c^2), \qquad \tau = \frac{\kappa\tanh\kappa
    c}{2c},

which bounds the density by that of a Bingham distribution with coefficients :math:`\lambda = l - \tau e_1`,
shifted so that the smallest is 0. This in turn has, for any b in (0, d], the bound

.. math:: e^{-u} \le e^{-(d-b)/2} (d/b)^{d/2} (1 + 2u/b)^{-d/2}, \qquad u = \sum_i\lambda_ix_i^2 .

The optimal b solves :math:`\sum_i (b+2\lambda_i)^{-1} = 1`; c is the best value of a grid. Identifying x with
-x doubles the acceptance of the published scheme, which bounds :math:`\kappa x_1` itself and at large
:math:`\kappa` wastes the proposals in one hemisphere.

Reference: Kent, Ganeiber & Mardia, J. Comput. Graph. Stat. 27 (2018), sec. 3 and 4 (arXiv:1310.8110).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .fisher_bingham import log_normalizer
from .rejection import rejection
from .spherical import log_sphere_area
from .tracing import operator

__all__ = ["acceptance", "angular_bound", "log_cosh", "log_envelope_mass", "sample"]


class _Envelope(NamedTuple):
    weights: Tensor  # 1 + 2 lambda / b, shape (B, d)
    b: Tensor  # (B, 1)
    c: Tensor  # (B, 1)
    tau: Tensor  # (B, 1)
    log_mass: Tensor  # (B,): log of the integral of the bound on the folded density


def log_cosh(t: Tensor) -> Tensor:
    """log cosh t, without overflow."""
    t = t.abs()
    return t + torch.log1p(torch.exp(-2 * t)) - math.log(2)


def angular_bound(lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The weights and the b, ``(..., 1)``, of the angular central Gaussian bound on the Bingham density with
    coefficients ``lam`` of any sign, ``(..., d)``; and the log of the mass of the bound."""
    d = lam.shape[-1]
    least = lam.amin(-1, keepdim=True)
    lam = lam - least
    b = torch.ones_like(least)
    for _ in range(12):  # 1/h is concave: Newton's method increases monotonically from the lower bound 1
        v = 1 / (b + 2 * lam)
        h = v.sum(-1, keepdim=True)
        b = b + h * (h - 1) / v.square().sum(-1, keepdim=True)
    b = b.clamp(
        1.0, float(d)
    )  # against rounding: the root is in this interval, and any b in it gives a bound
    weights = 1 + 2 * lam / b
    bound = (-least - (d - b) / 2 + d / 2 * (d / b).log()).squeeze(-1)
    return weights, b, bound - 0.5 * weights.log().sum(-1) + log_sphere_area(d - 1)


def _envelope(coef: Tensor, kappa: Tensor) -> _Envelope:
    """The best bound for each row of ``coef``, (B, d), and nonnegative ``kappa``, (B,), both float64."""
    k = kappa.unsqueeze(-1)
    c = torch.logspace(0, -4, 25, base=10, dtype=coef.dtype, device=coef.device)
    tau = k * torch.tanh(k * c) / (2 * c)
    lam = torch.cat([coef[:, None, :1] - tau.unsqueeze(-1), coef[:, None, 1:].expand(-1, len(c), -1)], -1)
    weights, b, log_mass = angular_bound(lam)
    log_mass = log_mass + log_cosh(k * c) - tau * c * c
    best = log_mass.argmin(-1, keepdim=True)
    row = torch.arange(len(coef), device=coef.device)
    i = best.squeeze(-1)
    return _Envelope(weights[row, i], b[row, i], c[best], tau[row, i].unsqueeze(-1), log_mass[row, i])


def log_envelope_mass(coef: Tensor, kappa: Tensor) -> Tensor:
    """Log of the integral of the bound, shape ``batch``: that of the density minus the log of the
    acceptance."""
    coef, kappa = coef.double(), kappa.double().expand(coef.shape[:-1])
    return _envelope(coef.reshape(-1, coef.shape[-1]), kappa.reshape(-1)).log_mass.reshape(kappa.shape)


def acceptance(coef: Tensor, kappa: Tensor) -> Tensor:
    """The probability that a proposal of :func:`sample` is accepted, from the exact normaliser; shape
    ``batch``.

    >>> acceptance(torch.zeros(3), torch.tensor(0.0))  # the uniform distribution
    tensor(1.0000, dtype=torch.float64)
    """
    coef, kappa = coef.double(), kappa.double()
    log_c = log_normalizer(coef, kappa)
    return (log_c - log_envelope_mass(coef, kappa)).exp()


@torch.no_grad()
def sample(coef: Tensor, kappa: Tensor | None, n: int) -> Tensor:
    """``n`` draws for each row, shape ``(n,) + coef.shape``, in the dtype of ``coef``.

    :param Tensor coef: quadratic coefficients, shape ``batch + (d,)``.
    :param Tensor kappa: nonnegative linear coefficient of the first coordinate, shape ``batch``; 0 if
        omitted.
    :raises RuntimeError: if a draw is not accepted within a bounded number of rounds.

    >>> sample(torch.zeros(3), None, 2).shape
    torch.Size([2, 3])
    """
    return _draw(coef, kappa, n)


@operator(
    "bingham_draw(Tensor coef, Tensor? kappa, int n) -> Tensor",
    lambda coef, kappa, n: coef.new_empty((n, *coef.shape)),
    draws=True,
)
def _draw(coef: Tensor, kappa: Tensor | None, n: int) -> Tensor:
    d = coef.shape[-1]
    rows = coef.double().reshape(-1, d)
    k = rows.new_zeros(len(rows)) if kappa is None else kappa.double().expand(coef.shape[:-1]).reshape(-1)
    env = _envelope(rows, k)
    b, c, tau, k = (x.to(coef.dtype) for x in (env.b, env.c, env.tau, k.unsqueeze(-1)))
    half_u = (env.weights - 1).to(coef.dtype)  # 2 lambda / b
    spread = env.weights.rsqrt().to(coef.dtype)
    peak = ((d - env.b) / 2 - d / 2 * (d / env.b).log()).to(coef.dtype)

    def propose(k_draws: int, row: Tensor | slice) -> tuple[Tensor, Tensor]:
        x = torch.randn(k_draws, d, dtype=coef.dtype, device=coef.device) * spread[row]
        x = x / x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        q = (half_u[row] * x * x).sum(-1, keepdim=True)
        log_accept = -0.5 * b[row] * q + d / 2 * torch.log1p(q) + peak[row]
        if kappa is not None:
            first, kr, cr = x[:, :1], k[row], c[row]
            log_accept = (
                log_accept + log_cosh(kr * first) - log_cosh(kr * cr) - tau[row] * (first * first - cr * cr)
            )
            x = torch.where(torch.rand_like(first) > torch.sigmoid(2 * kr * first), -x, x)
        return x, log_accept.squeeze(-1)

    return rejection(propose, n, len(rows), d, coef).reshape((n,) + coef.shape)
