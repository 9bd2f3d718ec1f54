"""MCMC of Pyro models: a hierarchy of directions beside ordinary sites, and area on a torus in space, met in
two ways.

    python tests/benchmarks/bench_mcmc_models.py [--quick]

Effective draws as in ``bench_mcmc.py``. The torus (radii 1 and 1/2) is a level set whose kernels make
projected steps, as Mici's does, or its angles with the factor log of area, on the flat torus.
"""

import argparse
from collections.abc import Callable
from typing import Any

import bench_mcmc as bench
import geoopt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from bench_mcmc import GeodesicHMC, GeodesicNUTS
from mcmc_models import sites
from mcmc_peers import mici_chain
from mcmc_runs import Result, effective, flat, lockstep

import pyro_manifold.distributions as mdist
from pyro_manifold.constraints import on
from pyro_manifold.geometry import ImplicitManifold, Torus

Draws = dict[str, torch.Tensor]


def geodesic(
    model: Callable[..., Any],
    data: tuple[torch.Tensor, ...],
    statistics: Callable[[Draws], torch.Tensor],
    cls: type,
    chains: int,
    warmup: int,
    draws: int,
    seed: int,
) -> Result:
    def values(s: Draws) -> torch.Tensor:
        x = statistics(s)
        return torch.cat([x, x.square()], -1)

    return lockstep(cls(model, chains=chains), values, warmup, draws, *data)


# --- the mixed hierarchy ------------------------------------------------------------------------------------
def hierarchy_data() -> torch.Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        mu = torch.nn.functional.normalize(torch.randn(3, 3), dim=-1)
        theta = mdist.VonMisesFisher(mu, torch.tensor(20.0)).sample((6,))
        return theta + 0.2 * torch.randn(6, 3, 3)


def hierarchy(y):
    """3 group means on S^2 with concentrations, 6 directions in each, observed with an unknown error."""
    sigma = pyro.sample("sigma", dist.LogNormal(torch.tensor(-1.0), 1.0))
    with pyro.plate("group", 3, dim=-1):
        mu = pyro.sample("mu", mdist.ManifoldUniform(geoopt.Sphere(), 3))
        kappa = pyro.sample("kappa", dist.LogNormal(torch.tensor(2.5), 1.0))
        with pyro.plate("direction", 6, dim=-2):
            theta = pyro.sample("theta", mdist.VonMisesFisher(mu, kappa, validate_args=False))
            pyro.sample("y", dist.Normal(theta, sigma[..., None]).to_event(1), obs=y)


def of_hierarchy(s: Draws) -> torch.Tensor:
    return flat((s["sigma"].log(), s["kappa"].log(), s["mu"], s["theta"]))


# --- 8 sites ------------------------------------------------------------------------------------------------
def warm_up(seeds: int) -> None:
    print("\nWarm-up of the 8 sites, 4 chains in lockstep, 150 + 150 draws\n")
    print(
        "| kernel | seed | gradients of warm-up | of sampling | ESS per gradient of sampling |\n|"
        + "---|" * 5,
        flush=True,
    )
    for cls in (GeodesicNUTS, GeodesicHMC):
        for seed in range(seeds):
            pyro.set_rng_seed(seed)
            data = sites.data()
            r = geodesic(sites.here, data, lambda s: flat(sites.statistics(s)), cls, 4, 150, 150, seed)
            ess = effective(r.values) / r.gradients
            print(f"| {cls.__name__} | {seed} | {r.warm_gradients} | {r.gradients} | {ess:.3f} |", flush=True)


# --- area on a torus ----------------------------------------------------------------------------------------
RING, TUBE = 1.0, 0.5


def equation(x):
    return (x[..., :2].square().sum(-1).sqrt() - RING) ** 2 + x[..., 2] ** 2 - TUBE**2


def projected() -> None:
    surface = ImplicitManifold(equation, near=torch.tensor([RING + TUBE, 0.0, 0.0]))
    pyro.sample("x", dist.ImproperUniform(on(surface), (), (3,)))


def of_points(x: torch.Tensor) -> torch.Tensor:
    """Coordinates and the cosine of the tube's angle."""
    return torch.cat([x, (x[..., :2].norm(dim=-1, keepdim=True) - RING) / TUBE], -1)


def pulled_back() -> None:
    a = pyro.sample("a", dist.ImproperUniform(on(Torus()), (), (2,)))
    pyro.factor("area", torch.log(RING + TUBE * a[..., 0].cos()))


def of_angles(a: torch.Tensor) -> torch.Tensor:
    tube, ring = a.unbind(-1)
    r = RING + TUBE * tube.cos()
    return of_points(torch.stack([r * ring.cos(), r * ring.sin(), TUBE * tube.sin()], -1))


def mici_torus(warmup: int, draws: int, seed: int) -> Result:
    calls = [0]

    def jacobian(x):
        r = np.hypot(x[0], x[1])
        return np.array([[2 * (r - RING) * x[0] / r, 2 * (r - RING) * x[1] / r, 2 * x[2]]])

    def gradient(x):
        calls[0] += 1
        return np.zeros(3)

    start = of_angles(2 * torch.pi * torch.rand(2))[:3]
    x, counts = mici_chain(
        lambda x: 0.0,
        lambda x: np.array([(np.hypot(x[0], x[1]) - RING) ** 2 + x[2] ** 2 - TUBE**2]),
        gradient,
        jacobian,
        calls,
        start.numpy(),
        warmup,
        draws,
        seed,
    )
    x = of_points(x)
    return Result(torch.cat([x, x.square()], -1), *counts)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a fifth of the draws")
    parser.add_argument("--warm-up", action="store_true", help="only the last table")
    args = parser.parse_args()
    part = 5 if args.quick else 1
    if args.warm_up:
        return warm_up(4 if part == 1 else 2)
    runs, one, many = (
        4 if part == 1 else 2,
        (280 // part + 20, 500 // part),
        (180 // part + 20, 50 // part),
    )  # warm-up, draws
    data = (hierarchy_data(),)
    models: dict[str, tuple[Any, ...]] = {
        "mixed hierarchy, centred": (hierarchy, data, of_hierarchy, 2),
        "torus, projected steps": (projected, (), lambda s: of_points(s["x"]), 1),
        "torus, pulled back to angles": (pulled_back, (), lambda s: of_angles(s["a"]), 1),
    }
    print("ESS per gradient (warm-up counted), ESS per CPU second of sampling\n")
    print("| model | NUTS | NUTS, 64 chains | HMC | HMC, 64 chains | Mici |\n|" + "---|" * 6, flush=True)
    for name, (model, given, statistics, longer) in models.items():
        cells = []
        for cls in (GeodesicNUTS, GeodesicHMC):
            for n, chains, (warmup, draws) in ((runs, 1, one), (1, 64, many)):
                cells.append(
                    str(
                        bench.in_turn(
                            n, geodesic, model, given, statistics, cls, chains, longer * warmup, draws
                        )
                    )
                )
        try:
            cells.append(str(bench.in_turn(runs, mici_torus, *one)) if "projected" in name else "–")
        except ImportError as error:
            cells.append(f"({error.name} is not installed)")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    warm_up(4 if part == 1 else 2)


if __name__ == "__main__":
    main()
