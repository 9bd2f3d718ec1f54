"""Membership, element by element, and the bridge to Pyro's own constraints and parameters."""

import copy
import pickle

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_manifold.constraints import check_point, manifold_of, on
from pyro_manifold.distributions import WrappedNormal


def test_check_is_per_element():
    x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [1.0, 1.0], [float("nan"), 0.0]])
    assert on(geoopt.Sphere()).check(x).tolist() == [True, True, False, False]
    assert on(geoopt.Euclidean(ndim=1)).check(x).tolist() == [True, True, True, False]


def test_product_needs_every_factor():
    m = geoopt.ProductManifold((geoopt.Sphere(), 2), (geoopt.Euclidean(ndim=1), 1))
    x = torch.tensor([[1.0, 0.0, 5.0], [1.0, 1.0, 5.0], [1.0, 0.0, float("inf")]])
    assert on(m).check(x).tolist() == [True, False, False]


def test_pickle_repr_equality():
    s = geoopt.Sphere()
    c = pickle.loads(pickle.dumps(on(s)))
    assert c.check(torch.tensor([1.0, 0.0])) and repr(c) == "on(Sphere)"
    assert on(s) == on(s) and on(s) != on(geoopt.Sphere()) and len({on(s), on(s)}) == 1


def test_pyros_sphere_is_a_manifold_too():
    assert isinstance(manifold_of(dist.constraints.sphere), geoopt.Sphere)
    assert isinstance(manifold_of(dist.ProjectedNormal(torch.ones(3)).support), geoopt.Sphere)
    assert manifold_of(dist.constraints.real) is None


def test_param_stays_on_the_manifold(tmp_path):
    s = geoopt.Sphere()
    pyro.param("mu", torch.tensor([0.0, 1.0, 0.0]), constraint=on(s))
    opt = torch.optim.SGD([pyro.param("mu").unconstrained()], lr=0.1)
    pyro.param("mu")[0].neg().backward()
    opt.step()
    assert on(s).check(pyro.param("mu")) and pyro.param("mu")[0] > 0
    pyro.get_param_store().save(tmp_path / "store")
    before = pyro.param("mu").detach().clone()
    pyro.clear_param_store()
    pyro.get_param_store().load(tmp_path / "store")
    assert torch.equal(pyro.param("mu"), before)


def test_helpful_support_error_of_pyro():
    """Pyro's autoguides recognise the sphere and name the reparametriser."""
    from pyro_manifold.distributions import ManifoldUniform

    guide = pyro.infer.autoguide.AutoNormal(lambda: pyro.sample("z", ManifoldUniform(geoopt.Sphere(), 3)))
    with pytest.raises(ValueError, match="ProjectedNormal"):
        guide()


def test_check_point_errors():
    with pytest.raises(
        ValueError, match=r"loc: got shape \(\), expected points of Sphere with at least 1 trailing axis"
    ):
        check_point(geoopt.Sphere(), "loc", torch.tensor(1.0))
    with pytest.raises(
        ValueError, match=r"loc: got 2, 0 at index \(1,\), expected points of Sphere. Project it first"
    ):
        check_point(geoopt.Sphere(), "loc", torch.tensor([[1.0, 0.0], [2.0, 0.0]]))


@pytest.mark.parametrize(
    "manifold",
    [geoopt.PoincareBall(learnable=True), geoopt.Scaled(geoopt.Sphere(), 2.0, learnable=True), geoopt.Lorentz(),
     geoopt.ProductManifold((geoopt.Sphere(), 3), (geoopt.PoincareBall(learnable=True), 2))],
    ids=lambda m: m.name,
)  # fmt: skip
def test_a_constraint_holds_one_geometry_that_copies_and_follows_its_manifold(manifold):
    """Copies and pickles have a geometry of their own manifold, and it reads parameters when it is asked."""
    constraint = on(manifold)
    for copied in (copy.deepcopy(constraint), pickle.loads(pickle.dumps(constraint))):
        assert copied.geometry.manifold is copied.manifold is not manifold
    geo = constraint.geometry
    event = (5,) if isinstance(manifold, geoopt.ProductManifold) else (3,)
    o = geo.base_point(event)
    v = torch.full((geo.dim(event),), 0.5)
    d = WrappedNormal(copy.deepcopy(manifold), o, 0.5)
    assert d.support.geometry is d.geometry and d.support.manifold is d.manifold
    x, before = geo.exp_frame(o, v), geo.log_det_exp(o, v)
    with torch.no_grad():
        for p in manifold.parameters():
            p.add_(0.3)
    torch.testing.assert_close(geo.log_det_exp(o, v), on(manifold).geometry.log_det_exp(o, v), rtol=0, atol=0)
    assert not torch.equal(before, geo.log_det_exp(o, v)) or not list(manifold.parameters())
    assert x.shape == torch.Size(event)
