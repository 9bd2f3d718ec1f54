"""Scaled manifolds: the measure carries s^dim, distributions keep their mass, s can be learned, wrong input
is named."""

import math

import geoopt
import pyro
import pytest
import torch
from torch.distributions import biject_to, kl_divergence

import pyro_manifold.distributions as mdist
from pyro_manifold.constraints import on
from pyro_manifold.geometry import SpecialOrthogonal, Torus, geometry
from pyro_manifold.infer import GeodesicNUTS, VectorizedMCMC
from pyro_manifold.testing import manifold_rule, normalisation

F64 = torch.float64
SPHERE, BALL, SPD = geoopt.Sphere(), geoopt.Stereographic(-1.0), geoopt.SymmetricPositiveDefinite()
X = torch.tensor([0.36, 0.48, 0.8], dtype=F64)


def scaled(manifold, s, learnable=False):
    """In float64: geoopt takes the default dtype."""
    old = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    try:
        return geoopt.Scaled(manifold, s, learnable=learnable)
    finally:
        torch.set_default_dtype(old)


@pytest.mark.parametrize(
    "base, shape, s", [(SPHERE, (4,), 3.0), (SpecialOrthogonal(3), (3, 3), 0.5), (Torus(), (2,), 2.0)]
)
def test_volume_and_uniform_density(base, shape, s):
    geo, plain = geometry(scaled(base, s)), geometry(base)
    volume = float(plain.log_volume(shape)) + plain.dim(shape) * math.log(s)
    assert float(geo.log_volume(shape)) == pytest.approx(volume, abs=1e-14)
    d = mdist.ManifoldUniform(geo.manifold, shape, dtype=F64)
    assert float(d.log_prob(d.sample())) == pytest.approx(-volume, abs=1e-14)


@pytest.mark.parametrize("distribution", [mdist.WrappedNormal, mdist.RiemannianNormal])
@pytest.mark.parametrize("base, loc", [(SPHERE, X), (BALL, torch.tensor([0.3, -0.4], dtype=F64)),
                                       (SPD, torch.tensor([[1.5, 0.4], [0.4, 0.8]], dtype=F64))])  # fmt: skip
def test_a_distribution_is_the_base_distribution_in_other_units(distribution, base, loc):
    """Same draws for the same seed with the scale in the new unit; density divided by s^dim; its mass is
    1."""
    s, sigma = 2.5, torch.tensor([0.6] if distribution is mdist.WrappedNormal else 0.6, dtype=F64)
    plain, big = distribution(base, loc, sigma), distribution(scaled(base, s), loc, s * sigma)
    torch.manual_seed(0)
    x = plain.sample((5,))
    torch.manual_seed(0)
    torch.testing.assert_close(big.sample((5,)), x, rtol=1e-10, atol=1e-10)
    dim = geometry(base).dim(loc.shape)
    torch.testing.assert_close(big.log_prob(x), plain.log_prob(x) - dim * math.log(s), rtol=1e-10, atol=1e-10)
    mass = normalisation(big, manifold_rule(big.manifold, loc, 8 * s * 0.6, 64, 32))
    assert float(mass) == pytest.approx(1, abs=1e-6)


def test_curvature_and_product():
    both = geoopt.ProductManifold((SPHERE, 3), (scaled(SPHERE, 2.0), 3))
    geo, x = geometry(both), torch.cat([X, X])
    y = torch.cat([-X, -X])
    assert float(geo.dist(x, y)) == pytest.approx(math.hypot(math.pi, 2 * math.pi), abs=1e-12)
    assert float(geometry(scaled(SPHERE, 2.0)).curvature(X)) == 0.25
    assert float(geometry(scaled(scaled(SPHERE, 2.0), 3.0)).curvature(X)) == pytest.approx(1 / 36)
    assert geo.log_volume((6,)) == pytest.approx(2 * math.log(4 * math.pi) + 2 * math.log(2.0))
    v = torch.tensor([0.5, 1.0], dtype=F64)
    chart = biject_to(on(scaled(BALL, 2.0)))
    torch.testing.assert_close(chart.inv(chart(v)), v)
    assert float(geometry(scaled(BALL, 2.0)).dist(chart(0 * v), chart(v))) == pytest.approx(float(v.norm()))
    with pytest.raises(NotImplementedError, match="no global chart"):
        biject_to(on(scaled(SPHERE, 2.0)))


