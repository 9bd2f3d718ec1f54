"""MCMC on manifolds: effective draws per gradient and per CPU second, on one thread in one process.

    python tests/benchmarks/bench_mcmc.py [--quick] [--targets "vMF S2" ...]

ESS is the smallest bulk ESS (ArviZ) over coordinates, their squares and the target's own statistic. Gradients
are those of sampling (in brackets: warm-up included); CPU seconds those of sampling, compilation left out.
Columns: GeodesicNUTS and GeodesicHMC (learned arc) with one chain and with many in lockstep; Pyro's NUTS in a
chart (stereographic; exp at the origin; log-Cholesky) and on an ambient reparametrisation (normalised
Gaussian; QR of a Gaussian); Mici's constrained HMC; NumPyro's NUTS on the same ambient reparametrisation.
"div" after a figure: divergences in sampling.
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
warnings.filterwarnings("ignore")

import arviz  # noqa: E402
import numpy as np  # noqa: E402
import pyro  # noqa: E402
import torch  # noqa: E402
from mcmc_targets import TARGETS, Target  # noqa: E402
from pyro.infer import MCMC, NUTS  # noqa: E402

from pyro_manifold.infer import GeodesicHMC, GeodesicNUTS, VectorizedMCMC  # noqa: E402

torch.set_num_threads(1)


# --- effective draws ----------------------------------------------------------------------------------------
def effective(x: torch.Tensor) -> float:
    """Smallest bulk ESS over the last axis of (chains, draws, statistics)."""
    values = x.detach().double().numpy()
    return min(float(arviz.ess(values[..., i], method="bulk")) for i in range(values.shape[-1]))


def statistics(t: Target, x: torch.Tensor) -> torch.Tensor:
    c = t.coordinates(x).flatten(2)
    parts = [c, c.square()]
    return torch.cat(parts + ([t.statistic(x)] if t.statistic else []), -1)


@dataclass
class Result:
    values: torch.Tensor  # (chains, draws, statistics)
    gradients: int
    warm_gradients: int
    seconds: float
    divergences: int = 0

    def __add__(self, other: "Result") -> "Result":
        values = torch.cat([self.values, other.values])
        sums = (
            getattr(self, k) + getattr(other, k)
            for k in ("gradients", "warm_gradients", "seconds", "divergences")
        )
        return Result(values, *sums)

    def __str__(self) -> str:
        ess = effective(self.values)
        div = f", {self.divergences} div" if self.divergences else ""
        each, all_ = ess / self.gradients, ess / (self.gradients + self.warm_gradients)
        return f"{each:.3f} ({all_:.3f}), {ess / self.seconds:.0f}/s{div}"


def in_turn(runs: int, f: Callable[..., Result | None], *args: Any) -> Result | None:
    """One chain after another, each with its own seed and warm-up: their ESS together, as several runs are
    judged."""
    total = None
    for seed in range(runs):
        pyro.set_rng_seed(seed)
        result = f(*args, seed)
        if result is None:
            return None
        total = result if total is None else total + result
    return total


# --- samplers -----------------------------------------------------------------------------------------------
class Marks:
    """Counts and times at the end of warm-up."""

    def __init__(self, count: Callable[[Any], int], warmup: int) -> None:
        self.count, self.warmup, self.seen = count, warmup, (0, time.process_time())

    def __call__(self, kernel, params, stage, i) -> None:
        if stage.startswith("Warmup") and i == self.warmup - 1:
            self.seen = (self.count(kernel), time.process_time())


def geodesic(t: Target, cls: type, chains: int, warmup: int, draws: int, seed: int) -> Result:
    k = cls(
        potential_fn=lambda z: t.potential(z["x"]), manifolds={"x": t.manifold}, chains=chains,
        isometries={"x": t.isometry} if t.isometry else None,
    )  # fmt: skip
    start = t.start(chains) if chains > 1 else t.start(1)[0]
    return lockstep(k, lambda s: statistics(t, s["x"]), warmup, draws, initial_params={"x": start})


def lockstep(
    kernel: Any, statistics: Callable[[Any], torch.Tensor], warmup: int, draws: int, *data: Any, **kwargs: Any
) -> Result:
    """A run of a geodesic kernel, and what ``statistics`` make of its draws."""
    marks = Marks(lambda kernel: kernel.num_gradients, warmup)
    mcmc = VectorizedMCMC(
        kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=True, hook_fn=marks, **kwargs
    )
    mcmc.run(*data)
    seconds = time.process_time() - marks.seen[1]
    d = mcmc.diagnostics()
    warm = sum(d["warmup gradients"].values())
    x = statistics(mcmc.get_samples(group_by_chain=True))
    return Result(
        x, sum(d["gradients"].values()) - warm, warm, seconds, sum(map(len, d["divergences"].values()))
    )


def plain(
    t: Target, size: tuple[int, ...], to_point: Callable, warmup: int, draws: int, start: torch.Tensor
) -> Result:
    """Pyro's NUTS on R^n; ``to_point`` gives x and the log density that it adds."""
    calls = [0]

    def potential(z):
        calls[0] += 1
        x, extra = to_point(z["v"])
        return t.potential(x) - extra

    marks = Marks(lambda kernel: calls[0], warmup)
    mcmc = MCMC(
        NUTS(potential_fn=potential),
        num_samples=draws,
        warmup_steps=warmup,
        initial_params={"v": start},
        disable_progbar=True,
        hook_fn=marks,
    )
    mcmc.run()
    seconds = time.process_time() - marks.seen[1]
    x = torch.stack([to_point(v)[0] for v in mcmc.get_samples()["v"]]).unsqueeze(0)
    div = sum(map(len, mcmc.diagnostics()["divergences"].values()))
    return Result(statistics(t, x), calls[0] - marks.seen[0], marks.seen[0], seconds, div)


