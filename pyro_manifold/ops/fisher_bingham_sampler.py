r"""Exact draws from :math:`p(x)\propto e^{g\cdot x - \sum_i l_ix_i^2}` on the sphere, by rejection from an angular
central Gaussian.

As in :mod:`pyro_manifold.ops.bingham_sampler`, x is identified with -x, and with :math:`\kappa = |g|`,
:math:`\mu = g/\kappa` for any c

.. math:: \log\cosh(\kappa\,\mu\cdot x) \le \log\cosh\kappa c + \tau\{(\mu\cdot x)^2 - c^2\}, \qquad
    \tau = \frac{\kappa\tanh\kappa c}{2c},

so that a Bingham distribution of :math:`\tau\mu\mu^\top - \mathrm{diag}(l)` bounds the density, touching it at the
mode where c is :math:`\mu` times the mode. Several c are tried. The bound is flat across the mode in one direction,
that of g across the mode; if linear and quadratic part pull far apart (two modes a part of a circle away, of a
concentration k), about :math:`k^{-1/2}` of the proposals are accepted, and several are made at once.

Reference: Kent, Ganeiber & Mardia, J. Comput. Graph. Stat. 27 (2018), sec. 3 and 4 (arXiv:1310.8110)."""

import torch
from torch import Tensor

from .bingham_sampler import angular_bound, log_cosh
from .fisher_bingham_general import mode_of
from .rejection import redraw
from .tracing import operator

__all__ = ["sample"]

_MAX_ROUNDS = 10_000
_TRIES = 2**18  # proposals at once, in numbers


@torch.no_grad()
def sample(rates: Tensor, linear: Tensor, n: int) -> Tensor:
    """``n`` draws for each row, shape ``(n,) + rates.shape``, in float64.

    :param Tensor rates: l, nonnegative, the first of them 0, shape ``batch + (d,)``, float64.
    :param Tensor linear: g, of that shape.
    :raises RuntimeError: if a draw is not accepted within a bounded number of rounds.

    >>> sample(torch.zeros(3), torch.ones(3), 2).shape
    torch.Size([2, 3])
    """
    return _draw(rates, linear, n)


@operator(
    "fisher_bingham_draw(Tensor rates, Tensor linear, int n) -> Tensor",
    lambda rates, linear, n: rates.new_empty((n, *rates.shape), dtype=torch.float64),
    draws=True,
)
def _draw(rates: Tensor, linear: Tensor, n: int) -> Tensor:
    d = rates.shape[-1]
    shape = rates.shape
    coef, g = (x.double().reshape(-1, d) for x in (rates, linear))
    rows = len(coef)
    kappa = torch.linalg.vector_norm(g, dim=-1, keepdim=True)
    mu = torch.where(kappa > 0, g / torch.where(kappa > 0, kappa, 1.0), torch.eye(d).to(g)[0])
    mode = mode_of(coef, g)[0]
    at = (mu * mode).sum(-1, keepdim=True).clamp_min(1e-6)
    c = torch.cat([at, (0.5 + 0.5 * at), 0.7 * at, 0.4 * at, torch.ones_like(at)], -1)
    tau = kappa * torch.tanh(kappa * c) / (2 * c)
    matrix = torch.diag_embed(coef).unsqueeze(1) - tau[..., None, None] * (
        mu.unsqueeze(-1) * mu.unsqueeze(-2)
    ).unsqueeze(1)
    values, axes = torch.linalg.eigh(matrix)
    weights, b, log_mass = angular_bound(values)
    log_mass = log_mass + log_cosh(kappa * c) - tau * c * c
    best, row = log_mass.argmin(-1), torch.arange(rows, device=coef.device)
    weights, b, axes = weights[row, best], b[row, best], axes[row, best]
    c, tau = c[row, best].unsqueeze(-1), tau[row, best].unsqueeze(-1)
    spread, half_u = weights.rsqrt(), weights - 1  # 2 lambda / b
    peak = (d - b) / 2 - d / 2 * (d / b).log()

    def propose(lanes: Tensor) -> tuple[Tensor, Tensor]:
        i = lanes % rows if rows > 1 else torch.zeros(1, dtype=torch.long, device=lanes.device)
        k = len(lanes)
        tries = max(1, min(256, _TRIES // (k * d)))
        z = torch.randn(tries, k, d, dtype=coef.dtype, device=coef.device) * spread[i]
        z = z / torch.linalg.vector_norm(z, dim=-1, keepdim=True).clamp_min(1e-300)
        q = (half_u[i] * z * z).sum(-1, keepdim=True)
        x = z @ axes[0].T if rows == 1 else (axes[i] @ z.unsqueeze(-1)).squeeze(-1)
        along = (x * mu[i]).sum(-1, keepdim=True)
        k_i, c_i = kappa[i], c[i]
        log_accept = -0.5 * b[i] * q + d / 2 * torch.log1p(q) + peak[i]
        log_accept = (
            log_accept + log_cosh(k_i * along) - log_cosh(k_i * c_i) - tau[i] * (along - c_i) * (along + c_i)
        )
        x = torch.where(torch.rand_like(along) > torch.sigmoid(2 * k_i * along), -x, x)
        return x, (torch.rand_like(along).log() < log_accept).squeeze(-1)

    out = torch.empty(n * rows, d, dtype=coef.dtype, device=coef.device)
    lanes = torch.arange(len(out), device=coef.device)
    hint = "linear and quadratic part pull far apart at an extreme concentration; sample it by GeodesicNUTS."
    return redraw(out, lanes, propose, _MAX_ROUNDS, hint).reshape((n,) + shape)
