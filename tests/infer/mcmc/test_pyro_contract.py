"""What Pyro's users rely on: drivers, processes, starts, effect handlers, dtypes, ArviZ, Ctrl-C."""

import os
import pickle
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC
from pyro.infer.autoguide.initialization import init_to_median, init_to_sample, init_to_value

from pyro_manifold.distributions import Bingham, ManifoldUniform, VonMisesFisher
from pyro_manifold.infer import GeodesicHMC, GeodesicNUTS, VectorizedMCMC

F64 = torch.float64
SPHERE = geoopt.Sphere()
MU = torch.tensor([0.0, 0.6, 0.8], dtype=F64)
DATA = torch.tensor([[1.0, 0.2, 0.1], [0.9, -0.1, 0.2], [1.1, 0.0, -0.3]], dtype=F64)


def model(data=DATA):
    z = pyro.sample("z", ManifoldUniform(SPHERE, 3, dtype=F64))
    s = pyro.sample("s", dist.LogNormal(torch.tensor(0.0, dtype=F64), 0.5))
    with pyro.plate("n", len(data)):
        pyro.sample("y", dist.Normal(z, s.unsqueeze(-1)).to_event(1), obs=data)


def quick(kernel, draws=8, warmup=8, driver=MCMC, **kwargs):
    mcmc = driver(kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=True, **kwargs)
    mcmc.run()
    return mcmc


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_chains_in_processes(context, monkeypatch):
    """Pyro's own parallel chains: the kernel pickles, the chains differ, and the parent knows the
    transforms."""
    monkeypatch.setattr("torch.multiprocessing.cpu_count", lambda: 8)
    torch.manual_seed(0)
    mcmc = quick(GeodesicNUTS(model), num_chains=2, mp_context=context)
    s = mcmc.get_samples(group_by_chain=True)
    assert s["z"].shape == (2, 8, 3) and (s["s"] > 0).all() and not torch.equal(s["z"][0], s["z"][1])
    assert set(mcmc.diagnostics()["divergences"]) == {"chain 0", "chain 1"}


def test_chains_in_processes_with_starts(monkeypatch):
    """Each process gets its own start (Pyro's own kernels all get the last one)."""
    monkeypatch.setattr("torch.multiprocessing.cpu_count", lambda: 8)
    start = {"x": torch.stack([MU, -MU])}
    small = {"adapt_step_size": False, "step_size": 0.01, "trajectory_length": 0.02}
    k = GeodesicHMC(potential_fn=far_apart, manifolds={"x": SPHERE}, **small)
    x = quick(k, num_chains=2, initial_params=start, warmup=0).get_samples(group_by_chain=True)["x"]
    assert ((x @ MU).mean(-1) * torch.tensor([1.0, -1.0])).min() > 0.9  # each stayed near its own start


def far_apart(z):
    return -(z["x"] @ MU).square()


def test_sequential_chains_when_processors_are_few(monkeypatch):
    monkeypatch.setattr("torch.multiprocessing.cpu_count", lambda: 1)
    with pytest.warns(UserWarning, match="drawn sequentially"):
        mcmc = quick(GeodesicNUTS(model), num_chains=3, draws=2, warmup=2)
    assert mcmc.get_samples(group_by_chain=True)["z"].shape == (3, 2, 3)


def test_what_a_finished_kernel_shows():
    k = GeodesicNUTS(model)
    mcmc = quick(k)
    assert k.model is model and set(k.transforms) == {"z", "s"}
    d = mcmc.diagnostics()
    assert (
        isinstance(d["divergences"]["chain 0"], list)
        and d["gradients"]["chain 0"] > d["warmup gradients"]["chain 0"] > 0
    )
    with pytest.raises(RuntimeError, match=r"ask mcmc.diagnostics\(\)"):
        k.diagnostics()
    quick(k)  # the same kernel under a new driver
    pickle.loads(pickle.dumps(k))


def test_arviz_reads_a_run():
    arviz = pytest.importorskip("arviz")
    if not hasattr(arviz, "from_pyro"):
        pytest.skip("this ArviZ has no from_pyro")
    data = arviz.from_pyro(quick(GeodesicNUTS(model)), log_likelihood=False)
    assert data.posterior["z"].shape == (1, 8, 3) and data.sample_stats["diverging"].shape == (1, 8)


def test_potential_inside_a_run():
    seen = []

    def hook(kernel, params, stage, i):
        seen.append(float(kernel.potential_fn({k: v.clone() for k, v in params.items()})))

    k = GeodesicHMC(model)
    quick(k, hook_fn=hook)
    assert len(seen) == 16 and all(abs(u) < 1e3 for u in seen) and k.potential_fn is None


