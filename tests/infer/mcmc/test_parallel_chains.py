"""Groups of chains on executors: the same draws everywhere, dead workers named or replaced."""

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_manifold.distributions as mdist
from pyro_manifold.infer import GeodesicNUTS, ParallelMCMC, geodesic_r_hat, to_inference_data

D = torch.float64
X = mdist.VonMisesFisher(torch.tensor([0.0, 0.6, 0.8], dtype=D), 20.0).sample((30,))


def directions(x):
    mean = pyro.sample("mean", mdist.ManifoldUniform(geoopt.Sphere(), (3,), dtype=D))
    concentration = pyro.sample("concentration", dist.LogNormal(torch.tensor(2.0, dtype=D), 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", mdist.VonMisesFisher(mean, concentration), obs=x)


def fatal(x, marker, times):
    """A model whose worker dies, as one that is killed for its memory does, ``times`` times."""
    count = int(Path(marker).read_text()) if Path(marker).exists() else 0
    if count < times:
        Path(marker).write_text(str(count + 1))
        os._exit(1)
    directions(x)


def run(executor=None, model=directions, args=(X,), chains=2, draws=20, warmup=20, **kwargs):
    kernel = GeodesicNUTS(model, chains=chains)
    mcmc = ParallelMCMC(kernel, draws, warmup, executor=executor, disable_progbar=True, **kwargs)
    mcmc.run(*args)
    return mcmc


def spawning(workers):
    return ProcessPoolExecutor(workers, mp_context=torch.multiprocessing.get_context("spawn"))


def test_groups_are_the_chains_of_one_run():
    before = torch.get_rng_state()
    mcmc = run(groups=2)
    draws = mcmc.get_samples(group_by_chain=True)
    assert draws["mean"].shape == (4, 20, 3) and draws["concentration"].shape == (4, 20)
    assert torch.equal(before, torch.get_rng_state())  # the caller's generator is left alone
    assert len(draws["concentration"][:, 0].unique()) == 4  # groups have seeds of their own
    assert (geodesic_r_hat(geoopt.Sphere(), draws["mean"]) < 1.5).all()
    assert set(mcmc.diagnostics()["gradients"]) == {f"chain {i}" for i in range(4)}
    data = to_inference_data(mcmc)
    assert data.posterior.sizes["chain"] == 4 and data.sample_stats.diverging.shape == (4, 20)
    starts = [run(groups=2, seed=s, draws=1, warmup=3).get_samples()["mean"] for s in (0, 0, 1)]
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])


def test_draws_do_not_depend_on_threads():
    alone = run(draws=5, warmup=8).get_samples()
    with ThreadPoolExecutor(2) as executor:
        pooled = run(executor, draws=5, warmup=8).get_samples()
    assert all(torch.equal(alone[k], pooled[k]) for k in alone)


def test_one_chain_a_group_and_given_starts():
    starts = {
        "mean": torch.eye(3, dtype=D)[[0, 1, 2]],
        "concentration": torch.zeros(3, dtype=D),
    }
    draws = run(chains=1, groups=3, draws=5, warmup=5, initial_params=starts).get_samples(group_by_chain=True)
    assert draws["mean"].shape == (3, 5, 3)
    with pytest.raises(ValueError, match=r"initial_params: got shape \(3, 3\) for mean, expected \(4, ...\)"):
        run(chains=2, groups=2, initial_params=starts)


def test_parameters_of_the_store_reach_the_model():
    pyro.clear_param_store()
    pyro.param("loc", torch.tensor(50.0, dtype=D))

    def model():
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0, dtype=D)), 1.0))

    try:
        assert abs(float(run(model=model, args=()).get_samples()["z"].mean()) - 50) < 3
    finally:
        pyro.clear_param_store()


def broken(x):
    raise ArithmeticError("broken")


def test_failures_name_the_seed():
    with pytest.raises(
        RuntimeError, match=r"mcmc: the group of chains with seed \d+ failed \(ArithmeticError: broken"
    ):
        run(model=broken)
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(ValueError, match="retries: got 2 with an executor"):
            run(executor, retries=2)


@pytest.mark.slow
def test_draws_do_not_depend_on_processes():
    alone = run().get_samples()
    with spawning(2) as executor:
        pooled = run(executor).get_samples()
        with pytest.raises(ValueError, match="executor: the kernel, its model .* top level of a module"):
            run(executor, model=lambda x: directions(x))
    assert all(torch.equal(alone[k], pooled[k]) for k in alone)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what Dask's own start-up may say
def test_chains_on_a_dask_cluster():
    distributed = pytest.importorskip("distributed")
    alone = run(groups=2, draws=5).get_samples()
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        with distributed.Client(cluster) as client:
            pooled = run(client.get_executor(), groups=2, draws=5).get_samples()
    assert all(torch.equal(alone[k], pooled[k]) for k in alone)


@pytest.mark.slow
def test_dead_workers_are_replaced_as_often_as_asked():
    alone = run(groups=2, draws=5).get_samples()
    with tempfile.TemporaryDirectory() as folder:
        once = partial(fatal, marker=f"{folder}/once", times=1)
        with pytest.warns(RuntimeWarning, match=r"worker died while it ran .*seeds? .*Trying again"):
            again = run(partial(spawning, 1), model=once, groups=2, draws=5, retries=1).get_samples()
        assert all(torch.equal(alone[k], again[k]) for k in alone)
        twice = partial(fatal, marker=f"{folder}/twice", times=9)
        with pytest.raises(
            RuntimeError, match=r"mcmc: a worker died while it ran the group of chains with seed \d+"
        ):
            run(partial(spawning, 1), model=twice, groups=2, draws=5)
