"""Watson's distribution, against Kummer's function, Bingham's distribution and its normal limits. Statistical
bounds are 5 standard errors (false alarm 6e-7 each)."""

import math

import pytest
import scipy.special
import torch
from torch import Tensor
from torch.distributions import kl_divergence

import pyro_manifold.distributions as mdist

F64 = torch.float64


def axis(d: int, *batch: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*batch, d, dtype=F64), dim=-1)


def within_5_se(draws: Tensor, expected: Tensor) -> None:
    error = (draws.mean(0) - expected).abs() / (draws.std(0) / math.sqrt(len(draws)) + 1e-12)
    assert float(error.max()) < 5, f"{float(error.max()):.1f} standard errors off"


@pytest.mark.parametrize("d", [2, 3, 5, 100])
@pytest.mark.parametrize("kappa", [-300.0, -3.0, 0.0, 1e-8, 3.0, 300.0])
def test_normaliser_is_kummers_function(d: int, kappa: float) -> None:
    mu = axis(d)
    p = mdist.Watson(mu, torch.tensor(kappa, dtype=F64))
    area = math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)
    m = scipy.special.hyp1f1(0.5, d / 2, kappa)
    assert float(p.log_prob(mu)) == pytest.approx(kappa - area - math.log(m), abs=1e-11, rel=1e-12)
    square = scipy.special.hyp1f1(1.5, d / 2 + 1, kappa) / (d * m)
    assert float(mu @ p.second_moment @ mu) == pytest.approx(square, rel=1e-11)
    assert float(p.second_moment.trace()) == pytest.approx(1, rel=1e-13)
    assert float(p.entropy()) == pytest.approx(area + math.log(m) - kappa * square, abs=1e-10)


@pytest.mark.parametrize(
    "d, kappa", [(2, -30.0), (3, 5.0), (3, -1e4), (10, 200.0), (100, -40.0), (100, 40.0)]
)
def test_draws(d: int, kappa: float) -> None:
    mu = axis(d)
    p = mdist.Watson(mu, torch.tensor(kappa, dtype=F64))
    x = p.sample((10_000,))
    assert bool(p.support.check(x).all())
    within_5_se(x, p.mean)
    few = x[:, :5]
    within_5_se((few.unsqueeze(-1) * few.unsqueeze(-2)).flatten(1), p.second_moment[:5, :5].flatten())
    within_5_se(-p.log_prob(x), p.entropy())


@pytest.mark.parametrize("d", [2, 3, 6])
def test_is_a_bingham_distribution(d: int) -> None:
    mu, k = axis(d, 4), torch.tensor([-7.0, -0.3, 0.4, 9.0], dtype=F64)
    matrix = k[:, None, None] * mu.unsqueeze(-1) * mu.unsqueeze(-2)
    p, same = mdist.Watson(mu, k), mdist.Bingham(matrix)
    x = same.sample((7,))
    torch.testing.assert_close(p.log_prob(x), same.log_prob(x))
    torch.testing.assert_close(p.log_prob(p.mode), same.log_prob(same.mode))
    torch.testing.assert_close(p.second_moment, same.second_moment)
    torch.testing.assert_close(p.entropy(), same.entropy())
    others = [mdist.VonMisesFisher(axis(d), 2.0 * torch.ones((), dtype=F64)), mdist.Bingham(matrix[:1])]
    for other in others + [mdist.Watson(axis(d), torch.tensor(-3.0, dtype=F64))]:
        torch.testing.assert_close(kl_divergence(p, other), kl_divergence(same, other))
        torch.testing.assert_close(kl_divergence(other, p), kl_divergence(other, same))
    uniform = mdist.ManifoldUniform(mdist.VonMisesFisher.manifold, (d,), dtype=F64)
    torch.testing.assert_close(kl_divergence(p, uniform), kl_divergence(same, uniform))
    for f in (lambda q: q.log_prob(x).sum(), lambda q: q.entropy().sum()):
        leaf = k.clone().requires_grad_()
        (g,) = torch.autograd.grad(f(mdist.Watson(mu, leaf)), leaf)
        other = k.clone().requires_grad_()
        outer = mu.unsqueeze(-1) * mu.unsqueeze(-2)
        (h,) = torch.autograd.grad(f(mdist.Bingham(other[:, None, None] * outer)), other)
        torch.testing.assert_close(g, h)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [1e6, 1e13, 1e30])
def test_concentrated(size: float, sign: int, dtype: torch.dtype) -> None:
    """A normal distribution of variance 1 / 2 kappa: across the axis at both poles, or along it about the
    equator."""
    mu = torch.eye(3, dtype=dtype)[2]
    p = mdist.Watson(mu, torch.tensor(sign * size, dtype=dtype))
    log_normal = 0.5 * math.log(size / math.pi)
    expected = 2 * log_normal - math.log(2) if sign > 0 else log_normal - math.log(2 * math.pi)
    assert float(p.log_prob(p.mode)) == pytest.approx(expected, rel=1e-6)
    directions = 2 if sign > 0 else 1
    assert float(p.entropy()) == pytest.approx(directions / 2 - expected, rel=1e-5)
    x = p.sample((4000,))
    y = (x[:, :2] if sign > 0 else x[:, 2:]).double() * math.sqrt(2 * size)
    assert bool(((y.square().mean(0) - 1).abs() < 5 * math.sqrt(2 / 4000)).all())
    assert 1800 < int((x[:, 2] > 0).sum()) < 2200  # 6 standard errors


def test_gradients_at_zero() -> None:
    mu, x = axis(4).requires_grad_(), axis(4)
    k = torch.zeros((), dtype=F64, requires_grad=True)
    (g,) = torch.autograd.grad(mdist.Watson(mu, k).log_prob(x), k)
    torch.testing.assert_close(g, (mu.detach() @ x) ** 2 - 0.25)
    k = torch.tensor([-2.0, 0.0, 2.0], dtype=F64, requires_grad=True)
    unit = lambda m: m / m.norm()  # noqa: E731
    assert torch.autograd.gradgradcheck(lambda m, c: mdist.Watson(unit(m), c).log_prob(x), (mu, k))


@pytest.mark.parametrize(
    "loc, concentration, match",
    [
        (torch.tensor([1.0, 1.0]), 1.0, "loc: got 1, 1, expected unit vectors. Normalise it"),
        (torch.tensor(1.0), 1.0, r"loc: got shape \(\), expected batch"),
        (torch.tensor([1.0, 0.0]), math.inf, "concentration: got inf, expected finite numbers"),
        (torch.eye(3), torch.ones(2), r"batch shapes do not broadcast: loc \(3,\), concentration \(2,\)"),
    ],
)
def test_errors(loc: Tensor, concentration: float, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        mdist.Watson(loc, concentration, validate_args=True)
