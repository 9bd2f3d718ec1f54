"""A product does factor by factor what its factors do."""

import math

import geoopt
import pytest
import torch

from pyro_manifold.distributions import WrappedNormal
from pyro_manifold.geometry import geometry

F64 = torch.float64


def make() -> tuple[geoopt.ProductManifold, list[tuple[geoopt.Manifold, slice, slice]]]:
    parts = [
        (geoopt.Sphere(), 3),
        (geoopt.Stereographic(k=-1.0), 2),
        (geoopt.Lorentz(), 3),
        (geoopt.Euclidean(ndim=1), 1),
    ]
    slices = [slice(0, 3), slice(3, 5), slice(5, 8), slice(8, 9)]
    frames = [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 7)]
    return geoopt.ProductManifold(*parts), [
        (m, s, f) for (m, _), s, f in zip(parts, slices, frames, strict=True)
    ]


def test_each_factor() -> None:
    manifold, factors = make()
    geo = geometry(manifold)
    assert geo.dim((9,)) == 7 and geo.point_shape(7) == (9,)
    o = geo.origin(7, dtype=F64)
    p, v = geo.exp_frame(o.expand(20, 9), torch.randn(20, 7, dtype=F64)), 0.5 * torch.randn(20, 7, dtype=F64)
    q, y = geo.exp_frame(p, v), geo.geodesic(p, geo.to_tangent(p, v), torch.full((20,), 0.3, dtype=F64))
    squares, log_det = 0.0, 0.0
    for m, s, f in factors:
        g = geometry(m)
        torch.testing.assert_close(q[:, s], g.exp_frame(p[:, s], v[:, f]))
        torch.testing.assert_close(geo.log(p, q)[:, s], g.log(p[:, s], q[:, s]))
        torch.testing.assert_close(y[1][:, s], g.geodesic(p[:, s], g.to_tangent(p[:, s], v[:, f]), 0.3)[1])
        squares = squares + g.dist(p[:, s], q[:, s]) ** 2
        log_det = log_det + g.log_det_exp(p[:, s], v[:, f])
    torch.testing.assert_close(geo.dist(p, q) ** 2, squares)
    torch.testing.assert_close(geo.log_det_exp(p, v), log_det)
    torch.testing.assert_close(geo.log_frame(p, q), v)


def test_contains_needs_every_factor() -> None:
    geo = geometry(make()[0])
    p = geo.origin(7).repeat(3, 1)
    p[1, 3] = 1.0  # on the boundary of the ball
    p[2, 5] = 0.0  # off the hyperboloid
    assert geo.contains(p).tolist() == [True, False, False]


def test_spheres() -> None:
    geo = geometry(geoopt.ProductManifold((geoopt.Sphere(), 2), (geoopt.Sphere(), 3)))
    assert geo.injectivity_radius((5,)) == pytest.approx(math.pi)
    assert float(geo.log_volume((5,))) == pytest.approx(math.log(2 * math.pi * 4 * math.pi))
    x = geo.uniform_sample((7,), (5,), dtype=F64)
    assert x.shape == (7, 5) and geo.contains(x).all()
    v = torch.tensor([[0.3, 0.2, -0.1]], dtype=F64)
    o = geo.origin(3, dtype=F64).expand(1, 5)
    pre = geo.preimages(o, v, 7.0)
    assert pre.shape[0] == 25
    torch.testing.assert_close(geo.exp_frame(o, pre), geo.exp_frame(o, v).expand(25, 1, 5))


def test_chart_follows_the_factors() -> None:
    m = geoopt.Stereographic(k=-1.0, learnable=True)
    geo = geometry(geoopt.ProductManifold((m, 2), (geoopt.Euclidean(ndim=1), 1)))
    assert geo.has_chart
    with torch.no_grad():
        m.k.fill_(1.0)
    assert not geo.has_chart


def test_wrong_size() -> None:
    with pytest.raises(ValueError, match="packs 9 numbers"):
        geometry(make()[0]).dim((8,))


def test_flat_factors_of_any_shape() -> None:
    """A scalar, and a matrix: the numbers of one vector; points of other manifolds are one to a factor."""
    m = geoopt.ProductManifold((geoopt.Euclidean(), ()), (geoopt.Euclidean(), (2, 3)), (geoopt.Sphere(), 3))
    vectors = geoopt.ProductManifold((geoopt.Euclidean(ndim=1), 7), (geoopt.Sphere(), 3))
    loc = torch.cat([torch.arange(7.0), torch.eye(3)[0]]).double()
    a, b = (WrappedNormal(k, loc, torch.tensor(0.5, dtype=torch.float64)) for k in (m, vectors))
    x = a.sample((4,))
    assert geometry(m).dim((10,)) == 9 and x.shape == (4, 10)
    torch.testing.assert_close(a.log_prob(x), b.log_prob(x.clone()))
    torch.testing.assert_close(geometry(m).dist(loc, x), geometry(vectors).dist(loc, x))
    with pytest.raises(ValueError, match=r"factor 0, Sphere, has shape \(2, 3\).*one factor for each point"):
        geometry(geoopt.ProductManifold((geoopt.Sphere(), (2, 3)), (geoopt.Euclidean(), ())))
