"""MCMC on manifolds: effective draws per gradient and per CPU second, on one thread in one process.

    python tests/benchmarks/bench_mcmc.py [--quick] [--targets "vMF S2" ...] [--throughput]

ESS is the smallest bulk ESS (ArviZ) over coordinates, their squares and the target's own statistic. Gradients
are those of sampling (in brackets: warm-up included); CPU seconds those of sampling, compilation left out.
Columns: GeodesicNUTS and GeodesicHMC (learned arc) with one chain and with many in lockstep; Pyro's NUTS in a
chart (stereographic; exp at the origin; log-Cholesky) and on an ambient reparametrisation (normalised
Gaussian; QR of a Gaussian); Mici's constrained HMC; NumPyro's NUTS on an ambient reparametrisation.
"div" after a figure: divergences in sampling.

``--throughput``: many chains in one kernel, compiled, beside NumPyro's vectorised chains and BlackJAX's NUTS under
``vmap`` with the step size and mass matrix of one adapted chain; CPU seconds with and without compiling.
"""

import argparse
import os
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # so that compiling is counted
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import pyro  # noqa: E402
import torch  # noqa: E402
from mcmc_peers import blackjax_runs, mici_chain, numpyro_runs, pyro_chain  # noqa: E402
from mcmc_runs import HEADER, Result, empty_cache, lockstep, row, with_kernels  # noqa: E402
from mcmc_targets import TARGETS, Target  # noqa: E402
from pyro.infer import NUTS  # noqa: E402

from pyro_manifold.infer import GeodesicHMC, GeodesicNUTS  # noqa: E402

torch.set_num_threads(1)


def statistics(t: Target, x: torch.Tensor) -> torch.Tensor:
    c = t.coordinates(x).flatten(2)
    parts = [c, c.square()]
    return torch.cat(parts + ([t.statistic(x)] if t.statistic else []), -1)


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
def geodesic(
    t: Target, cls: type, chains: int, warmup: int, draws: int, seed: int, compile: bool = False
) -> Result:
    k = cls(
        potential_fn=lambda z: t.potential(z["x"]), manifolds={"x": t.manifold}, chains=chains,
        isometries={"x": t.isometry} if t.isometry else None, compile=compile,
    )  # fmt: skip
    start = t.start(chains) if chains > 1 else t.start(1)[0]
    return lockstep(k, lambda s: statistics(t, s["x"]), warmup, draws, initial_params={"x": start})


def plain(t: Target, to_point: Callable, warmup: int, draws: int, start: torch.Tensor) -> Result:
    """Pyro's NUTS on R^n; ``to_point`` gives x and the log density that it adds."""
    calls = [0]

    def potential(z):
        calls[0] += 1
        x, extra = to_point(z["v"])
        return t.potential(x) - extra

    def of(s):
        return statistics(t, torch.stack([to_point(v)[0] for v in s["v"][0]]).unsqueeze(0))

    return pyro_chain(
        NUTS(potential_fn=potential), lambda: calls[0], of, warmup, draws, initial_params={"v": start}
    )


def chart(t: Target, warmup: int, draws: int, seed: int) -> Result | None:
    if t.chart is None:
        return None
    size, f = t.chart
    return plain(t, f, warmup, draws, 0.3 * torch.randn(size))


def ambient(t: Target, warmup: int, draws: int, seed: int) -> Result | None:
    if t.ambient is None:
        return None
    return plain(t, lambda y: (t.ambient(y), -0.5 * y.square().sum()), warmup, draws, torch.randn(t.shape))


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