def chart(t: Target, warmup: int, draws: int, seed: int) -> Result | None:
    if t.chart is None:
        return None
    size, f = t.chart
    return plain(t, (size,), f, warmup, draws, 0.3 * torch.randn(size))


def ambient(t: Target, warmup: int, draws: int, seed: int) -> Result | None:
    if t.ambient is None:
        return None
    return plain(
        t, t.shape, lambda y: (t.ambient(y), -0.5 * y.square().sum()), warmup, draws, torch.randn(t.shape)
    )


def mici_rattle(t: Target, warmup: int, draws: int, seed: int) -> Result | None:
    if t.numpy_gradient is None:
        return None
    calls = [0]

    def gradient(x):
        calls[0] += 1
        return t.numpy_gradient(x)

    x, counts = mici_chain(
        t.numpy_potential,
        lambda x: np.array([x @ x - 1.0]),
        gradient,
        lambda x: 2 * x[None],
        calls,
        t.start(1)[0].numpy(),
        warmup,
        draws,
        seed,
    )
    return Result(statistics(t, x), *counts)


def mici_chain(
    potential: Callable,
    constraint: Callable,
    gradient: Callable,
    jacobian: Callable,
    calls: list[int],
    start: np.ndarray,
    warmup: int,
    draws: int,
    seed: int,
) -> tuple[torch.Tensor, tuple[int, int, float, int]]:
    """Draws of a density with respect to Hausdorff measure; then gradients, those of warm-up, CPU seconds,
    divergences."""
    import mici

    marks = []

    def trace(state):  # called once an iteration; the last ``draws`` calls are those of sampling
        marks.append((calls[0], time.process_time()))
        return {"x": state.pos}

    system = mici.systems.DenseConstrainedEuclideanMetricSystem(
        potential, constraint, grad_neg_log_dens=gradient, jacob_constr=jacobian, dens_wrt_hausdorff=True
    )
    integrator = mici.integrators.ConstrainedLeapfrogIntegrator(system)
    sampler = mici.samplers.DynamicMultinomialHMC(system, integrator, np.random.default_rng(seed))
    out = sampler.sample_chains(
        warmup,
        draws,
        [start],
        adapters=[mici.adapters.DualAveragingStepSizeAdapter(0.8)],
        trace_funcs=[trace],
        display_progress=False,
    )
    x = torch.from_numpy(np.stack(out.traces["x"]))
    div = int(np.stack(out.statistics["diverging"]).sum()) if "diverging" in out.statistics else 0
    (warm, begin), (total, end) = marks[-draws], marks[-1]
    return x, (total - warm, warm, end - begin, div)


