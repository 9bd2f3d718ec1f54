"""Chains are started and evaluated together: no distribution sends them to the loop, and their number does not count in runs
of the model."""

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import DISTRIBUTIONS, tensors
from pyro.infer.autoguide.initialization import init_to_sample, init_to_uniform
from torch import Tensor

from pyro_manifold.distributions import ManifoldUniform, VonMisesFisher, WrappedNormal
from pyro_manifold.geometry import geometry
from pyro_manifold.infer import GeodesicNUTS
from pyro_manifold.infer.mcmc.potential import ChainBatch


@pytest.mark.parametrize("case", [c for c in DISTRIBUTIONS if c.params], ids=lambda c: c.name)
def test_vectorised(case) -> None:
    """As a user's potential of one chain, in the value, with the same numbers as one by one."""
    torch.manual_seed(0)
    params = tensors(case.params, dtype=torch.float64)
    d = case.make(**params)
    z = {"x": d.sample((3,))}

    def potential(at: dict[str, Tensor]) -> Tensor:
        if at["x"].shape != d.event_shape:
            raise ValueError("x: this potential is of one chain")
        return -case.make(**params).log_prob(at["x"])

    batch = ChainBatch(potential, z)
    assert batch.how == "vmap"
    torch.testing.assert_close(batch(z), -d.log_prob(z["x"]))


def sites(x):
    """A hierarchy that takes chains as an outer plate."""
    mean = pyro.sample("mean", ManifoldUniform(geoopt.Sphere(), 3))
    tightness = pyro.sample("tightness", dist.LogNormal(0.0, 1.0))
    with pyro.plate("sites", 4):
        own = pyro.sample("own", VonMisesFisher(mean, 10 * tightness))
        with pyro.plate("rows", 5):
            pyro.sample("x", VonMisesFisher(own, 10.0), obs=x)


def first_coordinate(x):
    """A model that does not: it reads the first number of an axis that may be the chains'."""
    z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z[0], 1.0), obs=x)


class Counted:
    """A model that counts its runs."""

    def __init__(self, model):
        self.model, self.runs = model, 0

    def __call__(self, *args):
        self.runs += 1
        return self.model(*args)


@pytest.mark.parametrize("strategy", [init_to_uniform, init_to_sample], ids=lambda f: f.__name__)
def test_starts_of_many_chains_take_as_many_runs_of_the_model_as_those_of_a_few(strategy):
    x = VonMisesFisher(torch.tensor([0.0, 0.6, 0.8]), 10.0).sample((5, 4))
    runs = []
    for chains in (32, 256):
        counted = Counted(sites)
        kernel = GeodesicNUTS(counted, chains=chains, init_strategy=strategy)
        kernel.setup(0, x)
        z = kernel.initial_params
        assert {k: v.shape for k, v in z.items()} == {
            "mean": (chains, 3), "tightness": (chains,), "own": (chains, 4, 3),
        }  # fmt: skip
        assert len(z["mean"].unique(dim=0)) == chains and bool(
            geometry(geoopt.Sphere()).contains(z["own"]).all()
        )
        runs.append(counted.runs)
    assert runs[1] <= runs[0] + 5 < 60  # the first step size is found by trial


def test_starts_are_drawn_one_by_one_where_the_model_does_not_take_a_plate():
    kernel = GeodesicNUTS(first_coordinate, chains=20)
    kernel.setup(0, torch.tensor(1.0))
    assert kernel.initial_params["z"].shape == (20, 3) and len(kernel.initial_params["z"].unique()) == 60


def half_impossible(x):
    """Starts with a negative first coordinate have no density."""
    z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
    pyro.factor("half", torch.where(z > 0, 0.0, -torch.inf))


@pytest.mark.parametrize("chains", [3, 40])
def test_starts_without_a_density_are_drawn_again(chains):
    kernel = GeodesicNUTS(half_impossible, chains=chains, init_strategy=init_to_sample)
    kernel.setup(0, None)
    assert bool((kernel.initial_params["z"] > 0).all()) and kernel.initial_params["z"].shape == (chains,)


def test_a_batch_that_is_wrong_for_one_chain_in_many_is_not_used():
    """The function takes chains on its first axis only where there are fewer than 30: compared at a few chains of the
    whole batch, it is seen to be wrong."""

    def potential(z):
        x = z["x"]
        if x.dim() == 2:
            return x.square().sum(-1) + len(x) // 30 * 5.0
        return x.square().sum()

    few, many = ({"x": torch.randn(n, 2)} for n in (20, 40))
    assert ChainBatch(potential, few).how == "plates" and ChainBatch(potential, many).how == "vmap"


@pytest.mark.parametrize("chains", [3, 40])
def test_starts_in_products_are_not_at_the_rim_of_a_hyperbolic_factor(chains):
    """``init_to_uniform`` would put four of five at radius 35, where coordinates of the ball have one digit."""
    manifold = geoopt.ProductManifold((geoopt.Sphere(), 3), (geoopt.PoincareBall(), 2))
    loc = torch.tensor([1.0, 0, 0, 0, 0], dtype=torch.float64)
    kernel = GeodesicNUTS(lambda: pyro.sample("p", WrappedNormal(manifold, loc, 0.5)), chains=chains)
    kernel.setup(0)
    starts = kernel.initial_params["p"]
    assert (starts[:, 3:].norm(dim=-1) < 0.999).all() and len(starts.unique(dim=0)) == chains