@pytest.mark.parametrize("distribution", [mdist.WrappedNormal, mdist.RiemannianNormal])
def test_a_learned_scale(distribution):
    """Gradients of density and of a reparametrised draw's distance to the centre, in log s, by finite
    differences."""
    sigma = torch.tensor([0.8] if distribution is mdist.WrappedNormal else 0.8, dtype=F64)
    y = torch.tensor([0.48, -0.6, 0.64], dtype=F64)

    def value(m):
        d = distribution(m, X, sigma)
        torch.manual_seed(3)
        return d.log_prob(y) + mdist.ManifoldUniform(m, (3,), dtype=F64).log_prob(y), (d.rsample() @ y)

    m = scaled(SPHERE, 1.7, learnable=True)
    for i in range(
        2 if distribution is mdist.WrappedNormal else 1
    ):  # the other's draws have implicit gradients: no common random numbers
        (g,) = torch.autograd.grad(value(m)[i].sum(), m._log_scale)
        h = 1e-5
        up, down = (value(scaled(SPHERE, 1.7 * math.exp(t)))[i] for t in (h, -h))
        assert float(g) == pytest.approx(float((up - down) / (2 * h)), rel=1e-6, abs=1e-8)


def test_truncated_and_learned():
    m = scaled(SPHERE, 2.0, learnable=True)
    d = mdist.WrappedNormal(m, X, torch.tensor([3.0], dtype=F64), truncated=True)
    x = d.rsample((50,))
    assert float(geometry(m).dist(X, x).detach().max()) < 2 * math.pi
    (g,) = torch.autograd.grad(d.log_prob(x.detach()).sum(), m._log_scale)
    assert bool(g.isfinite())


def test_under_nuts():
    """Twice the unit sphere, distribution vMF-like through RiemannianNormal: mean distance by quadrature; z <
    5 at ESS >= 100."""
    m = scaled(SPHERE, 2.0)
    distribution = mdist.RiemannianNormal(m, X, torch.tensor(1.0, dtype=F64))
    kernel = GeodesicNUTS(lambda: pyro.sample("x", distribution), chains=8)
    mcmc = VectorizedMCMC(kernel, num_samples=40, warmup_steps=40, disable_progbar=True)
    pyro.set_rng_seed(0)
    mcmc.run()
    r = geometry(m).dist(X, mcmc.get_samples()["x"])
    rule = manifold_rule(m, X, 20.0, 64, 16)
    expected = rule.integrate(distribution.log_prob(rule.points).exp() * geometry(m).dist(X, rule.points))
    assert abs(float(r.mean() - expected)) < 5 * float(r.std()) / math.sqrt(100)


def test_what_is_on_another_scale_is_not_compared():
    a, b = scaled(SPHERE, 2.0), scaled(SPHERE, 3.0)
    p, q = mdist.RiemannianNormal(a, X, 0.5), mdist.ManifoldUniform(b, (3,), dtype=F64)
    with pytest.raises(NotImplementedError):
        kl_divergence(p, q)
    with pytest.raises(NotImplementedError):
        kl_divergence(mdist.VonMisesFisher(X, 2.0), q)
    same = kl_divergence(p, mdist.ManifoldUniform(a, (3,), dtype=F64))
    plain = kl_divergence(
        mdist.RiemannianNormal(SPHERE, X, 0.25), mdist.ManifoldUniform(SPHERE, (3,), dtype=F64)
    )
    torch.testing.assert_close(same, plain)


def test_bad_scales():
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="manifold: Scaled needs one positive finite scale"):
            geometry(geoopt.Scaled(SPHERE, bad))
    with pytest.raises(ValueError, match="one positive finite scale"):
        geometry(geoopt.Scaled(SPHERE, torch.tensor([1.0, 2.0])))
