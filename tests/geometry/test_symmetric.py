"""A geometry written as its exponential map and logarithm, the hyperbolic half-plane: what is derived of them is what
geoopt's Poincaré disk has, to which Cayley's map carries it."""

from typing import Any

import geoopt
import pytest
import torch
from torch import Tensor

from pyro_manifold.distributions import RiemannianNormal, WrappedNormal
from pyro_manifold.geometry import GeometricManifold, SymmetricGeometry, geometry, register_geometry
from pyro_manifold.ops.signed_trig import arcsinc_sqrt, cos_sqrt, sinc_sqrt
from pyro_manifold.testing import check_geometry


class HalfPlane(GeometricManifold):
    event_shape = torch.Size([2])


class UnknownCurvature(HalfPlane):
    """The same, without saying that its curvature is constant."""


@register_geometry(HalfPlane)
class HalfPlaneGeometry(SymmetricGeometry):
    membership = "a positive second coordinate"
    has_chart = True

    def constant_curvature(self, like: Tensor) -> Tensor | None:
        return None if isinstance(self.manifold, UnknownCurvature) else like.new_tensor(-1.0)

    def contains(self, x: Tensor, atol: float | None = None) -> Tensor:
        return x.isfinite().all(-1) & (x[..., 1] > 0)

    def base_point(self, event_shape: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
        return torch.tensor([0.0, 1.0], dtype=dtype, device=device)

    def project(self, x: Tensor) -> Tensor:
        return torch.stack([x[..., 0], x[..., 1].clamp_min(torch.finfo(x.dtype).eps)], -1)

    def exp(self, p: Tensor, u: Tensor) -> Tensor:
        v = u / p[..., 1:]
        minus_r2 = -v.square().sum(-1)
        y = p[..., 1] / (cos_sqrt(minus_r2) - v[..., 1] * sinc_sqrt(minus_r2))
        return torch.stack([p[..., 0] + y * v[..., 0] * sinc_sqrt(minus_r2), y], -1)

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        a, b = (q[..., 0] - p[..., 0]) / p[..., 1], q[..., 1] / p[..., 1]
        h = (a.square() + (b - 1).square()) / (2 * b)
        ratio = arcsinc_sqrt(-h / 2) / (1 + h / 2).sqrt()
        return p[..., 1:] * ratio.unsqueeze(-1) * torch.stack([a / b, h + (b - 1) / b], -1)


@pytest.mark.parametrize("manifold", [HalfPlane, UnknownCurvature])
def test_keeps_the_contract(manifold: type[HalfPlane], dtype: torch.dtype) -> None:
    skipped = check_geometry(manifold(), dim=2, dtype=dtype)
    assert set(skipped) == {"volume", "group_action"}


def cayley(z: Tensor) -> Tensor:
    r""":math:`w = (z - i)/(z + i)`, an isometry of the half-plane with the unit disk, i to 0."""
    z = torch.view_as_complex(z)
    return torch.view_as_real((z - 1j) / (z + 1j))


def turned(v: Tensor) -> Tensor:
    """Frame coordinates there: the derivative at i is a quarter turn."""
    return torch.stack([v[..., 1], -v[..., 0]], -1)


def points(n: int) -> Tensor:
    return torch.stack([2 * torch.randn(n), torch.randn(n).exp()], -1).double()


def test_is_the_poincare_disk() -> None:
    plane, disk = geometry(HalfPlane()), geometry(geoopt.PoincareBall())
    p, q, v = points(50), points(50), torch.randn(50, 2).double()
    close: Any = dict(rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(plane.dist(p, q), disk.dist(cayley(p), cayley(q)), **close)
    torch.testing.assert_close(turned(plane.log_frame(p, q)), disk.log_frame(cayley(p), cayley(q)), **close)
    torch.testing.assert_close(cayley(plane.exp_frame(p, v)), disk.exp_frame(cayley(p), turned(v)), **close)
    volume = disk.log_det_exp(cayley(p), v)
    for manifold in (HalfPlane(), UnknownCurvature()):
        torch.testing.assert_close(geometry(manifold).log_det_exp(p, v), volume, **close)


def test_distributions_follow() -> None:
    loc, x = points(2)
    for family in (WrappedNormal, RiemannianNormal):
        here = family(HalfPlane(), loc, torch.tensor(0.7).double())
        there = family(geoopt.PoincareBall(), cayley(loc), torch.tensor(0.7).double())
        torch.testing.assert_close(here.log_prob(x), there.log_prob(cayley(x)))


def test_velocities_broadcast_with_times() -> None:
    plane, p, u = geometry(HalfPlane()), points(3), torch.randn(3, 2).double()
    t = torch.tensor([[0.5], [2.0]]).double()
    x, velocity = plane.geodesic(p, u, t)
    assert x.shape == velocity.shape == (2, 3, 2)
    h = 1e-6
    slope = (plane.geodesic(p, u, t + h)[0] - plane.geodesic(p, u, t - h)[0]) / (2 * h)
    torch.testing.assert_close(velocity, slope, rtol=1e-6, atol=1e-6)


def test_wrong_dimensions_are_named() -> None:
    with pytest.raises(ValueError, match="dim: got 3; HalfPlane has dimension 2 alone"):
        geometry(HalfPlane()).point_shape(3)

    class Shapeless(GeometricManifold):
        pass

    with pytest.raises(ValueError, match=r"event_shape: got None.*Shapeless.*event_shape = \(n,\)"):
        Shapeless()
