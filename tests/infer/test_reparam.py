"""Reparametrisers: the law of the site is unchanged, plain NUTS and plain autoguides work, Predictive gives the site back.

Moments by importance weighting: each comparison is of two means with a known standard error and fails at 5 of them, by chance
in 6e-7 of cases for a normal error; about 150 comparisons, fixed seeds, false-alarm rate below 1e-3 for the file.
"""

import pickle

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoLaplaceApproximation, AutoMultivariateNormal, AutoNormal, init_to_value

import pyro_manifold.distributions as mdist
from pyro_manifold.geometry import SpecialOrthogonal, Torus
from pyro_manifold.infer import (
    AmbientReparam,
    CircularReparam,
    ManifoldReparam,
    ProjectedNormalReparam,
    WrappedNormalReparam,
)

F64 = torch.float64
SPHERE, SO3, BALL, SPD = geoopt.Sphere(), SpecialOrthogonal(3), geoopt.PoincareBall(), geoopt.SymmetricPositiveDefinite()
STIEFEL = geoopt.Stiefel()
S1_H2_T1 = geoopt.ProductManifold((geoopt.Sphere(), 2), (geoopt.PoincareBall(), 2), (Torus(), 1))
N = 20_000


def t(*x):
    return torch.tensor(x, dtype=F64)


LAWS = {
    "vmf": lambda: mdist.VonMisesFisher(t(0, 0.6, 0.8), t(3.0).squeeze()),
    "power-spherical-circle": lambda: mdist.PowerSpherical(t(0.6, 0.8), t(3.0).squeeze()),
    "bingham": lambda: mdist.Bingham(torch.diag(t(2, 0, -1, 1))),
    "truncated": lambda: mdist.WrappedNormal(SPHERE, t(0, 0.6, 0.8), t(0.9), truncated=True),
    "riemannian-sphere": lambda: mdist.RiemannianNormal(SPHERE, t(0, 0.6, 0.8), t(0.8).squeeze()),
    "matrix-fisher": lambda: mdist.MatrixFisher(torch.diag(t(2, 1, -0.5))),
    "uniform-rotations": lambda: mdist.ManifoldUniform(SpecialOrthogonal(4), (4, 4), dtype=F64),
    "uniform-frames": lambda: mdist.ManifoldUniform(STIEFEL, (4, 2), dtype=F64),
    "riemannian-ball": lambda: mdist.RiemannianNormal(BALL, t(0.1, -0.2), t(0.6).squeeze()),
    "wrapped-spd": lambda: mdist.WrappedNormal(SPD, torch.diag(t(1.2, 0.8)), t(0.4)),
    "wrapped-torus": lambda: mdist.WrappedNormal(Torus(), t(3, -1), t(0.8, 0.5)),
    "wrapped-product": lambda: mdist.WrappedNormal(S1_H2_T1, t(0.6, 0.8, 0.1, 0.2, 3), t(0.5, 0.5, 0.6, 0.7)),
}


def drawn(law, reparam, n=N, expand=True):
    """The site and the log weights of n reparametrised draws."""

    def model():
        with pyro.plate("n", n):
            pyro.sample("x", law)

    trace = poutine.trace(poutine.reparam(model, {"x": reparam})).get_trace()
    trace.compute_log_prob()
    site = trace.nodes["x"]
    return site["value"], site["log_prob"]


def statistics(x):
    """Coordinates, their squares and neighbouring products; angles as they are in a window that no test law leaves."""
    x = x.reshape(len(x), -1)
    return torch.cat([x, x.square(), x[:, 1:] * x[:, :-1]], -1)


def turned(law, x):
    """Angles by cosine and sine."""
    if isinstance(law.support.manifold, Torus):
        return torch.cat([x.cos(), x.sin()], -1)
    if law.support.manifold is S1_H2_T1:
        return torch.cat([x[..., :-1], x[..., -1:].cos(), x[..., -1:].sin()], -1)
    return x


def assert_same_means(a, b):
    error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt() + 1e-12
    assert ((a.mean(0) - b.mean(0)).abs() / error).max() < 5


@pytest.mark.parametrize("name", LAWS)
def test_ambient_draws_weigh_to_the_law(name):
    law = LAWS[name]()
    x, log_w = drawn(law, AmbientReparam())
    assert law.support.check(x).all()
    w = log_w.exp().unsqueeze(-1)
    assert_same_means(w, torch.ones_like(w))  # the factor is a normalised ratio of densities
    assert_same_means(w * statistics(turned(law, x)), statistics(turned(law, law.sample((N,)))))


