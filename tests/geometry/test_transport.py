"""Parallel transport from the origin is what the frames of C3 are made of."""

import geoopt
import pytest
import torch

from pyro_manifold.geometry import Grassmann, SpecialOrthogonal, Torus, geometry

F64 = torch.float64
MANIFOLDS = [
    (geoopt.Sphere(), 3),
    (geoopt.PoincareBall(), 3),
    (geoopt.Lorentz(2.0), 3),
    (geoopt.Stereographic(k=0.7), 2),
    (geoopt.Scaled(geoopt.Sphere(), 2.0), 2),
    (geoopt.SymmetricPositiveDefinite(), 6),
    (Grassmann(5, 2), 6),
    (Torus(), 2),
]


@pytest.mark.parametrize("manifold, dim", MANIFOLDS, ids=lambda x: getattr(x, "name", str(x)))
def test_frames_are_transported_from_the_origin(manifold: geoopt.Manifold, dim: int) -> None:
    torch.manual_seed(0)
    geo = geometry(manifold)
    v, w = 0.5 * torch.randn(2, 7, dim, dtype=F64)
    o = geo.origin(dim, dtype=F64)
    q = geo.exp_frame(o.expand(7, *o.shape), v)
    moved = geo.transport(o, q, geo.to_tangent(o.expand_as(q), w))
    torch.testing.assert_close(moved, geo.to_tangent(q, w), rtol=1e-7, atol=1e-8)
    assert geo.frame(q).shape == (7, dim, *o.shape)


def test_transport_of_rotations_is_by_half_the_turn() -> None:
    """On SO(3) a vector across the axis turns back by half the angle in the body's frame."""
    geo = geometry(SpecialOrthogonal(3))
    p, angle = torch.eye(3, dtype=F64), torch.tensor(1.2, dtype=F64)
    q = geo.exp_frame(p, torch.tensor([0.0, 0.0, 1.2], dtype=F64))
    u = geo.to_tangent(p, torch.tensor([1.0, 0.0, 0.0], dtype=F64))
    half = torch.stack([(angle / 2).cos(), -(angle / 2).sin(), torch.zeros((), dtype=F64)])
    torch.testing.assert_close(geo.from_tangent(q, geo.transport(p, q, u)), half)


def test_no_transport_where_it_has_no_closed_form() -> None:
    geo = geometry(geoopt.Stiefel())
    p = geo.base_point((3, 2))
    with pytest.raises(NotImplementedError, match="parallel transport has no closed form"):
        geo.transport(p, p, torch.zeros_like(p))


@pytest.mark.parametrize("k", [-1.3, 0.8])
def test_a_geodesic_at_rest(k):
    """Without velocity nothing moves, and the velocity after time t is that at the start to first order: its
    derivative there is 1."""
    geo = geometry(geoopt.Stereographic(k=k))
    p = torch.tensor([0.3, -0.4, 0.1], dtype=torch.float64)
    for at in (p, 0 * p):
        q, u = geo.geodesic(at, 0 * p, torch.tensor(0.7))
        assert torch.equal(q, at) and torch.equal(u, 0 * p)
        slope = torch.autograd.functional.jacobian(lambda v: geo.geodesic(at, v, torch.tensor(0.7))[1], 0 * p)  # noqa: B023
        torch.testing.assert_close(slope, torch.eye(3, dtype=torch.float64))
