"""The uniform distribution: volumes against the Gamma function, moments, errors."""

import math

import geoopt
import pytest
import torch

from pyro_manifold.distributions import ManifoldUniform
from pyro_manifold.geometry import SpecialOrthogonal, Torus


def test_volumes():
    for n, volume in ((2, 2 * math.pi), (3, 4 * math.pi), (4, 2 * math.pi**2)):
        d = ManifoldUniform(geoopt.Sphere(), (n,), dtype=torch.float64)
        assert float(d.entropy()) == pytest.approx(math.log(volume), abs=1e-14)
    two = geoopt.ProductManifold((geoopt.Sphere(), 2), (geoopt.Sphere(), 3))
    assert float(ManifoldUniform(two).entropy()) == pytest.approx(math.log(8 * math.pi**2), abs=1e-6)


def test_second_moment_is_isotropic():
    """Each of the 6 second moments within 5 standard errors: false-alarm rate 4e-6."""
    torch.manual_seed(0)
    x = ManifoldUniform(geoopt.Sphere(), 3, dtype=torch.float64).sample((100000,))
    outer = x[:, :, None] * x[:, None, :]
    assert ((outer.mean(0) - torch.eye(3) / 3).abs() <= 5 * outer.std(0) / 100000**0.5).all()


def test_errors():
    with pytest.raises(ValueError, match="Euclidean has no finite volume"):
        ManifoldUniform(geoopt.Euclidean(ndim=1), 3)
    with pytest.raises(ValueError, match="event_shape: got None, but Sphere"):
        ManifoldUniform(geoopt.Sphere())
    with pytest.raises(ValueError, match=r"event_shape: got \(3, 3\)"):
        ManifoldUniform(geoopt.Sphere(), (3, 3))
    with pytest.raises(ValueError, match=r"event_shape: got \(1,\)"):
        ManifoldUniform(geoopt.Sphere(), 1)


def test_moments_are_those_of_draws():
    """Mean and variance of each coordinate within 5 standard errors (each false alarm 6e-7), and in closed
    form."""
    three = geoopt.ProductManifold(
        (geoopt.Sphere(), 3), (Torus(), 2), (geoopt.Scaled(geoopt.Sphere(), 2.0), 2)
    )
    cases = [
        (geoopt.Sphere(), (2,)),
        (geoopt.Sphere(), (64,)),
        (SpecialOrthogonal(2), (2, 2)),
        (SpecialOrthogonal(4), (4, 4)),
        (geoopt.Stiefel(), (4, 2)),
        (Torus(), (2,)),
        (three, None),
        (geoopt.SphereProjection(k=0.5), (6,)),
    ]
    for manifold, shape in cases:
        d = ManifoldUniform(manifold, shape, dtype=torch.float64)
        x = d.sample((20_000,))
        assert d.mean.shape == d.variance.shape == d.event_shape and d.mean.dtype == x.dtype
        assert ((x.mean(0) - d.mean).abs() <= 5 * x.std(0) / len(x) ** 0.5).all(), manifold.name
        square = (x - d.mean).square()
        assert ((square.mean(0) - d.variance).abs() <= 5 * square.std(0) / len(x) ** 0.5).all(), manifold.name
    e = ManifoldUniform(geoopt.Sphere(), (3,)).expand((2,))
    torch.testing.assert_close(e.variance, torch.full((2, 3), 1 / 3))
    assert ManifoldUniform(geoopt.SphereProjection(k=0.5), (2,)).variance.isinf().all()
    with pytest.raises(NotImplementedError, match="do not exist"):
        _ = ManifoldUniform(geoopt.SphereProjection(k=0.5), (1,)).mean
