"""CircularReparam: exact distribution of the angle, Pyro's von Mises under autoguides and NUTS across the
seam, plates, errors."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, JitTrace_ELBO, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal, init_to_value

from pyro_manifold.distributions import WrappedNormal
from pyro_manifold.distributions.wrapped_cauchy import WrappedCauchy
from pyro_manifold.geometry import Torus
from pyro_manifold.infer.reparam import CircularReparam
from pyro_manifold.ops.circular import wrap

F64 = torch.float64
SEAM = dist.VonMises(torch.tensor(math.pi, dtype=F64), torch.tensor(2.0, dtype=F64))


def unwrapped(model, *names):
    return pyro.poutine.reparam(model, config={name: CircularReparam() for name in names})


def test_distribution_of_the_angle_is_exact():
    """Summed over the turns, the density on the line is that of the angle, to 1e-14; its total is 1."""
    theta = torch.linspace(-math.pi, math.pi, 50, dtype=F64)
    density = torch.zeros_like(theta)
    for k in range(-14, 15):
        y = theta + 2 * math.pi * k
        with pyro.poutine.trace() as tr, pyro.condition(data={"x_unwrapped": y}):
            pyro.poutine.reparam(lambda: pyro.sample("x", SEAM.expand((50,))), {"x": CircularReparam()})()
        tr.trace.compute_log_prob()
        density = density + sum(tr.trace.nodes[n]["log_prob"] for n in ("x", "x_unwrapped")).exp()
    assert (density - SEAM.log_prob(theta).exp()).abs().max() < 1e-14


def test_trace_and_plates():
    def model():
        with pyro.plate("n", 3):
            return pyro.sample("x", SEAM)

    x = unwrapped(model, "x")()
    assert x.shape == (3,) and (x.abs() <= math.pi).all() and x.dtype == F64
    trace = pyro.poutine.trace(unwrapped(model, "x")).get_trace()
    trace.compute_log_prob()
    y = trace.nodes["x_unwrapped"]["value"]
    expected = dist.Normal(0.0, 9.0).log_prob(y) + SEAM.log_prob(y) + math.log(2 * math.pi)
    assert trace.nodes["x_unwrapped"]["log_prob"].shape == (3,)
    assert torch.allclose(trace.nodes["x_unwrapped"]["log_prob"], expected)
    assert torch.equal(trace.nodes["x"]["log_prob"], torch.zeros(3, dtype=F64))


def test_event_dimensions():
    """A torus site, an Independent site and Pyro's bivariate distribution: one log density for the whole
    event."""
    loc = torch.tensor([3.0, -3.0], dtype=F64)
    k = torch.tensor(1.0, dtype=F64)
    distributions = [
        WrappedNormal(Torus(), loc, 0.5),
        dist.VonMises(loc, 2.0).to_event(1),
        dist.SineBivariateVonMises(k, k, k, k, correlation=0.1 * k),
        WrappedCauchy(loc, 0.5).to_event(1),
    ]
    for fn in distributions:
        trace = pyro.poutine.trace(unwrapped(lambda fn=fn: pyro.sample("x", fn), "x")).get_trace()
        trace.compute_log_prob()
        x, y = trace.nodes["x"]["value"], trace.nodes["x_unwrapped"]["value"]
        assert x.shape == (2,) and torch.equal(x, wrap(y))
        expected = dist.Normal(0.0, 9.0).log_prob(y).sum() + fn.log_prob(x) + 2 * math.log(2 * math.pi)
        assert torch.allclose(trace.nodes["x_unwrapped"]["log_prob"], expected)


def test_nuts_crosses_the_seam():
    """Circular mean within 0.15 of pi and resultant near I1(2)/I0(2) = 0.6978: over 4 standard errors at 800
    draws."""
    pyro.set_rng_seed(0)
    kernel = NUTS(unwrapped(lambda: pyro.sample("x", SEAM), "x"), max_tree_depth=3)
    mcmc = MCMC(kernel, 800, 100, disable_progbar=True)
    mcmc.run()
    x = wrap(mcmc.get_samples()["x_unwrapped"])
    c, s = x.cos().mean(), x.sin().mean()
    assert abs(float(torch.atan2(s, -c))) < 0.15 and abs(float(torch.hypot(c, s)) - 0.6978) < 0.08
    assert 0.3 < float((x > 0).double().mean()) < 0.7  # both sides of the seam


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("elbo", [Trace_ELBO, JitTrace_ELBO])
def test_autonormal_converges_where_the_raw_site_runs_away(elbo):
    """Five noisy angles around pi: the guide finds the posterior on the seam."""
    data = torch.tensor([3.0, -3.1, 2.8, -2.9, 3.1], dtype=F64)

    def model():
        x = pyro.sample("x", dist.VonMises(torch.zeros((), dtype=F64), 0.1))
        with pyro.plate("n", 5):
            pyro.sample("y", dist.VonMises(x, 4.0), obs=data)

    # von Mises prior and likelihood: the posterior is von Mises with the summed resultant
    c, s = 0.1 + 4 * data.cos().sum(), 4 * data.sin().sum()
    loc, concentration = torch.atan2(s, c), torch.hypot(c, s)
    start = init_to_value(values={"x_unwrapped": torch.tensor(2.5, dtype=F64)})
    guide = AutoNormal(unwrapped(model, "x"), init_loc_fn=start)
    svi = SVI(
        unwrapped(model, "x"),
        guide,
        pyro.optim.Adam({"lr": 0.04}),
        elbo(num_particles=8, vectorize_particles=True),
    )
    losses = [svi.step() for _ in range(200)]
    q = guide.quantiles([0.5])["x_unwrapped"]
    assert abs(float(wrap(torch.as_tensor(q).squeeze() - loc))) < 0.05
    scale = float(guide.scales.x_unwrapped.detach())
    assert scale == pytest.approx(float(concentration) ** -0.5, rel=0.15)
    assert torch.tensor(losses).isfinite().all()
    draws = Predictive(unwrapped(model, "x"), guide=guide, num_samples=20)()
    assert draws["x"].abs().max() <= math.pi


def test_map():
    guide = AutoDelta(unwrapped(lambda: pyro.sample("x", SEAM), "x"))
    svi = SVI(
        unwrapped(lambda: pyro.sample("x", SEAM), "x"), guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO()
    )
    for _ in range(300):
        svi.step()
    assert abs(float(wrap(guide()["x_unwrapped"].detach() - math.pi))) < 0.05


def test_observed_sites_are_left_alone():
    value = torch.tensor(1.0, dtype=F64)
    model = unwrapped(lambda: pyro.sample("x", SEAM, obs=value), "x")
    trace = pyro.poutine.trace(model).get_trace()
    assert "x_unwrapped" not in trace.nodes
    assert torch.allclose(trace.log_prob_sum(), SEAM.log_prob(value))


def test_errors():
    with pytest.raises(ValueError, match="scale: got 2, expected at least 9"):
        CircularReparam(2)
    with pytest.raises(ValueError, match="x: got Normal with support .* expected a distribution of angles"):
        unwrapped(lambda: pyro.sample("x", dist.Normal(0.0, 1.0)), "x")()
