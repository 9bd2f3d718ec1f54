"""Constrained dynamics as Mici tests its own, then exact moments, refusals and errors."""

import math
from collections import Counter

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch
from leapfrog import check_no_mutation, check_order_two, check_reversibility, run
from pyro.infer import MCMC
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from scipy import special

from pyro_manifold.constraints import on
from pyro_manifold.distributions import MatrixFisher, VonMisesFisher
from pyro_manifold.geometry import EmbeddedManifold, ImplicitManifold, SpecialOrthogonal, geometry
from pyro_manifold.infer import GeodesicHMC, GeodesicNUTS, VectorizedMCMC
from pyro_manifold.infer.mcmc import ConvergenceError, InvalidStartError, NonReversibleStepError
from pyro_manifold.infer.mcmc.integrators import geodesic_leapfrog
from pyro_manifold.infer.mcmc.systems import System
from pyro_manifold.transforms import Chart

F64 = torch.float64


def tensor(*x):
    return torch.tensor(x, dtype=F64)


def sphere(near=(0.0, 0.0, 1.0)):
    return ImplicitManifold(lambda x: x.square().sum(-1) - 1, tensor(*near))


def torus(ring=1.0, tube=0.5):
    return ImplicitManifold(
        lambda x: (x[..., :2].square().sum(-1).sqrt() - ring) ** 2 + x[..., 2] ** 2 - tube**2,
        tensor(ring + tube, 0, 0),
    )


def curve():
    """Where a cylinder meets a paraboloid; written for one point, so that it goes through vmap."""
    return ImplicitManifold(
        lambda x: torch.stack([x[0] ** 2 + x[1] ** 2 - 1, x[2] - x[0] * x[1]]), tensor(1.0, 0, 0)
    )


def rotations():
    i, j = torch.triu_indices(3, 3)
    return ImplicitManifold(
        lambda x: (x.mT @ x - torch.eye(3, dtype=x.dtype))[..., i, j], torch.eye(3, dtype=F64)
    )


def bowl():
    def f(z):
        return torch.cat([z, 0.5 * z.square().sum(-1, keepdim=True) + 0.3 * z[..., :1]], -1)

    return EmbeddedManifold(Chart(f, lambda x: x[..., :2], 2, 3), tensor(0.1, 0.2))


MANIFOLDS = {"sphere": sphere, "torus": torus, "curve": curve, "rotations": rotations, "image": bowl}


def make(name, chains=5, plate=2):
    """A system with an implicit site in a plate, a Euclidean site and unequal scales; and a start with
    momentum."""
    geo = geometry(MANIFOLDS[name]())
    torch.manual_seed(0)
    x = geo.wander(geo.manifold.point.expand((chains, plate) + geo.manifold.event_shape), 8)
    centre = torch.randn(geo.manifold.event_shape, dtype=F64)

    def potential(z):
        d2 = (z["x"] - centre).square().reshape(len(z["x"]), -1).sum(-1)
        return d2 * (1 + 0.3 * z["y"][:, 0]).square() + 0.5 * z["y"].square().sum(-1)

    system = System(potential, {"x": geo}, {"x": x.shape[1:], "y": torch.Size([2])})
    system.rescale({"x": 0.7}, tensor(1.0, 2.0))
    z = {"x": x, "y": torch.randn(chains, 2, dtype=F64)}
    return system, system.state(z, system.draw(z)), geo


