"""Calibration passes a right sampler, fails wrong ones, and does not care who runs it."""

import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import NUTS
from sbc_models import MODELS, D, calibrate, hmc, num, nuts

from pyro_manifold.distributions import ManifoldUniform, VonMisesFisher
from pyro_manifold.infer import GeodesicNUTS, ManifoldReparam, sbc
from pyro_manifold.infer.sbc.uniformity import bins_for, chi_square, ecdf_band, ecdf_test
from pyro_manifold.infer.workers import seed_of


def direction():
    z = pyro.sample("z", ManifoldUniform(geoopt.Sphere(), 3, **D))
    pyro.sample("y", dist.Normal(z, num(0.5)).to_event(1))


def conjugate():
    m = pyro.sample("m", dist.Normal(num(0.0), 1.0))
    pyro.sample("y", dist.Normal(m, num(1.0)))


def normal_draws(model, scale=0.5**0.5):
    y = poutine.trace(model).get_trace().nodes["y"]["value"]
    return {"m": dist.Normal(y / 2, scale).sample((15,))}


def wide_draws(model):
    return normal_draws(model, 1.0)


def too_sure(model):
    """A likelihood with a third of the noise variance."""
    return GeodesicNUTS(poutine.scale(model, scale=3.0))


def run(model, posterior, n=200, seed=20261121, **kwargs):
    options = {"num_draws": 15, "warmup_steps": 40, "disable_progbar": True, **kwargs}
    return sbc(model, posterior, ["y"], num_simulations=n, seed=seed, **options)


# P(false alarm) of each passing test: 0.01, at a seed fixed before the first run
def test_right_sampler_passes_in_lockstep():
    r = run(direction, nuts, simulations_per_batch=200)
    assert r.is_calibrated() and r.num_simulations == 200
    assert set(r.ranks) == {"z[0]", "z[1]", "z[2]", "dist(z)", "log_lik"}
    assert min(r.ess.values()) >= 15


def test_wrong_likelihood_fails():
    r = run(direction, too_sure, simulations_per_batch=200)
    assert not r.is_calibrated() and r.p_values()["z[0]"] < 1e-3
    assert "not calibrated" in str(r)


def test_a_reparametrised_posterior_is_judged_by_the_sites_of_the_model():
    """The draws are of noise; ranks are those of the directions, a manifold-valued response among the
    data."""

    def model():
        z = pyro.sample("z", ManifoldUniform(geoopt.Sphere(), 3, **D))
        with pyro.plate("n", 2):
            pyro.sample("y", VonMisesFisher(z, num(5.0)))

    r = run(
        model,
        lambda m: NUTS(ManifoldReparam()(m), max_tree_depth=2),
        n=2,
        num_draws=3,
        warmup_steps=5,
        max_samples=6,
    )
    assert set(r.ranks) == {"z[0]", "z[1]", "z[2]", "dist(z)", "log_lik"}
    with pytest.raises(RuntimeError, match=r"posterior: gave no draws of \['z'\]"):
        run(model, lambda m: {"w": torch.zeros(15)}, n=1)
    with pytest.raises(RuntimeError, match=r"observed: got \['y'\].*Reparametrise in posterior, not here"):
        run(ManifoldReparam()(model), nuts, n=1)


def test_draws_from_any_inference():
    assert run(conjugate, normal_draws, n=100).is_calibrated()
    assert not run(conjugate, wide_draws, n=100).is_calibrated()


def test_lockstep_and_separate_runs_are_both_right():
    """One kernel per simulation, chains in one kernel per simulation."""
    assert run(direction, nuts, n=3, num_draws=3, warmup_steps=10).num_simulations == 3
    r = run(direction, lambda m: GeodesicNUTS(m, chains=4), n=3, num_draws=3, warmup_steps=10)
    assert all(0 <= int(x.min()) and int(x.max()) <= 3 for x in r.ranks.values())


def same_as_alone(executor):
    alone = run(conjugate, normal_draws, n=8)
    before = torch.get_rng_state()
    pooled = run(conjugate, normal_draws, n=8, executor=executor)
    assert all(torch.equal(alone.ranks[k], pooled.ranks[k]) for k in alone.ranks)
    assert torch.equal(before, torch.get_rng_state())  # the caller's generator is left alone


def test_results_do_not_depend_on_threads():
    with ThreadPoolExecutor(2) as executor:
        same_as_alone(executor)


@pytest.mark.filterwarnings("ignore")  # what Dask's own start-up may say
def test_on_a_dask_cluster():
    distributed = pytest.importorskip("distributed")
    alone = run(conjugate, normal_draws, n=4)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        with distributed.Client(cluster) as client:
            pooled = run(conjugate, normal_draws, n=4, executor=client.get_executor())
    assert all(torch.equal(alone.ranks[k], pooled.ranks[k]) for k in alone.ranks)


