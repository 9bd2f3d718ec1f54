"""Reparametrisers in use: plain NUTS and plain autoguides work, the strategy chooses, errors name the remedy.

That every reparametriser leaves the model's distributions as they are is tested in ``test_reparam_cases.py``.
"""

import pickle

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases.reparametrisers import BALL, F64, REPARAMS, SO3, SPHERE, t
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoLaplaceApproximation,
    AutoMultivariateNormal,
    AutoNormal,
    init_to_value,
)

import pyro_manifold.distributions as mdist
from pyro_manifold.infer import (
    AmbientReparam,
    CircularReparam,
    ManifoldReparam,
    ProjectedNormalReparam,
    WrappedNormalReparam,
)

CASES = {case.name: case for case in REPARAMS}


def statistics(x):
    """Coordinates, their squares and neighbouring products."""
    x = x.reshape(len(x), -1)
    return torch.cat([x, x.square(), x[:, 1:] * x[:, :-1]], -1)


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
        "mu": AmbientReparam,
        "angle": CircularReparam,
        "axis": ProjectedNormalReparam,
        "direction": ProjectedNormalReparam,
        "rotation": WrappedNormalReparam,
        "x": AmbientReparam,
    }
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
    for reparam, distribution in ((AmbientReparam(), CASES["vmf"].make()), (WrappedNormalReparam(), wrapped)):
        x = distribution.sample()
        model = poutine.reparam(
            lambda distribution=distribution, x=x: pyro.sample("x", distribution, obs=x), {"x": reparam}
        )
        trace = poutine.trace(model).get_trace()
        assert list(trace.stochastic_nodes) == [] and torch.allclose(
            trace.log_prob_sum(), distribution.log_prob(x)
        )


def directions(data):
    """Mean direction mu of vMF data with known concentration: its posterior is vMF about their sum."""
    mu = pyro.sample("mu", mdist.ManifoldUniform(SPHERE, 3, dtype=F64))
    with pyro.plate("n", len(data)):
        pyro.sample("x", mdist.VonMisesFisher(mu, t(2.0).squeeze()), obs=data)


DATA = torch.nn.functional.normalize(t([0.1, -0.9, 0.2], [0.0, -1.0, 0.4], [-0.5, -0.8, 0.3]), dim=-1)
POSTERIOR = mdist.VonMisesFisher(torch.nn.functional.normalize(DATA.sum(0), dim=-1), 2 * DATA.sum(0).norm())


def test_plain_nuts_and_predictive():
    """Posterior mean of three coordinates within 4.5 of its standard error at an effective size of 40 of 120
    draws."""
    pyro.set_rng_seed(0)
    model = ManifoldReparam()(directions)
    mcmc = MCMC(NUTS(model, max_tree_depth=3), 120, 40, disable_progbar=True)
    mcmc.run(DATA)
    mu = Predictive(model, mcmc.get_samples())(DATA)["mu"].squeeze(1)  # Pyro keeps the plate's axis
    assert mu.shape == (120, 3) and torch.allclose(mu.norm(dim=-1), torch.ones(120, dtype=F64))
    error = (POSTERIOR.variance / 40).sqrt()
    assert ((mu.mean(0) - POSTERIOR.mean).abs() / error).max() < 4.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["vmf", "matrix-fisher", "frames", "wrapped-sphere", "product", "uniform-torus"]
)
def test_plain_nuts_has_the_moments_of_the_distribution(name):
    """First and second moments against direct draws, within 5 standard errors at the chain's own effective
    size.

    About 100 comparisons in all; with effective sizes estimated to 30% the false-alarm rate is below 1%;
    fixed seed.
    """
    case = CASES[name]
    distribution, reparam = case.make(), case.reparam()
    pyro.set_rng_seed(1)
    model = poutine.reparam(lambda: pyro.sample("x", distribution), {"x": reparam})
    mcmc = MCMC(NUTS(model), 500, 300, disable_progbar=True)
    mcmc.run()
    (noise,) = mcmc.get_samples().values()
    x = statistics(case.coordinates(reparam.push(distribution, noise), distribution.event_dim))
    ess = pyro.ops.stats.effective_sample_size(x.unsqueeze(0), 0, 1).clamp(min=1)
    expected = statistics(case.coordinates(distribution.sample((20_000,)), distribution.event_dim))
    error = (x.var(0) / ess + expected.var(0) / 20_000).sqrt() + 1e-9
    assert ess.min() > 30
    assert ((x.mean(0) - expected.mean(0)).abs() / error).max() < 5