@pytest.mark.parametrize("name", MANIFOLDS)
class TestLeapfrog:
    def test_reversibility(self, name):
        system, start, _ = make(name)
        check_reversibility(system, start, 0.05, 10)
        assert not any(system.sites[0].momentum.refused.values())

    def test_energy_error_is_of_order_two(self, name):
        system, start, _ = make(name)
        check_order_two(system, start, 0.2)

    def test_volume_preservation(self, name):
        """Determinant 1 of one step, in orthonormal tangent coordinates of position and momentum, by central
        differences."""
        system, start, geo = make(name, chains=1, plate=1)
        k = geo.manifold.dim
        x0, w0, y = start.z["x"], start.w[0], start.z["y"]

        def step(
            c,
        ):  # the chart of M has derivative T at 0; frames that turn with it leave the determinant alone
            x = geo.retract(x0, geo.to_tangent(x0, c[:k].reshape(1, 1, k)))[0]
            w = torch.cat([geo.to_tangent(x, c[k + 2 : -2].reshape(1, 1, k)).flatten(), c[-2:]])
            z = {"x": x, "y": y + c[k : k + 2]}
            return geodesic_leapfrog(
                system, system.state(z, w.unsqueeze(0)), torch.full((1, 1), 0.1, dtype=F64)
            )

        w_at = geo.from_tangent(x0, w0[:-2].reshape(x0.shape)).flatten()
        c0 = torch.cat([torch.zeros(k + 2, dtype=F64), w_at, w0[-2:]])
        end = step(c0)
        q = end.z["x"]

        def coordinates(s):
            x, rest = s.z["x"], s.z["y"].flatten()
            w = geo.from_tangent(x, s.w[0, :-2].reshape(x.shape)).flatten()
            return torch.cat([geo.from_tangent(q, x - q).flatten(), rest, w, s.w[0, -2:]])

        assert not any(system.sites[0].momentum.refused.values()) and (q - x0).norm() > 0.01
        e = torch.eye(len(c0), dtype=F64) * 1e-5
        jac = torch.stack([(coordinates(step(c0 + d)) - coordinates(step(c0 - d))) / 2e-5 for d in e], 1)
        assert float(torch.linalg.det(jac)) == pytest.approx(1.0, abs=1e-6)

    def test_position_and_momentum_stay_on_the_manifold(self, name):
        system, start, geo = make(name)
        end = run(system, start, 0.1, 30)
        ok = end.w.isfinite().all(-1)
        x, u = end.z["x"], end.w[:, : system.sites[0].size].reshape(end.z["x"].shape)
        assert ok.any() and geo.contains(x, 1e-12).all()
        assert (geo.project_tangent(x, u) - u)[ok].abs().max() < 1e-12

    def test_no_mutation(self, name):
        system, start, _ = make(name)
        check_no_mutation(system, start, 0.1)

    def test_gradient_against_differences(self, name):
        system, start, geo = make(name)
        v = torch.randn(5, 2, geo.manifold.dim, dtype=F64)
        u = geo.to_tangent(start.z["x"], v)
        ends = [
            system.potential({**start.z, "x": geo.retract(start.z["x"], s * 1e-5 * u)[0]}) for s in (1, -1)
        ]
        slope = (start.grad[:, : system.sites[0].size] * u.reshape(5, -1)).sum(-1)
        assert (slope - (ends[0] - ends[1]) / 2e-5).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["sphere", "rotations"])
def test_against_the_exact_flow(name):
    """Steps of RATTLE tend to closed-form geodesics with order 2; on SO(3) the induced metric is twice
    ours."""
    system, start, geo = make(name)
    exact = geometry(geoopt.Sphere() if name == "sphere" else SpecialOrthogonal(3))
    x = start.z["x"]
    u = start.w[:, : system.sites[0].size].reshape(x.shape)
    end, velocity = exact.geodesic(x, u, torch.full(x.shape[:2], 0.5, dtype=F64))
    errors = []
    for n in (8, 16, 32):
        q, w = x, u
        for _ in range(n):
            q, w, ok = geo.step(q, w, torch.full(x.shape[:2], 0.5 / n, dtype=F64))
            assert ok.all()
        errors.append(float((q - end).abs().max() + (w - velocity).abs().max()))
    assert 3.5 < errors[0] / errors[1] < 4.5 and 3.5 < errors[1] / errors[2] < 4.5


def sample(kernel, warmup, draws, init=None):
    mcmc = VectorizedMCMC(
        kernel, num_samples=draws, warmup_steps=warmup, initial_params=init, disable_progbar=True
    )
    mcmc.run()
    return mcmc


