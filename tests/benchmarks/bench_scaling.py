"""Cost against dimension, points, chains and rows of data: CPU time on logarithmic axes, and where it bends.

    python tests/benchmarks/bench_scaling.py [--out docs/pictures/scaling.png] [--quick]

Every call costs a fixed time (operators are called, whatever is in the tensors) plus a time for each number: t(n) = a + b n.
Both are fitted by least squares of log t, and n* = a / b, where the line bends, is printed: below n* more points, chains or rows are
free. Least CPU time of several calls, one thread.
"""

import argparse
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import geoopt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from timing import least

import pyro_manifold.distributions as mdist
from pyro_manifold.infer import AutoManifoldNormal, GeodesicHMC, VectorizedMCMC

torch.set_num_threads(1)
SPHERE, BALL = geoopt.Sphere(), geoopt.PoincareBall()
Curve = tuple[str, list[int], list[float]]


def _pole(d: int) -> torch.Tensor:
    return torch.eye(d)[0]


def _families(d: int) -> dict[str, dist.TorchDistribution]:
    """Distributions of dimension d."""
    return {
        "vMF, sphere": mdist.VonMisesFisher(_pole(d + 1), torch.tensor(10.0)),
        "wrapped normal, sphere": mdist.WrappedNormal(SPHERE, _pole(d + 1), 0.3 / d**0.5),
        "wrapped normal, ball": mdist.WrappedNormal(BALL, torch.zeros(d), 0.3 / d**0.5),
        "Riemannian normal, ball": mdist.RiemannianNormal(BALL, torch.zeros(d), torch.tensor(0.3 / d**0.5)),
    }


def points(sizes: list[int], repeats: int) -> list[Curve]:
    """``log_prob`` of n points in two dimensions."""
    out = []
    for name, d in _families(2).items():
        calls = [partial(d.log_prob, d.sample((n,))) for n in sizes]
        out.append((name, sizes, least(calls, repeats)))
    return out


def dimensions(sizes: list[int], repeats: int) -> list[Curve]:
    """``log_prob`` of 100 points."""
    curves: dict[str, list[Callable[[], object]]] = {}
    for n in sizes:
        for name, d in _families(n).items():
            curves.setdefault(name, []).append(partial(d.log_prob, d.sample((100,))))
    return [(name, sizes, least(calls, repeats)) for name, calls in curves.items()]


def chains(sizes: list[int], repeats: int) -> list[Curve]:
    """Ten draws of 8 leapfrog steps each, all chains together."""

    def sphere() -> None:
        pyro.sample("x", mdist.VonMisesFisher(_pole(3), 10.0))

    def mixed() -> None:
        zero = torch.zeros(2, dtype=torch.float64)  # the strategy starts some chains far out
        scale = pyro.sample("scale", dist.LogNormal(zero[0], 1.0))
        pyro.sample("x", mdist.WrappedNormal(BALL, zero, scale.unsqueeze(-1)))

    def run(model: Callable[[], None], n: int) -> Callable[[], object]:
        kernel = GeodesicHMC(
            model,
            chains=n,
            step_size=0.1,
            trajectory_length=0.8,
            adapt_step_size=False,
            adapt_mass_matrix=False,
        )
        return VectorizedMCMC(kernel, num_samples=10, warmup_steps=0, disable_progbar=True).run

    return [
        (name, sizes, least([run(model, n) for n in sizes], repeats))
        for name, model in (("vMF, sphere", sphere), ("scale and point of the ball", mixed))
    ]


def rows(sizes: list[int], repeats: int) -> list[Curve]:
    """A step of SVI with a mean direction and n rows, all of them or 100 at a time."""

    def step(x: torch.Tensor, part: int | None) -> Callable[[], object]:
        def model() -> None:
            mean = pyro.sample("mean", mdist.ManifoldUniform(SPHERE, 3))
            with pyro.plate("rows", len(x), subsample_size=part) as index:
                pyro.sample("x", mdist.VonMisesFisher(mean, 10.0), obs=x if part is None else x[index])

        store = {"params": {}, "constraints": {}}
        svi = SVI(model, AutoManifoldNormal(model), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())

        def run() -> None:
            nonlocal store
            with pyro.get_param_store().scope(store) as store:
                svi.step()

        return run

    data = [mdist.VonMisesFisher(_pole(3), 10.0).sample((n,)) for n in sizes]
    return [
        (name, sizes, least([step(x, part) for x in data], repeats))
        for name, part in (("all rows", None), ("100 rows of them", 100))
    ]


def fitted(sizes: list[int], times: list[float]) -> tuple[float, float]:
    """a and b of t = a + b n with the least squares of log t, over a grid of b."""
    n, t = np.array(sizes, float), np.log(times)
    best = (math.inf, 0.0, 0.0)
    for bend in np.logspace(-1, 8, 181):
        shape = np.log1p(n / bend)
        log_a = float((t - shape).mean())
        error = float(((t - shape - log_a) ** 2).sum())
        best = min(best, (error, math.exp(log_a), math.exp(log_a) / bend))
    return best[1], best[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="picture to write")
    parser.add_argument("--quick", action="store_true", help="small sizes, few repetitions")
    args = parser.parse_args()
    pyro.set_rng_seed(0)
    pyro.enable_validation(False)
    repeats, top = (2, 3) if args.quick else (7, 6)
    powers = [10**k for k in range(top + 1)]
    panels = [
        ("points", "points, d = 2", points(powers, repeats)),
        ("dimension", "dimension, 100 points", dimensions([2, 8, 32, 128, 512, 1000][: top + 1], repeats)),
        (
            "chains",
            "chains, 10 draws of 8 steps",
            chains([4**k for k in range(top + 1)], max(2, repeats // 2)),
        ),
        ("rows", "rows of data, a step of SVI", rows(powers[2:], repeats)),
    ]
    print(f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, one thread, least CPU time")
    print("| against | curve | fixed, ms | for each, microseconds | bend n* |")
    print("|---|---|---|---|---|")
    for name, _, curves in panels:
        for label, sizes, times in curves:
            a, b = fitted(sizes, times)
            free = f"{a / b:.0f}" if b * sizes[-1] > 0.1 * a else "none"
            print(f"| {name} | {label} | {a:.2f} | {1e3 * b:.3g} | {free} |")
    if args.out:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        fig, axes = plt.subplots(1, 4, figsize=(15, 3.6), layout="constrained")
        for ax, (_, title, curves) in zip(axes, panels, strict=True):
            for label, sizes, times in curves:
                a, b = fitted(sizes, times)
                (line,) = ax.loglog(sizes, times, "o", markersize=4, label=label)
                grid = np.logspace(0, math.log10(sizes[-1]), 200)
                grid = grid[grid >= sizes[0]]
                ax.loglog(grid, a + b * grid, color=line.get_color(), linewidth=1)
            ax.set(xlabel=title, ylabel="CPU ms")
            ax.legend(frameon=False, fontsize=7)
        fig.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
