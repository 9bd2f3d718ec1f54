"""Isometries keep distances, frames and distributions; bad pairs are refused. The generic checks run from
cases.py."""

import math

import geoopt
import pytest
import torch

from pyro_manifold.geometry import geometry
from pyro_manifold.transforms import BallToHyperboloid, SphereToStereographic

F64 = torch.float64


def test_ball_to_hyperboloid_keeps_distances_and_inverts() -> None:
    f = BallToHyperboloid(geoopt.Stereographic(k=-1.0), geoopt.Lorentz())
    ball, lorentz = geometry(f.source), geometry(f.target)
    x, y = (ball.chart(3 * torch.randn(100, 4, dtype=F64)) for _ in range(2))
    assert lorentz.contains(f(x)).all()
    torch.testing.assert_close(lorentz.dist(f(x), f(y)), ball.dist(x, y), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(f.inv(f(x)), x, rtol=1e-12, atol=1e-14)
    assert f.inv(f.target and lorentz.origin(4, dtype=F64)).eq(0).all()


def test_a_ball_built_in_float32_still_maps_onto_the_hyperboloid() -> None:
    """PoincareBall(c=1) in float32 is c = 1 - 3.8e-8 in float64; the image must be a point of Lorentz(k=1)
    all the same."""
    f = BallToHyperboloid(geoopt.PoincareBall(c=1.0), geoopt.Lorentz())
    x = geometry(f.source).chart(torch.randn(50, 2, dtype=F64))
    assert geometry(f.target).contains(f(x), atol=1e-15).all()
    torch.testing.assert_close(f.inv(f(x)), x, rtol=2e-7, atol=0)


@pytest.mark.parametrize("k", [0.3, 1.0, 2.0])
def test_sphere_to_stereographic_scales_distances(k: float) -> None:
    f = SphereToStereographic(geoopt.Sphere(), geoopt.Stereographic(k=torch.tensor(k, dtype=F64)))
    sphere, plane = geometry(f.source), geometry(f.target)
    x, y = (sphere.uniform_sample((100,), (4,), dtype=F64) for _ in range(2))
    torch.testing.assert_close(
        plane.dist(f(x), f(y)) * math.sqrt(k), sphere.dist(x, y), rtol=1e-10, atol=1e-10
    )
    torch.testing.assert_close(f.inv(f(x)), x, rtol=1e-12, atol=1e-14)
    v = torch.randn(100, 3, dtype=F64)
    torch.testing.assert_close(
        plane.exp_frame(f(x), v / math.sqrt(k)), f(sphere.exp_frame(x, v)), rtol=1e-6, atol=1e-8
    )
    assert (f.log_abs_det_jacobian(x, f(x)) == -1.5 * math.log(k)).all()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("gap", [0.0, 1e-30, 1e-7, 1e-3])
def test_the_pole_is_kept_finite(gap: float, dtype: torch.dtype) -> None:
    f = SphereToStereographic(geoopt.Sphere(), geoopt.Stereographic(k=1.0))
    x = torch.tensor([-math.cos(gap), math.sin(gap), 0.0], dtype=dtype, requires_grad=True)
    y = f(x)
    assert y.isfinite().all() and geometry(f.target).contains(y)
    torch.testing.assert_close(f.inv(y), x.detach(), rtol=0, atol=2 * torch.finfo(dtype).eps)
    (g,) = torch.autograd.grad(f.inv(y).sum(), x)
    assert g.isfinite().all()


def test_shapes_cache_and_equality() -> None:
    ball, lorentz = geoopt.PoincareBall(), geoopt.Lorentz()
    f = BallToHyperboloid(ball, lorentz)
    assert f.forward_shape(torch.Size([5, 2])) == (5, 3) and f.inverse_shape(torch.Size([5, 3])) == (5, 2)
    g = f.with_cache(1)
    x = torch.zeros(2)
    assert g.inv(g(x)) is x and g == f and f != BallToHyperboloid(ball, geoopt.Lorentz())
    assert repr(f) == "BallToHyperboloid(PoincareBall, Lorentz)"


def test_learned_curvature_gets_a_gradient() -> None:
    m = geoopt.SphereProjection(k=1.0, learnable=True)
    f = SphereToStereographic(geoopt.Sphere(), m)
    x = torch.tensor([0.6, 0.8])
    (f.log_abs_det_jacobian(x, f(x)) + f(x).sum()).backward()
    assert m.isp_k.grad is not None and m.isp_k.grad != 0


def test_bad_pairs() -> None:
    with pytest.raises(ValueError, match="hyperboloid: got curvature -2"):
        BallToHyperboloid(geoopt.PoincareBall(c=2.0), geoopt.Lorentz(k=0.5 - 1e-3))
    with pytest.raises(ValueError, match="ball: got"):
        BallToHyperboloid(geoopt.SphereProjection(k=1.0), geoopt.Lorentz())
    with pytest.raises(ValueError, match="hyperboloid: got"):
        BallToHyperboloid(geoopt.PoincareBall(), geoopt.Sphere())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="plane: got"):
        SphereToStereographic(geoopt.Sphere(), geoopt.PoincareBall())
    with pytest.raises(ValueError, match="sphere: got"):
        SphereToStereographic(geoopt.Lorentz(), geoopt.SphereProjection())  # type: ignore[arg-type]