def check_moment(samples, expected):
    """Mean of ``samples`` (chains, draws) within 4 standard errors of the chains' own means (false alarm
    1e-4)."""
    means = samples.mean(1)
    se = float(means.std()) / len(means) ** 0.5
    assert abs(float(means.mean()) - expected) < 4 * se, (float(means.mean()), expected, se)


def torus_draws(n, tube=0.5):
    """Exact uniform draws: tube angles by rejection, ring angles uniform."""
    phi = 2 * math.pi * torch.rand(20 * n, dtype=F64)
    phi = phi[torch.rand(20 * n, dtype=F64) * (1 + tube) < 1 + tube * phi.cos()][:n]
    theta, r = 2 * math.pi * torch.rand(n, dtype=F64), 1 + tube * phi.cos()
    return torch.stack([r * theta.cos(), r * theta.sin(), tube * phi.sin()], -1)


FIXED = dict(adapt_step_size=False, adapt_mass_matrix=False)


@pytest.mark.parametrize("kernel", [GeodesicHMC, GeodesicNUTS])
def test_figures_of_each_chain(kernel):
    """Two chains at the south pole diverge as soon as they move, and NUTS goes on with the one at the north pole
    alone, which a steep force away from it sends into steps that are refused: each has figures of its own."""
    mu = tensor(0.0, 0.0, 1.0)

    def potential(z):
        height = z["x"] @ mu
        return torch.where(
            height < 0, torch.where(height > -1, torch.inf, 0.0), -3e4 * torch.relu(0.9995 - height)
        )

    k = kernel(
        potential_fn=potential,
        manifolds={"x": ImplicitManifold(lambda x: x.norm(dim=-1) - 1, near=mu)},
        chains=3,
        step_size=0.05,
        **(dict(max_tree_depth=3) if kernel is GeodesicNUTS else dict(trajectory_length=0.1)),
        **FIXED,
    )
    d = sample(k, 0, 10, {"x": torch.stack([-mu, mu, -mu])}).diagnostics()
    refused = [d["refused steps"][f"chain {i}"]["x"]["not converged"] for i in range(3)]
    assert refused[1] > 0 and refused[0] == refused[2] == 0
    assert d["divergences"]["chain 0"] == d["divergences"]["chain 2"] == list(range(10))
    rates = d["acceptance rate"]
    assert rates["chain 0"] == rates["chain 2"] == 0 < rates["chain 1"] < 1
    if kernel is GeodesicNUTS:
        assert d["gradients"]["chain 0"] == d["gradients"]["chain 2"] == 11 < d["gradients"]["chain 1"]


def test_uniform_on_the_embedded_torus():
    """Exact draws stay exact ones: density (1 + (r/R) cos phi)/2pi of the tube angle, E cos phi = r/2R, E
    sin^2 phi = 1/2."""
    k = GeodesicHMC(
        potential_fn=lambda z: 0 * z["x"].sum(),
        manifolds={"x": torus()},
        chains=400,
        trajectory_length=1.2,
        step_size=0.3,
        **FIXED,
    )
    start = torus_draws(400)
    mcmc = sample(k, 0, 8, {"x": start})
    x = mcmc.get_samples(group_by_chain=True)["x"]
    assert geometry(torus()).contains(x, 1e-12).all()
    check_moment((x[..., :2].norm(dim=-1) - 1) / 0.5, 0.25)
    check_moment(x[..., 2].square() / 0.25, 0.5)
    check_moment(x[..., 0], 0.0)
    told = mcmc.diagnostics()
    rates = list(told["acceptance rate"].values())
    assert not any(told["divergences"].values()) and 0.5 < sum(rates) / 400 < 0.99
    refused = [by_site["x"] for by_site in told["refused steps"].values()]
    assert set(refused[0]) == {"not converged", "not reversible"}
    assert sum(r["not converged"] for r in refused) > 0 and len({r["not converged"] for r in refused}) > 1
    assert (x[:, -1] - start).norm(dim=-1).mean() > 0.7  # and they move


