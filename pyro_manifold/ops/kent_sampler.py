r"""Exact draws from Kent densities :math:`p(x)\propto e^{\kappa x_1 + \sum_{j\ge2}\beta_jx_j^2}` with
:math:`2\max\beta\le\kappa`.

Write :math:`x = (1-2r^2, 2y\sqrt{1-r^2})` with :math:`r = |y| < 1`, and let :math:`q_+` and :math:`q_-` be the
sums of the positive and of the negative terms of :math:`\sum\beta_jy_j^2` (in absolute value). The log density
with respect to dy is, up to constants,

.. math:: -2\kappa r^2 + 4(1-r^2)(q_+-q_-) + \tfrac{d-3}2\log(1-r^2)
          \;\le\; -(2\kappa + \tfrac{d-3}2) r^2 + 4(1-2\rho)q_+ + 4\rho^2\max\beta

for any :math:`\rho\ge0`, because :math:`r^2\ge q_+/\max\beta` and :math:`r^2q_-\le q_-`. The bound is a
Gaussian, also in the limit :math:`2\beta\to\kappa`, where the density is flat along a ridge. At small
concentrations, where the restriction r < 1 matters, the angular Gaussian bound of :mod:`.bingham_sampler` is
better; each row of the parameters uses the bound with the larger acceptance. Both integrals are computed
relative to :math:`e^\kappa`, and precisions from :math:`\kappa/2-\beta_j`, so nothing cancels at large
concentrations. On the two-sphere the bound is that of Kent & Hamelryck, in Gaussian instead of exponential
form.

Reference: Kent & Hamelryck, in Quantitative Biology, Shape Analysis and Wavelets (Leeds, 2005), p. 57-60.
"""

import math

import torch
from torch import Tensor

from . import bingham_sampler
from .fisher_bingham import relative_normalizer
from .rejection import rejection
from .tracing import operator

__all__ = ["acceptance", "sample"]


def _coefficients(beta: Tensor) -> Tensor:
    return torch.nn.functional.pad(-beta, (1, 0))


def _angular_mass(kappa: Tensor, beta: Tensor) -> Tensor:
    r"""Log of the integral of the angular bound, minus kappa; infinite where :math:`\kappa\gg d`, where the
    Gaussian bound is better."""
    small = kappa < 20 * (beta.shape[-1] + 50)
    k = torch.where(small, kappa, 0.0)
    b = torch.where(small.unsqueeze(-1), beta, 0.0)
    return torch.where(small, bingham_sampler.log_envelope_mass(_coefficients(b), k) - k, math.inf)


def _gaussian(kappa: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The Gaussian bound for float64 rows: precisions (B, d - 1), rho (B, 1), and the log of its integral minus
    kappa (B,)."""
    d, top = beta.shape[-1] + 1, beta.amax(-1, keepdim=True).clamp_min(0)
    grid = torch.cat([beta.new_zeros(1), torch.logspace(-3, 1.5, 33, dtype=beta.dtype, device=beta.device)])
    rho = (grid / top.clamp_min(1).sqrt()).clamp_max(1)
    up = beta.clamp_min(0).unsqueeze(-2)
    precision = 8 * (kappa[:, None, None] / 2 - up) + 16 * up * rho.unsqueeze(-1) + (d - 3)
    proper = (precision > 0).all(-1)
    volume = 0.5 * (math.log(2 * math.pi) - torch.where(precision > 0, precision, 1.0).log()).sum(-1)
    log_mass = (d - 1) * math.log(2) + 4 * rho * rho * top + volume
    log_mass = torch.where(proper, log_mass, math.inf)
    i, row = log_mass.argmin(-1), torch.arange(len(beta), device=beta.device)
    return precision[row, i], rho[row, i].unsqueeze(-1), log_mass[row, i]


def acceptance(kappa: Tensor, beta: Tensor) -> Tensor:
    """The probability that a proposal of :func:`sample` is accepted, from the exact normaliser; shape
    ``batch``.

    >>> acceptance(torch.tensor(100.0), torch.tensor([40.0, -40.0])) > 0.5
    tensor(True)
    """
    beta, kappa = beta.double(), kappa.double().expand(beta.shape[:-1])
    log = relative_normalizer((kappa / 2).unsqueeze(-1) + _coefficients(beta))
    gaussian = _gaussian(kappa.reshape(-1), beta.reshape(-1, beta.shape[-1]))[2].reshape(kappa.shape)
    return (log - torch.minimum(gaussian, _angular_mass(kappa, beta))).exp()


@torch.no_grad()
def sample(kappa: Tensor, beta: Tensor, n: int) -> Tensor:
    """``n`` draws for each row, shape ``(n,) + batch + (d,)``, in coordinates along the axes of the
    distribution (the mean direction first).

    :param Tensor kappa: concentration, shape ``batch``.
    :param Tensor beta: ovalness along the other axes, shape ``batch + (d - 1,)``, at most ``kappa / 2``.
    :raises RuntimeError: if a draw is not accepted within a bounded number of rounds.
    """
    return _draw(kappa, beta, n)


@operator(
    "kent_draw(Tensor kappa, Tensor beta, int n) -> Tensor",
    lambda kappa, beta, n: beta.new_empty((n, *beta.shape[:-1], beta.shape[-1] + 1)),
    draws=True,
)
def _draw(kappa: Tensor, beta: Tensor, n: int) -> Tensor:
    d, batch = beta.shape[-1] + 1, beta.shape[:-1]
    b = beta.double().reshape(-1, d - 1)
    k = kappa.double().expand(batch).reshape(-1)
    precision, rho, log_mass = _gaussian(k, b)
    angular = log_mass >= _angular_mass(k, b)
    out = beta.new_empty((n, len(b), d))
    if bool(angular.any()):  # in float64, since the bound is a difference of terms of the order of kappa
        out[:, angular] = bingham_sampler.sample(_coefficients(b)[angular], k[angular], n).to(beta.dtype)
    rest = ~angular
    if bool(rest.any()):
        spread, b, rho = (x[rest].to(beta.dtype) for x in (precision.rsqrt(), b, rho))
        out[:, rest] = _from_gaussian(spread, b, rho, n)
    return out.reshape((n,) + batch + (d,))


def _from_gaussian(spread: Tensor, beta: Tensor, rho: Tensor, n: int) -> Tensor:
    d = beta.shape[-1] + 1
    plus, minus = beta.clamp_min(0), (-beta).clamp_min(0)
    offset = (4 * rho * rho * plus.amax(-1, keepdim=True)).squeeze(-1)
    rho = rho.squeeze(-1)

    def propose(k_draws: int, row: Tensor | slice) -> tuple[Tensor, Tensor]:
        y = torch.randn(k_draws, d - 1, dtype=beta.dtype, device=beta.device) * spread[row]
        y2 = y * y
        r2, q_plus, q_minus = y2.sum(-1), (plus[row] * y2).sum(-1), (minus[row] * y2).sum(-1)
        rest = (1 - r2).clamp_min(torch.finfo(y.dtype).tiny)
        log_accept = 8 * rho[row] * q_plus - 4 * r2 * q_plus - 4 * rest * q_minus - offset[row]
        log_accept = log_accept + 0.5 * (d - 3) * (rest.log() + r2)
        log_accept = torch.where(r2 < 1, log_accept, -math.inf)
        return torch.cat([1 - 2 * r2.unsqueeze(-1), 2 * y * rest.sqrt().unsqueeze(-1)], -1), log_accept

    return rejection(propose, n, len(beta), d, beta)
