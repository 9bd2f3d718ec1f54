"""Flows as guides: posteriors with two modes, on the sphere and on rotations, against exact moments; other sites; copies,
saved state, errors."""

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO

from pyro_manifold import flows
from pyro_manifold.distributions import ManifoldUniform, VonMisesFisher, WrappedNormal
from pyro_manifold.geometry import SpecialOrthogonal
from pyro_manifold.infer import AutoManifoldFlow

SMALL = dict(bins=8, hidden=(16,), number=3)
AXIS = torch.tensor([0.48, -0.6, 0.64])


def axial(data=None):
    """The sign of an axis is not seen: two modes, of equal weight."""
    z = pyro.sample("z", ManifoldUniform(geoopt.Sphere(), 3))
    s = pyro.sample("s", dist.LogNormal(0.0, 0.2))
    pyro.sample("y", dist.Normal(3 * (z @ AXIS).square(), s), obs=torch.tensor(3.0))


def trained(model, guide, steps=100):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    svi = SVI(
        model,
        guide,
        pyro.optim.ClippedAdam({"lr": 3e-2, "lrd": 0.99}),
        Trace_ELBO(num_particles=24, vectorize_particles=True),
    )
    losses = [svi.step() for _ in range(steps)]
    return sum(losses[-30:]) / 30


def test_both_modes_of_an_axis() -> None:
    """The bound comes within .2 nat of the log evidence, which is computed by quadrature over the height; and both modes
    have draws."""
    guide = AutoManifoldFlow(axial, {"z": flows.SphereFlow(2, 2, **SMALL)})
    loss = trained(axial, guide)
    t = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    u = torch.linspace(-5, 5, 401, dtype=torch.float64)
    s = (0.2 * u).exp()
    likelihood = (
        dist.Normal(3 * t.square(), s.unsqueeze(-1)).log_prob(torch.tensor(3.0, dtype=torch.float64)).exp()
    )
    evidence = torch.trapezoid(
        torch.trapezoid(likelihood, t) / 2 * dist.Normal(0.0, 1.0).log_prob(u).exp(), u
    )
    assert loss > -float(evidence.log()) - 0.02  # a bound
    assert loss < -float(evidence.log()) + 0.2  # one mode alone: + 0.69
    draws = Predictive(axial, guide=guide, num_samples=500, parallel=True)()["z"]
    up = float((draws @ AXIS > 0).float().mean())
    assert 0.3 < up < 0.7
    assert float((draws @ AXIS).abs().mean()) > 0.75


@pytest.mark.slow
def test_rotations() -> None:
    """A posterior with two modes half a turn apart: what is seen is R e_3 and the axis of R e_1."""
    target = torch.eye(3)

    def model():
        r = pyro.sample("r", ManifoldUniform(SpecialOrthogonal(3), (3, 3)))
        pyro.sample("c", VonMisesFisher(r[..., :, 2], 8.0), obs=target[:, 2])
        pyro.sample("a", dist.Normal(r[..., 0, 0].square(), 0.2), obs=torch.tensor(1.0))

    guide = AutoManifoldFlow(model, {"r": flows.RotationFlow(2, **SMALL)})
    trained(model, guide, steps=60)
    draws = Predictive(model, guide=guide, num_samples=400, parallel=True)()["r"]
    ups = float((draws[:, 0, 0] > 0).float().mean())
    assert 0.25 < ups < 0.75
    assert float(draws[:, 2, 2].mean()) > 0.7
    assert float(draws[:, 0, 0].abs().mean()) > 0.7
    median = guide.median()["r"]
    assert abs(float(median[0, 0])) > 0.5 and float(median[2, 2]) > 0.5


def test_hyperbolic_site_and_state() -> None:
    """Infinite volume: the base is a wrapped normal. Parameters are in the parameter store and the state."""
    ball = geoopt.PoincareBall()

    def model():
        z = pyro.sample("z", WrappedNormal(ball, torch.zeros(2), 1.0))
        pyro.sample("y", dist.Normal(z.square().sum(-1), 0.05), obs=torch.tensor(0.25))

    def guide():
        return AutoManifoldFlow(model, {"z": flows.InChart(geoopt.PoincareBall(), flows.Coupling(2, [0]))})

    a, b = guide(), guide()
    trained(model, a, steps=20)
    assert any("flows.z" in name for name in pyro.get_param_store())
    b()
    b.load_state_dict(a.state_dict())
    z = WrappedNormal(ball, torch.zeros(2), 1.0).sample((5,))
    torch.testing.assert_close(a.flows.z(z), b.flows.z(z))


