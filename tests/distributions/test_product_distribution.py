"""Distributions on products: values, divergences, and what is refused."""

import geoopt
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_manifold.distributions import ManifoldUniform, PowerSpherical, ProductDistribution, WrappedNormal

D = torch.float64
SPHERE, BALL, FLAT = geoopt.Sphere(), geoopt.PoincareBall(), geoopt.Euclidean(0)
PRODUCT = geoopt.ProductManifold((SPHERE, 3), (FLAT, ()))


def make(concentration: float, scale: float = 0.5) -> ProductDistribution:
    axis = torch.tensor([0.0, 0.0, 1.0], dtype=D)
    line = WrappedNormal(geoopt.Euclidean(1), torch.zeros(4, 1, dtype=D), torch.tensor(scale, dtype=D))
    return ProductDistribution(PRODUCT, [PowerSpherical(axis, torch.tensor(concentration, dtype=D)), line])


def test_the_density_is_the_product() -> None:
    d = make(3.0)
    x = d.rsample((5,))
    assert d.batch_shape == (4,) and x.shape == (5, 4, 4) and d.has_rsample
    a, b = d.parts
    expected = a.log_prob(x[..., :3]) + b.log_prob(x[..., 3:])
    torch.testing.assert_close(d.log_prob(x), expected)
    torch.testing.assert_close(d.entropy(), (a.entropy() + b.entropy()))
    torch.testing.assert_close(d.mean, torch.cat([a.mean, b.mean], -1))


def test_divergences_add_up() -> None:
    p = make(3.0)
    flat = p.parts[1]
    q = ProductDistribution(PRODUCT, [ManifoldUniform(SPHERE, 3, dtype=D), flat.expand((4,))])
    torch.testing.assert_close(kl_divergence(p, q), kl_divergence(p.parts[0], q.parts[0]).expand(4))
    with pytest.raises(NotImplementedError):  # of two power spherical distributions there is no closed form
        kl_divergence(p, make(2.0))
    other = geoopt.ProductManifold((SPHERE, 3), (BALL, 1))
    ball = ProductDistribution(
        other, [q.parts[0], WrappedNormal(BALL.double(), torch.zeros(1, dtype=D), 1.0)]
    )
    with pytest.raises(NotImplementedError, match="different manifolds"):
        kl_divergence(p, ball)


def test_parts_must_fit() -> None:
    uniform = ManifoldUniform(SPHERE, 3)
    with pytest.raises(
        ValueError, match=r"parts: got distributions of event shapes \[\(3,\)\]; expected one for each"
    ):
        ProductDistribution(PRODUCT, [uniform])
    with pytest.raises(ValueError, match=r"\[\(3,\), \(3,\)\]; expected .* \[\(3,\), \(1,\)\]"):
        ProductDistribution(PRODUCT, [uniform, uniform])
    line = WrappedNormal(geoopt.Euclidean(1), torch.zeros(2, 1), 1.0)
    with pytest.raises(ValueError, match=r"parts\[0\].*parts\[1\]"):
        ProductDistribution(PRODUCT, [uniform.expand((3,)), line])
