"""The number of components chosen without validation points, and mixtures that start Pyro models."""

import math
from typing import Any

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide.initialization import init_to_value
from torch import Tensor

from pyro_manifold.constraints import on
from pyro_manifold.distributions import (
    Kent,
    ManifoldUniform,
    VonMisesFisher,
    WrappedNormal,
    fit_mixture,
    kernel_mixture,
)
from pyro_manifold.geometry import Torus
from pyro_manifold.infer import AutoManifoldDelta, GeodesicNUTS

SPHERE = geoopt.Sphere()
E = torch.eye(3, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def clusters(n: int = 100) -> Tensor:
    return VonMisesFisher(E, 60.0).sample((n,)).flatten(0, 1)


def test_the_number_of_clusters_by_bic() -> None:
    x = clusters()
    found = fit_mixture(x, range(1, 6), uniform=False, restarts=2, steps=20)
    assert list(found.scores) == [1, 2, 3, 4, 5] and min(found.scores, key=found.scores.get) == 3
    assert found.mixture_distribution.probs.shape == (3,)
    # the formula: 3 locations of 2 coordinates, 3 concentrations, 2 free weights
    expected = -2 * float(found.log_prob(x).sum()) + 11 * math.log(300)
    assert found.scores[3] == pytest.approx(expected, abs=1e-6)
    likely = fit_mixture(x, [3], uniform=True, criterion="aic")
    assert likely.scores[3] == pytest.approx(-2 * float(likely.log_prob(x).sum()) + 2 * 12, abs=1e-6)
    assert found.expand((2,)).scores == found.scores


@pytest.mark.parametrize(
    "family, covariance, free",
    [
        ("kent", "full", 5),
        ("von_mises", "full", 4),
        ("wrapped_normal", "full", 5),
        ("wrapped_normal", "diagonal", 4),
    ],
)
def test_parameters_are_counted(family: str, covariance: str, free: int) -> None:
    """A Kent distribution has an axis, an angle about it and two concentrations; a normal of two angles a mean and
    a covariance."""
    on_sphere = family == "kent"
    x = clusters(20) if on_sphere else 0.3 * torch.randn(60, 2, dtype=torch.float64)
    options = dict(family=family, covariance=covariance, uniform=False, restarts=1, steps=5)
    for k in (1, 2):
        found = fit_mixture(x, k, **options)  # type: ignore[arg-type]
        count = (found.scores[k] + 2 * float(found.log_prob(x).sum())) / math.log(60)
        assert count == pytest.approx(free * k + k - 1, abs=1e-6)


@pytest.mark.slow
def test_in_many_dimensions() -> None:
    """Three clusters of 60 directions in 100 dimensions; BIC finds three."""
    centres = torch.nn.functional.one_hot(torch.arange(3), 100).double()
    x = VonMisesFisher(centres, 150.0).sample((60,)).flatten(0, 1)
    found = fit_mixture(x, [1, 2, 3, 4], uniform=False, restarts=5)
    assert found.mixture_distribution.probs.shape == (3,)


def test_validation_still_decides_where_given() -> None:
    x = clusters()
    found = fit_mixture(x[::2], [1, 3], uniform=False, validation=x[1::2])
    assert found.scores[3] > found.scores[1] and found.mixture_distribution.probs.shape == (3,)
    assert found.scores[3] == pytest.approx(float(found.log_prob(x[1::2]).mean()), abs=1e-9)


@pytest.mark.parametrize("family", ["von_mises_fisher", "kent", "von_mises", "full", "diagonal"])
def test_a_start_makes_the_same_mixture(family: str) -> None:
    """The distribution built by hand from ``start`` has the density that was fitted."""
    kind: dict[str, str] = {"family": family}
    if family in ("full", "diagonal"):
        kind = {"family": "wrapped_normal", "covariance": family}
    x = clusters(30) if family in ("von_mises_fisher", "kent") else torch.randn(90, 2, dtype=torch.float64)
    found = fit_mixture(x, 2, uniform=False, restarts=1, steps=20, **kind)
    start = found.start()
    weights = start.pop("weights")
    makers: dict[str, Any] = {
        "von_mises_fisher": VonMisesFisher,
        "kent": Kent,
        "von_mises": lambda **p: dist.VonMises(**p).to_event(1),
        "full": lambda **p: WrappedNormal(Torus(), **p),
        "diagonal": lambda **p: WrappedNormal(Torus(), **p),
    }
    built = dist.MixtureSameFamily(dist.Categorical(weights), makers[family](**start))
    torch.testing.assert_close(built.log_prob(x), found.log_prob(x), rtol=1e-6, atol=1e-6)


def test_the_uniform_component_is_left_out() -> None:
    found = fit_mixture(clusters(30), 3, restarts=1)
    start, whole = found.start(), found.start(uniform=True)
    assert start["weights"].shape == (3,) and whole["weights"].shape == (4,)
    assert float(start["weights"].sum()) == pytest.approx(1)
    torch.testing.assert_close(whole["loc"][:3], start["loc"])
    assert kernel_mixture(E, 5.0, uniform=0.1).start()["loc"].shape == (3, 3)


def model(x: Tensor) -> None:
    """A mixture of three directions."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3, dtype=x.dtype)))
    with pyro.plate("components", 3):
        loc = pyro.sample("loc", ManifoldUniform(SPHERE, 3, dtype=x.dtype))
        k = pyro.sample("concentration", dist.LogNormal(torch.tensor(4.0, dtype=x.dtype), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), VonMisesFisher(loc, k)), obs=x)


def test_start_of_a_guide() -> None:
    """The guide begins at the fit, whose likelihood optimisation can hardly raise."""
    x = clusters()
    start = fit_mixture(x, 3, uniform=False).start()
    pyro.clear_param_store()
    guide = AutoManifoldDelta(model, init_loc_fn=init_to_value(values=start))
    guide(x)
    median = guide.median()
    for name in ("loc", "weights", "concentration"):
        torch.testing.assert_close(median[name], start[name], rtol=1e-5, atol=1e-6)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(15)]
    assert losses[0] - min(losses) < 5  # nats: the prior's pull; a random start is hundreds away


def test_start_of_params() -> None:
    start = fit_mixture(clusters(), 3, uniform=False).start()
    pyro.clear_param_store()
    loc = pyro.param("loc", start["loc"], constraint=on(SPHERE))
    weights = pyro.param("weights", start["weights"], constraint=dist.constraints.simplex)
    torch.testing.assert_close(loc.detach(), start["loc"])
    torch.testing.assert_close(weights.detach(), start["weights"])
    pyro.clear_param_store()


@pytest.mark.slow
def test_start_of_a_sampler() -> None:
    x = clusters(30)
    start = fit_mixture(x, 3, uniform=False).start()
    kernel = GeodesicNUTS(model, init_strategy=init_to_value(values=start))
    mcmc = pyro.infer.MCMC(kernel, num_samples=3, warmup_steps=2, disable_progbar=True)
    mcmc.run(x)
    draws = mcmc.get_samples()["loc"]
    cosine = (draws * start["loc"]).sum(-1)
    assert float(cosine.min()) > 0.9  # each component stays where the fit has put it


def test_small_groups_in_many_dimensions() -> None:
    """Six topics, the smallest with one document in twenty, in 300 dimensions. Of twelve such sets the default starts
    separate the topics of all (seeds 0 to 11), three starts those of seven; here are four that three starts miss."""
    share = torch.tensor([0.3, 0.25, 0.2, 0.1, 0.1, 0.05])
    for seed in (0, 7, 8, 10):
        torch.manual_seed(seed)
        topic = dist.Dirichlet(torch.full((6, 300), 0.1)).sample()
        about = torch.multinomial(share, 300, replacement=True)
        frequency = dist.Multinomial(60, topic[about]).sample() / 60
        x = torch.nn.functional.normalize(frequency.double().sqrt(), dim=-1)
        found = fit_mixture(x, 6, uniform=False)
        log = found.component_distribution.log_prob(x.unsqueeze(1)) + found.mixture_distribution.logits
        pairs = set(zip(about.tolist(), log.argmax(-1).tolist(), strict=True))
        assert len(pairs) == 6, f"topics and clusters of seed {seed} are not the same: {sorted(pairs)}"
