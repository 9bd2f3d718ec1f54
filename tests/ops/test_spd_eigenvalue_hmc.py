"""Chains for the eigenvalues of the normal on SPD matrices: they forget their start, and have the right
moments.

Deterministic given the seed; false-alarm rates are those of another seed.
"""

import math

import pytest
import torch

from pyro_manifold.ops.spd_eigenvalue_hmc import (
    _density,
    _sums,
    _through,
    gap_coordinates,
    run_chains,
    sample,
)
from pyro_manifold.ops.spd_normal import _mode, _repulsion, acceptance, sample_tangent
from pyro_manifold.ops.spd_normalizer import log_normalizer, normalizer_table

F64 = torch.float64
WORST = {16: 0.93, 32: 0.75}  # sigma of (about) the least acceptance of rejection


def coordinates(sigma, n):
    s = torch.as_tensor(sigma, dtype=F64).reshape(-1)
    mode = _mode(s, n)
    return gap_coordinates(s, mode, _repulsion(mode)[1] + torch.eye(n, dtype=F64) / s[:, None, None] ** 2)


def cumulants(sigma, n):
    """Mean and variance of |W|^2: log Z is a cumulant generating function in tau = 1/sigma^2 of -|W|^2/2."""
    tau = torch.tensor(sigma**-2, dtype=F64, requires_grad=True)
    z = log_normalizer(tau.rsqrt(), normalizer_table(n), n)
    (first,) = torch.autograd.grad(z, tau, create_graph=True)
    (second,) = torch.autograd.grad(first, tau)
    return -2 * float(first.detach()), 4 * float(second)


def test_gradient_and_density_of_the_gaps():
    g = coordinates([0.5, 3.0], 5)
    y = (g.start + torch.randn(2, 4, dtype=F64)).requires_grad_()
    x, log_p, gradient = _density(g, y, _sums(5, y))
    torch.testing.assert_close(torch.autograd.grad(log_p.sum(), y)[0], gradient)
    i, j = torch.triu_indices(5, 5, 1)
    flat = torch.log(2 * torch.sinh((x[:, i] - x[:, j]) / 2)).sum(-1) - x.square().sum(-1) / (2 * g.sigma**2)
    torch.testing.assert_close(log_p, flat + torch.nn.functional.logsigmoid(y).sum(-1))
    torch.testing.assert_close(x[:, :-1] - x[:, 1:], g.width * torch.nn.functional.softplus(y))


@pytest.mark.parametrize("n, sigma", [(16, 0.3), (16, 1.0), (16, 3.0), (32, 0.7), (32, 1.5)])
def test_the_start_is_forgotten(n, sigma):
    """60 of the 80 trajectories: displaced and overdispersed starts end where typical ones do, to 1e-5 sigma
    in 40 lanes.

    Not a z-test: the distance contracts by orders of magnitude, so another seed moves it within the margin
    (figures after all 80, over 200 lanes and 9 scales: docstring of spd_chain)."""
    torch.manual_seed(0)
    g, lanes = coordinates(sigma, n), 40
    noise = torch.randn(2, lanes, n - 1, dtype=F64)
    start = torch.cat(
        [g.start + _through(noise[0], g.factor.mT), g.start + _through(0.5 + 1.5 * noise[1], g.factor.mT)]
    )
    x, accepted = run_chains(g, start, 60, copies=2)
    assert float((x[:lanes] - x[lanes:]).abs().max()) < 1e-5 * sigma
    assert 0.85 < float(accepted) < 1


def both(n, sigma, draws):
    """Moments of log-eigenvalues by the chain and by exact rejection, in standard errors."""
    torch.manual_seed(1)
    x = sample(coordinates(sigma, n), draws)
    v = sample_tangent(torch.tensor(sigma, dtype=F64), n, (draws,))
    index = torch.triu_indices(n, n, 1)
    w = torch.zeros(draws, n, n, dtype=F64)
    w[:, index[0], index[1]] = v[:, n:] / math.sqrt(2)
    y = torch.linalg.eigvalsh(w + w.mT + torch.diag_embed(v[:, :n])).flip(-1)

    def statistics(e):
        gap = e[:, :-1] - e[:, 1:]
        trace = e.sum(-1, keepdim=True)
        return torch.cat(
            [e[:, :2], e[:, -1:].square(), trace.square(), gap.log(), gap[:, :1] * gap[:, -1:]], -1
        )

    a, b = statistics(x), statistics(y)
    return (a.mean(0) - b.mean(0)) / ((a.var(0) + b.var(0)) / draws).sqrt()


