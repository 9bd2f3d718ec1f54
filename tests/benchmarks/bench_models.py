"""MCMC of whole models: compiled geodesic kernels beside NumPyro's NUTS and Pyro's.

    python tests/benchmarks/bench_models.py [--quick] [--models sites ...] [--samplers Geodesic ...] [--seeds 5]

Each model of ``mcmc_models/`` is written with sites on manifolds, and for the peers with normalised Gaussian vectors, a
Gaussian quaternion, unwrapped angles and Q of a Gaussian matrix. ESS: the smallest bulk ESS of statistics that every
form of the model identifies, named in its file, and of their squares; medians of the seeds. In brackets the CPU seconds
of compiling, and the ESS per second of the whole run, where torch's cache on disk has the code, as in a second process.
z: the largest difference of a mean from that of the first sampler, over its standard error; of m statistics that agree
one expects about sqrt(2 log m), 2.5 to 3.5 here.
"""

import argparse
import importlib
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # so that compiling is counted
warnings.filterwarnings("ignore")

import arviz  # noqa: E402
import pyro  # noqa: E402
import pyro.ops.integrator  # noqa: E402
import torch  # noqa: E402
from mcmc_peers import numpyro_runs, pyro_chain  # noqa: E402
from mcmc_runs import HEADER, Result, empty_cache, flat, lockstep, row, with_kernels  # noqa: E402
from pyro.infer import NUTS  # noqa: E402

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
MODELS = ("sites", "attitude", "torus_mixture", "ppca", "eight_schools")
CHAINS = 4


def together(model: Any, s: dict[str, torch.Tensor], data: tuple) -> torch.Tensor:
    """Statistics and their squares, (chains, draws, statistics)."""
    x = flat(model.statistics(s, *data))
    return torch.cat([x, x.square()], -1)


def ours(model: Any, draws: int, seeds: int) -> dict[str, tuple[list[Result], float | None]]:
    data = model.data()

    def run(cls: type, seed: int, warmup: int = 150, draws: int = draws) -> Result:
        pyro.set_rng_seed(seed)
        kernel = cls(model.here, chains=CHAINS, compile=True)
        return lockstep(kernel, lambda s: together(model, s, data), warmup, draws, *data)

    return with_kernels(run, seeds, lambda cls: run(cls, 0, 5, 5))


def with_numpyro(model: Any, warmup: int, draws: int, seeds: int) -> list[Result]:
    import jax.numpy as jnp
    from numpyro.infer import NUTS

    data = model.data()
    return numpyro_runs(
        NUTS(model.with_numpyro), lambda s: together(model, model.from_peers(s), data), CHAINS, warmup, draws, seeds,
        *(jnp.asarray(x.numpy()) for x in data),
    )  # fmt: skip


def with_pyro(model: Any, warmup: int, draws: int) -> list[Result]:
    """One chain: Pyro's chains cost as much as each other."""
    data, own, calls = model.data(), pyro.ops.integrator.potential_grad, [0]

    def counted(*args: Any) -> Any:
        calls[0] += 1
        return own(*args)

    pyro.set_rng_seed(0)
    pyro.ops.integrator.potential_grad = counted
    try:
        kernel = NUTS(model.with_pyro, jit_compile=True, ignore_jit_warnings=True)
        of = lambda s: together(model, model.from_peers(s), data)  # noqa: E731
        return [pyro_chain(kernel, lambda: calls[0], of, warmup, draws, *data)]
    finally:
        pyro.ops.integrator.potential_grad = own


def disagreement(a: list[Result], b: list[Result]) -> float:
    """Largest z-score of the means of all statistics."""

    def moments(results: list[Result]) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.cat([r.values for r in results])
        ess = [float(arviz.ess(x[..., i].numpy(), method="mean")) for i in range(x.shape[-1])]
        return x.mean((0, 1)), x.var((0, 1)) / torch.tensor(ess)

    (m, v), (n, w) = moments(a), moments(b)
    return float(((m - n) / (v + w).sqrt()).abs().max())


def kept(path: Path | None, run: Callable[[], Any]) -> Any:
    if path is not None and path.exists():
        return torch.load(path, weights_only=False)
    results = run()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(results, path)
    return results


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a fifth of the draws, one seed")
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--samplers", nargs="*", choices=("Geodesic", "NumPyro", "Pyro"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--keep", type=Path, help="a folder: rows that are there are printed again, others are added"
    )
    args = parser.parse_args()
    part, seeds = (5, 1) if args.quick else (1, args.seeds)
    samplers: dict[str, Callable[[Any], dict[str, Any]]] = {
        "Geodesic": lambda m: ours(m, 1000 // part, seeds),
        "NumPyro": lambda m: {"NumPyro": (with_numpyro(m, 500, 1000 // part, seeds), None)},
        "Pyro": lambda m: {"Pyro": (with_pyro(m, 200 // part, 200 // part), None)},
    }
    print(f"| model | {HEADER} z |\n" + "|---" * (HEADER.count("|") + 2) + "|", flush=True)
    for name in args.models:
        model, first = importlib.import_module(f"mcmc_models.{name}"), None
        for sampler, run in samplers.items():
            if args.samplers and sampler not in args.samplers:
                continue
            try:
                rows = kept(args.keep and args.keep / f"{name}-{sampler}.pt", partial(run, model))
            except ImportError as error:
                print(f"| {name} | {sampler} | ({error.name} is not installed) |", flush=True)
                continue
            for label, (results, again) in rows.items():
                z = "–" if first is None else f"{disagreement(first, results):.1f}"
                first = first or results
                print(f"| {name} | {row(label, results, again)} {z} |", flush=True)


if __name__ == "__main__":
    with empty_cache():
        main()
