"""Chains and calibration on process workers: time against the number of workers, and what more would give.

    python tests/benchmarks/bench_workers.py [--workers 1 2] [--groups 8]

The time of n workers is modelled as start + ceil(groups / n) * group, with the start of a worker (a new process that
imports torch and Pyro) and the time of one group of chains as measured here; the table prints this beside the measured
time, and for numbers of workers that this machine does not have. Elapsed time: run it on a quiet machine.
"""

import argparse
import math
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

import geoopt
import pyro
import pyro.distributions as dist
import torch

import pyro_manifold.distributions as mdist
from pyro_manifold.infer import GeodesicNUTS, ParallelMCMC

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
SITES, ROWS = 8, 15


def model(x: torch.Tensor) -> None:
    """Site means about a grand mean, with concentrations."""
    grand = pyro.sample("grand", mdist.ManifoldUniform(geoopt.Sphere(), 3))
    between = pyro.sample("between", dist.LogNormal(2.0, 1.0))
    with pyro.plate("sites", SITES):
        mean = pyro.sample("mean", mdist.VonMisesFisher(grand.unsqueeze(-2), between.unsqueeze(-1)))
        within = pyro.sample("within", dist.LogNormal(3.0, 1.0))
        with pyro.plate("rows", ROWS):
            pyro.sample("x", mdist.VonMisesFisher(mean, within), obs=x)


def pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def nothing() -> None:
    pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--draws", type=int, default=100)
    args = parser.parse_args()
    pyro.set_rng_seed(0)
    centres = mdist.VonMisesFisher(torch.tensor([0.0, 0.6, 0.8]), 10.0).sample((SITES,))
    x = mdist.VonMisesFisher(centres, 40.0).sample((ROWS,))
    kernel = GeodesicNUTS(model, chains=4)

    def run(executor: object, groups: int) -> float:
        start = time.perf_counter()
        ParallelMCMC(
            kernel, args.draws, args.draws, groups=groups, executor=executor, disable_progbar=True
        ).run(x)
        return time.perf_counter() - start

    run(None, 1)
    group = run(None, args.groups) / args.groups
    start = time.perf_counter()
    with pool(1) as one:
        one.submit(nothing).result()
    begin = time.perf_counter() - start
    print(
        f"load {os.getloadavg()[0]:.1f}; a group of 4 chains {group:.1f} s, start of a worker {begin:.1f} s"
    )
    print("| workers | measured s | start + ceil(groups / n) group, s | speed-up of the model |")
    print("|---|---|---|---|")
    alone = group * args.groups
    for n in sorted({*args.workers, 4, 8, 16}):
        modelled = begin + math.ceil(args.groups / n) * group
        measured = "-"
        if n in args.workers:
            with pool(n) as executor:
                measured = f"{run(executor, args.groups):.1f}"
        print(f"| {n} | {measured} | {modelled:.1f} | {alone / modelled:.2f} |")


if __name__ == "__main__":
    main()
