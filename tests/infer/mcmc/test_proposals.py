"""Independence proposals: modes far apart get their weights, exact draws stay exact ones, errors name the
remedy."""

import math
import pickle

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC
from pyro.ops.stats import effective_sample_size
from torch.distributions import biject_to

from pyro_manifold.distributions import ManifoldUniform, VonMisesFisher
from pyro_manifold.infer import GeodesicHMC, GeodesicNUTS, VectorizedMCMC, sbc
from pyro_manifold.infer.mcmc.warmup import windows

F64 = torch.float64
SPHERE = geoopt.Sphere()
FIXED = dict(adapt_step_size=False, adapt_mass_matrix=False)


def tensor(*x):
    return torch.tensor(x, dtype=F64)


NORTH, SOUTH = tensor(0, 0, 1), tensor(0, 0.6, -0.8)


def two_modes(weights, concentration):
    parts = VonMisesFisher(torch.stack([NORTH, SOUTH]), torch.full((2,), float(concentration), dtype=F64))
    return dist.MixtureSameFamily(dist.Categorical(tensor(*weights)), parts)


@pytest.mark.parametrize("kernel", [GeodesicNUTS, GeodesicHMC])
def test_weights_of_modes_that_are_far_apart(kernel):
    """Two thirds and one third, of concentration 100 (paths across have probability exp(-100) or so): without
    proposals each of 64 chains stays in the mode it starts in, here a half; with a rough mixture of equal weights
    2/3 is met to 4 standard errors, at most .06."""
    start = torch.stack([NORTH, SOUTH]).repeat(32, 1)
    shares = []
    for proposals in ({}, {"x": two_modes([0.5, 0.5], 50)}):
        k = kernel(
            potential_fn=lambda z: -torch.logaddexp(100 * z["x"] @ NORTH + math.log(2), 100 * z["x"] @ SOUTH),
            manifolds={"x": SPHERE},
            chains=64,
            proposals=proposals,
            **({"max_tree_depth": 3} if kernel is GeodesicNUTS else {}),
        )
        torch.manual_seed(0)
        mcmc = VectorizedMCMC(k, 40, warmup_steps=15, initial_params={"x": start}, disable_progbar=True)
        mcmc.run()
        north = (mcmc.get_samples(group_by_chain=True)["x"][..., 2] > 0).double()
        shares.append(float(north.mean()))
    assert shares[0] == 0.5
    ess = float(effective_sample_size(north, chain_dim=0, sample_dim=1))
    error = (2 / 9 / ess) ** 0.5
    assert error < 0.015 and abs(shares[1] - 2 / 3) < 4 * error


def joint(n=None):
    """A scale, a direction given the scale, and two directions about it; all latent."""
    s = pyro.sample("s", dist.LogNormal(tensor(0.0)[0], 0.5))
    x = pyro.sample("x", VonMisesFisher(NORTH, 3 * s))
    with pyro.plate("n", 2):
        z = pyro.sample("z", VonMisesFisher(x, tensor(4.0)[0]))
    w = pyro.sample("w", dist.HalfNormal(s))
    p = pyro.sample("p", dist.Dirichlet(torch.stack([1 + s, 2 + w, 1 + x[..., 2].square()], -1)))
    u = pyro.sample("u", dist.Beta(s, 1 + w))
    return s, x, z, w, p, u


def exact(n):
    with pyro.plate("chains", n, dim=-2):
        s, x, z, w, p, u = joint()
    return {"s": s[:, 0], "x": x[:, 0], "z": z, "w": w[:, 0], "p": p[:, 0], "u": u[:, 0]}


def figures(v):
    s, x, z, w, p, u = v["s"].log(), v["x"], v["z"], v["w"], v["p"], v["u"]
    f = [s, s * s, x[:, 2], x[:, 2] ** 2, x[:, 0], s * x[:, 2], (z[:, 0] * x).sum(-1), (z[:, 1] * x).sum(-1)]
    f += [
        z[:, 0, 2],
        z[:, 1, 2],
        z[:, 0, 0] * x[:, 0],
        w,
        w.log(),
        w * v["s"],
        p[:, 0],
        p[:, 1],
        p[:, 0] * s,
        u,
        u * u,
        u * s,
    ]
    return torch.stack(f, -1)


PROPOSALS = {
    "s": dist.Gamma(tensor(3.0)[0], tensor(2.0)[0]),
    "x": VonMisesFisher(tensor(0.6, 0, 0.8), tensor(1.0)[0]),
    "z": VonMisesFisher(torch.stack([NORTH, tensor(1, 0, 0)]), tensor(1.0)[0]),  # of one point each
    "w": dist.Normal(tensor(0.5)[0], 1.0),  # a third of its draws is negative
    "p": dist.Dirichlet(tensor(2.0, 1.0, 1.0)),
    "u": dist.Normal(tensor(0.3)[0], 0.6),  # so is a half outside (0, 1)
}