AT = init_to_value(values={"z": MU, "s": torch.tensor(2.0, dtype=F64)})


@pytest.mark.parametrize("strategy", [init_to_sample, init_to_median, AT])
def test_init_strategies(strategy):
    k = GeodesicNUTS(model, init_strategy=strategy)
    k.setup(0)
    if strategy is AT:
        assert torch.equal(k.initial_params["z"], MU) and abs(float(k.initial_params["s"].exp()) - 2) < 1e-12


def test_initial_values_of_a_model():
    start = {"z": MU, "s": torch.tensor(0.5, dtype=F64)}  # unconstrained for s
    k = GeodesicHMC(model, adapt_step_size=False, step_size=1e-6, trajectory_length=1e-6)
    s = quick(k, initial_params=start, draws=1, warmup=0).get_samples()
    assert (s["z"][0] - MU).norm() < 1e-4 and abs(float(s["s"]) - float(torch.tensor(0.5).exp())) < 1e-4
    with pytest.raises(ValueError, match="'z' has 2 rows, expected one per chain"):
        bad = {k: torch.stack([v] * 2) for k, v in start.items()}
        quick(GeodesicHMC(model, chains=3), initial_params=bad, driver=VectorizedMCMC)


def test_effect_handlers():
    """Outer block, hidden and conditioned sites, a mask and a scale act as they do in Pyro."""
    with poutine.trace() as outer, poutine.block():
        quick(GeodesicNUTS(poutine.condition(model, {"s": torch.tensor(0.3, dtype=F64)})))
    assert not outer.trace.nodes or set(outer.trace.nodes) <= {"_INPUT", "_RETURN"}
    k = GeodesicNUTS(poutine.block(model, hide=["y"]))  # the likelihood is hidden: what is left is the prior
    k.setup(0)
    z = {"z": MU.unsqueeze(0), "s": torch.zeros(1, dtype=F64)}
    prior = float(
        ManifoldUniform(SPHERE, 3, dtype=F64).log_prob(MU) + dist.Normal(0.0, 0.5).log_prob(torch.tensor(0.0))
    )
    assert abs(float(k._system.potential(z)) + prior) < 1e-6
    half, full = GeodesicNUTS(poutine.scale(model, 0.5)), GeodesicNUTS(model)
    half.setup(0), full.setup(0)
    assert abs(2 * float(half._system.potential(z)) - float(full._system.potential(z))) < 1e-9


@pytest.mark.parametrize("rows", [None, torch.tensor([2, 0])])
def test_subsampled_plates_are_refused(rows):
    """As by Pyro's kernels: a density of other rows at each step has no posterior."""

    def subsampled():
        z = pyro.sample("z", ManifoldUniform(SPHERE, 3, dtype=F64))
        with pyro.plate("n", 3, subsample_size=2, subsample=rows) as i:
            pyro.sample("y", dist.Normal(z, 0.5).to_event(1), obs=DATA[i])

    for kernel in (GeodesicNUTS(subsampled), GeodesicHMC(subsampled)):
        with pytest.raises(ValueError, match="plate 'n': has 2 of 3 rows, .*AutoManifoldNormal"):
            quick(kernel)


@pytest.mark.parametrize(
    "bad, told", [(float("nan"), r"'y' .*: 1 of 3 .* at \[1\], is \[nan, 1"), (3.0, "1 of 3 .* support")]
)
def test_observed_values_outside_the_support(bad, told):
    """Found although Pyro's MCMC switches validation off; rows that are masked and distributions that are not to be
    validated are left alone, and the random numbers of the run are the same."""
    y = torch.eye(3, dtype=F64)
    broken = y.clone()
    broken[1, 0] = bad

    def model(y, keep=True, **options):
        z = pyro.sample("z", ManifoldUniform(SPHERE, 3, dtype=F64))
        with pyro.plate("n", 3), poutine.mask(mask=torch.as_tensor(keep)):
            pyro.sample("y", VonMisesFisher(z, torch.tensor(2.0, dtype=F64), **options), obs=y)

    with pytest.raises(ValueError, match=told):
        quick(GeodesicNUTS(partial(model, broken)))
    if bad == 3.0:
        assert quick(GeodesicNUTS(partial(model, broken, validate_args=False))).get_samples()
        assert quick(GeodesicNUTS(partial(model, broken, [True, False, True]))).get_samples()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pyros_own_sphere_distributions(dtype):
    """ProjectedNormal, and VonMises3D, which has no sampler: E cos = coth k - 1/k. Within 4 SE: false alarm
    6e-5 each."""
    mu = torch.tensor([0.0, 0.6, 0.8], dtype=dtype)

    def both():
        pyro.sample("v", dist.VonMises3D(3 * mu, validate_args=False))
        pyro.sample("p", dist.ProjectedNormal(2 * mu))

    s = quick(GeodesicHMC(both, chains=64), 60, 60, VectorizedMCMC).get_samples(group_by_chain=True)
    assert s["v"].dtype == s["p"].dtype == dtype
    chain_means = (s["v"].double() @ mu.double()).mean(-1)
    k = torch.tensor(3.0, dtype=F64)
    exact = float(1 / k.tanh() - 1 / k)
    assert abs(float(chain_means.mean()) - exact) < 4 * float(chain_means.std()) / 64**0.5
    direct = (dist.ProjectedNormal(2 * mu).sample((100_000,)) @ mu).double()
    got = (s["p"].double() @ mu.double()).mean(-1)
    assert (
        abs(float(got.mean() - direct.mean()))
        < 4 * (float(got.var()) / 64 + float(direct.var()) / 1e5) ** 0.5
    )


