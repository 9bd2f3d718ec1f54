"""The two-sample test: its false-alarm rate is the stated one, and it sees what it should."""

import math

import geoopt
import pytest
import torch
from torch import Tensor

from pyro_manifold.distributions import ManifoldUniform, WrappedNormal
from pyro_manifold.testing import energy_distance, pairwise_dist, two_sample_test

BALL, SPHERE = geoopt.PoincareBall(), geoopt.Sphere()


def ball_draws(n: int, scale: float = 1.0) -> Tensor:
    return WrappedNormal(BALL, torch.tensor([0.3, -0.2]), scale).sample((n,))


def sphere_draws(n: int) -> Tensor:
    return ManifoldUniform(SPHERE, (3,)).sample((n,))


@pytest.mark.parametrize(
    "manifold, draw", [(BALL, ball_draws), (SPHERE, sphere_draws)], ids=["ball", "sphere"]
)
def test_false_alarm_rate(manifold: geoopt.Manifold, draw: object) -> None:
    """400 null tests at level 0.1: 40 +- 6 rejections; within 5 sigma (false alarm 6e-7). Mean p-value 0.5 +-
    0.0144."""
    p = torch.tensor([two_sample_test(manifold, draw(40), draw(30), permutations=99) for _ in range(400)])  # type: ignore[operator]
    assert 10 <= int((p <= 0.1).sum()) <= 70
    assert abs(float(p.mean()) - 0.505) < 5 * math.sqrt(1 / 12 / 400)


def test_power() -> None:
    """A scale of 1.5 against 1 is seen at n = 300 (p was at most 0.001 in 20 of 20 seeds)."""
    assert two_sample_test(BALL, ball_draws(300), ball_draws(300, 1.5)) < 0.01


def test_sees_differences_in_the_even_part() -> None:
    """On the sphere the energy distance with d itself is blind to these two distributions; with the square
    root of d it is not."""
    axis = torch.tensor([0.0, 0.0, 1.0])
    x = WrappedNormal(SPHERE, axis, 0.5).sample((300,))
    x = x * torch.randint(2, (300, 1)).mul(2).sub(1)  # both poles
    y = sphere_draws(300)
    assert two_sample_test(SPHERE, x, y) < 0.01
    # the population statistics: exact antipodal symmetry makes the plain one vanish
    x, y = torch.cat([x, -x]), torch.cat([y, -y])
    sign = torch.cat([torch.full((600,), 1 / 600), torch.full((600,), -1 / 600)])
    d = pairwise_dist(SPHERE, torch.cat([x, y]), torch.cat([x, y]))
    assert abs(float(energy_distance(d, sign))) < 1e-4 < 1e-2 < float(energy_distance(d.sqrt(), sign))


def test_identical_samples_and_bad_input() -> None:
    x = sphere_draws(20)
    assert two_sample_test(SPHERE, x, x) == 1.0
    with pytest.raises(ValueError, match="y: got event shape"):
        two_sample_test(SPHERE, x, x[:, :2])
    with pytest.raises(ValueError, match="not on the manifold"):
        two_sample_test(SPHERE, x, 2 * x)