@pytest.mark.parametrize(
    "law",
    [
        mdist.WrappedNormal(SPHERE, t(0, 0.6, 0.8), t(1.5, 0.4)),
        mdist.WrappedNormal(BALL, t(0.1, -0.2), scale_tril=torch.tensor([[0.8, 0.0], [0.5, 0.6]], dtype=F64)),
        mdist.WrappedNormal(SO3, torch.eye(3, dtype=F64), t(0.7)),
        mdist.WrappedNormal(S1_H2_T1, t(0.6, 0.8, 0.1, 0.2, 3), t(0.5, 0.5, 0.6, 0.7)),
    ],
    ids=lambda law: law.manifold.name,
)
def test_wrapped_normal_is_the_image_of_noise(law):
    """Same moments, no factor, and an initial value comes back."""
    x, log_w = drawn(law, WrappedNormalReparam())
    assert (log_w == 0).all()
    assert_same_means(statistics(turned(law, x)), statistics(turned(law, law.sample((N,)))))
    start = law.sample()
    noise, z = WrappedNormalReparam().draw("x", law, start)
    assert torch.allclose(WrappedNormalReparam().push(law, z), start, atol=1e-10)
    assert noise.event_shape == z.shape


@pytest.mark.parametrize(
    "law",
    [
        mdist.ProjectedNormal(t(0.3, -1, 0.5, 0, 0.2, 0)),
        dist.ProjectedNormal(t(0.3, -1, 0.5, 0, 0.2, 0)),  # Pyro's has no density in six dimensions
        mdist.AngularCentralGaussian(torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.6, 0.0], [0.0, 1.0, 2.0]], dtype=F64)),
    ],
    ids=["ours", "pyro", "acg"],
)
def test_directions_of_normal_vectors(law):
    x, log_w = drawn(law, ProjectedNormalReparam())
    assert (log_w == 0).all()
    assert_same_means(statistics(x), statistics(law.sample((N,))))
    start = law.sample()
    assert torch.allclose(ProjectedNormalReparam().push(law, ProjectedNormalReparam().draw("x", law, start)[1]), start)


@pytest.mark.parametrize("name", LAWS)
def test_ambient_lift_gives_the_value_back(name):
    law = LAWS[name]()
    start = law.sample((5,))
    reparam, batched = AmbientReparam(), law.expand((5,)).to_event(1)
    noise, y = reparam.draw("x", batched, start)
    assert noise.event_shape == y.shape
    assert torch.allclose(turned(law, reparam.push(batched, y)), turned(law, start), atol=1e-9)
    assert reparam.factor(batched, y, start).shape == ()


def test_masked_site_keeps_its_mask():
    mask = torch.tensor([True, False])
    law = LAWS["vmf"]().expand((2,)).mask(mask)
    x, log_w = drawn(law.to_event(1), AmbientReparam(), n=3)
    # the factors of the volumes and lengths are the same with and without the mask
    unmasked, start = law.base_dist.to_event(1), LAWS["vmf"]().sample((3, 2))
    noise = AmbientReparam().draw("x", unmasked, start)[1]
    masked, whole = (AmbientReparam().factor(f.to_event(1), noise, start) for f in (law, law.base_dist))
    assert torch.allclose(whole - masked, LAWS["vmf"]().log_prob(start)[:, 1])
    assert log_w.shape == (3,)


class Strategy:
    """The sites of one model, and what becomes of each."""

    @staticmethod
    def model(observed=None):
        mu = pyro.sample("mu", mdist.ManifoldUniform(SPHERE, 3, dtype=F64))
        s = pyro.sample("s", dist.LogNormal(t(0.0).squeeze(), 0.3))
        pyro.sample("hyperbolic", mdist.RiemannianNormal(BALL, t(0.0, 0.0), s))
        pyro.sample("angle", dist.VonMises(t(3.0).squeeze(), 2.0))
        pyro.sample("axis", mdist.AngularCentralGaussian(torch.eye(3, dtype=F64)))
        pyro.sample("direction", dist.ProjectedNormal(t(0, 0, 0, 0, 0)))
        pyro.sample("rotation", mdist.WrappedNormal(SO3, torch.eye(3, dtype=F64), s))
        with pyro.plate("n", 4):
            pyro.sample("x", mdist.WrappedNormal(SPHERE, mu, s.unsqueeze(-1), truncated=True), obs=observed)


