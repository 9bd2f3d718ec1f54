"""Bingham's distribution. Statistical bounds are 5 standard errors (false alarm 6e-7 each)."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

import pyro_manifold.distributions as mdist
from pyro_manifold.geometry import geometry
from pyro_manifold.ops.bingham_sampler import acceptance


def random_symmetric(d: int, scale: float, *batch: int) -> Tensor:
    a = scale * torch.randn(*batch, d, d, dtype=torch.float64)
    return (a + a.mT) / 2


def within_5_se(draws: Tensor, expected: Tensor) -> None:
    error = (draws.mean(0) - expected).abs() / (draws.std(0) / math.sqrt(len(draws)) + 1e-12)
    assert float(error.max()) < 5, f"{float(error.max()):.1f} standard errors off"


@pytest.mark.parametrize("d, scale", [(2, 3.0), (3, 30.0), (4, 1e3), (10, 5.0), (10, 200.0), (30, 10.0)])
def test_moments_of_draws(d: int, scale: float) -> None:
    distribution = mdist.Bingham(random_symmetric(d, scale))
    x = distribution.sample((40_000,))
    assert bool(distribution.support.check(x).all())
    within_5_se(x, distribution.mean)
    within_5_se((x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(1), distribution.second_moment.flatten())
    torch.testing.assert_close(distribution.covariance_matrix, distribution.second_moment)
    within_5_se(-distribution.log_prob(x), distribution.entropy())


@pytest.mark.parametrize("d", [5, 10])
def test_mass_by_importance(d: int) -> None:
    """Mean weight of angular Gaussian proposals is 1, to its own standard error (about 0.5%)."""
    distribution = mdist.Bingham(random_symmetric(d, 3.0))
    q = mdist.AngularCentralGaussian(covariance_matrix=distribution.second_moment)
    x = q.rsample((40_000,))
    within_5_se((distribution.log_prob(x) - q.log_prob(x)).exp(), torch.ones((), dtype=torch.float64))


def test_shift_and_rotation() -> None:
    a = random_symmetric(4, 10.0)
    x = mdist.Bingham(a).sample((10,))
    shifted = mdist.Bingham(a + 7 * torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(shifted.log_prob(x), mdist.Bingham(a).log_prob(x))
    torch.testing.assert_close(mdist.Bingham(a).log_prob(-x), mdist.Bingham(a).log_prob(x))
    r = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    torch.testing.assert_close(mdist.Bingham(r @ a @ r.T).log_prob(x @ r.T), mdist.Bingham(a).log_prob(x))


def test_shapes_of_a_batch_of_two_axes() -> None:
    distribution = mdist.Bingham(torch.zeros(2, 4, 3, 3))
    assert (distribution.batch_shape, distribution.event_shape) == ((2, 4), (3,))


def test_mode() -> None:
    distribution = mdist.Bingham(random_symmetric(5, 20.0, 3))
    x = distribution.sample((1000,))
    assert bool((distribution.log_prob(distribution.mode) >= distribution.log_prob(x) - 1e-9).all())


def test_conditioned_normal() -> None:
    """A large concentration is a normal distribution in the tangent plane: E[x_i^2] = 1 / 2(l_max - l_i) to
    first order."""
    distribution = mdist.Bingham(torch.diag(torch.tensor([0.0, -1e6, -4e6], dtype=torch.float64)))
    torch.testing.assert_close(
        distribution.variance[1:], torch.tensor([5e-7, 1.25e-7], dtype=torch.float64), rtol=1e-5, atol=0
    )


def test_float32_is_insensitive_to_norms() -> None:
    a = torch.diag(torch.tensor([1e4, -1e4, 0.0]))
    exact = mdist.Bingham(a.double())
    x = exact.sample((1000,))
    y = x.float()
    expected = exact.log_prob(y.double() / y.double().norm(dim=-1, keepdim=True))
    assert float((mdist.Bingham(a).log_prob(y).double() - expected).abs().max()) < 5e-6


def test_gradients_at_repeated_eigenvalues() -> None:
    a = torch.eye(3, dtype=torch.float64).requires_grad_()
    x = torch.nn.functional.normalize(torch.randn(3, dtype=torch.float64), dim=0)
    (g,) = torch.autograd.grad(mdist.Bingham(a).log_prob(x), a)
    torch.testing.assert_close(g, torch.outer(x, x) - torch.eye(3, dtype=torch.float64) / 3)
    sym = lambda f: lambda a: f(mdist.Bingham((a + a.mT) / 2))  # noqa: E731
    assert torch.autograd.gradcheck(sym(lambda d: d.entropy()), a)
    assert torch.autograd.gradcheck(sym(lambda d: d.second_moment), a)
    assert torch.autograd.gradgradcheck(sym(lambda d: d.log_prob(x)), a)


def test_kl() -> None:
    p, q = mdist.Bingham(random_symmetric(4, 3.0)), mdist.Bingham(random_symmetric(4, 3.0))
    x = p.sample((40_000,))
    within_5_se(p.log_prob(x) - q.log_prob(x), kl_divergence(p, q))
    assert abs(float(kl_divergence(p, p))) < 1e-12
    uniform = mdist.ManifoldUniform(geometry(p.support.manifold).manifold, (4,), dtype=torch.float64)
    within_5_se(p.log_prob(x) - uniform.log_prob(x), kl_divergence(p, uniform))
    with pytest.raises(NotImplementedError, match="different manifolds"):
        kl_divergence(p, mdist.Bingham(torch.zeros(3, 3)))


def test_acceptance_bar() -> None:
    """Row 12 of the bars: at least 0.15, whatever the eigenvalues (here d = 3, 4, 10, 30; worst 0.157)."""
    for d in (3, 4, 10, 30):
        for s in (0.0, 0.1, 1.0, 10.0, 100.0, 1e4, 1e6):
            grid = torch.stack(
                [torch.logspace(-k, 0, d, dtype=torch.float64) for k in (0, 1, 3, 6)]
                + [torch.eye(d).double()[0]]
            )
            coef = s * (grid - grid[:, :1])
            assert float(acceptance(coef, torch.zeros(5)).min()) > 0.15
            assert float(acceptance(-coef, torch.zeros(5)).min()) > 0.15


def test_worst_corner_terminates() -> None:
    distribution = mdist.Bingham(
        torch.diag(torch.cat([torch.zeros(1), -1e6 * torch.ones(29)])).double().expand(1000, 30, 30)
    )
    assert distribution.sample().shape == (1000, 30)


def test_expanded_plate_costs_one_normaliser(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    from pyro_manifold.ops import fisher_bingham

    for name, axis in (("contour", 0), ("contour_moments", 1)):  # of many rows and of few
        f = getattr(fisher_bingham, name)
        monkeypatch.setattr(
            fisher_bingham, name, lambda c, f=f, axis=axis: rows.append(c.shape[axis]) or f(c)
        )
    distribution = mdist.Bingham(torch.eye(3)).expand((100_000,))
    assert distribution.log_prob(distribution.sample()).shape == (100_000,)
    assert sum(rows) == 1


def test_svi_recovers_the_matrix() -> None:
    """Maximum likelihood through pyro: the fitted second moment is the empirical one (the exact condition of
    the optimum)."""
    x = mdist.Bingham(torch.diag(torch.tensor([3.0, 0.0, -3.0], dtype=torch.float64))).sample((500,))

    def model() -> None:
        a = pyro.param("a", torch.zeros(3, 3, dtype=torch.float64))
        with pyro.plate("n", len(x)):
            pyro.sample("x", mdist.Bingham((a + a.mT) / 2), obs=x)

    svi = pyro.infer.SVI(model, lambda: None, pyro.optim.Adam({"lr": 0.3}), pyro.infer.Trace_ELBO())
    for _ in range(120):
        svi.step()
    a = pyro.param("a").detach()
    torch.testing.assert_close(
        mdist.Bingham((a + a.mT) / 2).second_moment, x.T @ x / len(x), rtol=0, atol=2e-3
    )


@pytest.mark.parametrize(
    "matrix, match",
    [
        (torch.zeros(3), r"matrix: got shape \(3,\), expected \(..., d, d\)"),
        (torch.zeros(3, 2), r"matrix: got shape \(3, 2\)"),
        (
            torch.tensor([[0.0, 1.0], [0.0, 0.0]]),
            "matrix: .*expected a finite symmetric matrix. Symmetrise it",
        ),
        (torch.full((2, 2), math.nan), "matrix: got nan.*finite symmetric"),
        (torch.zeros(2, 2, dtype=torch.long), "matrix: got dtype torch.int64"),
    ],
)
def test_errors(matrix: Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        mdist.Bingham(matrix, validate_args=True)


def test_is_a_site_in_a_mixture() -> None:
    matrices = torch.stack([torch.diag(torch.tensor([s, 0.0, -s])) for s in (5.0, -5.0)])
    mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), mdist.Bingham(matrices))
    assert mixture.log_prob(mixture.sample((7,))).shape == (7,)