class Stop:
    """A hook that is a Ctrl-C at the fifth transition."""

    def __init__(self):
        self.on = True

    def __call__(self, kernel, params, stage, i):
        if self.on and stage.startswith("Sample") and i == 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize("driver", [MCMC, VectorizedMCMC])
def test_an_interrupted_kernel_runs_again(driver):
    k, stop = GeodesicNUTS(model), Stop()
    mcmc = driver(k, num_samples=8, warmup_steps=8, disable_progbar=True, hook_fn=stop)
    before = dist.Normal(0.0, 1.0)._validate_args
    with pytest.raises(KeyboardInterrupt):
        mcmc.run()
    assert dist.Normal(0.0, 1.0)._validate_args == before  # what the run had switched is back
    stop.on = False
    mcmc.run()
    assert mcmc.get_samples()["z"].shape == (8, 3) and mcmc.diagnostics()["warmup gradients"]["chain 0"] > 0


SCRIPT = """
import torch.multiprocessing as mp
mp.cpu_count = lambda: 8
from pyro.infer import MCMC
from test_pyro_contract import model
from pyro_manifold.infer import GeodesicNUTS

def tell(kernel, params, stage, i):
    if stage.startswith("Sample") and i == 0:
        print("sampling", flush=True)

if __name__ == "__main__":
    kernel = GeodesicNUTS(model)
    MCMC(kernel, num_samples=10**9, warmup_steps=10, num_chains=2, disable_progbar=True, hook_fn=tell).run()
"""


def test_ctrl_c_ends_a_script_and_its_processes(tmp_path):
    """SIGINT to a script while both its chains sample: it ends by KeyboardInterrupt and no process of it is
    left."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    run = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # ignored where a shell runs us in the background
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert [run.stdout.readline() for _ in range(2)] == ["sampling\n", "sampling\n"]
        run.send_signal(signal.SIGINT)
        _, err = run.communicate()  # until no process holds the other end of the pipes
        assert run.returncode != 0 and "KeyboardInterrupt" in err
        with pytest.raises(ProcessLookupError):  # a signal to nobody: the group is empty
            os.killpg(run.pid, 0)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)


def two_modes():
    """A direction about either pole, a number about -8 or 8; the standard deviations are 0.1 and 0.5."""
    precision = torch.diag(torch.tensor([0.0, 0.0, 50.0], dtype=F64))
    pyro.sample("x", Bingham(precision))
    components = dist.Normal(torch.tensor([-8.0, 8.0], dtype=F64), 0.5)
    pyro.sample("a", dist.MixtureSameFamily(dist.Categorical(torch.ones(2, dtype=F64)), components))


@pytest.mark.parametrize("kind", [GeodesicHMC, GeodesicNUTS])
@pytest.mark.parametrize("dense", [False, True])
def test_scales_are_those_of_one_mode(kind, dense):
    """Chains that stay in different modes: the dynamics are scaled to what each of them sees."""
    pyro.set_rng_seed(0)
    side = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=F64)
    kernel = kind(two_modes, chains=4, full_mass=dense)
    kernel.initial_params = {"x": torch.stack([0 * side, 0 * side, side], -1), "a": 8 * side}
    draws = quick(kernel, driver=VectorizedMCMC, warmup=150).get_samples(group_by_chain=True)
    assert ((draws["a"] * side.unsqueeze(-1)) > 0).all() and (
        draws["x"][..., 2] * side.unsqueeze(-1) > 0
    ).all()
    scale = {k: float(v.squeeze() ** 0.5) for k, v in kernel.inverse_mass_matrix.items()}
    assert 0.06 < scale["x",] < 0.16 and 0.3 < scale["a",] < 0.8  # of all modes together: 0.7 and 8
