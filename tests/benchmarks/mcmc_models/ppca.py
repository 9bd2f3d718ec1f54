r"""Probabilistic PCA with an orthonormal loading frame: 2 factors of 8 variables, 60 rows.

.. math:: y_i \sim N(0,\; W \mathrm{diag}(s)^2 W^\top + \sigma^2 I),\quad W \sim \mathrm U(V(8, 2)),\quad
    \log s_k \sim N(0, 1),\quad \log\sigma \sim N(-1, 1)
"""

import geoopt
import pyro
import pyro.distributions as dist
import torch

import pyro_manifold.distributions as mdist


def data():
    with torch.random.fork_rng():
        torch.manual_seed(11)
        w = torch.linalg.qr(torch.randn(8, 2)).Q
        return (torch.randn(60, 2) * torch.tensor([2.0, 1.0]) @ w.mT + 0.5 * torch.randn(60, 8),)


def rest(y, w, s):
    sigma = pyro.sample("sigma", dist.LogNormal(torch.tensor(-1.0), 1.0))
    with pyro.plate("n", len(y)):
        d = sigma.unsqueeze(-1).square().expand(sigma.shape + (8,))
        pyro.sample("y", dist.LowRankMultivariateNormal(torch.zeros(8), w * s.unsqueeze(-2), d), obs=y)


def here(y):
    w = pyro.sample("w", mdist.ManifoldUniform(geoopt.Stiefel(), (8, 2)))
    rest(y, w, pyro.sample("s", dist.LogNormal(torch.zeros(2), 1.0).to_event(1)))


def with_pyro(y):
    w = pyro.sample("w", dist.Normal(torch.zeros(8, 2), 1.0).to_event(2))
    rest(y, torch.linalg.qr(w).Q, pyro.sample("s", dist.LogNormal(torch.zeros(2), 1.0).to_event(1)))


def with_numpyro(y):
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as ndist

    w = jnp.linalg.qr(numpyro.sample("w", ndist.Normal(0, 1).expand([8, 2]).to_event(2)))[0]
    s = numpyro.sample("s", ndist.LogNormal(0, 1).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", ndist.LogNormal(-1, 1))
    with numpyro.plate("n", len(y)):
        d = jnp.full(8, sigma**2)
        numpyro.sample("y", ndist.LowRankMultivariateNormal(jnp.zeros(8), w * s, d), obs=y)


def from_peers(s):
    return {**s, "w": torch.linalg.qr(s["w"]).Q}


def statistics(s, *data):
    """Projector onto the factors' plane, logarithms of the factors' sizes in order and of the noise."""
    projector = (s["w"] @ s["w"].mT)[(..., *torch.triu_indices(8, 8))]
    return projector, s["s"].log().sort(-1).values, s["sigma"].log()
