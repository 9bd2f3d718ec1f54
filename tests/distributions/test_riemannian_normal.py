"""Riemannian normals: mass, agreement of charts, limits, gradients, moments, divergences, errors, and life
inside Pyro."""

import math
import pickle

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, JitTrace_ELBO, Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch.distributions import kl_divergence

from pyro_manifold.distributions import ManifoldUniform, RiemannianNormal
from pyro_manifold.geometry import geometry
from pyro_manifold.ops.radial import radius_moment

F64 = torch.float64


def manifolds():
    """name -> (manifold in float64, loc, dim)"""
    v = torch.tensor([0.3, -0.2, 0.4], dtype=F64)
    ms = {
        "sphere": geoopt.Sphere(),
        "euclidean": geoopt.Euclidean(ndim=1),
        "ball": geoopt.PoincareBall(c=1.4).double(),
        "lorentz": geoopt.Lorentz(k=torch.tensor(1.0, dtype=F64)),
        "negative": geoopt.Stereographic(k=-0.5, learnable=True).double(),
        "flat": geoopt.Stereographic(k=0.0, learnable=True).double(),
        "positive": geoopt.Stereographic(k=0.7, learnable=True).double(),
    }
    out = {}
    for name, m in ms.items():
        geo = geometry(m)
        out[name] = (m, geo.exp_frame(geo.origin(3, dtype=F64), v).detach())
    return out


M = manifolds()


@pytest.mark.parametrize("name", M)
def test_mass_is_one(name):
    """Exact draws from the distribution at 2 sigma as importance weights for the distribution at sigma: 2e5
    draws, 5 standard errors."""
    torch.manual_seed(0)
    m, loc = M[name]
    wide, d = RiemannianNormal(m, loc, 0.8), RiemannianNormal(m, loc, 0.5)
    with torch.no_grad():
        x = wide.sample((200_000,))
        w = (d.log_prob(x) - wide.log_prob(x)).exp()
    assert abs(w.mean() - 1) <= 5 * w.std() / 200_000**0.5


@pytest.mark.parametrize("name", M)
def test_override_is_the_pushforward(name):
    """log_prob without the Jacobian equals the generic base density minus log|det d exp|, cached value or
    not."""
    m, loc = M[name]
    torch.manual_seed(0)
    d = RiemannianNormal(m, loc, torch.tensor([0.2, 1.0], dtype=F64))
    x = d.rsample((50,))
    cached, fresh = d.log_prob(x), d.log_prob(x.clone())
    generic = super(RiemannianNormal, d).log_prob(x.clone())
    torch.testing.assert_close(cached, fresh, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(generic, fresh, rtol=1e-9, atol=1e-9)


def test_euclidean_is_normal():
    loc = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    ours, x = RiemannianNormal(geoopt.Euclidean(ndim=1), loc, 0.7), torch.randn(5, 3, dtype=F64)
    theirs = dist.Normal(loc, 0.7).to_event(1)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.mean, loc)


def test_uniform_limit_and_antipode():
    loc = torch.tensor([0.0, 0.0, 1.0], dtype=F64)
    d = RiemannianNormal(geoopt.Sphere(), loc, math.inf)
    x = torch.stack([loc, -loc]).requires_grad_()
    lp = d.log_prob(x)
    torch.testing.assert_close(lp, torch.full((2,), -math.log(4 * math.pi), dtype=F64))
    near = RiemannianNormal(geoopt.Sphere(), loc, 0.5)
    (g,) = torch.autograd.grad(near.log_prob(x).sum(), x)
    assert g.isfinite().all()
    torch.manual_seed(0)
    assert (
        d.sample((40_000,)).mean(0).abs().max() < 5 / (3 * 40_000) ** 0.5
    )  # 5 standard errors: false alarm 2e-6
    assert kl_divergence(d, ManifoldUniform(geoopt.Sphere(), (3,), dtype=F64)).abs() < 1e-12


def test_ball_and_hyperboloid_agree():
    ball, lorentz = geoopt.PoincareBall(c=1.0).double(), geoopt.Lorentz(k=torch.tensor(1.0, dtype=F64))
    c = geometry(ball).curvature(torch.zeros((), dtype=F64)).detach()
    v = torch.tensor([[0.0, 0.0], [0.6, -1.1], [2.0, 0.5]], dtype=F64)
    mu = torch.tensor([0.4, 0.3], dtype=F64)
    out = []
    for m in (ball, lorentz):
        geo = geometry(m)
        x, loc = (geo.chart(t / (-geo.curvature(v).detach()).sqrt()) for t in (v, mu))
        out.append(RiemannianNormal(m, loc.detach(), 0.8).log_prob(x.detach()))
    torch.testing.assert_close(
        out[0], out[1], rtol=1e-6 if c + 1 else 1e-10, atol=0
    )  # geoopt keeps c as a float32 softplus


