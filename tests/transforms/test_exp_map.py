"""Exponential maps, polar coordinates and isometries: bijections with the right volume change, good error
messages."""

import math

import geoopt
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import biject_to, transform_to

from pyro_manifold.constraints import on
from pyro_manifold.geometry import geometry
from pyro_manifold.transforms import ExpMap, PolarExpMap, Rotation, Translation

F64 = torch.float64
S2, P = geoopt.Sphere(), torch.tensor([0.0, 0.6, -0.8], dtype=F64)


def gram_logdet(f, v):
    """Half log det of J'J by autodiff, J the Jacobian into ambient space (right where the metric is the
    ambient one)."""
    jac = torch.func.vmap(torch.func.jacrev(f))(v)
    return 0.5 * torch.linalg.slogdet(jac.mT @ jac).logabsdet


def test_exp_map_volume_and_inverse():
    torch.manual_seed(0)
    v = torch.randn(200, 2, dtype=F64)
    v = v / v.norm(dim=-1, keepdim=True) * torch.rand(200, 1, dtype=F64) * 3
    t = ExpMap(S2, P)
    x = t(v)
    assert (t.inv(x) - v).abs().max() < 1e-12
    assert (
        t.log_abs_det_jacobian(v, x) - gram_logdet(lambda v: geometry(S2).exp_frame(P, v), v)
    ).abs().max() < 1e-12


def test_polar_volume_and_inverse():
    torch.manual_seed(0)
    r, a = 0.1 + 2.9 * torch.rand(200, dtype=F64), 6.28 * torch.rand(200, dtype=F64)

    def f(z):
        return PolarExpMap(S2, P, validate_args=False)(torch.stack([z[0], z[1].cos(), z[1].sin()]))

    z = torch.stack([r, a.cos(), a.sin()], -1)
    t = PolarExpMap(S2, P)
    assert (t.inv(t(z)) - z).abs().max() < 1e-12
    assert (t.log_abs_det_jacobian(z, t(z)) - gram_logdet(f, torch.stack([r, a], -1))).abs().max() < 1e-12
    assert t.domain.check(z).all() and not t.domain.check(-z).any()
    assert t.forward_shape((5, 3)) == (5, 3) and t.inverse_shape((5, 3)) == (5, 3)
    assert t.inv(P)[0] == 0 and t.inv(P)[1:].norm() == 1  # nowhere has a direction too


def test_value_cache_returns_the_very_tangent():
    t = ExpMap(S2, P, cache_size=1)
    v = torch.randn(4, 2, dtype=F64)
    assert t.inv(t(v)) is v
    assert t.with_cache(0) != 0 and t.with_cache(1) is t and t.with_cache(0) == t


def test_translation_is_an_isometry_taking_origin_to_loc():
    torch.manual_seed(0)
    geo, t = geometry(S2), Translation(S2, P)
    x, y = (geo.uniform_sample((50,), (3,), dtype=F64) for _ in range(2))
    assert (geo.dist(t(x), t(y)) - geo.dist(x, y)).abs().max() < 1e-12
    assert (t(geo.origin(2, dtype=F64)) - P).abs().max() < 1e-15
    assert (t.inv(t(x)) - x).abs().max() < 1e-12


def test_rotation():
    torch.manual_seed(0)
    r = torch.linalg.qr(torch.randn(3, 3, dtype=F64)).Q
    t, x = Rotation(r), geometry(S2).uniform_sample((5,), (3,), dtype=F64)
    assert torch.allclose(t(x), x @ r.T) and torch.allclose(t.inv(t(x)), x)
    assert t.log_abs_det_jacobian(x, t(x)).shape == (5,)
    with pytest.raises(ValueError, match="matrix: got .* expected an orthogonal matrix"):
        Rotation(torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"matrix: got shape \(3,\)"):
        Rotation(torch.ones(3))


def test_transformed_distribution_is_right_as_it_stands():
    """C4: a base and a map make a distribution (here on flat space, where the answer is known)."""
    e, mu = geoopt.Euclidean(ndim=1), torch.tensor([1.0, 2.0])
    d = dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), [ExpMap(e, mu)])
    assert torch.allclose(d.log_prob(mu), torch.tensor(-math.log(2 * math.pi)))


def test_biject_to_and_transform_to():
    e = geoopt.Euclidean(ndim=1)
    assert biject_to(on(e))(torch.ones(3)).shape == (3,)
    with pytest.raises(NotImplementedError, match="no global chart.*WrappedNormal.*ProjectedNormalReparam"):
        biject_to(on(S2))
    t = transform_to(on(S2))
    x = torch.randn(6, 3)
    assert on(S2).check(t(x)).all() and torch.equal(t.inv(t(x)), t(x))
    assert on(S2).check(t(torch.zeros(3)))  # zero has no direction: any point will do


def test_equal_maps_have_one_manifold_and_equal_base_points():
    one = ExpMap(S2, P)
    assert one == ExpMap(S2, P.clone()) and ExpMap(S2) == ExpMap(S2)
    assert (
        one != ExpMap(S2)
        and ExpMap(S2) != one
        and one != ExpMap(S2, -P)
        and one != ExpMap(geoopt.Sphere(), P)
    )


def test_errors():
    with pytest.raises(ValueError, match="loc: got 0, 0.6, -0.7"):
        ExpMap(S2, torch.tensor([0.0, 0.6, -0.7]))
    with pytest.raises(ValueError, match="dimension 3, but loc"):
        ExpMap(S2, P)(torch.zeros(3, dtype=F64))
