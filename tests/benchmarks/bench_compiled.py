"""``compile=True`` beside the same runs without it.

    python tests/benchmarks/bench_compiled.py [--quick]

CPU time of this process, of runs in turn in one process (each with the same seed, hence the same draws up to rounding):
the ratio says something on a loaded machine too. The first compiled run pays for the compiler, whose processes are counted;
a later one records, compares and finds the compiled function. Torch's cache on disk makes the first one cheap in a new
process: set TORCHINDUCTOR_CACHE_DIR to an empty folder to see it without.
"""

import argparse
import os
import time

import bench_mcmc as bench
import pyro
import pyro.distributions as dist
import torch
from bench_mcmc import GeodesicHMC, GeodesicNUTS
from bench_mcmc_models import hierarchy, hierarchy_data, of_hierarchy, of_sites, sites, sites_data

import pyro_manifold.distributions as mdist
from pyro_manifold.geometry import SpecialOrthogonal


def attitude(v, y):
    """Which rotation took known directions to these noisy ones? The noise is unknown too."""
    r = pyro.sample("r", mdist.ManifoldUniform(SpecialOrthogonal(3), (3, 3)))
    sigma = pyro.sample("sigma", dist.LogNormal(torch.tensor(-1.0), 1.0))
    with pyro.plate("n", len(y)):
        mean = ((r.unsqueeze(-3) if r.dim() == 2 else r) @ v.unsqueeze(-1)).squeeze(-1)
        pyro.sample("y", dist.Normal(mean, sigma.unsqueeze(-1)).to_event(1), obs=y)


def attitude_data():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        v = torch.nn.functional.normalize(torch.randn(20, 3), dim=-1)
        return v, v + 0.2 * torch.randn(20, 3)


def of_attitude(s):
    return torch.cat([s["r"].flatten(-2), s["sigma"].log().unsqueeze(-1)], -1)


def used() -> float:
    """CPU seconds of this process and of those it has waited for."""
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def run(how, kind, model, data, statistics, chains, warmup, draws):
    pyro.set_rng_seed(0)
    start = used()
    r = bench.lockstep(kind(model, chains=chains, compile=how), statistics, warmup, draws, *data)
    return used() - start, (r.gradients + r.warm_gradients) / chains, bench.effective(r.values)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="the first model, fewer draws")
    parser.add_argument("--repeats", type=int, default=3, help="the least time of as many runs counts")
    args = parser.parse_args()
    models = {
        "8 sites on S^2, 120 observations": (sites, (sites_data(),), of_sites),
        "3 groups, 18 directions": (hierarchy, (hierarchy_data(),), of_hierarchy),
        "attitude, 20 directions": (attitude, attitude_data(), of_attitude),
    }
    chains, warmup, draws, repeats = (4, 30, 30, 1) if args.quick else (4, 150, 150, args.repeats)
    print(
        f"{time.strftime('%Y-%m-%d %H:%M')}, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} thread, {chains} chains, {warmup} + {draws} draws\n"
    )
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
