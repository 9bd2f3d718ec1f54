r"""Two von Mises components on the torus, which component an observation belongs to summed out.

.. math:: y_i \sim \sum_k w_k \prod_{j=1}^2 \mathrm{vM}(m_{kj}, c_{kj}),\quad m_{kj} \sim \mathrm{vM}(0, 1/2),\quad
    \log c_{kj} \sim N(1, 1),\quad w \sim \mathrm{Dirichlet}(1, 1)
"""

import math

import pyro
import pyro.distributions as dist
import torch

import pyro_manifold.distributions as mdist
from pyro_manifold.geometry import Torus


def data():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        one = dist.VonMises(torch.tensor([0.5, -2.5]), torch.tensor([4.0, 2.0])).sample((60,))
        two = dist.VonMises(torch.tensor([2.5, 1.0]), torch.tensor([3.0, 6.0])).sample((40,))
        return (torch.cat([one, two]),)


def log_von_mises(x, mean, concentration):
    return (
        concentration * ((x - mean).cos() - 1)
        - torch.special.i0e(concentration).log()
        - math.log(2 * math.pi)
    )


def log_mixture(y, w, mean, concentration):
    """(..., rows); components along the axis before the last of ``mean`` (..., 2, 2) and the last of ``w``."""
    each = log_von_mises(y.unsqueeze(-2), mean.unsqueeze(-3), concentration.unsqueeze(-3)).sum(-1)
    return torch.logsumexp(each + w.log().unsqueeze(-2), -1)


def rest(y, mean):
    """What follows the means, which Pyro's NUTS has as directions."""
    pyro.factor("prior", log_von_mises(mean, 0.0, torch.tensor(0.5)).sum((-1, -2)))
    c = pyro.sample("concentration", dist.LogNormal(torch.ones(2, 2), 1.0).to_event(2))
    w = pyro.sample("w", dist.Dirichlet(torch.ones(2)))
    pyro.factor("y", log_mixture(y, w, mean, c).sum(-1))


def here(y):
    rest(y, pyro.sample("mean", mdist.ManifoldUniform(Torus(), 2).expand([2]).to_event(1)))


def with_pyro(y):
    v = pyro.sample("v", dist.Normal(torch.zeros(2, 2, 2), 1.0).to_event(3))
    rest(y, torch.atan2(v[..., 1], v[..., 0]))


def with_numpyro(y):
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as ndist
    from numpyro.infer.reparam import CircularReparam

    with numpyro.handlers.reparam(config={"mean": CircularReparam()}):
        mean = numpyro.sample("mean", ndist.VonMises(0, 0.5).expand([2, 2]).to_event(2))
    c = numpyro.sample("concentration", ndist.LogNormal(1, 1).expand([2, 2]).to_event(2))
    w = numpyro.sample("w", ndist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("n", len(y)):
        numpyro.sample(
            "y", ndist.MixtureSameFamily(ndist.Categorical(w), ndist.VonMises(mean, c).to_event(1)), obs=y
        )


def from_peers(s):
    return {**s, "mean": torch.atan2(s["v"][..., 1], s["v"][..., 0])} if "v" in s else s


def statistics(s, y):
    """Of the mixture, whatever its components' order: log density of the data and at 9 points of the torus, sum of the
    squared weights, sum of the logarithms of the concentrations."""
    w, mean, c = s["w"], s["mean"], s["concentration"]
    angles = torch.tensor([-2.0, 0.0, 2.0])
    grid = torch.cartesian_prod(angles, angles)
    parts = log_mixture(y, w, mean, c).sum(-1), log_mixture(grid, w, mean, c)
    return *parts, w.square().sum(-1), c.log().sum((-1, -2))