AXES = torch.nn.functional.normalize(torch.tensor([[1, 0, 0.2], [0, 1, -0.3], [-0.6, -0.6, 0.5]]), dim=-1)


def rings(rows=None):
    """The angle to an axis of each row is seen: posteriors are bands about small circles."""
    with pyro.plate("n", 3, subsample=rows) as i:
        z = pyro.sample("z", ManifoldUniform(geoopt.Sphere(), 3))
        pyro.sample("y", dist.Normal((z * AXES[i]).sum(-1), 0.1), obs=torch.full((len(i),), 0.5))


def rows_guide(context_dim=4):
    flow = flows.Conditional(flows.SphereFlow(2, 2, **SMALL), context_dim)
    return AutoManifoldFlow(rings, {"z": flow})


def test_each_row_of_a_plate_has_its_own_flow() -> None:
    """The log evidence of a row is -log 2 (of a band of normal width, seen by the height). A von Mises-Fisher
    distribution loses 2.2 nats a row; the flow, .7 after 150 steps, and is a bound."""
    guide = rows_guide()
    loss = trained(rings, guide, steps=150) / 3
    assert 0.693 - 0.02 < loss < 0.693 + 1.1
    draws = Predictive(rings, guide=guide, num_samples=300, parallel=True)()["z"]
    assert (
        float(((draws * AXES).sum(-1) - 0.5).abs().mean()) < 0.2
    )  # bands of their own rows: wrong axes give .5
    median = guide.median()["z"]
    assert median.shape == (3, 3) and float(((median * AXES).sum(-1) - 0.5).abs().max()) < 0.25


def test_rows_of_a_subsample_keep_their_contexts() -> None:
    pyro.set_rng_seed(1)
    guide, rows = rows_guide(), torch.tensor([2, 0])
    guide(rows)
    with torch.no_grad():
        for p in guide.flows.parameters():  # a new flow is the identity, whatever its context
            p += 0.2 * torch.randn_like(p)
    whole = guide.distribution("z")
    trace = pyro.poutine.trace(guide).get_trace(rows)
    trace.compute_log_prob()
    z = trace.nodes["z"]["value"]
    assert z.shape == (2, 3)
    torch.testing.assert_close(
        trace.nodes["z"]["unscaled_log_prob"],
        torch.stack([whole.log_prob(z[k].expand(3, 3))[r] for k, r in enumerate(rows)]),
    )
    pyro.set_rng_seed(2)
    other = rows_guide()
    other(rows)
    assert not torch.allclose(
        other.distribution("z").log_prob(z[0].expand(3, 3)), whole.log_prob(z[0].expand(3, 3))
    )
    other.load_state_dict(guide.state_dict())
    torch.testing.assert_close(
        other.distribution("z").log_prob(z[0].expand(3, 3)), whole.log_prob(z[0].expand(3, 3))
    )


def test_errors() -> None:
    def model():
        pyro.sample("u", dist.Normal(0.0, 1.0))
        with pyro.plate("n", 2):
            pyro.sample("z", ManifoldUniform(geoopt.Sphere(), 3))
        pyro.sample("w", ManifoldUniform(geoopt.Sphere(), 3))

    flow = flows.SphereFlow(2, 1, **SMALL)
    for sites, message in (
        ({"z": flow}, "batch shape"),
        ({"z": flows.Conditional(flows.SphereFlow(3, 1, **SMALL), 2)}, "size 4"),
        ({"u": flow}, "expected latent manifold sites"),
        ({"w": flows.SphereFlow(3, 1, **SMALL)}, "size 4"),
        ({"w": flows.RotationFlow(1, **SMALL)}, "does not map events"),
    ):
        with pytest.raises(ValueError, match=message):
            AutoManifoldFlow(model, sites)()
    with pytest.raises(ValueError, match="flows"):
        AutoManifoldFlow(model, {"w": torch.nn.Linear(3, 3)})
    with pytest.raises(ValueError, match="have no flow"):
        AutoManifoldFlow(model, {"w": flow}, bases={"z": dist.Normal(0.0, 1.0)})
