"""The angular central Gaussian distribution. Statistical bounds are 5 standard errors (false alarm 6e-7
each)."""

import math

import mpmath
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

import pyro_manifold.distributions as mdist
from pyro_manifold.ops.quadratic_form import expected_log_ratio, expected_projector


def random_tril(d: int) -> Tensor:
    a = torch.randn(d, 2 * d, dtype=torch.float64)
    return torch.linalg.cholesky(a @ a.T)


def within_5_se(draws: Tensor, expected: Tensor) -> None:
    error = (draws.mean(0) - expected).abs() / (draws.std(0) / math.sqrt(len(draws)) + 1e-12)
    assert float(error.max()) < 5, f"{float(error.max()):.1f} standard errors off"


@pytest.mark.parametrize("d", [2, 3, 10, 40])
def test_moments_of_draws(d: int) -> None:
    distribution = mdist.AngularCentralGaussian(random_tril(d))
    x = distribution.rsample((40_000,))
    within_5_se(x, distribution.mean)
    within_5_se((x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(1), distribution.second_moment.flatten())
    within_5_se(-distribution.log_prob(x), distribution.entropy())
    assert bool((distribution.log_prob(distribution.mode) >= distribution.log_prob(x) - 1e-9).all())


def test_circle() -> None:
    """In the plane E[x_1^2] = a / (a + b) for diag(a^2, b^2), and the mean log ratio is 2 log((a + b) / 2
    sqrt(ab))."""
    for a, b in ((1.0, 1.0), (3.0, 0.5), (1e4, 1e-4)):
        sigma = torch.tensor([a * a, b * b], dtype=torch.float64)
        assert abs(float(expected_projector(torch.diag(sigma.sqrt()))[0, 0]) - a / (a + b)) < 1e-13
        expected = 2 * math.log((a + b) / (2 * math.sqrt(a * b)))
        assert abs(float(expected_log_ratio(sigma.log())) - expected) < 1e-13 * (1 + expected)


def test_log_ratio_in_space() -> None:
    mpmath.mp.dps = 20
    s = (4.0, 1.0, 0.25)
    f = lambda t: ((1 + 2 * t) ** -1.5 - 1 / mpmath.sqrt(mpmath.fprod(1 + 2 * t * v for v in s))) / t  # noqa: E731
    expected = float(mpmath.quad(f, [0, 1e-3, 0.1, 1, 10, 1e3, 1e6, mpmath.inf]))
    assert abs(float(expected_log_ratio(torch.tensor(s, dtype=torch.float64).log())) - expected) < 1e-12


def test_scale_does_not_matter() -> None:
    tril, x = random_tril(4), torch.nn.functional.normalize(torch.randn(9, 4, dtype=torch.float64), dim=-1)
    a, b = (
        mdist.AngularCentralGaussian(tril),
        mdist.AngularCentralGaussian(covariance_matrix=1e8 * tril @ tril.T),
    )
    torch.testing.assert_close(a.log_prob(x), b.log_prob(x))
    torch.testing.assert_close(a.entropy(), b.entropy())
    torch.testing.assert_close(a.second_moment, b.second_moment)


def test_gradients_at_repeated_eigenvalues() -> None:
    tril = torch.eye(3, dtype=torch.float64).requires_grad_()
    other = mdist.AngularCentralGaussian(random_tril(3))
    for f in (lambda d: d.entropy(), lambda d: d.second_moment, lambda d: kl_divergence(d, other)):
        assert torch.autograd.gradcheck(lambda t, f=f: f(mdist.AngularCentralGaussian(t.tril())), tril)


def test_kl() -> None:
    p, q = mdist.AngularCentralGaussian(random_tril(4)), mdist.AngularCentralGaussian(random_tril(4))
    uniform = mdist.ManifoldUniform(p.support.manifold, (4,), dtype=torch.float64)
    x = p.sample((40_000,))
    for other in (q, uniform):
        within_5_se(p.log_prob(x) - other.log_prob(x), kl_divergence(p, other))
    assert abs(float(kl_divergence(p, p))) < 1e-12


def on_two_sphere(spread: tuple[float, float, float]) -> tuple[float, list[float]]:
    """Entropy and E[x_i^2], by the trapezoidal rule in log time (Frullani's integral), whose error is exp(-2 pi^2 / h)
    for steps of h."""
    square = torch.tensor(spread, dtype=torch.float64).square()
    a = square / square.log().mean().exp()
    h = 0.25
    time = torch.arange(-240, 241, dtype=torch.float64).mul(h).exp().unsqueeze(-1)
    density = (-0.5 * torch.log1p(2 * time * a).sum(-1, keepdim=True)).exp()
    entropy = math.log(4 * math.pi) - 1.5 * h * float(((-1.5 * torch.log1p(2 * time)).exp() - density).sum())
    return entropy, (h * (time * a / (1 + 2 * time * a) * density).sum(0)).tolist()


@pytest.mark.parametrize(
    "spread", [(1e-6, 1.0, 1e3), (1e-8, 1e-8, 1e3), (1e2, 1.0, 1e-10), (1.0, 1.0, 1.0001)]
)
def test_unlike_spreads(spread: tuple[float, float, float]) -> None:
    """Sigma itself has a condition number of 1e18 and more: neither its eigenvalues nor its Cholesky factor
    are to be had."""
    entropy, square = on_two_sphere(spread)
    tril = torch.diag(torch.tensor(spread, dtype=torch.float64)).requires_grad_()
    distribution = mdist.AngularCentralGaussian(tril)
    torch.testing.assert_close(
        distribution.entropy(), torch.tensor(entropy, dtype=torch.float64), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(
        distribution.variance, torch.tensor(square, dtype=torch.float64), rtol=1e-11, atol=0
    )
    for out in (
        distribution.entropy(),
        distribution.variance.log().sum(),
        distribution.log_prob(distribution.rsample((9,)).detach()).sum(),
    ):
        assert bool(torch.autograd.grad(out, tril)[0].isfinite().all())
    single = mdist.AngularCentralGaussian(tril.detach().float())
    torch.testing.assert_close(single.variance, distribution.variance.detach().float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(single.entropy(), distribution.entropy().detach().float())


def test_any_size() -> None:
    """Spreads near the ends of the dtype: only their ratios count."""
    tril, x = random_tril(3), torch.nn.functional.normalize(torch.randn(9, 3, dtype=torch.float64), dim=-1)
    distribution = mdist.AngularCentralGaussian(tril)
    for size in (1e-300, 1e-160, 1e160, 1e300):
        far = mdist.AngularCentralGaussian(size * tril)
        torch.testing.assert_close(far.log_prob(x), distribution.log_prob(x))
        torch.testing.assert_close(far.entropy(), distribution.entropy())
        torch.testing.assert_close(far.second_moment, distribution.second_moment)
    with pytest.raises(ValueError, match="scale_tril: .*singular"):
        mdist.AngularCentralGaussian(
            torch.tensor([[1e-200, 0.0], [1.0, 1e-200]], dtype=torch.float64)
        ).entropy()


TRIL = torch.eye(3)


@pytest.mark.parametrize(
    "kwargs, match",
    [
        ({}, "scale_tril: got neither of scale_tril and covariance_matrix"),
        ({"scale_tril": TRIL, "covariance_matrix": TRIL}, "scale_tril: got both"),
        ({"scale_tril": torch.zeros(3)}, r"scale_tril: got shape \(3,\), expected \(..., d, d\)"),
        ({"scale_tril": -TRIL}, "scale_tril: got -1.*lower triangular with a positive diagonal"),
        ({"scale_tril": TRIL + TRIL.roll(1, 1)}, "scale_tril: .*lower triangular"),
        ({"covariance_matrix": torch.ones(2, 2).tril()}, "covariance_matrix: .*symmetric"),
        (
            {"covariance_matrix": torch.diag(torch.tensor([1.0, -1.0]))},
            "covariance_matrix: .*positive definite matrix",
        ),
    ],
)
def test_errors(kwargs: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        mdist.AngularCentralGaussian(**kwargs, validate_args=True)
