"""A step of SVI with the guides here against Pyro's AutoNormal on a Euclidean twin of the model.

    python tests/benchmarks/bench_guides.py [--sites 10] [--rows 20] [--repeats 60] [--compile] [--models S^2 SO(3)]

The model has a site for each of ``--sites`` groups, a direction of S^2 (or a point of the hyperbolic plane, or a rotation),
and rows about it; its twin has normal sites and rows with as many coordinates. Both are trained by ``Trace_ELBO`` and Adam. Least CPU time of
a step, all in turn in one process. *Recorded*: ``CompiledELBO(compile="trace")``; *compiled*, with ``--compile``:
``CompiledELBO()``, and the CPU seconds of its first step, that of the compiler included.
"""

import argparse
import os
import time
from collections.abc import Callable

import geoopt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from timing import least

import pyro_manifold.distributions as mdist
from pyro_manifold.geometry import SpecialOrthogonal
from pyro_manifold.infer import AutoManifoldNormal, CompiledELBO

torch.set_num_threads(1)
BALL, SPHERE, ROTATIONS = geoopt.PoincareBall(), geoopt.Sphere(), SpecialOrthogonal(3)


def directions(x: torch.Tensor) -> None:
    for i in range(len(x)):
        mean = pyro.sample(f"mean {i}", mdist.ManifoldUniform(SPHERE, 3))
        with pyro.plate(f"rows {i}", x.shape[1]):
            pyro.sample(f"x {i}", mdist.VonMisesFisher(mean, 20.0), obs=x[i])


def hyperbolic(x: torch.Tensor) -> None:
    for i in range(len(x)):
        mean = pyro.sample(f"mean {i}", mdist.WrappedNormal(BALL, x.new_zeros(2), 1.0))
        with pyro.plate(f"rows {i}", x.shape[1]):
            pyro.sample(f"x {i}", mdist.WrappedNormal(BALL, mean, 0.3), obs=x[i])


def rotations(x: torch.Tensor) -> None:
    for i in range(len(x)):
        mean = pyro.sample(f"mean {i}", mdist.ManifoldUniform(ROTATIONS, (3, 3)))
        with pyro.plate(f"rows {i}", x.shape[1]):
            pyro.sample(f"x {i}", mdist.WrappedNormal(ROTATIONS, mean, 0.3), obs=x[i])


def euclidean(x: torch.Tensor) -> None:
    zero, one = x.new_zeros(x.shape[-1]), x.new_ones(x.shape[-1])
    for i in range(len(x)):
        mean = pyro.sample(f"mean {i}", dist.Normal(zero, one).to_event(1))
        with pyro.plate(f"rows {i}", x.shape[1]):
            pyro.sample(f"x {i}", dist.Normal(mean, 0.3 * one).to_event(1), obs=x[i])


def used() -> float:
    """CPU seconds of this process and of those it has waited for."""
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def step(
    model: Callable[..., None], guide: Callable[..., object], x: torch.Tensor, elbo: object
) -> Callable[[], object]:
    store = {"params": {}, "constraints": {}}
    trained = guide(model)
    svi = SVI(model, trained, pyro.optim.Adam({"lr": 0.01}), elbo)

    def run() -> None:
        nonlocal store
        with pyro.get_param_store().scope(store) as store:
            svi.step(x)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--models", nargs="+", default=["S^2", "plane", "SO(3)"])
    args = parser.parse_args()
    pyro.set_rng_seed(0)
    pyro.enable_validation(False)
    n = (args.sites, args.rows)
    models = [
        ("S^2, vMF rows", directions, mdist.VonMisesFisher(torch.tensor([0.0, 0.6, 0.8]), 20.0).sample(n), 3),
        ("hyperbolic plane", hyperbolic, mdist.WrappedNormal(BALL, torch.zeros(2), 0.5).sample(n), 2),
        ("SO(3)", rotations, mdist.WrappedNormal(ROTATIONS, torch.eye(3), 0.5).sample(n), 9),
    ]
    print(
        f"load {os.getloadavg()[0]:.1f}, {args.sites} sites, {args.rows} rows each, CPU ms of a step of SVI "
        "(in brackets: over AutoNormal with Trace_ELBO)"
    )
    print(
        "| model | AutoNormal, Euclidean twin | with JitTrace_ELBO | AutoManifoldNormal | recorded | compiled | first s |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, model, x, coordinates in models:
        if not any(m in name for m in args.models):
            continue
        twin = torch.randn(*n, coordinates)
        runs = [
            step(euclidean, AutoNormal, twin, Trace_ELBO()),
            step(euclidean, AutoNormal, twin, JitTrace_ELBO(ignore_jit_warnings=True)),
            step(model, AutoManifoldNormal, x, Trace_ELBO()),
            step(model, AutoManifoldNormal, x, CompiledELBO(compile="trace")),
        ]
        first = ""
        if args.compile:
            runs.append(step(model, AutoManifoldNormal, x, CompiledELBO()))
            start, clock = used(), time.perf_counter()
            runs[-1]()
            first = f"{used() - start:.0f} ({time.perf_counter() - clock:.0f} elapsed)"
        times = least(runs, args.repeats)
        cells = " | ".join(f"{t:.1f} ({t / times[0]:.2f})" for t in times)
        print(f"| {name} | {cells} | {first} |", flush=True)


if __name__ == "__main__":
    main()
