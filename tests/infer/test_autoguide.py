"""AutoManifoldNormal: recovers posteriors, subsamples, saves, and treats ordinary sites as Pyro does."""

import pickle

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_value

from pyro_manifold.constraints import on
from pyro_manifold.distributions import ManifoldUniform, VonMisesFisher, WrappedNormal
from pyro_manifold.infer import AutoManifoldNormal

F64 = torch.float64
SPHERE = geoopt.Sphere()
DATA = torch.nn.functional.normalize(
    torch.tensor([[0.1, -0.9, 0.2], [0.0, -1.0, 0.1], [-0.1, -0.8, 0.3], [0.2, -0.9, 0.0]], dtype=F64), dim=-1
)


def directions(data=DATA):
    mu = pyro.sample("mu", ManifoldUniform(SPHERE, 3, dtype=F64))
    s = pyro.sample("s", dist.LogNormal(torch.tensor(0.0, dtype=F64), 0.5))
    with pyro.plate("n", len(data)):
        pyro.sample("x", VonMisesFisher(mu, 10 * s), obs=data)


@pytest.mark.parametrize("family", ["wrapped", "riemannian", "von_mises_fisher"])
def test_posterior_of_a_mean_direction(family):
    """With known concentration the posterior is von Mises-Fisher about the mean direction, R kappa: centre
    and spread."""
    kappa = torch.tensor(5.0, dtype=F64)

    def model():
        mu = pyro.sample("mu", ManifoldUniform(SPHERE, 3, dtype=F64))
        with pyro.plate("n", len(DATA)):
            pyro.sample("x", VonMisesFisher(mu, kappa), obs=DATA)

    torch.manual_seed(0)
    guide = AutoManifoldNormal(model, family=family)
    svi = SVI(
        model, guide, pyro.optim.Adam({"lr": 0.06}), Trace_ELBO(num_particles=8, vectorize_particles=True)
    )
    for _ in range(150):
        svi.step()
    total = DATA.sum(0)
    assert float(guide.median()["mu"] @ total / total.norm()) > 0.99
    spread = float(guide.scales.mu.detach().mean())
    assert spread == pytest.approx(float((kappa * total.norm()) ** -0.5), rel=0.15)
    assert on(SPHERE).check(guide()["mu"])


def test_ordinary_sites_agree_with_autonormal():
    guide, pyros = AutoManifoldNormal(directions), AutoNormal(pyro.poutine.block(directions, hide=["mu"]))
    guide(), pyros()
    guide.locs.s = pyros.locs.s = torch.tensor(0.3, dtype=F64)
    guide.scales.s = pyros.scales.s = torch.tensor(0.2, dtype=F64)
    for a, b in zip(guide.quantiles([0.1, 0.5])["s"], pyros.quantiles([0.1, 0.5])["s"], strict=True):
        assert torch.allclose(a, b)
    assert torch.allclose(guide.median()["s"], pyros.median()["s"])
    assert "mu" not in guide.quantiles([0.5])


def test_subsampled_plate_keeps_one_centre_per_row():
    def model(data):
        with pyro.plate("n", len(data), subsample_size=2) as i:
            z = pyro.sample("z", ManifoldUniform(SPHERE, 3, dtype=F64))
            pyro.sample("x", VonMisesFisher(z, torch.tensor(20.0, dtype=F64)), obs=data[i])

    guide = AutoManifoldNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(150):
        svi.step(DATA)
    assert guide.locs.z.shape == (4, 3)
    assert ((guide.locs.z * DATA).sum(-1) > 0.97).all()


def test_init_state_and_predictive(tmp_path):
    mu = torch.tensor([0.0, 0.0, 1.0], dtype=F64)
    guide = AutoManifoldNormal(
        directions, init_loc_fn=init_to_value(values={"mu": mu, "s": torch.tensor(1.0, dtype=F64)})
    )
    guide()
    assert torch.allclose(guide.median()["mu"], mu)
    other = AutoManifoldNormal(directions)
    other()
    other.load_state_dict(guide.state_dict())
    assert torch.allclose(other.median()["mu"], mu)
    assert torch.allclose(pickle.loads(pickle.dumps(guide)).locs.mu, guide.locs.mu)
    draws = Predictive(directions, guide=guide, num_samples=7)(DATA)
    assert draws["x"].shape == (7, 4, 3)


def test_errors():
    with pytest.raises(ValueError, match="family: got .'normal'.*'wrapped'"):
        AutoManifoldNormal(directions, family="normal")
    distribution = WrappedNormal(geoopt.PoincareBall(), torch.zeros(2), 1.0)
    ball = AutoManifoldNormal(lambda: pyro.sample("z", distribution), family="von_mises_fisher")
    with pytest.raises(ValueError, match="'von_mises_fisher' lives on spheres, got a site on PoincareBall"):
        ball()
