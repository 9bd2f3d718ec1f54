r"""Which rotation took 20 known directions to these noisy ones? The noise is unknown too.

.. math:: y_i \sim N(R v_i, \sigma^2),\quad R \sim \mathrm U(SO(3)),\quad \log\sigma \sim N(-1, 1)
"""

import pyro
import pyro.distributions as dist
import torch

import pyro_manifold.distributions as mdist
from pyro_manifold.geometry import SpecialOrthogonal


def data():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        v = torch.nn.functional.normalize(torch.randn(20, 3), dim=-1)
        return v, v + 0.2 * torch.randn(20, 3)


def here(v, y):
    r = pyro.sample("r", mdist.ManifoldUniform(SpecialOrthogonal(3), (3, 3)))
    sigma = pyro.sample("sigma", dist.LogNormal(torch.tensor(-1.0), 1.0))
    with pyro.plate("n", len(y)):
        mean = ((r.unsqueeze(-3) if r.dim() == 2 else r) @ v.unsqueeze(-1)).squeeze(-1)
        pyro.sample("y", dist.Normal(mean, sigma.unsqueeze(-1)).to_event(1), obs=y)


def with_pyro(v, y):
    q = pyro.sample("r", dist.Normal(torch.zeros(4), 1.0).to_event(1))
    sigma = pyro.sample("sigma", dist.LogNormal(torch.tensor(-1.0), 1.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(v @ rotation(q).mT, sigma).to_event(1), obs=y)


def with_numpyro(v, y):
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as ndist
    from mcmc_jax import matrix_of

    q = numpyro.sample("r", ndist.Normal(0, 1).expand([4]).to_event(1))
    r = matrix_of(q / jnp.linalg.norm(q))
    sigma = numpyro.sample("sigma", ndist.LogNormal(-1, 1))
    with numpyro.plate("n", len(y)):
        numpyro.sample("y", ndist.Normal(v @ r.T, sigma).to_event(1), obs=y)


def rotation(q):
    """Of the direction of a quaternion."""
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def from_peers(s):
    return {**s, "r": rotation(s["r"])}


def statistics(s, *data):
    """The rotation's matrix and the log of the noise."""
    return s["r"], s["sigma"].log()
