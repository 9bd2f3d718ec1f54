"""Power spherical: closed forms on S^2, the antipode, large concentration. Shared checks:
test_von_mises_fisher.py."""

import math

import mpmath
import pytest
import torch

from pyro_manifold.distributions import PowerSpherical

UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("n", [2, 3, 10, 500])
def test_density_at_loc(n: int) -> None:
    """log p(mu) against mpmath, where the difference of log-gammas loses digits."""
    mu = torch.eye(n, dtype=torch.float64)[0]
    for k in (0.0, 1e-6, 1.0, 1e3, 1e6):
        with mpmath.workdps(40):
            b, c = mpmath.mpf(n - 1) / 2, mpmath.mpf(k)
            expected = (
                mpmath.loggamma(c + 2 * b)
                - mpmath.loggamma(c + b)
                - 2 * b * mpmath.log(2)
                - b * mpmath.log(mpmath.pi)
            )
        assert math.isclose(
            PowerSpherical(mu, k).log_prob(mu).item(), float(expected), rel_tol=1e-13, abs_tol=1e-13
        )


def test_antipode() -> None:
    """Density zero there, uniform at concentration 0; near it the digits of the shorter chord."""
    assert PowerSpherical(UP, 2.0).log_prob(-UP) == -math.inf
    assert PowerSpherical(UP, 0.0).log_prob(-UP).item() == pytest.approx(-math.log(4 * math.pi))
    angle = 1e-5
    x = torch.tensor([math.sin(angle), 0.0, -math.cos(angle)], dtype=torch.float64)
    expected = PowerSpherical(UP, 2.0).log_prob(UP).item() + 4 * math.log(math.sin(angle / 2))
    assert PowerSpherical(UP, 2.0).log_prob(x).item() == pytest.approx(expected, rel=1e-12)


def test_agrees_with_beta_marginal() -> None:
    """(1 + mu.x)/2 is Beta(k + b, b): the density of t integrates the sphere's, checked at a few heights."""
    n, k = 6, 3.0
    mu = torch.eye(n, dtype=torch.float64)[0]
    t = torch.tensor([-0.9, 0.0, 0.5, 0.99], dtype=torch.float64)
    x = torch.zeros(4, n, dtype=torch.float64)
    x[:, 0], x[:, 1] = t, (1 - t**2).sqrt()
    ring = (
        math.log(2)
        + (n - 1) / 2 * math.log(math.pi)
        - math.lgamma((n - 1) / 2)
        + (n - 3) / 2 * torch.log1p(-t * t)
    )
    b = torch.tensor((n - 1) / 2, dtype=torch.float64)
    beta = torch.distributions.Beta(k + b, b).log_prob((1 + t) / 2) - math.log(2)
    torch.testing.assert_close(PowerSpherical(mu, k).log_prob(x) + ring, beta)