@pytest.mark.parametrize("name", ["ball", "negative", "flat", "positive", "sphere", "lorentz"])
@pytest.mark.parametrize("what", ["scale", "curvature", "loc"])
def test_gradient_of_log_prob(name, what):
    """In scale, curvature and loc, against central differences."""
    m, loc = M[name]
    if what == "curvature" and name in ("sphere", "lorentz"):
        pytest.skip("fixed curvature")
    geo, h = geometry(m), 1e-6
    x = geo.exp_frame(loc, torch.tensor([0.5, 0.1, -0.7], dtype=F64)).detach()
    raw = next(iter(m.parameters()), None)

    def f(t):
        s, p = torch.tensor(0.9, dtype=F64), loc
        if what == "scale":
            s = s + t
        elif what == "loc":
            p = geo.exp_frame(loc, t * torch.tensor([0.3, 1.0, 0.2], dtype=F64))
        else:
            raw.data += t.detach()
        out = RiemannianNormal(m, p, s, validate_args=False).log_prob(x)
        if what == "curvature":
            raw.data -= t.detach()
        return out

    fd = (f(torch.tensor(h, dtype=F64)) - f(torch.tensor(-h, dtype=F64))) / (2 * h)
    if what == "curvature":
        raw.grad = None
        raw.requires_grad_(True)
        (g,) = torch.autograd.grad(RiemannianNormal(m, loc, torch.tensor(0.9, dtype=F64)).log_prob(x), raw)
    else:
        t = torch.zeros((), dtype=F64, requires_grad=True)
        (g,) = torch.autograd.grad(f(t), t)
    torch.testing.assert_close(g.reshape(()), fd.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["ball", "negative", "flat", "positive", "sphere"])