@pytest.mark.parametrize("whole", [pytest.param(False, marks=pytest.mark.slow), True])
def test_exact_draws_stay_exact_ones(whole):
    """2500 chains start at draws of the model itself and make six moves of each site: 20 means differ from those
    of 25000 other draws by less than 4 standard errors (P(false alarm) < 1.3e-3 for a right kernel; the chains are
    independent). Paths hardly move, so that what is seen are the proposals."""
    torch.manual_seed(0)
    start, other = exact(2500), exact(25000)
    proposals = {**PROPOSALS, "z": PROPOSALS["z"].to_event(1)} if whole else PROPOSALS
    kernel = GeodesicHMC(
        joint,
        chains=2500,
        vectorize="plates",
        proposals=proposals,
        step_size=1e-3,
        trajectory_length=1e-3,
        **FIXED,
    )
    inward = {k: biject_to(d.support).inv for k, d in PROPOSALS.items() if k in "ps"}
    inward["w"] = inward["s"]
    inward["u"] = biject_to(dist.constraints.unit_interval).inv
    kernel.initial_params = z = {k: inward[k](v) if k in inward else v for k, v in start.items()}
    kernel.setup(0)
    for _ in range(6):
        z = kernel.sample(z)
    values = {k: inward[k].inv(v) if k in inward else v for k, v in z.items()}
    a, b = figures(values), figures(other)
    score = (a.mean(0) - b.mean(0)) / (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    assert score.abs().max() < 4, score
    rates = kernel.diagnostics()["proposal acceptance"]
    assert set(rates) == set(PROPOSALS) and all(0.1 < r < 0.9 for r in rates.values())
    assert rates["w"] < 0.7 and rates["u"] < 0.5
    for k, x in start.items():  # and most chains have moved
        moved = (values[k] - x).abs().reshape(2500, -1).amax(-1) > 0.01
        assert 0.4 < float(moved.double().mean())
    # what the kernel remembers is what a new evaluation gives
    again = kernel._system.state(kernel._state.z)
    torch.testing.assert_close(kernel._state.potential, again.potential)
    torch.testing.assert_close(kernel._state.grad, again.grad)


def mixed():
    x = pyro.sample("x", two_modes([2 / 3, 1 / 3], 20))
    pyro.sample("s", dist.LogNormal(x[..., 2], 1.0))


class Counting(VonMisesFisher):
    """Counts its draws."""

    calls = 0

    def sample(self, sample_shape=()):
        Counting.calls += 1
        return super().sample(sample_shape)


def test_rest_while_scales_are_learned():
    """One call in ``setup``, and one in each transition of the last window of warm-up and after it; those after
    warm-up are in the figures. A kernel that learns no scales proposes from the first transition on."""
    for learn, proposed in ((True, 1 + windows(30)[-1] + 4), (False, 1 + 30 + 4)):
        kernel = GeodesicNUTS(
            mixed, proposals={"x": Counting(NORTH, tensor(1.0)[0])}, adapt_mass_matrix=learn, max_tree_depth=2
        )
        Counting.calls = 0
        mcmc = MCMC(kernel, num_samples=4, warmup_steps=30, disable_progbar=True)
        mcmc.run()
        assert Counting.calls == proposed
        (rate,) = mcmc.diagnostics()["proposal acceptance"].values()
        assert 0 < rate["x"] <= 1


def test_kernels_with_proposals_pickle_and_run_one_chain():
    kernel = GeodesicHMC(
        mixed, proposals={"x": two_modes([0.5, 0.5], 20), "s": dist.LogNormal(tensor(0.0)[0], 2.0)}
    )
    kernel = pickle.loads(pickle.dumps(kernel))
    mcmc = MCMC(kernel, num_samples=5, warmup_steps=5, disable_progbar=True)
    mcmc.run()
    assert mcmc.get_samples()["x"].shape == (5, 3) and (mcmc.get_samples()["s"] > 0).all()
    assert set(mcmc.diagnostics()["proposal acceptance"]["chain 0"]) == {"x", "s"}


def two_signs():
    """The squares of a direction's coordinates seen through noise: eight modes."""
    x = pyro.sample("x", ManifoldUniform(SPHERE, 3, dtype=F64))
    s = pyro.sample("s", dist.LogNormal(tensor(-1.5)[0], 0.3))
    pyro.sample("y", dist.Normal(x.square(), s.unsqueeze(-1)).to_event(1))


def calibrated(proposals, n, **kwargs):
    """P(false alarm) .01, at a seed fixed before the first run."""
    options = {"num_draws": 15, "warmup_steps": 40, "disable_progbar": True, "seed": 20261130, **kwargs}
    posterior = lambda m: GeodesicNUTS(m, proposals=proposals, max_tree_depth=4)  # noqa: E731
    return sbc(two_signs, posterior, ["y"], num_simulations=n, simulations_per_batch=n, **options)


def test_a_proposal_narrower_than_the_site_is_no_error():
    """Its density is 0 where the chain is: from there it is never accepted, and from inside as ever. The other chain
    is uniform on (-1, 1), as is the proposal where it has mass: accepted always."""
    kernel = GeodesicHMC(
        potential_fn=lambda z: torch.where(z["x"].abs() < 1, 0.0, torch.where(z["x"] == 3, 0.0, torch.inf)),
        chains=2,
        proposals={"x": dist.Uniform(tensor(-0.5)[0], 0.5, validate_args=True)},
        step_size=1e-9,
        trajectory_length=1e-9,
        **FIXED,
    )
    kernel.initial_params = z = {"x": tensor(0.2, 3.0)}
    kernel.setup(0)
    for _ in range(5):
        z = kernel.sample(z)
    assert abs(float(z["x"][0])) < 0.5 and z["x"][0] != 0.2 and abs(float(z["x"][1]) - 3.0) == 0
    rates = [d["proposal acceptance"]["x"] for d in kernel.diagnostics()["by chain"]]
    assert rates == [1.0, 0.0]


@pytest.mark.slow
def test_simulation_based_calibration():
    """Calibrated with proposals that know neither the modes nor the data, and not with one whose density is not that
    of its draws: it favours the modes in the north."""
    q = {"x": VonMisesFisher(NORTH, tensor(0.5)[0]), "s": dist.LogNormal(tensor(-1.4)[0], 0.4)}
    r = calibrated(q, 300)
    assert r.is_calibrated(), str(r)
    assert not calibrated({"x": Broken(0.0)}, 150).is_calibrated()


class Broken(VonMisesFisher):
    """Its density is of no use."""

    def __init__(self, value):
        self.value = value
        super().__init__(NORTH, tensor(1.0)[0])

    def log_prob(self, x):
        return self.value * torch.ones(x.shape[:-1], dtype=F64)


@pytest.mark.parametrize(
    "proposals, match",
    [
        ({"y": VonMisesFisher(NORTH, tensor(1.0)[0])}, "proposals: 'y' is not a continuous latent site.*'s', 'x'"),
        ({"x": 3.0}, r"proposals: got 3.0 for 'x', expected a distribution with sample, log_prob, .*missing: sample"),
        ({"x": VonMisesFisher}, "proposals: got <class .* for 'x', expected a distribution"),
        ([VonMisesFisher(NORTH, 1.0)], r"proposals: got \[VonMises.*, expected a dict"),
        ({"x": dist.Normal(tensor(0, 0, 0), 1.0)}, r"got event shape \(\) and batch shape \(3,\) for 'x', whose.*\(3,\)"),
        ({"x": VonMisesFisher(torch.eye(4, dtype=F64)[0], 1.0)}, r"got event shape \(4,\)"),
        ({"x": VonMisesFisher(torch.eye(3, dtype=F64), 1.0)}, r"batch shape \(3,\)"),
        ({"x": VonMisesFisher(NORTH.float(), 1.0)}, "draws of dtype torch.float32 for 'x', expected torch.float64"),
        ({"x": dist.Normal(tensor(0, 0, 0), 1.0).to_event(1)}, r"draws for 'x' that lie outside on\(Sphere\)"),
        ({"s": dist.Uniform(tensor(-2.0)[0], -1.0)}, "draws for 's' that lie outside GreaterThan"),
        ({"x": Broken(torch.nan)}, "log density for 'x' is NaN or infinite at a value"),
        ({"x": Broken(torch.inf)}, "log density for 'x' is NaN or infinite at a value"),
        ({"x": Broken(-torch.inf)}, "log density for 'x' is -inf at a draw of its own, expected a finite number"),
        ({"x": Broken(torch.ones(1, dtype=F64).expand(2, 1))}, r"log_prob of shape \(2, 1\) for 'x', expected \(1,\)"),
    ],
)  # fmt: skip
def test_bad_input(proposals, match):
    with pytest.raises(ValueError, match=match):
        GeodesicNUTS(mixed, proposals=proposals).setup(5)


def test_a_density_that_breaks_later_is_an_error_too():
    kernel = GeodesicNUTS(mixed, proposals={"x": Broken(0.0)})
    kernel.setup(0)
    z = kernel.sample(kernel.initial_params)
    kernel.proposals["x"].value = torch.nan
    with pytest.raises(ValueError, match="log density for 'x' is NaN"):
        kernel.sample(z)
