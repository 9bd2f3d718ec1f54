"""Riemannian optimisers: geoopt's own steps through Pyro's store, Fréchet means by SVI, resuming, ordinary
parameters."""

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import INFERENCE_GEOMETRIES
from pyro.distributions import constraints
from pyro.infer import SVI, Trace_ELBO

import pyro_manifold.distributions as mdist
from pyro_manifold.constraints import on
from pyro_manifold.geometry import geometry
from pyro_manifold.infer import AutoManifoldDelta, AutoManifoldNormal, RiemannianAdam, RiemannianSGD

F64 = torch.float64
SPHERE, SPD = geoopt.Sphere(), geoopt.SymmetricPositiveDefinite()
S1_H2 = geoopt.ProductManifold((geoopt.Sphere(), 2), (geoopt.PoincareBall(), 2))


def points(manifold, event_shape, n=8, spread=0.3):
    """Points scattered about one that is not the origin."""
    geo = geometry(manifold)
    d = geo.dim(event_shape)
    centre = geo.exp_frame(geo.base_point(event_shape, dtype=F64), torch.linspace(0.2, 0.5, d, dtype=F64))
    v = spread * torch.randn(n, d, dtype=F64)
    return geo.exp_frame(centre.expand((n, *centre.shape)), v)


def karcher_mean(manifold, xs):
    """By its own iteration, to 1e-12."""
    geo, m = geometry(manifold), xs[0]
    for _ in range(100):
        v = geo.log_frame(m.expand_as(xs), xs).mean(0)
        m = geo.exp_frame(m, v)
        if v.norm() < 1e-12:
            return m
    raise AssertionError("the mean was not found")


def potential(x, weights):
    return (x.reshape(-1) * weights).sin().sum()


@pytest.mark.parametrize(
    "ours, peer",
    [(RiemannianAdam, geoopt.optim.RiemannianAdam), (RiemannianSGD, geoopt.optim.RiemannianSGD)],
    ids=["adam", "sgd"],
)
@pytest.mark.parametrize("name", INFERENCE_GEOMETRIES)
def test_steps_are_geoopts(name, ours, peer):
    """Whatever chart Pyro stores the parameter in, five steps are those of geoopt on a ManifoldParameter."""
    case = INFERENCE_GEOMETRIES[name]
    manifold, start = case.manifold(), points(case.manifold(), case.event_shape())[0]
    weights = torch.randn(start.numel(), dtype=F64)
    args = {"lr": 0.03}

    def loss(model, guide):
        return potential(pyro.param("x", start.clone(), constraint=on(manifold)), weights)

    svi = SVI(lambda: None, lambda: None, ours(args), loss)
    x = geoopt.ManifoldParameter(start.clone(), manifold=manifold)
    optimiser = peer([x], **args)
    for _ in range(5):
        svi.step()
        optimiser.zero_grad()
        potential(x, weights).backward()
        optimiser.step()
        assert torch.allclose(pyro.param("x"), x, atol=1e-8)
    assert on(manifold).check(pyro.param("x")) and (x - start).abs().max() > 0.01


@pytest.mark.parametrize("manifold, shape", [(SPHERE, (3,)), (SPD, (2, 2))], ids=["sphere", "spd"])
def test_frechet_mean_by_svi(manifold, shape):
    """A Delta guide under a flat prior and a Riemannian normal likelihood: the maximum is the Fréchet
    mean."""
    xs, sigma = points(manifold, shape), torch.tensor(0.3, dtype=F64)

    def model():
        mu = pyro.sample("mu", dist.ImproperUniform(on(manifold), (), shape))
        with pyro.plate("n", len(xs)):
            pyro.sample("x", mdist.RiemannianNormal(manifold, mu, sigma), obs=xs)

    guide = AutoManifoldDelta(model, init_loc_fn=lambda site: xs[0].clone())
    svi = SVI(model, guide, RiemannianSGD({"lr": float(sigma) ** 2 / len(xs)}), Trace_ELBO())
    for _ in range(30):
        svi.step()
    geo, mean = geometry(manifold), karcher_mean(manifold, xs)
    assert geo.dist(guide.median()["mu"], mean) < 1e-7
    assert geo.dist(xs[0], mean) > 0.05  # it had somewhere to go