@pytest.mark.parametrize("kernel", [GeodesicHMC, GeodesicNUTS])
def test_von_mises_fisher_on_the_implicit_sphere(kernel):
    mu, kappa = tensor(0.0, 0.6, 0.8), 5.0
    kind = dict(max_tree_depth=3) if kernel is GeodesicNUTS else dict(trajectory_length=1.0)
    k = kernel(
        potential_fn=lambda z: -kappa * (z["x"] @ mu),
        manifolds={"x": sphere()},
        chains=300,
        step_size=0.25,
        **kind,
        **FIXED,
    )
    start = VonMisesFisher(mu, tensor(kappa)[0]).sample((300,))
    x = sample(k, 0, 8, {"x": start}).get_samples(group_by_chain=True)["x"]
    a = float(special.ive(1.5, kappa) / special.ive(0.5, kappa))
    check_moment(x @ mu, a)
    check_moment(x[..., 0].square(), a / kappa)
    assert (x[:, -1] - start).norm(dim=-1).mean() > 0.4


def test_matrix_fisher_on_implicit_rotations():
    """The density exp(a tr R) on SO(3): E tr R = d log c / da with c = e^a (I_0(2a) - I_1(2a)); exact draws
    stay so."""
    a = 1.0
    k = GeodesicHMC(
        potential_fn=lambda z: -a * z["x"].diagonal().sum(),
        manifolds={"x": rotations()},
        chains=200,
        trajectory_length=1.2,
        step_size=0.3,
        **FIXED,
    )
    start = MatrixFisher(a * torch.eye(3, dtype=F64)).sample((200,))
    x = sample(k, 0, 6, {"x": start}).get_samples(group_by_chain=True)["x"]
    i0, i1, i2 = (special.iv(n, 2 * a) for n in range(3))
    check_moment(x.diagonal(dim1=-1, dim2=-2).sum(-1), float(1 + (2 * i1 - (i0 + i2)) / (i0 - i1)))
    assert (torch.linalg.det(x) > 0).all() and (x[:, -1] - start).flatten(1).norm(dim=-1).mean() > 0.7


@pytest.mark.slow
def test_from_pyros_improper_distribution_with_adaptation():
    """Scattered starts, learned step size and scale: NUTS finds the uniform distribution on the torus."""
    m = torus()

    def model():
        pyro.sample("x", dist.ImproperUniform(on(m), (), (3,)))

    mcmc = sample(GeodesicNUTS(model, chains=64, max_tree_depth=5), 100, 100)
    x = mcmc.get_samples(group_by_chain=True)["x"]
    cos = (x[..., :2].norm(dim=-1) - 1) / 0.5
    check_moment(cos, 0.25)
    check_moment(x[..., 2].square() / 0.25, 0.5)
    assert float(split_gelman_rubin(cos.clone(), 0, 1)) < 1.05 and not any(
        mcmc.diagnostics()["divergences"].values()
    )


@pytest.mark.slow
def test_image_of_a_chart_against_plain_nuts_in_it():
    """One distribution, a normal in height on a bowl, by RATTLE in space and by plain NUTS in the chart with
    1/2 log det J'J."""
    m = bowl()

    def ambient():
        x = pyro.sample("x", dist.ImproperUniform(on(m), (), (3,)))
        pyro.factor("f", -0.5 * (x[..., 2] / 0.5).square() - 0.5 * x[..., 0].square())

    def chart():
        z = pyro.sample(
            "z", dist.ImproperUniform(dist.constraints.independent(dist.constraints.real, 1), (), (2,))
        )
        x = m.transform(z)
        pyro.factor(
            "f", m.transform.log_volume(z) - 0.5 * (x[..., 2] / 0.5).square() - 0.5 * x[..., 0].square()
        )

    x = sample(GeodesicNUTS(ambient, chains=32, max_tree_depth=6), 60, 60).get_samples(group_by_chain=True)[
        "x"
    ]
    z = sample(GeodesicNUTS(chart, chains=32, max_tree_depth=6), 100, 200).get_samples(group_by_chain=True)[
        "z"
    ]
    y = m.transform(z)
    for f in (lambda x: x[..., 2], lambda x: x[..., 0].square(), lambda x: x[..., 1].square()):
        a, b = f(x), f(y)
        ess = [float(effective_sample_size(s.clone(), 0, 1)) for s in (a, b)]
        se = math.sqrt(float(a.var()) / ess[0] + float(b.var()) / ess[1])
        assert abs(float(a.mean() - b.mean())) < 4 * se


