"""What becomes observed data and log likelihood in ArviZ: observations, whatever else Pyro marks as observed.

The log likelihoods are compared with sums over rows written out by hand.
"""

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC
from pyro.infer.reparam import LocScaleReparam

import pyro_manifold.distributions as mdist
from pyro_manifold.infer import GeodesicNUTS, ManifoldReparam, VectorizedMCMC, to_inference_data

F64 = torch.float64
SPHERE = geoopt.Sphere()
ROWS = torch.nn.functional.normalize(
    torch.tensor([[0.0, 0.1, 1.0], [0.3, 0.0, 1.0], [0.0, -0.2, 1.0]], dtype=F64), dim=-1
)
MASK = torch.tensor([True, True, False])
ONE = torch.ones((), dtype=F64)


def everything(data=ROWS):
    """One of each kind of site that Pyro marks as observed."""
    mu = pyro.sample("mu", mdist.ManifoldUniform(SPHERE, 3, dtype=F64))
    centre = pyro.sample("centre", mdist.WrappedNormal(SPHERE, mu, 0.3 * ONE))  # exactly reparametrised
    shift = pyro.sample("shift", dist.Normal(0 * ONE, ONE))  # by Pyro's LocScaleReparam
    pyro.deterministic("plain", shift + 1)
    pyro.deterministic("point", centre, event_dim=1)
    pyro.factor("factor", -shift.square())
    pyro.sample("delta", dist.Delta(shift).mask(False), obs=shift)
    with pyro.plate("rows", 3):
        pyro.deterministic("row", mu.expand(3, 3), event_dim=1)
        pyro.sample("x", mdist.VonMisesFisher(centre, 5 * ONE), obs=data)
        pyro.sample("masked", mdist.VonMisesFisher(centre, 5 * ONE).mask(MASK), obs=data)
        pyro.sample("missing", mdist.VonMisesFisher(centre, 5 * ONE), obs=data, obs_mask=MASK)
        with poutine.mask(mask=MASK):
            pyro.sample("handled", dist.Normal(shift, ONE), obs=data[:, 0])
    pyro.sample("event", mdist.VonMisesFisher(centre, 5 * ONE).expand((3,)).to_event(1), obs=data)


DATA = {"x", "masked", "missing_observed", "handled", "event"}


@pytest.fixture(scope="module")
def converted():
    model = poutine.reparam(ManifoldReparam()(everything), {"shift": LocScaleReparam(0.0)})
    mcmc = VectorizedMCMC(GeodesicNUTS(model, chains=2, max_tree_depth=1), 25, 2, disable_progbar=True)
    mcmc.run()
    return mcmc.get_samples(group_by_chain=True), to_inference_data(mcmc, log_likelihood=True)


def test_only_observations_are_data(converted):
    _, data = converted
    assert set(data["observed_data"].data_vars) == set(data["log_likelihood"].data_vars) == DATA


def test_log_likelihoods(converted):
    """Rows of vMF(5) on the sphere, log(5 / (4 pi sinh 5)) + 5 <centre, x>, at the centre that the draws
    imply."""
    samples, data = converted
    mu = torch.nn.functional.normalize(samples["mu_ambient"], dim=-1)
    centre = mdist.WrappedNormal(SPHERE, mu, 0.3 * ONE).transforms[0](0.3 * samples["centre_tangent"])
    expected = (5 / (4 * torch.pi * torch.sinh(5 * ONE))).log() + 5 * torch.einsum(
        "cdi,ni->cdn", centre, ROWS
    )
    got = {k: torch.as_tensor(v.values.copy()) for k, v in data["log_likelihood"].data_vars.items()}
    assert torch.allclose(got["x"], expected)
    assert torch.allclose(got["event"], expected.sum(-1))
    for name in ("masked", "missing_observed"):
        assert torch.allclose(got[name], expected * MASK)
    assert (got["handled"][..., 2] == 0).all() and (got["handled"][..., :2] != 0).all()


@pytest.mark.filterwarnings("ignore::UserWarning")  # few draws
def test_loo_runs(converted):
    az = pytest.importorskip("arviz")
    if hasattr(az, "loo"):
        loo = az.loo(converted[1], var_name="x")
        assert float(loo.elpd if hasattr(loo, "elpd") else loo.elpd_loo) < 0  # ArviZ 1.x, 0.x


def test_enumerated_sites_have_no_likelihood():
    def model():
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5, dtype=F64)), infer={"enumerate": "parallel"})
        mu = pyro.sample("mu", dist.Normal(0 * ONE, ONE))
        pyro.sample("y", dist.Normal(mu + z, ONE), obs=ONE)

    mcmc = MCMC(GeodesicNUTS(model), 4, 4, disable_progbar=True)
    mcmc.run()
    with pytest.raises(ValueError, match=r"no draws of the latent sites \['z'\]"):
        to_inference_data(mcmc, log_likelihood=True)
    assert set(to_inference_data(mcmc)["observed_data"].data_vars) == {"y"}
