"""``compile=True`` beside the same runs without it.

    python tests/benchmarks/bench_compiled.py [--quick] [--steps]

CPU time of this process, of runs in turn in one process (each with the same seed, hence the same draws up to rounding):
the ratio says something on a loaded machine too. The first compiled run pays for the compiler, whose processes are counted;
a later one records, compares and finds the compiled function. Torch's cache on disk makes the first one cheap in a new
process: set TORCHINDUCTOR_CACHE_DIR to an empty folder to see it without.

``--steps``: CPU ms a lockstep gradient (the leapfrog steps of the chain that takes most of them), all that happens between
gradients included, of the least of five runs of 30 transitions in turn.
"""

import argparse
import os
import time

import pyro
import torch
from bench_mcmc import GeodesicHMC, GeodesicNUTS
from bench_mcmc_models import hierarchy, hierarchy_data, of_hierarchy
from mcmc_models import attitude, sites
from mcmc_runs import effective, flat, lockstep, used
from mcmc_targets import TARGETS


def run(how, kind, model, data, statistics, chains, warmup, draws):
    pyro.set_rng_seed(0)
    start = used()
    r = lockstep(kind(model, chains=chains, compile=how), statistics, warmup, draws, *data)
    return used() - start, (r.gradients + r.warm_gradients) / chains, effective(r.values)


def per_step() -> None:
    target = next(t for t in TARGETS if t.name == "vMF S2, 10")

    def kernel(kind, chains, how):
        k = kind(potential_fn=lambda z: target.potential(z["x"]), manifolds={"x": target.manifold}, chains=chains, compile=how)  # fmt: skip
        k.initial_params = {"x": target.start(chains)}
        return k, ()

    def model(kind, chains, how):
        return kind(sites.here, chains=chains, compile=how), sites.data()

    print("| target | kernel | chains | without | compiled | ratio |\n" + "|---" * 6 + "|", flush=True)
    cases = [("vMF S2, 10", kernel, chains) for chains in (4, 64, 512)] + [("8 sites", model, 4)]
    for name, make, chains in cases:
        for kind in (GeodesicNUTS, GeodesicHMC):
            best = {}
            kernels = {how: make(kind, chains, how) for how in (False, True)}
            z = {}
            for how, (k, data) in kernels.items():
                pyro.set_rng_seed(0)
                k.setup(60, *data)
                z[how] = k.initial_params
                for _ in range(62):
                    z[how] = k.sample(z[how])
            for _ in range(5):
                for how, (k, _) in kernels.items():
                    steps, start = 0, time.process_time()
                    for _ in range(30):
                        before = k._gradients.clone()
                        z[how] = k.sample(z[how])
                        steps += int((k._gradients - before).max())
                    best[how] = min(best.get(how, 1e9), (time.process_time() - start) / steps * 1e3)
            print(
                f"| {name} | {kind.__name__} | {chains} | {best[False]:.2f} | {best[True]:.2f} | {best[False] / best[True]:.1f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="the first model, fewer draws")
    parser.add_argument("--repeats", type=int, default=3, help="the least time of as many runs counts")
    parser.add_argument("--steps", action="store_true", help="time of a step, for 4, 64 and 512 chains")
    args = parser.parse_args()
    models = {
        "8 sites on S^2, 120 observations": (sites.here, sites.data(), lambda s: flat(sites.statistics(s))),
        "3 groups, 18 directions": (hierarchy, (hierarchy_data(),), of_hierarchy),
        "attitude, 20 directions": (attitude.here, attitude.data(), lambda s: flat(attitude.statistics(s))),
    }
    chains, warmup, draws, repeats = (4, 30, 30, 1) if args.quick else (4, 150, 150, args.repeats)
    print(
        f"{time.strftime('%Y-%m-%d %H:%M')}, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} thread, {chains} chains, {warmup} + {draws} draws\n"
    )
    if args.steps:
        return per_step()
    print(
        "| model | kernel | gradients | CPU s without | recorded | compiled | ratio | first compiled run | ESS |"
    )
    print("|" + "---|" * 9, flush=True)
    for name in list(models)[: 1 if args.quick else None]:
        for kind in (GeodesicNUTS, GeodesicHMC):
            case = (kind, *models[name], chains, warmup, draws)
            first = run(True, *case)[0]
            seen = {how: [] for how in (False, "trace", True)}
            for _ in range(repeats):
                for how in seen:  # in turn, so that the load is the same
                    seen[how].append(run(how, *case))
            plain, traced, fast = (min(x[0] for x in seen[how]) for how in seen)
            ratio, (_, gradients, ess) = plain / fast, seen[True][0]
            print(
                f"| {name} | {kind.__name__} | {gradients:.0f} | {plain:.1f} | {traced:.1f} | {fast:.1f} | {ratio:.1f} | "
                f"{first:.1f} | {ess:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