def numpyro_ambient(t: Target, warmup: int, draws: int, seed: int) -> Result | None:
    if t.jax_potential is None or t.ambient is None:
        return None
    import jax
    import jax.numpy as jnp
    import numpyro

    numpyro.enable_x64()

    def point(y):
        if y.ndim == 1:
            return y / jnp.sqrt((y * y).sum())
        q, r = jnp.linalg.qr(y)
        q = q * jnp.sign(jnp.diagonal(r))
        if y.shape[0] != y.shape[1]:
            return q
        return q.at[:, -1].multiply(jnp.sign(jnp.linalg.det(q)))

    def potential(y):
        return t.jax_potential(point(y)) + 0.5 * (y * y).sum()

    mcmc = numpyro.infer.MCMC(
        numpyro.infer.NUTS(potential_fn=potential), num_warmup=warmup, num_samples=draws, progress_bar=False
    )
    start = jnp.asarray(np.random.default_rng(seed).normal(size=t.shape))
    fields = ("num_steps", "diverging")
    mcmc.warmup(jax.random.PRNGKey(seed), init_params=start, extra_fields=fields, collect_warmup=True)
    warm = int(np.asarray(mcmc.get_extra_fields()["num_steps"]).sum())
    spent = []
    for size in (
        draws,
        100 * draws,
    ):  # each run compiles anew, so the time of a draw is a difference; neither warms up again
        mcmc.num_samples, mcmc.post_warmup_state = size, mcmc.last_state
        begin = time.process_time()
        mcmc.run(mcmc.post_warmup_state.rng_key, extra_fields=fields)
        y = jax.block_until_ready(mcmc.get_samples())
        spent.append(time.process_time() - begin)
    seconds = (spent[1] - spent[0]) * 100 / 99
    extra = mcmc.get_extra_fields()
    x = torch.from_numpy(np.asarray(jax.vmap(point)(y)).copy()).unsqueeze(0)
    steps, div = int(np.asarray(extra["num_steps"]).sum()), int(np.asarray(extra["diverging"]).sum())
    return Result(statistics(t, x), steps, warm, seconds, div)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a fifth of the draws")
    parser.add_argument("--targets", nargs="*", help="only targets whose name contains one of these")
    parser.add_argument("--columns", nargs="*", help="only columns whose name contains one of these")
    args = parser.parse_args()
    part = 5 if args.quick else 1
    runs, one, many = (
        4 if part == 1 else 2,
        (280 // part + 20, 500 // part),
        (180 // part + 20, 50 // part),
    )  # warm-up, draws
    columns: dict[str, Callable[[Target], Result | None]] = {
        "NUTS": lambda t: in_turn(runs, geodesic, t, GeodesicNUTS, 1, *one),
        "NUTS, 64 chains": lambda t: in_turn(1, geodesic, t, GeodesicNUTS, 64, *many),
        "HMC": lambda t: in_turn(runs, geodesic, t, GeodesicHMC, 1, *one),
        "HMC, 64 chains": lambda t: in_turn(1, geodesic, t, GeodesicHMC, 64, *many),
        "Pyro, chart": lambda t: in_turn(runs, chart, t, *one),
        "Pyro, ambient": lambda t: in_turn(runs, ambient, t, *one),
        "Mici": lambda t: in_turn(runs, mici_rattle, t, *one),
        "NumPyro, ambient": lambda t: in_turn(runs, numpyro_ambient, t, *one),
    }
    if args.columns:
        columns = {k: f for k, f in columns.items() if any(c in k for c in args.columns)}
    wanted = [t for t in TARGETS if not args.targets or any(w in t.name for w in args.targets)]
    print("ESS per gradient (warm-up counted), ESS per CPU second of sampling\n")
    print("| target | " + " | ".join(columns) + " |\n|" + "---|" * (1 + len(columns)), flush=True)
    for t in wanted:
        cells = []
        for run in columns.values():
            try:
                result = run(t)
                cells.append("–" if result is None else str(result))
            except ImportError as error:
                cells.append(f"({error.name} is not installed)")
        print(f"| {t.name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
