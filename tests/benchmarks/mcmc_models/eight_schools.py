r"""Eight schools, non-centred; no site on a manifold.

.. math:: y_j \sim N(\mu + \tau z_j, e_j^2),\quad \mu \sim N(0, 5^2),\quad \tau \sim \mathrm{HalfCauchy}(5),\quad
    z_j \sim N(0, 1)
"""

import pyro
import pyro.distributions as dist
import torch


def data():
    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    return y, torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def here(y, error):
    mu = pyro.sample("mu", dist.Normal(torch.tensor(0.0), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(torch.tensor(5.0)))
    with pyro.plate("school", 8):
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(mu + tau * z, error), obs=y)


with_pyro = here


def with_numpyro(y, error):
    import numpyro
    import numpyro.distributions as ndist

    mu = numpyro.sample("mu", ndist.Normal(0, 5))
    tau = numpyro.sample("tau", ndist.HalfCauchy(5))
    with numpyro.plate("school", 8):
        z = numpyro.sample("z", ndist.Normal(0, 1))
        numpyro.sample("y", ndist.Normal(mu + tau * z, error), obs=y)


def from_peers(s):
    return s


def statistics(s, *data):
    """The mean, the log of the spread, and each school's effect."""
    return s["mu"], s["tau"].log(), s["mu"].unsqueeze(-1) + s["tau"].unsqueeze(-1) * s["z"]