def test_flat_prior_starts_somewhere():
    guide = AutoManifoldDelta(lambda: pyro.sample("z", dist.ImproperUniform(on(SPD), (), (2, 2))))
    z = guide()["z"].detach()
    assert on(SPD).check(z) and not torch.equal(z, torch.eye(2))
    pyro.clear_param_store()
    ordinary = AutoManifoldDelta(lambda: pyro.sample("z", dist.Normal(3.0, 0.0001)))()[
        "z"
    ]  # starts at the median, as in Pyro
    assert ordinary.item() == pytest.approx(3, abs=0.01)


def test_ordinary_parameters_get_adam():
    def loss(model, guide):
        s = pyro.param("s", torch.tensor(2.0, dtype=F64), constraint=constraints.positive)
        return (s - 1) ** 2

    values = []
    for optimiser in (RiemannianAdam({"lr": 0.1}), pyro.optim.Adam({"lr": 0.1})):
        pyro.clear_param_store()
        svi = SVI(lambda: None, lambda: None, optimiser, loss)
        for _ in range(10):
            svi.step()
        values.append(pyro.param("s").item())
    assert values[0] == pytest.approx(values[1], abs=1e-6) and values[0] < 1.5


def test_batches_and_independent_constraints():
    xs = points(SPHERE, (3,))

    def loss(model, guide):
        y = pyro.param("y", lambda: xs.roll(1, 0), constraint=constraints.independent(on(SPHERE), 1))
        return (y - xs).square().sum()

    svi = SVI(lambda: None, lambda: None, RiemannianSGD({"lr": 0.25}), loss)
    for _ in range(40):
        svi.step()
    assert torch.allclose(pyro.param("y"), xs, atol=1e-6)


def test_state_resumes(tmp_path):
    """Optimiser and parameters saved in mid-run and loaded go on as if nothing had happened; the parameters
    pickle plainly."""
    ball, weights = geoopt.PoincareBall(), torch.tensor([1.0, -0.5], dtype=F64)
    start = points(ball, (2,))[0]

    def loss(model, guide):
        return potential(pyro.param("x", start.clone(), constraint=on(ball)), weights)

    def run(optimiser, steps):
        svi = SVI(lambda: None, lambda: None, optimiser, loss)
        for _ in range(steps):
            svi.step()

    first = RiemannianAdam({"lr": 0.05})
    run(first, 4)
    first.save(str(tmp_path / "optim"))
    pyro.get_param_store().save(str(tmp_path / "params"))
    assert type(dict(pyro.get_param_store().named_parameters())["x"]) is torch.Tensor
    run(first, 4)
    expected = pyro.param("x").detach().clone()
    pyro.clear_param_store()
    pyro.get_param_store().load(str(tmp_path / "params"))
    second = RiemannianAdam({"lr": 0.05})
    second.load(str(tmp_path / "optim"))
    run(second, 4)
    assert torch.allclose(
        pyro.param("x"), expected, atol=1e-5
    )  # torch loads geoopt's count of steps in float32


def test_centres_of_a_guide_move_on_their_manifold():
    def model():
        z = pyro.sample("z", mdist.ManifoldUniform(SPHERE, 3, dtype=F64))
        pyro.sample(
            "x",
            mdist.VonMisesFisher(z, torch.tensor(20.0, dtype=F64)),
            obs=torch.tensor([0.0, 0.6, 0.8], dtype=F64),
        )

    guide = AutoManifoldNormal(model)
    svi = SVI(
        model, guide, RiemannianAdam({"lr": 0.05}), Trace_ELBO(num_particles=4, vectorize_particles=True)
    )
    for _ in range(100):
        svi.step()
    stored = dict(pyro.get_param_store().named_parameters())["AutoManifoldNormal.locs.z"]
    assert float(stored.detach().norm()) == pytest.approx(
        1, abs=1e-9
    )  # plain Adam lets it drift off the sphere
    assert guide.median()["z"] @ torch.tensor([0.0, 0.6, 0.8], dtype=F64) > 0.97
