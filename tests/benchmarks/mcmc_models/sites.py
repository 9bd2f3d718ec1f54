r"""8 site means and concentrations about a grand mean on S^2, 15 observations of each.

.. math:: y_{ij} \sim \mathrm{vMF}(m_j, k_j),\quad m_j \sim \mathrm{vMF}(g, b),\quad g \sim \mathrm U(S^2),\quad
    \log b \sim N(2, 1),\quad \log k_j \sim N(3, 1)
"""

import geoopt
import pyro
import pyro.distributions as dist
import torch

import pyro_manifold.distributions as mdist


def data():
    with torch.random.fork_rng():
        torch.manual_seed(7)
        centre = mdist.VonMisesFisher(torch.tensor([0.0, 0.6, 0.8]), torch.tensor(10.0)).sample((8,))
        return (mdist.VonMisesFisher(centre, torch.tensor(50.0)).sample((15,)),)


def here(y):
    grand = pyro.sample("grand", mdist.ManifoldUniform(geoopt.Sphere(), 3))
    between = pyro.sample("between", dist.LogNormal(torch.tensor(2.0), 1.0))
    with pyro.plate("site", 8, dim=-1):
        mean = pyro.sample("mean", mdist.VonMisesFisher(grand, between, validate_args=False))
        within = pyro.sample("within", dist.LogNormal(torch.tensor(3.0), 1.0))
        with pyro.plate("observation", 15, dim=-2):
            pyro.sample("y", mdist.VonMisesFisher(mean, within, validate_args=False), obs=y)


def with_pyro(y):
    def log_vmf(x, mean, k):
        return k * ((x * mean).sum(-1) - 1) + (k / (2 * torch.pi)).log() - torch.log1p(-(-2 * k).exp())

    grand = unit(pyro.sample("grand", dist.Normal(torch.zeros(3), 1.0).to_event(1)))
    between = pyro.sample("between", dist.LogNormal(torch.tensor(2.0), 1.0))
    mean = unit(pyro.sample("mean", dist.Normal(torch.zeros(8, 3), 1.0).to_event(2)))
    within = pyro.sample("within", dist.LogNormal(torch.full((8,), 3.0), 1.0).to_event(1))
    pyro.factor("means", log_vmf(mean, grand, between).sum())
    pyro.factor("y", log_vmf(y, mean, within).sum())


def with_numpyro(y):
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as ndist

    def unit(v):
        return v / jnp.linalg.norm(v, axis=-1, keepdims=True)

    def log_vmf(x, mean, k):
        return k * ((x * mean).sum(-1) - 1) + jnp.log(k / (2 * jnp.pi)) - jnp.log1p(-jnp.exp(-2 * k))

    grand = unit(numpyro.sample("grand", ndist.Normal(0, 1).expand([3]).to_event(1)))
    between = numpyro.sample("between", ndist.LogNormal(2, 1))
    with numpyro.plate("site", 8):
        mean = unit(numpyro.sample("mean", ndist.Normal(0, 1).expand([3]).to_event(1)))
        within = numpyro.sample("within", ndist.LogNormal(3, 1))
    numpyro.factor("means", log_vmf(mean, grand, between).sum())
    numpyro.factor("y", log_vmf(y, mean, within).sum())


def unit(v):
    return v / v.norm(dim=-1, keepdim=True)


def from_peers(s):
    return {**s, "grand": unit(s["grand"]), "mean": unit(s["mean"])}


def statistics(s, *data):
    """Logarithms of all concentrations, grand mean and site means."""
    return s["between"].log(), s["within"].log(), s["grand"], s["mean"]
