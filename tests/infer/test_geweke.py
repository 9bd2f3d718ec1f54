r"""Geweke's joint-distribution test: alternate kernel and data simulation, and compare with independent draws
of both.

If the kernel leaves p(z | y) invariant, the chain (z, y) -> (K(z | y), p(y | z)) has the distribution of the
model. Sixty-four replicates of a model with a sphere and an ordinary site move as one state; prior moments
are known in closed form.
[1] Geweke, *Getting it right*, JASA 99 (2004), eq. 5-7.
"""

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.ops.stats import effective_sample_size

from pyro_manifold.distributions import ManifoldUniform
from pyro_manifold.infer import GeodesicHMC, GeodesicNUTS

F64 = torch.float64
REPLICATES, SWEEPS = 64, 300


def model(data=None, temper=1.0):
    """z uniform on S^2, log s ~ N(-1/2, 0.3^2), y ~ N(z, s^2 I); ``temper`` is what a wrong kernel does to
    the likelihood."""
    with pyro.plate("replicates", REPLICATES):
        z = pyro.sample("z", ManifoldUniform(geoopt.Sphere(), 3, dtype=F64))
        s = pyro.sample("s", dist.LogNormal(torch.tensor(-0.5, dtype=F64), 0.3))
        with poutine.scale(scale=temper):
            return pyro.sample("y", dist.Normal(z, s.unsqueeze(-1)).to_event(1), obs=data)


def successive(kernel, temper=1.0):
    """Mean over replicates of each statistic at each sweep, shape (sweeps, statistics), minus its
    expectation."""
    trace = poutine.trace(model).get_trace()
    z, u, y = trace.nodes["z"]["value"], trace.nodes["s"]["value"].log(), trace.nodes["y"]["value"]
    rows = []
    for _ in range(SWEEPS):
        kernel.initial_params = {"z": z, "s": u}
        kernel.setup(0, y, temper)
        new = kernel.sample(kernel.initial_params)
        kernel.cleanup()
        z, u = new["z"], new["s"]
        y = poutine.condition(model, data={"z": z, "s": u.exp()})()
        r = (u + 0.5) / 0.3
        a = (y - z).square().sum(-1) / u.exp().square()
        f = [
            z[:, 0],
            z[:, 2],
            z[:, 0] ** 2 - 1 / 3,
            z[:, 0] * z[:, 1],
            r,
            r**2 - 1,
            (z * y).sum(-1) - 1,
            a - 3,
        ]
        rows.append(torch.stack([x.mean() for x in f]))
    return torch.stack(rows)


def z_scores(f):
    ess = effective_sample_size(f.unsqueeze(0).clone(), chain_dim=0, sample_dim=1).clamp(max=SWEEPS)
    return (f.mean(0) / (f.std(0) / ess.sqrt())).abs()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [GeodesicNUTS, GeodesicHMC])
def test_successive_draws_have_the_joint_distribution(kind):
    """|score| < 4 for eight statistics: P(false alarm) < 8 * 2e-4 (t with some 50 effective draws)."""
    extra = {"trajectory_length": 1.0} if kind is GeodesicHMC else {"max_tree_depth": 4}
    make = lambda: kind(model, step_size=0.15, adapt_step_size=False, adapt_mass_matrix=False, **extra)  # noqa: E731
    score = z_scores(successive(make()))
    print(kind.__name__, [round(float(x), 2) for x in score])
    assert (score < 4).all(), score


@pytest.mark.slow
def test_a_tempered_likelihood_is_noticed():
    kernel = GeodesicNUTS(
        model, step_size=0.15, adapt_step_size=False, adapt_mass_matrix=False, max_tree_depth=4
    )
    assert (z_scores(successive(kernel, temper=0.7)) > 6).any()