def test_strategy_picks_one_for_each_site():
    strategy = ManifoldReparam()
    strategy(Strategy.model)()
    kinds = {k: type(v) for k, v in strategy.config.items() if v is not None}
    assert kinds == {
        "mu": AmbientReparam, "angle": CircularReparam, "axis": ProjectedNormalReparam, "direction": ProjectedNormalReparam,
        "rotation": WrappedNormalReparam, "x": AmbientReparam,
    }  # fmt: skip
    centered = ManifoldReparam(centered=True)
    centered(Strategy.model)()
    assert type(centered.config["rotation"]) is AmbientReparam
    assert pickle.loads(pickle.dumps(strategy)).config.keys() == strategy.config.keys()
    pickle.dumps(strategy(directions))  # what several chains need


def test_observed_sites_are_left_alone():
    data = mdist.ManifoldUniform(SPHERE, 3, dtype=F64).sample((4,))
    trace = poutine.trace(ManifoldReparam()(Strategy.model)).get_trace(data)
    assert "x_ambient" not in trace.nodes and torch.equal(trace.nodes["x"]["value"], data)
    wrapped = mdist.WrappedNormal(SPHERE, t(0, 0, 1), 0.5)
    for reparam, law in ((AmbientReparam(), LAWS["vmf"]()), (WrappedNormalReparam(), wrapped)):
        x = law.sample()
        model = poutine.reparam(lambda law=law, x=x: pyro.sample("x", law, obs=x), {"x": reparam})
        trace = poutine.trace(model).get_trace()
        assert list(trace.stochastic_nodes) == [] and torch.allclose(trace.log_prob_sum(), law.log_prob(x))


def directions(data):
    """Mean direction mu of vMF data with known concentration: its posterior is vMF about their sum."""
    mu = pyro.sample("mu", mdist.ManifoldUniform(SPHERE, 3, dtype=F64))
    with pyro.plate("n", len(data)):
        pyro.sample("x", mdist.VonMisesFisher(mu, t(2.0).squeeze()), obs=data)


DATA = torch.nn.functional.normalize(t([0.1, -0.9, 0.2], [0.0, -1.0, 0.4], [-0.5, -0.8, 0.3]), dim=-1)
POSTERIOR = mdist.VonMisesFisher(torch.nn.functional.normalize(DATA.sum(0), dim=-1), 2 * DATA.sum(0).norm())


def test_plain_nuts_and_predictive():
    """Posterior mean of three coordinates within 4.5 of its standard error at an effective size of 40 of 120 draws."""
    pyro.set_rng_seed(0)
    model = ManifoldReparam()(directions)
    mcmc = MCMC(NUTS(model, max_tree_depth=4), 120, 80, disable_progbar=True)
    mcmc.run(DATA)
    mu = Predictive(model, mcmc.get_samples())(DATA)["mu"].squeeze(1)  # Pyro keeps the plate's axis
    assert mu.shape == (120, 3) and torch.allclose(mu.norm(dim=-1), torch.ones(120, dtype=F64))
    error = (POSTERIOR.variance / 40).sqrt()
    assert ((mu.mean(0) - POSTERIOR.mean).abs() / error).max() < 4.5


NUTS_LAWS = {
    "vmf-10": (mdist.VonMisesFisher(t(0, 0.6, 0.8), t(10.0).squeeze()), AmbientReparam),
    "matrix-fisher": (LAWS["matrix-fisher"](), AmbientReparam),
    "frames": (LAWS["uniform-frames"](), AmbientReparam),
    "wrapped-sphere": (mdist.WrappedNormal(SPHERE, t(0, 0.6, 0.8), t(1.5, 0.4)), WrappedNormalReparam),
    "product": (LAWS["wrapped-product"](), AmbientReparam),
    "torus": (LAWS["wrapped-torus"](), CircularReparam),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NUTS_LAWS)
def test_plain_nuts_has_the_moments_of_the_law(name):
    """First and second moments against direct draws, within 5 standard errors at the chain's own effective size.

    About 100 comparisons in all; with effective sizes estimated to 30% the false-alarm rate is below 1%; fixed seed.
    """
    law, reparam = NUTS_LAWS[name]
    pyro.set_rng_seed(1)
    model = poutine.reparam(lambda: pyro.sample("x", law), {"x": reparam()})
    mcmc = MCMC(NUTS(model), 500, 300, disable_progbar=True)
    mcmc.run()
    (noise,) = mcmc.get_samples().values()
    x = statistics(turned(law, reparam().push(law, noise)))
    ess = pyro.ops.stats.effective_sample_size(x.unsqueeze(0), 0, 1).clamp(min=1)
    expected = statistics(turned(law, law.sample((N,))))
    error = (x.var(0) / ess + expected.var(0) / N).sqrt() + 1e-9
    assert ess.min() > 30
    assert ((x.mean(0) - expected.mean(0)).abs() / error).max() < 5