@pytest.mark.parametrize("guide", [AutoNormal, AutoMultivariateNormal])
def test_plain_autoguides(guide):
    model = ManifoldReparam()(directions)
    guide = guide(model)
    svi = SVI(
        model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO(num_particles=8, vectorize_particles=True)
    )
    for _ in range(100):
        svi.step(DATA)
    mu = Predictive(model, guide=guide, num_samples=150)(DATA)["mu"].squeeze(1)
    assert torch.nn.functional.cosine_similarity(mu.mean(0), POSTERIOR.mean, dim=0) > 0.99
    assert float(mu.mean(0).norm()) == pytest.approx(float(POSTERIOR.mean.norm()), abs=0.06)


@pytest.mark.parametrize("name", ["vmf", "matrix-fisher"])
def test_map_direction_is_that_of_the_density(name):
    distribution = CASES[name].make()
    model = poutine.reparam(lambda: pyro.sample("x", distribution), {"x": AmbientReparam()})
    guide = AutoDelta(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(150):
        svi.step()
    y = guide.x_ambient.detach()
    assert float(y.square().sum()) == pytest.approx(
        distribution.event_shape[-1] if name != "vmf" else 1, rel=0.01
    )  # orthonormal
    mode = distribution.loc if name == "vmf" else distribution.mode
    assert torch.allclose(AmbientReparam().push(distribution, y), mode, atol=0.01)


def test_laplace_approximation_of_a_direction():
    """Across the unit vector that is the mode, Laplace's variance is 1/kappa of the posterior vMF; along it,
    1/2."""
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


def test_noise_that_makes_a_direction_has_a_typical_length():
    """The root mean square length of n standard normals, sqrt(n), and the direction that was asked for."""
    fn = mdist.AngularCentralGaussian(torch.tensor([[2.0, 0, 0], [0.3, 1, 0], [-0.5, 0.2, 0.4]], dtype=F64))
    x = fn.sample((7,))
    reparam = ProjectedNormalReparam()
    noise = reparam.lift(fn, x)
    torch.testing.assert_close(noise.norm(dim=-1), torch.full((7,), 3**0.5, dtype=F64))
    torch.testing.assert_close(reparam.push(fn, noise), x)


def test_initial_values_of_the_original_site_are_used():
    mu = t(0, 0, -1)
    guide = AutoDelta(ManifoldReparam()(directions), init_loc_fn=init_to_value(values={"mu": mu}))
    guide(DATA)
    assert torch.allclose(torch.nn.functional.normalize(guide.mu_ambient.detach(), dim=-1), mu)


def test_errors():
    def run(distribution, reparam):
        poutine.reparam(lambda: pyro.sample("x", distribution), {"x": reparam})()

    with pytest.raises(
        ValueError, match="x: got Normal with support .* expected a distribution on a manifold"
    ):
        run(dist.Normal(0.0, 1.0), AmbientReparam())
    with pytest.raises(ValueError, match="x: got a site on SphereProjection.* GeodesicNUTS"):
        run(mdist.WrappedNormal(geoopt.SphereProjection(), t(0, 0), 0.1), AmbientReparam())
    with pytest.raises(ValueError, match="x: got a truncated WrappedNormal, expected"):
        run(CASES["truncated"].make(), WrappedNormalReparam())
    with pytest.raises(ValueError, match="x: got VonMisesFisher, expected a WrappedNormal"):
        run(CASES["vmf"].make(), WrappedNormalReparam())
    with pytest.raises(ValueError, match="x: got VonMisesFisher, expected a ProjectedNormal"):
        run(CASES["vmf"].make(), ProjectedNormalReparam())