@pytest.mark.parametrize("n, sigma", [(2, 1.0), (3, 0.3), (3, 2.0), (5, 1.2)])
def test_chains_against_exact_draws(n, sigma):
    """z < 5 for n + 4 statistics, 4000 draws each: false alarm below 6e-6 a case."""
    assert float(both(n, sigma, 4000).abs().max()) < 5


@pytest.mark.slow
@pytest.mark.parametrize("n, sigma", [(5, 1.2), (8, 1.0), (12, 0.9)])
def test_chains_against_exact_draws_at_the_worst_corner(n, sigma):
    """As above with 40,000 draws (4,000 for n = 12): false alarm below 1e-5 a case."""
    assert float(both(n, sigma, 4000 if n == 12 else 40_000).abs().max()) < 5


def test_two_by_two_by_quadrature():
    """The gap of n = 2 has density sinh(g/2) exp(-g^2/4s^2): mean, mean square and mean log; z < 5, false
    alarm 2e-6."""
    s = 1.3
    torch.manual_seed(2)
    x = sample(coordinates(s, 2), 5000)
    gap = x[:, 0] - x[:, 1]
    t = torch.linspace(0, 40, 40_001, dtype=F64)[1:]
    p = torch.exp(-t.square() / (4 * s * s)) * torch.sinh(t / 2)
    for f in (torch.log, torch.square, lambda t: t):
        expected = float((p * f(t)).sum() / p.sum())
        assert abs(float(f(gap).mean()) - expected) < 5 * float(f(gap).std()) / math.sqrt(len(gap))


@pytest.mark.parametrize("n, draws", [(16, 500), pytest.param(32, 250, marks=pytest.mark.slow)])
def test_mean_square_where_rejection_is_hopeless(n, draws):
    """E|W|^2 and its variance at the worst scale against derivatives of log Z; z < 5, false alarm below 1e-5
    (fourth moments)."""
    sigma = WORST[n]
    assert float(acceptance(torch.tensor(sigma, dtype=F64), n)) < 5e-4
    torch.manual_seed(3)
    v = sample_tangent(torch.tensor(sigma, dtype=F64), n, (draws,))
    mean, variance = cumulants(sigma, n)
    q = v.square().sum(-1)
    assert abs(float(q.mean()) - mean) < 5 * math.sqrt(variance / draws)
    deviation = (q - mean).square()
    assert abs(float(deviation.mean()) - variance) < 5 * float(deviation.std()) / math.sqrt(draws)


@pytest.mark.slow
@pytest.mark.parametrize("n", [16, 32])
@pytest.mark.parametrize("sigma", [0.3, 0.5, 0.75, 1.0, 1.5, 2.0])
def test_mean_square_at_many_scales(n, sigma):
    """As above, 2000 draws; false alarm 6e-7 each."""
    torch.manual_seed(4)
    q = sample_tangent(torch.tensor(sigma, dtype=F64), n, (2000,)).square().sum(-1)
    mean, variance = cumulants(sigma, n)
    assert abs(float(q.mean()) - mean) < 5 * math.sqrt(variance / 2000)


def test_scales_of_every_kind_in_one_call():
    """Gaussian matrices, chains and ordered normals side by side; float32 in, float32 out."""
    s = torch.tensor([0.1, 0.9, 1.0, 4.0])
    torch.manual_seed(5)
    v = sample_tangent(s, 16, (30, 4))
    assert v.shape == (30, 4, 136) and v.dtype == torch.float32 and bool(v.isfinite().all())
    for k, sigma in enumerate(s.tolist()):
        mean, variance = cumulants(sigma, 16)
        assert abs(float(v[:, k].double().square().sum(-1).mean()) - mean) < 5 * math.sqrt(variance / 30)
