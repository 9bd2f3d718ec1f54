"""The estimator of the general Fisher-Bingham distribution: moments, its subfamilies, and rows that do not determine
it."""

import pytest
import torch

from pyro_manifold.distributions import Bingham, FisherBingham, Kent, VonMisesFisher
from pyro_manifold.testing import check_fit

E = torch.eye(3, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_its_moments_are_those_of_the_rows() -> None:
    d = FisherBingham(E[0], 4.0, torch.tensor([[1.0, 0.8, 0.0], [0.8, -2.0, 0.3], [0.0, 0.3, 1.0]]).double())
    x = d.sample((200,))
    fit = FisherBingham.fit(x)
    torch.testing.assert_close(fit.mean, x.mean(0), rtol=1e-9, atol=1e-9)
    second = torch.einsum("ni,nj->ij", x, x) / 200
    torch.testing.assert_close(fit.second_moment, second, rtol=1e-9, atol=1e-9)
    assert float(fit.matrix.trace()) == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "d",
    [
        VonMisesFisher(E[1], 20.0),
        Kent(E, 50.0, 20.0),
        Bingham(torch.diag(torch.tensor([0.0, -3.0, -9.0]).double())),
    ],
)
def test_it_is_at_least_as_likely_as_a_subfamily(d: VonMisesFisher) -> None:
    x = d.sample((150,))
    own = type(d).fit(x).log_prob(x).sum()
    gain = float(FisherBingham.fit(x).log_prob(x).sum() - own)
    assert 0 <= gain < 15  # half a chi-square of at most 5 degrees of freedom


@pytest.mark.slow
def test_in_more_dimensions() -> None:
    a = torch.randn(5, 5, dtype=torch.float64)
    check_fit(FisherBingham.fit, FisherBingham(torch.eye(5, dtype=torch.float64)[0], 6.0, a + a.mT), n=300)


def test_rows_on_a_circle() -> None:
    angle = torch.linspace(0.0, 5.0, 30, dtype=torch.float64)
    circle = torch.stack([0.6 * angle.cos(), 0.6 * angle.sin(), torch.full_like(angle, 0.8)], -1)
    for rows in (circle, E, circle[:6]):
        with pytest.raises(ValueError, match="x: the rows do not determine the 8 parameters"):
            FisherBingham.fit(rows)