def test_steps_that_cannot_return_are_refused():
    """A small and a large step about a thin torus: some projections fail, some land on the other side, the
    rest is exact."""
    geo = geometry(torus(1.0, 0.2))
    system = System(lambda z: 0 * z["x"].sum(-1), {"x": geo}, {"x": torch.Size([3])})
    torch.manual_seed(1)
    x = geo.wander(geo.manifold.point.expand(200, 3), 8)
    state = system.state({"x": x}, system.draw({"x": x}))
    backwards = torch.arange(200).flip(0)  # row i is chain 199 - i
    end = geodesic_leapfrog(system, state, torch.full((200, 1), 0.3, dtype=F64), backwards)
    motion = system.sites[0].momentum
    refused = motion.refused
    stays = end.w.isnan().any(-1)
    assert refused["not converged"] and refused["not reversible"]
    assert refused["not converged"] + refused["not reversible"] == Counter(backwards[stays].tolist())
    assert 0 < int(stays.sum()) < 200
    assert torch.equal(end.z["x"][stays], x[stays]) and not end.energy()[stays].isfinite().any()
    moved = end.take((~stays).nonzero().squeeze(-1))  # what was not refused goes back
    back = run(system, moved.with_momentum(-moved.w), 0.3, 1)
    assert (back.z["x"] - x[~stays]).abs().max() < 1e-7
    motion.strict = True
    lost = int(geo.step(x, state.w, torch.full((200,), 0.3, dtype=F64))[2].logical_not().nonzero()[0])
    with pytest.raises(
        ConvergenceError,
        match="found no point of ImplicitManifold in 1 of 1 chains; take a smaller step_size",
    ):
        run(system, state.take(torch.tensor([lost])), 0.3, 1)
    astray = [
        i
        for i in stays.nonzero().flatten().tolist()
        if bool(geo.step(x[i : i + 1], state.w[i : i + 1], tensor(0.3))[2])
    ]
    with pytest.raises(NonReversibleStepError, match="does not return to its start in 1 of 1 chains"):
        run(system, state.take(torch.tensor(astray[:1])), 0.3, 1)


def test_a_site_in_a_plate_under_pyros_own_driver():
    m = curve()

    def model():
        s = pyro.sample("s", dist.LogNormal(tensor(0.0)[0], 0.2))
        with pyro.plate("n", 2):
            x = pyro.sample("x", dist.ImproperUniform(on(m), (), (3,)))
            pyro.sample("y", dist.Normal(x[..., 0], s), obs=tensor(0.9, -0.5))

    mcmc = MCMC(GeodesicNUTS(model, max_tree_depth=3), num_samples=5, warmup_steps=5, disable_progbar=True)
    mcmc.run()
    x = mcmc.get_samples()["x"]
    assert x.shape == (5, 2, 3) and geometry(m).contains(x, 1e-12).all()


def test_a_start_off_the_manifold_names_the_projection():
    k = GeodesicNUTS(potential_fn=lambda z: z["x"].sum(), manifolds={"x": sphere()})
    mcmc = MCMC(k, 5, 5, initial_params={"x": tensor(0.0, 0.0, 2.0)}, disable_progbar=True)
    with pytest.raises(
        InvalidStartError, match=r"not on ImplicitManifold; project it first with .*project\(value\)"
    ):
        mcmc.run()