def test_rank_tests_have_their_level():
    """p-values of 400 uniform samples: 1% and 10% points within 4 standard errors (the band's tests are
    discrete)."""
    for test in (chi_square, ecdf_test):
        p = torch.tensor([test(torch.randint(16, (160,)), 15) for _ in range(400)])
        for a in (0.01, 0.1):
            assert abs(float((p <= a).double().mean()) - a) < 4 * (a * (1 - a) / 400) ** 0.5
    band = ecdf_band(100, 15)
    assert ((band.lower < band.points) & (band.points < band.upper)).all()
    r = torch.randint(16, (2000, 100))
    ecdf = torch.stack([(r <= k).double().mean(-1) for k in range(15)], -1)
    covered = ((ecdf >= band.lower) & (ecdf <= band.upper)).all(-1).double().mean()
    assert 0.95 - 4 * (0.05 * 0.95 / 2000) ** 0.5 < float(covered)
    assert bins_for(512, 31) == 32 and bins_for(40, 7) == 8 and bins_for(9, 7) == 2


def fails(model):
    raise ArithmeticError("broken")


def exits(model):
    raise SystemExit(3)


def dies(model):
    """The worker goes away in the third simulation, as one that is killed for its memory does."""
    y = float(poutine.trace(model).get_trace().nodes["y"]["value"])
    if y == FATAL:
        os._exit(1)
    return normal_draws(model)


def value_of_y(seed):
    pyro.set_rng_seed(seed)
    return float(poutine.trace(conjugate).get_trace().nodes["y"]["value"])


SEEDS = [seed_of(20261121, i) for i in range(4)]
with torch.random.fork_rng():
    FATAL = value_of_y(SEEDS[2])


def test_results_do_not_depend_on_processes_and_a_dead_one_is_reported_with_its_seed():
    with ProcessPoolExecutor(1, mp_context=torch.multiprocessing.get_context("spawn")) as executor:
        same_as_alone(executor)
        with pytest.raises(
            RuntimeError, match=f"worker died while it ran the simulation with seed {SEEDS[2]} .*Broken"
        ):
            run(conjugate, dies, n=4, executor=executor)


def nan_draws(model):
    draws = normal_draws(model)["m"]
    draws[3:5] = torch.nan
    return {"m": draws}


def nan_model():
    m = pyro.sample("m", dist.Normal(num(0.0), 1.0))
    pyro.sample("y", dist.Delta(m / 0 * 0))


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: run(conjugate, normal_draws, n=0), ValueError, "num_simulations: got 0"),
        (lambda: run(conjugate, normal_draws, num_draws=0), ValueError, "num_draws: got 0"),
        (lambda: run(conjugate, normal_draws, simulations_per_batch=-1), ValueError, "simulations_per_batch: "
                                                                                     "got -1"),
        (lambda: run(conjugate, normal_draws, max_samples=3), ValueError, "max_samples: got 3"),
        (lambda: sbc(conjugate, normal_draws, "y"), ValueError, r"observed: got 'y', .*list: \['y'\]"),
        (lambda: sbc(conjugate, fails, ["w"], disable_progbar=True), RuntimeError, r"observed: got \['w'\]"),
        (lambda: run(conjugate, fails, n=2), RuntimeError, r"simulation with seed \d+ failed "
                                                           r"\(ArithmeticError: broken\)"),
        (lambda: run(conjugate, exits, n=2), RuntimeError, r"simulation with seed \d+ failed \(SystemExit: "
                                                           r"3\)"),
        (lambda: run(conjugate, nan_draws, n=2), RuntimeError, r"seed \d+ failed .*posterior: 2 of 15 values "
                                                               r"of 'm' are NaN"),
        (lambda: run(nan_model, normal_draws, n=2), RuntimeError, r"seed \d+ failed .*model: 1 of 1 values "
                                                                  r"of 'y' are NaN"),
        (
            lambda: run(conjugate, normal_draws, n=2, statistics={"log": lambda v: v["m"].log()}),
            RuntimeError, r"seed \d+ failed .*statistics: 'log' is NaN for \d+ of",
        ),
        (lambda: run(conjugate, lambda m: 3, n=2), RuntimeError, "posterior: returned int; expected an MCMC "
                                                                 "kernel"),
        (lambda: run(conjugate, normal_draws, n=2, num_draws=31), RuntimeError, "gave 15 draws, expected at "
                                                                                "least num_draws"),
        (lambda: run(conjugate, normal_draws, n=2, simulations_per_batch=2), RuntimeError, "simulations_per_batch needs GeodesicHMC"),
        (lambda: run(conjugate, normal_draws, n=8).p_values("ks"), ValueError, "test: got 'ks'"),
    ],
)  # fmt: skip
def test_bad_arguments(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_what_does_not_pickle_is_named():
    with ProcessPoolExecutor(1, mp_context=torch.multiprocessing.get_context("spawn")) as executor:
        with pytest.raises(ValueError, match="top level of a module"):
            run(conjugate, lambda m: normal_draws(m), n=2, executor=executor)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_one_model_per_manifold(name):
    """512 simulations, NUTS; P(false alarm) 0.01 per model (Bonferroni over its statistics), seed fixed in
    advance."""
    r = calibrate(name, nuts)
    assert r.is_calibrated(0.01), str(r)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sphere", "rotations", "lorentz"])
def test_hmc_too(name):
    r = calibrate(name, hmc, num_simulations=256)
    assert r.is_calibrated(0.01), str(r)
