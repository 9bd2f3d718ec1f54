"""The uniform law: volumes against the Gamma function, moments, errors."""

import math

import geoopt
import pytest
import torch

from pyro_manifold.distributions import ManifoldUniform


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
    with pytest.raises(ValueError, match="event_shape: missing, and Sphere"):
        ManifoldUniform(geoopt.Sphere())
    with pytest.raises(ValueError, match=r"event_shape: got \(3, 3\)"):
        ManifoldUniform(geoopt.Sphere(), (3, 3))
    with pytest.raises(ValueError, match=r"event_shape: got \(1,\)"):
        ManifoldUniform(geoopt.Sphere(), 1)
