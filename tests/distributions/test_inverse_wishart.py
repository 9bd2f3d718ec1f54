"""The inverse Wishart distribution, against scipy's density, conjugacy and the Wishart distribution of torch.
Statistical bounds are 5 standard errors (false alarm 6e-7 each)."""

import math

import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import Wishart, kl_divergence

import pyro_manifold.distributions as mdist
from pyro_manifold.geometry import geometry
from pyro_manifold.transforms import SymmetricVolume

F64 = torch.float64


def spd(n: int, *batch: int) -> Tensor:
    a = torch.randn(*batch, n, n, dtype=F64)
    return a @ a.mT + 0.3 * torch.eye(n, dtype=F64)


@pytest.mark.parametrize("n, df", [(1, 0.5), (2, 1.2), (2, 7.0), (5, 9.5), (30, 200.0)])
def test_density_of_the_literature(n: int, df: float) -> None:
    psi, x = spd(n), spd(n)
    p = mdist.InverseWishart(torch.tensor(df, dtype=F64), psi)
    volume = SymmetricVolume().log_volume(x)
    expected = scipy.stats.invwishart(df, psi.numpy()).logpdf(x.numpy())
    assert float(p.log_prob(x) + volume) == pytest.approx(float(expected), rel=1e-9)


def test_inverse_is_an_isometry() -> None:
    """Density, entropy and divergence are those of the Wishart distribution of the inverse."""
    df, psi, x = torch.tensor([4.5, 9.0], dtype=F64), spd(3, 2), spd(3, 2)
    p, q = mdist.InverseWishart(df, psi), mdist.InverseWishart(df.flip(0) + 2, spd(3))
    w = Wishart(df, precision_matrix=psi)
    inverse = torch.linalg.inv(x)
    volume = SymmetricVolume().log_volume
    torch.testing.assert_close(p.log_prob(x), w.log_prob(inverse) - volume(inverse))
    for i in range(2):  # torch's divergence of batches is another number than that of their elements
        pi, qi = mdist.InverseWishart(df[i], psi[i]), mdist.InverseWishart(q.df[i], q.scale_matrix[i])
        expected = kl_divergence(*(Wishart(d.df, precision_matrix=d.scale_matrix) for d in (pi, qi)))
        torch.testing.assert_close(kl_divergence(pi, qi), expected)
        torch.testing.assert_close(kl_divergence(p, q)[i], expected)
    torch.testing.assert_close(p.entropy()[0], mdist.InverseWishart(df[0], spd(3)).entropy())
    assert float(kl_divergence(p, p).abs().max()) < 1e-12


@pytest.mark.parametrize("n, df", [(1, 12.0), (3, 14.0), (6, 30.0)])
def test_draws(n: int, df: float) -> None:
    psi = spd(n)
    p = mdist.InverseWishart(torch.tensor(df, dtype=F64), scale_tril=torch.linalg.cholesky(psi))
    x = p.sample((20_000,))
    for draws, expected in (
        (x, p.mean),
        (torch.linalg.inv(x), df * torch.linalg.inv(psi)),
        (-p.log_prob(x), p.entropy()),
    ):
        error = (draws.mean(0) - expected).abs() / (draws.std(0) / math.sqrt(len(x)))
        assert float(error.max()) < 5
    scipy_variance = torch.as_tensor(scipy.stats.invwishart(df, psi.numpy()).var(), dtype=F64).reshape(n, n)
    torch.testing.assert_close(p.variance, scipy_variance)
    assert bool((p.log_prob(p.mode) >= p.log_prob(x)).all())


def test_posterior_of_a_covariance() -> None:
    """Prior plus likelihood less posterior is the same at every covariance."""
    n, m = 3, 12
    y, psi = torch.randn(m, n, dtype=F64), spd(n)
    prior = mdist.InverseWishart(5.0 + torch.zeros((), dtype=F64), psi)
    posterior = mdist.InverseWishart(5.0 + m + torch.zeros((), dtype=F64), psi + y.T @ y)
    x = spd(n, 7)
    normal = torch.distributions.MultivariateNormal(torch.zeros(n, dtype=F64), x.unsqueeze(-3))
    evidence = prior.log_prob(x) + normal.log_prob(y).sum(-1) - posterior.log_prob(x)
    torch.testing.assert_close(evidence, evidence[:1].expand(7))


def test_gradients_of_draws() -> None:
    """Of the mean of log|X| in both parameters, to 5 standard errors."""
    df, t = torch.tensor(6.0, dtype=F64), torch.linalg.cholesky(spd(3))
    many_df = df.expand(20_000).clone().requires_grad_()
    many_t = t.expand(20_000, 3, 3).clone().requires_grad_()
    x = mdist.InverseWishart(many_df, scale_tril=many_t).rsample()
    grads = torch.autograd.grad(torch.logdet(x).sum(), (many_df, many_t))
    leaves = df.clone().requires_grad_(), t.clone().requires_grad_()
    half = torch.arange(3, dtype=F64) / 2
    exact = 2 * leaves[1].diagonal().log().sum() - torch.digamma(leaves[0] / 2 - half).sum() - 3 * math.log(2)
    for g, e in zip(grads, torch.autograd.grad(exact, leaves), strict=True):
        off = (g.mean(0) - e).abs() > 5 * g.std(0) / math.sqrt(len(g)) + 1e-12
        assert not bool((off.tril() if off.dim() else off).any())


def test_ill_conditioned_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="df: .* of 1000 draws have condition numbers that torch.float32"):
        mdist.InverseWishart(torch.tensor(1.05), torch.eye(2)).sample((1000,))
    x = mdist.InverseWishart(torch.tensor(3.0), torch.eye(2)).sample((1000,))
    assert x.dtype == torch.float32 and bool(geometry(mdist.InverseWishart.manifold).contains(x).all())


@pytest.mark.parametrize(
    "arguments, match",
    [
        (dict(df=2.0, scale_matrix=torch.eye(3)), "df: got 2, expected finite numbers above n - 1 = 2"),
        (dict(df=5.0), "scale_matrix: got neither of scale_matrix and scale_tril"),
        (dict(df=5.0, scale_matrix=torch.eye(2), scale_tril=torch.eye(2)), "scale_matrix: got both"),
        (dict(df=5.0, scale_matrix=-torch.eye(2)), "scale_matrix: got -1, -0, -0, -1"),
        (dict(df=5.0, scale_tril=torch.ones(2, 2)), "scale_tril: .* expected lower triangular"),
        (dict(df=5.0, scale_matrix=torch.ones(2, 3)), r"scale_matrix: got shape \(2, 3\)"),
    ],
)
def test_errors(arguments: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        mdist.InverseWishart(**arguments, validate_args=True)
