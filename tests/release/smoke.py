"""What a user does on the first day, from an empty folder with nothing but the installed wheel."""

import geoopt
import pyro
import pyro.distributions as dist
import torch

import pyro_manifold.distributions as mdist
from pyro_manifold.flows import SphereFlow
from pyro_manifold.infer import AutoManifoldNormal, GeodesicNUTS
from pyro_manifold.models import ManifoldVAE

pyro.set_rng_seed(0)
truth = torch.tensor([0.0, 0.6, 0.8])
data = mdist.VonMisesFisher(truth, torch.tensor(20.0)).sample((200,))


def model(x: torch.Tensor) -> None:
    mean = pyro.sample("mean", mdist.ManifoldUniform(geoopt.Sphere(), (3,)))
    with pyro.plate("n", len(x)):
        pyro.sample("x", mdist.VonMisesFisher(mean, torch.tensor(20.0)), obs=x)


guide = AutoManifoldNormal(model)
svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), pyro.infer.Trace_ELBO())
for _ in range(150):
    svi.step(data)
assert guide.median()["mean"] @ truth > 0.99, guide.median()

mcmc = pyro.infer.MCMC(GeodesicNUTS(model), num_samples=50, warmup_steps=50, disable_progbar=True)
mcmc.run(data)
draws = mcmc.get_samples()["mean"]
assert torch.nn.functional.normalize(draws.mean(0), dim=-1) @ truth > 0.99, draws

flow = dist.TransformedDistribution(mdist.ManifoldUniform(geoopt.Sphere(), (3,)), [SphereFlow(2)])
assert torch.isfinite(flow.log_prob(data)).all()

vae = ManifoldVAE(geoopt.Sphere(), dim=2, data_dim=8)
assert torch.isfinite(vae.iwae(torch.rand(5, 8).round(), 3)).all()