@pytest.mark.parametrize("guide", [AutoNormal, AutoMultivariateNormal])
def test_plain_autoguides(guide):
    model = ManifoldReparam()(directions)
    guide = guide(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO(num_particles=8, vectorize_particles=True))
    for _ in range(100):
        svi.step(DATA)
    mu = Predictive(model, guide=guide, num_samples=300)(DATA)["mu"].squeeze(1)
    assert torch.nn.functional.cosine_similarity(mu.mean(0), POSTERIOR.mean, dim=0) > 0.99
    assert float(mu.mean(0).norm()) == pytest.approx(float(POSTERIOR.mean.norm()), abs=0.06)


@pytest.mark.parametrize("name", ["vmf", "matrix-fisher"])
def test_map_direction_is_that_of_the_density(name):
    law = LAWS[name]()
    model = poutine.reparam(lambda: pyro.sample("x", law), {"x": AmbientReparam()})
    guide = AutoDelta(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(150):
        svi.step()
    y = guide.x_ambient.detach()
    assert float(y.square().sum()) == pytest.approx(law.event_shape[-1] if name != "vmf" else 1, rel=0.01)  # orthonormal
    mode = law.loc if name == "vmf" else law.mode
    assert torch.allclose(AmbientReparam().push(law, y), mode, atol=0.01)


def test_laplace_approximation_of_a_direction():
    """Across the unit vector that is the mode, Laplace's variance is 1/kappa of the posterior vMF; along it, 1/2."""
    model = ManifoldReparam()(directions)
    guide = AutoLaplaceApproximation(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(100):
        svi.step(DATA)
    cov = guide.laplace_approximation(DATA).get_posterior().covariance_matrix
    across = 1 / POSTERIOR.concentration
    expected = across * torch.eye(3, dtype=F64) + (0.5 - across) * torch.outer(POSTERIOR.loc, POSTERIOR.loc)
    assert torch.allclose(cov, expected, atol=0.02)


def test_map_and_mean_field_elbo_with_subsampling():
    def model(data):
        with pyro.plate("n", len(data), subsample_size=2) as i:
            z = pyro.sample("z", mdist.ManifoldUniform(SPHERE, 3, dtype=F64))
            pyro.sample("x", mdist.VonMisesFisher(z, t(20.0).squeeze()), obs=data[i])

    model = ManifoldReparam()(model)
    for kind, elbo in ((AutoDelta, Trace_ELBO), (AutoNormal, TraceMeanField_ELBO)):
        pyro.clear_param_store()
        guide = kind(model, create_plates=lambda data: pyro.plate("n", len(data), subsample_size=2))
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo())
        for _ in range(100):
            svi.step(DATA)
        noise = guide.z_ambient if kind is AutoDelta else guide.locs.z_ambient
        assert noise.shape == (3, 3)
        assert ((torch.nn.functional.normalize(noise, dim=-1) * DATA).sum(-1) > 0.95).all()


def test_initial_values_of_the_original_site_are_used():
    mu = t(0, 0, -1)
    guide = AutoDelta(ManifoldReparam()(directions), init_loc_fn=init_to_value(values={"mu": mu}))
    guide(DATA)
    assert torch.allclose(torch.nn.functional.normalize(guide.mu_ambient.detach(), dim=-1), mu)


def test_errors():
    def run(law, reparam):
        poutine.reparam(lambda: pyro.sample("x", law), {"x": reparam})()

    with pytest.raises(ValueError, match="x: got Normal with support .* expected a law on a manifold"):
        run(dist.Normal(0.0, 1.0), AmbientReparam())
    with pytest.raises(ValueError, match="x: got a site on SphereProjection.* GeodesicNUTS"):
        run(mdist.WrappedNormal(geoopt.SphereProjection(), t(0, 0), 0.1), AmbientReparam())
    with pytest.raises(ValueError, match="x: got a truncated WrappedNormal, expected"):
        run(LAWS["truncated"](), WrappedNormalReparam())
    with pytest.raises(ValueError, match="x: got VonMisesFisher, expected a WrappedNormal"):
        run(LAWS["vmf"](), WrappedNormalReparam())
    with pytest.raises(ValueError, match="x: got VonMisesFisher, expected a ProjectedNormal"):
        run(LAWS["vmf"](), ProjectedNormalReparam())