def in_jax(t: Target, chains: int, seed: int) -> tuple[Callable, Callable, Any]:
    """Log density of a vector, statistics of such draws, and a start of each chain."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    size, f = t.jax_density()
    points = jax.jit(jax.vmap(jax.vmap(lambda v: f(v)[0])))

    def of(v: torch.Tensor) -> torch.Tensor:
        return statistics(t, torch.from_numpy(np.array(points(jnp.asarray(v.numpy())))))

    return lambda v: f(v)[1], of, jnp.asarray(np.random.default_rng(seed).normal(size=(chains, size)))


def with_numpyro(t: Target, chains: int, warmup: int, draws: int, seeds: int) -> list[Result]:
    import numpyro

    density, of, start = in_jax(t, chains, 0)
    kernel = numpyro.infer.NUTS(potential_fn=lambda v: -density(v))
    return numpyro_runs(kernel, of, chains, warmup, draws, seeds, start=start if chains > 1 else start[0])


def with_blackjax(t: Target, chains: int, warmup: int, draws: int, seeds: int) -> list[Result]:
    density, of, start = in_jax(t, chains, 0)
    return blackjax_runs(density, of, start, warmup, draws, seeds)


def numpyro_one(t: Target, warmup: int, draws: int, runs: int) -> Result | None:
    return sum_of(with_numpyro(t, 1, warmup, draws, runs)) if t.ambient is not None else None


def sum_of(results: list[Result]) -> Result:
    total = results[0]
    for result in results[1:]:
        total = total + result
    return total


# --- throughput ---------------------------------------------------------------------------------------------
THROUGHPUT = (
    "vMF S2, 10", "Bingham S9, axes", "Bingham S9, antipode", "matrix Fisher SO(3), 20", "matrix Langevin V(5,2), 10",
    "wrapped normal H2, radius 3, scale 1", "Wishart SPD(3), nu 6, condition 1",
)  # fmt: skip


def throughput(wanted: list[str] | None, samplers: list[str] | None, draws: int, seeds: int) -> None:
    """Warm-up of 100 transitions here, of 300 by BlackJAX's one chain and then 50 by all, of 200 by NumPyro."""

    def ours(t: Target, chains: int) -> dict[str, list[Result]]:
        def run(cls: type, seed: int) -> Result:
            pyro.set_rng_seed(seed)
            return geodesic(t, cls, chains, 100, draws, seed, compile=True)

        return {name: found for name, (found, _) in with_kernels(run, seeds).items()}

    print(f"| target | {HEADER}\n" + "|---" * (HEADER.count("|") + 1) + "|", flush=True)
    for t in TARGETS:
        if t.name not in THROUGHPUT or (wanted and not any(w in t.name for w in wanted)):
            continue
        for chains in (64, 512):
            runs: dict[str, Callable[[], dict[str, list[Result]]]] = {
                "Geodesic": lambda t=t, n=chains: ours(t, n),
                "BlackJAX": lambda t=t, n=chains: {"BlackJAX": with_blackjax(t, n, 300, draws, seeds)},
                "NumPyro": lambda t=t, n=chains: {"NumPyro": with_numpyro(t, n, 200, draws, seeds)},
            }
            for label, run in runs.items():
                if (samplers and label not in samplers) or (label == "NumPyro" and chains == 512):
                    continue
                try:
                    for name, results in run().items():
                        print(f"| {t.name} | {row(name, results)}", flush=True)
                except ImportError as error:
                    print(f"| {t.name} | {label} | ({error.name} is not installed) |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a fifth of the draws")
    parser.add_argument("--targets", nargs="*", help="only targets whose name contains one of these")
    parser.add_argument("--columns", nargs="*", help="only columns whose name contains one of these")
    parser.add_argument(
        "--throughput",
        action="store_true",
        help="the table of compiled kernels, many chains (columns: Geodesic, BlackJAX, NumPyro)",
    )
    parser.add_argument("--seeds", type=int, default=5, help="of that table")
    args = parser.parse_args()
    part = 5 if args.quick else 1
    if args.throughput:
        with empty_cache():
            return throughput(args.targets, args.columns, 200 // part, 1 if args.quick else args.seeds)
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
        "NumPyro, ambient": lambda t: numpyro_one(t, *one, runs),
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
