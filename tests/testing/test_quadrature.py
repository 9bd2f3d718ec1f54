"""Quadrature rules against known volumes and integrals."""

import math

import geoopt
import pytest
import torch

import pyro_manifold.distributions as mdist
from pyro_manifold.geometry import geometry
from pyro_manifold.testing import directions, image_rule, manifold_rule, normalisation, random_rule
from pyro_manifold.transforms import Chart


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_directions_integrate_polynomials(dim: int) -> None:
    """Area, and the integral of x_1^2, which is area / dim."""
    w, area = directions(dim, 32)
    expected = 2 * math.pi ** (dim / 2) / math.gamma(dim / 2)
    torch.testing.assert_close(area.sum().item(), expected, rtol=1e-12, atol=0)
    moments = (area.unsqueeze(-1) * w**2).sum(0)
    torch.testing.assert_close(moments, torch.full_like(moments, expected / dim), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_hyperbolic_balls(dim: int) -> None:
    """Volume of the ball of radius 2 in H^d: 4, 2 pi (cosh 2 - 1), pi (sinh 4 - 4)."""
    expected = [4.0, 2 * math.pi * (math.cosh(2) - 1), math.pi * (math.sinh(4) - 4)][dim - 1]
    one = torch.tensor(
        1.0, dtype=torch.float64
    )  # geoopt's ball overwrites the tensor it is given, hence the clone
    for manifold in (geoopt.PoincareBall(c=one.clone()), geoopt.Lorentz(k=one)):
        center = geometry(manifold).origin(dim, dtype=torch.float64)
        rule = manifold_rule(manifold, center, 2.0)
        torch.testing.assert_close(rule.weights.sum().item(), expected, rtol=1e-11, atol=0)
        # Monte Carlo rule: 20000 nodes, relative error about 1%; 5% is 5 standard errors
        torch.testing.assert_close(
            random_rule(manifold, center, 2.0, 20_000).weights.sum().item(), expected, rtol=0.05, atol=0
        )


def test_batches_of_centres() -> None:
    sphere, x = geoopt.Sphere(), torch.eye(3, dtype=torch.float64)
    rule = manifold_rule(sphere, x, torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64), 32, 16)
    assert rule.points.shape == (32 * 16, 3, 3)
    caps = 2 * math.pi * (1 - torch.tensor([1.0, 2.0, math.pi], dtype=torch.float64).cos())
    torch.testing.assert_close(rule.weights.sum(0), caps, rtol=1e-12, atol=0)


def test_mass_far_from_the_centre_is_found() -> None:
    """Total mass does not depend on where the rule is centred."""
    d = mdist.WrappedNormal(geoopt.PoincareBall(), torch.tensor([0.3, -0.2], dtype=torch.float64), 0.5)
    rule = manifold_rule(geoopt.PoincareBall(), torch.zeros(2, dtype=torch.float64), 8.0, 200, 200)
    torch.testing.assert_close(normalisation(d, rule).item(), 1.0, rtol=1e-8, atol=0)


def test_high_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match="center: got a manifold of dimension 4"):
        manifold_rule(geoopt.Sphere(), torch.eye(5)[0], 1.0)


def test_rule_of_an_image() -> None:
    """Length of a helix of radius 3 and pitch 4 per radian, 5 per radian; area of z = (x^2 + y^2)/2 over a
    disc."""
    line = manifold_rule(geoopt.Euclidean(ndim=1), torch.zeros(1, dtype=torch.float64), 2.0, 32)
    helix = Chart(lambda u: torch.cat([3 * u.cos(), 3 * u.sin(), 4 * u], -1), lambda x: x[..., 2:] / 4, 1, 3)
    torch.testing.assert_close(image_rule(helix, line).weights.sum().item(), 20.0, rtol=1e-12, atol=0)
    disc = manifold_rule(geoopt.Euclidean(ndim=1), torch.zeros(2, dtype=torch.float64), 1.5, 64, 32)
    bowl = Chart(
        lambda u: torch.cat([u, u.square().sum(-1, keepdim=True) / 2], -1), lambda x: x[..., :2], 2, 3
    )
    area = 2 * math.pi / 3 * ((1 + 1.5**2) ** 1.5 - 1)
    torch.testing.assert_close(image_rule(bowl, disc).weights.sum().item(), area, rtol=1e-12, atol=0)


def test_rule_of_an_image_counts_each_point_once() -> None:
    """A chart of the circle over two turns: half of the nodes weigh nothing, and the length is 2 pi, to the
    node's width."""
    circle = Chart(
        lambda u: torch.cat([u.cos(), u.sin()], -1), lambda x: torch.atan2(x[..., 1:], x[..., :1]), 1, 2
    )
    line = manifold_rule(geoopt.Euclidean(ndim=1), torch.zeros(1, dtype=torch.float64), 2 * math.pi, 1000)
    torch.testing.assert_close(image_rule(circle, line).weights.sum().item(), 2 * math.pi, rtol=2e-3, atol=0)