def test_pathwise_gradients_of_distance(name):
    """d E[d(x, mu)^2] / d(scale, curvature) through the draws; 4e4 draws in 20 batches, 5 standard errors."""
    torch.manual_seed(3)
    m, loc = M[name]
    geo = geometry(m)
    raw = next(iter(m.parameters()), None)
    s = torch.tensor(0.6, dtype=F64, requires_grad=True)
    params = [s] + ([raw.requires_grad_(True)] if raw is not None else [])
    n = 40_000
    exact = torch.autograd.grad(radius_moment(s, geo.curvature(loc), 3)[1], params)
    d = RiemannianNormal(m, loc, s.expand(20), validate_args=False)
    x = d.rsample((n // 20,))
    batches = geo.dist(loc, x).square().mean(0)  # 20 independent batches give the standard error
    grads = torch.tensor(
        [[float(g) for g in torch.autograd.grad(b, params, retain_graph=True)] for b in batches]
    )
    error = grads.std(0) / 20**0.5
    assert ((grads.mean(0) - torch.tensor([float(e) for e in exact])).abs() <= 5 * error + 1e-6).all()


@pytest.mark.parametrize("name", M)
def test_entropy_mean_and_kl(name):
    """Against 4e5 draws, 5 standard errors."""
    torch.manual_seed(1)
    m, loc = M[name]
    p, q, n = RiemannianNormal(m, loc, 0.5), RiemannianNormal(m, loc, 0.9), 100_000
    with torch.no_grad():
        x = p.sample((n,))
        for estimate, exact in (
            (-p.log_prob(x), p.entropy()),
            (p.log_prob(x) - q.log_prob(x), kl_divergence(p, q)),
        ):
            assert abs(estimate.mean() - exact) <= 5 * estimate.std() / n**0.5
        assert kl_divergence(p, p).abs() < 1e-12 and kl_divergence(p, q) > 0
        if geometry(m).in_linear_space:
            assert ((x.mean(0) - p.mean).abs() <= 5 * x.std(0) / n**0.5).all()
        else:
            with pytest.raises(NotImplementedError, match="frechet_mean|no closed form"):
                _ = p.mean
    torch.testing.assert_close(p.mode, loc)
    torch.testing.assert_close(p.frechet_mean, loc)


@pytest.mark.parametrize("dim", [2, 33, 64])
def test_kl_is_not_negative_in_many_dimensions(dim):
    """emilemathieu/pvae#3: negative KL in dimension above 32, from the alternating-sum normaliser."""
    m, scales = geoopt.PoincareBall(c=1.0), torch.tensor([0.01, 0.03, 0.1, 0.5, 1.0])
    p = RiemannianNormal(m, torch.zeros(5, dim), scales)
    for s in (0.02, 0.5, 1.0):
        kl = kl_divergence(p, RiemannianNormal(m, torch.zeros(5, dim), s))
        assert (kl >= -1e-4 * dim).all() and kl.isfinite().all()


def test_kl_with_another_centre_is_left_to_monte_carlo():
    m, zero = geoopt.PoincareBall(), torch.zeros(2)
    with pytest.raises(NotImplementedError, match="centre"):
        kl_divergence(RiemannianNormal(m, zero, 1.0), RiemannianNormal(m, zero + 0.1, 1.0))


def test_shapes_expand_pickle_repr():
    m = geoopt.PoincareBall()
    d = RiemannianNormal(m, torch.zeros(4, 1, 2), torch.ones(3))
    assert d.batch_shape == (4, 3) and d.event_shape == (2,) and d.has_rsample
    assert RiemannianNormal.infer_shapes(loc=(4, 1, 2), scale=(3,)) == ((4, 3), (2,))
    e = d.expand((5, 4, 3))
    assert e.batch_shape == (5, 4, 3) and e.rsample((2,)).shape == (2, 5, 4, 3, 2)
    assert e.log_prob(torch.zeros(2)).shape == (5, 4, 3) and d.entropy().shape == (4, 3)
    assert isinstance(e, RiemannianNormal) and e.expand((6, 5, 4, 3)).scale.shape == (6, 5, 4, 3)
    assert d.to_event(1).event_shape == (3, 2) and d.mask(False).log_prob(torch.zeros(2)).sum() == 0
    f = pickle.loads(pickle.dumps(d))
    torch.testing.assert_close(f.log_prob(torch.zeros(2)), d.log_prob(torch.zeros(2)))
    assert d.support.check(d.sample()).all()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_centre_at_a_pole_of_the_frame(dtype, sign):
    """loc = +-e_i, value = loc: finite values and gradients, for scales from 1e-3 to 1e3."""
    for i in range(3):
        loc = torch.nn.functional.one_hot(torch.tensor(i), 3).to(dtype) * sign
        loc = (loc + 0.0).requires_grad_()
        s = torch.tensor([1e-3, 0.1, 1.0, 10.0, 1e3], dtype=dtype, requires_grad=True)
        d = RiemannianNormal(geoopt.Sphere(), loc, s)
        out = d.log_prob(loc.detach()).sum() + d.log_prob(d.rsample((10,))).sum()
        for g in torch.autograd.grad(out, (loc, s)):
            assert g.isfinite().all()
        assert out.isfinite()


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: RiemannianNormal(geoopt.Sphere(), torch.tensor([1.0, 1.0, 0.0]), 1.0), "loc: got 1, 1, 0"),
        (
            lambda: RiemannianNormal(geoopt.Sphere(), torch.tensor([1.0, 0.0]), -1.0),
            "scale: got -1, expected positive",
        ),
        (lambda: RiemannianNormal(geoopt.Sphere(), torch.tensor([1.0, 0.0]), math.nan), "scale: got nan"),
        (lambda: RiemannianNormal(geoopt.PoincareBall(), torch.zeros(2), math.inf), "scale: got inf.*finite"),
        (
            lambda: RiemannianNormal(geoopt.PoincareBall(), torch.zeros(4, 2), torch.ones(3)),
            "do not broadcast: loc",
        ),
        (
            lambda: RiemannianNormal(geoopt.PoincareBall(), torch.zeros(2), torch.ones((), dtype=F64)),
            "scale: got dtype",
        ),
        (
            lambda: RiemannianNormal(geoopt.PoincareBall(), torch.zeros(2, dtype=torch.long), 1.0),
            "loc: got dtype",
        ),
        (
            lambda: RiemannianNormal(
                geoopt.ProductManifold((geoopt.Sphere(), 3), (geoopt.Sphere(), 3)),
                torch.tensor([1.0, 0, 0, 1, 0, 0]),
                1.0,
            ),
            "manifold: .*WrappedNormal",
        ),
        (
            lambda: RiemannianNormal(geoopt.Stereographic(k=1.0, learnable=True), torch.zeros(1), 1.0),
            "dimension 1 with learned positive curvature",
        ),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_value_off_the_manifold():
    d = RiemannianNormal(geoopt.PoincareBall(), torch.zeros(2), 1.0, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        d.log_prob(torch.tensor([1.0, 1.0]))


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO, JitTrace_ELBO])
def test_svi_learns_scale(elbo):
    """The guide's scale goes to the prior's, where the ELBO of this model is zero."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    ball = geoopt.PoincareBall(c=1.0)

    def model():
        with pyro.plate("n", 64):
            pyro.sample("z", RiemannianNormal(ball, torch.zeros(2), torch.tensor(0.5)))

    def guide():
        s = pyro.param("s", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("n", 64):
            pyro.sample("z", RiemannianNormal(ball, torch.zeros(2), s))

    options = {"ignore_jit_warnings": True} if elbo is JitTrace_ELBO else {}
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo(**options))
    for _ in range(40):
        svi.step()
    assert pyro.param("s").item() == pytest.approx(0.5, abs=0.1)


def test_plate_predictive_and_vectorised_particles():
    sphere = geoopt.Sphere()

    def model():
        with pyro.plate("n", 7):
            return pyro.sample("z", RiemannianNormal(sphere, torch.tensor([1.0, 0.0, 0.0]), 0.5))

    assert Predictive(model, num_samples=5, parallel=True)()["z"].shape == (5, 7, 3)
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    assert math.isfinite(elbo.loss(model, model))
