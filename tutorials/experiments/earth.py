r"""Where does the Earth erupt, quake, flood and burn? Mixtures of directional distributions on real
catalogues, by SVI and by MCMC.

A place on Earth is a unit vector x. The model says that each place belongs to one of K regions:

    weight ~ Dirichlet(1, ..., 1)                                the share of each region
    z_n    ~ Categorical(weight)                                 the region of place n
    x_n    ~ distribution(region z_n)                                     round: von Mises-Fisher; oval: Kent

A region's distribution has a centre, uniform on the sphere, and a concentration, exponential with mean 1000
(in radians, a typical radius is concentration ** -0.5; 1000 is 1.8 degrees). The exponential tail matters: on
repeated places, or a single one, the likelihood of a region grows without bound as it shrinks. Kent's
distribution also has axes, a rotation uniform on SO(3) whose first column is the centre, and ovalness =
concentration / 2 * flatness with flatness uniform on (0, 1), which keeps 2 * ovalness <= concentration, where
the distribution has one mode.

The assignment z_n is discrete, so nobody samples it. In SVI, Pyro enumerates it (``config_enumerate``,
``TraceEnum_ELBO``), and ``AutoManifoldNormal`` is the posterior of everything else: a normal distribution
about a point of the sphere, or of SO(3), for the geometry and Pyro's normal for weights and concentrations.
In MCMC it is summed out by hand (``MixtureSameFamily``), and ``GeodesicNUTS`` moves the centres along great
circles.

Regions have no names: exchange two and the posterior is the same. We neither forbid that by an ordering nor
undo it; every number here (predictive density, log likelihood, the R-hat of it) is a function of the *set* of
regions.

Score: minus log posterior predictive density of held-out places, in nats, with respect to area on the unit
sphere (a uniform density scores log 4 pi = 2.531). Splits 80/10/10, one per seed; K by the mean validation
score over the seeds.

    python tutorials/experiments/earth.py --data FOLDER --out results         # the table and the maps;
    without --data it downloads python tutorials/experiments/earth.py --smoke                             # a
    minute's check that it runs
"""

import argparse
import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

import geoopt
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide.initialization import init_to_generated, init_to_value
from pyro.ops.indexing import Vindex
from torch import Tensor

import pyro_manifold.distributions as mdist
from pyro_manifold.datasets import earth, earth_split
from pyro_manifold.geometry import SpecialOrthogonal
from pyro_manifold.infer import AutoManifoldNormal, GeodesicNUTS, VectorizedMCMC
from pyro_manifold.plotting import sphere_density, sphere_points, world_axes

SPHERE, ROTATIONS = geoopt.Sphere(), SpecialOrthogonal(3)
# test score, as printed in the literature: random splits of the catalogues with their repeated places
PUBLISHED = {
    "volcano": {"vmf": "-0.31", "kent": "-0.80 ± .47"},
    "earthquake": {"vmf": "0.59", "kent": "0.33"},
    "flood": {"vmf": "1.09", "kent": "0.73"},
    "fire": {"vmf": "-0.23", "kent": "1.18 (sic)"},
}


# --- the model ----------------------------------------------------------------------------------------------
EVENT_DIM = {"concentration": 0, "flatness": 0, "loc": 1, "frame": 2}


def regions(family: str, k: int, apart: bool = False) -> dict[str, Tensor]:
    """Samples the parameters of K regions; their axis comes last of the batch, after one for places.

    :param apart: one site for each centre or frame instead of one in a plate, see :func:`marginal`.
    """
    place, manifold = ("loc", mdist.ManifoldUniform(SPHERE, 3))
    if family == "kent":
        place, manifold = ("frame", mdist.ManifoldUniform(ROTATIONS, (3, 3)))
    with pyro.plate("region", k):
        r = {"concentration": pyro.sample("concentration", dist.Exponential(1e-3))}
        if family == "kent":
            r["flatness"] = pyro.sample("flatness", dist.Uniform(0.0, 1.0))
        if not apart:
            r[place] = pyro.sample(place, manifold)
    r = {name: v.unsqueeze(-2 - EVENT_DIM[name]) for name, v in r.items()}
    if apart:
        r[place] = torch.stack(
            [pyro.sample(f"{place}_{i}", manifold) for i in range(k)], -1 - EVENT_DIM[place]
        )
    return r


def distribution(r: dict[str, Tensor]) -> Any:
    """The distributions of regions, whatever the batch shape."""
    if "loc" in r:
        return mdist.VonMisesFisher(r["loc"], r["concentration"])
    return mdist.Kent(r["frame"], r["concentration"], r["concentration"] / 2 * r["flatness"])


@config_enumerate
def enumerated(x: Tensor, family: str, k: int, batch: int | None = None) -> None:
    """For SVI: an assignment for each place, which Pyro enumerates. Places (n, 3), or (seeds, n, 3) inside a
    plate of seeds."""
    weight = pyro.sample("weight", dist.Dirichlet(torch.ones(k)))
    r = regions(family, k)
    with pyro.plate("place", x.shape[-2], subsample_size=batch) as index:
        z = pyro.sample("assignment", dist.Categorical(weight))
        one = {name: Vindex(v)[(..., z) + (slice(None),) * EVENT_DIM[name]] for name, v in r.items()}
        pyro.sample("x", distribution(one), obs=x[..., index, :])


def marginal(x: Tensor, family: str, k: int) -> None:
    """For MCMC: the same model with the assignments summed out.

    The sampler learns one scale for each site. A crowded, narrow region is known a hundred times better than
    a sparse, wide one, so each centre is a site of its own.
    """
    weight = pyro.sample("weight", dist.Dirichlet(torch.ones(k)))
    r = regions(family, k, apart=True)
    with pyro.plate("place", len(x)):
        pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weight), distribution(r)), obs=x)


# --- inference ----------------------------------------------------------------------------------------------
def start(x: Tensor, family: str, k: int, concentration: float = 100.0) -> dict[str, Tensor]:
    """Centres on places far from each other (k-means++); one region as wide as the world, the others of 6
    degrees."""
    centre = x[torch.randint(len(x), (1,))]
    while len(centre) < k:
        distance = torch.cdist(x, centre).amin(-1).square()
        centre = torch.cat([centre, x[distance.clamp_min(1e-12).multinomial(1)]])
    values = {"weight": torch.full((k,), 1 / k), "concentration": torch.full((k,), concentration)}
    values["concentration"][0] = 1.0
    if family == "vmf":
        return values | {"loc": centre}
    across = torch.nn.functional.normalize(torch.linalg.cross(centre, torch.randn(k, 3)), dim=-1)
    frame = torch.stack([centre, across, torch.linalg.cross(centre, across)], -1)
    return values | {"frame": frame, "flatness": torch.full((k,), 0.5)}


def fit_svi(
    x: Tensor, family: str, k: int, *, steps: int, batch: int, draws: int, lr: float = 0.05
) -> list[dict[str, Tensor]]:
    """For each seed's places, ``x[seed]``, draws from a guide of its own; all are fitted side by side, in a
    plate of seeds."""
    seeds, n = x.shape[:2]
    pyro.clear_param_store()

    def replicated(x: Tensor) -> None:
        with pyro.plate("seed", seeds, dim=-2):
            enumerated(x, family, k, batch if n > batch else None)

    starts = [start(y, family, k) for y in x]
    values = {name: torch.stack([s[name] for s in starts]) for name in starts[0]}
    values["weight"] = values["weight"].unsqueeze(1)
    hidden = poutine.block(replicated, hide=["assignment"])
    guide = AutoManifoldNormal(hidden, init_loc_fn=init_to_value(values=values), init_scale=0.02)
    optimizer = pyro.optim.ClippedAdam({"lr": lr, "betas": (0.9, 0.99), "lrd": 0.02 ** (1 / steps)})
    svi = SVI(replicated, guide, optimizer, TraceEnum_ELBO(max_plate_nesting=2))
    for _ in range(steps):
        svi.step(x)
    with torch.no_grad():
        each = [guide(x) for _ in range(draws)]
    q = {name: torch.stack([e[name] for e in each], 1) for name in each[0]}
    q["weight"] = q["weight"].squeeze(2)
    return [{name: v[i] for name, v in q.items()} for i in range(seeds)]


def fit_nuts(
    x: Tensor,
    family: str,
    k: int,
    *,
    starts: list[dict[str, Tensor]],
    draws: int,
    warmup: int,
    progress: bool = False,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Draws of all chains together, and how far the chains agree.

    :param starts: for each chain draws of :func:`fit_svi`, of which it takes the last.
    """
    place, turn = "loc" if family == "vmf" else "frame", itertools.cycle(starts)

    def begin() -> Any:
        values = {name: v[-1] for name, v in next(turn).items()}
        apart = {f"{place}_{i}": v for i, v in enumerate(values.pop(place))}
        return init_to_value(values=values | apart)

    kernel = GeodesicNUTS(
        marginal, chains=len(starts), max_tree_depth=5, init_strategy=init_to_generated(generate=begin)
    )
    mcmc = VectorizedMCMC(kernel, draws, warmup, disable_progbar=not progress)
    mcmc.run(x, family, k)
    q = {name: v.flatten(0, 1) for name, v in mcmc.get_samples(group_by_chain=True).items()}
    q[place] = torch.stack([q.pop(f"{place}_{i}") for i in range(k)], 1)
    with torch.no_grad():
        fit = log_density(q, x).sum(-1).reshape(len(starts), draws)
    report = {
        "r_hat": float(pyro.ops.stats.split_gelman_rubin(fit, 0, 1)),
        "ess": float(pyro.ops.stats.effective_sample_size(fit, 0, 1)),
        "divergences": sum(map(len, mcmc.diagnostics()["divergences"].values())),
    }
    return q, report


# --- scores
#
# ------------------------------------------------------------------------------------------------
def log_density(q: dict[str, Tensor], x: Tensor) -> Tensor:
    """log p(x | draw): shape (draws, n) for points (n, 3)."""
    f = distribution({name: v.unsqueeze(1) for name, v in q.items() if name != "weight"})
    w = q["weight"].log().unsqueeze(1)
    return torch.cat([(f.log_prob(p.unsqueeze(1)) + w).logsumexp(-1) for p in x.split(128)], -1)


@torch.no_grad()
def log_predictive(q: dict[str, Tensor], x: Tensor) -> Tensor:
    r""":math:`\log\tfrac1S\sum_s p(x\mid\theta_s)`, shape (n,)."""
    p = log_density(q, x)
    return p.logsumexp(0) - math.log(len(p))


# --- the table ----------------------------------------------------------------------------------------------
def splits(name: str, seeds: int, folder: Path | None, distinct: bool) -> tuple[Tensor, ...]:
    """Training, validation and test places of all seeds, each (seeds, n, 3)."""
    each = [earth_split(name, seed=s, folder=folder, distinct=distinct) for s in range(seeds)]
    return tuple(torch.stack(part) for part in zip(*each, strict=True))


def score(each: list[dict[str, Tensor]], x: Tensor) -> list[float]:
    """Minus the mean log predictive density, one number per seed."""
    return [-float(log_predictive(q, y).mean()) for q, y in zip(each, x, strict=True)]


def svi_row(
    name: str, family: str, k: int, distinct: bool, args: Any
) -> tuple[dict[str, Any], list[dict[str, Tensor]]]:
    train, valid, test = splits(name, args.seeds, args.data, distinct)
    pyro.set_rng_seed(args.seed)
    start = time.process_time()
    each = fit_svi(train, family, k, steps=args.steps, batch=args.batch, draws=args.draws)
    seconds = time.process_time() - start
    row = dict(
        how="SVI", catalogue=name, distinct=distinct, family=family, k=k, seconds=seconds, n=len(train[0])
    )
    return row | {"valid": score(each, valid), "test": score(each, test)}, each


def nuts_row(
    name: str, family: str, k: int, distinct: bool, args: Any
) -> tuple[dict[str, Any], list[dict[str, Tensor]]]:
    train, valid, test = splits(name, args.mcmc_seeds, args.data, distinct)
    row: dict[str, Any] = dict(
        how="NUTS", catalogue=name, distinct=distinct, family=family, k=k, n=len(train[0])
    )
    start, each, reports = time.process_time(), [], []
    for x in train:
        pyro.set_rng_seed(args.seed)
        fits = fit_svi(
            x.expand(args.chains, -1, -1), family, k, steps=args.steps, batch=args.batch, draws=args.chains
        )
        with torch.no_grad():
            fit = torch.stack([log_density(q, x).sum(-1).mean() for q in fits])
        best = fits[
            int(fit.argmax())
        ]  # other sets of regions are other modes, which no chain leaves: all start from the best
        starts = [{site: v[i : i + 1] for site, v in best.items()} for i in range(args.chains)]
        q, report = fit_nuts(x, family, k, starts=starts, draws=args.mcmc_draws, warmup=args.mcmc_draws)
        report["fits"] = fit.tolist()
        each.append(q)
        reports.append(report)
    row |= {"seconds": time.process_time() - start, "reports": reports}
    return row | {"valid": score(each, valid), "test": score(each, test)}, each


def summary(values: list[float]) -> str:
    """Mean and standard error over seeds."""
    x = torch.tensor(values)
    return f"{x.mean():.2f}" + (f" ± {x.std() / math.sqrt(len(x)):.2f}" if len(x) > 1 else "")


def report(row: dict[str, Any], out: Path, note: str = "") -> None:
    with (out / "results.jsonl").open("a") as f:
        f.write(json.dumps(row) + "\n")
    kept = "once" if row["distinct"] else "all rows"
    print(
        f"| {row['catalogue']} | {kept} | {row['family']} | {row['how']} | {row['k']} | "
        f"{summary(row['valid'])} | {summary(row['test'])} | {note} | {row['seconds']:.0f} |",
        flush=True,
    )


# --- the maps
#
# ------------------------------------------------------------------------------------------------
def on_the_map(q: dict[str, Tensor], draws: int = 6) -> Any:
    """The predictive density of a few draws, for points of any batch shape."""
    few = {name: v[:: max(1, len(v) // draws)] for name, v in q.items()}
    return lambda x: log_predictive(few, x.reshape(-1, 3)).reshape(x.shape[:-1])


def draw_maps(rows: dict[str, tuple[Tensor, dict[str, Tensor]]], path: Path, resolution: int) -> None:
    """One row of maps for each title: its places, and the density fitted to the training part of them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.4 * len(rows)), layout="constrained")
    for i, (title, (x, q)) in enumerate(rows.items()):
        left, right = (figure.add_subplot(len(rows), 2, 2 * i + j, projection="mollweide") for j in (1, 2))
        sphere_points(x, world_axes(left), s=min(6.0, 4000 / len(x)), alpha=0.6)
        left.set_title(f"{title}: {len(x)} places", fontsize=10)
        sphere_density(on_the_map(q), right, resolution=resolution, decades=4)
        right.set_title("fitted density", fontsize=10)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", type=Path, help="folder with the catalogues; without it they are downloaded"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("earth"),
        help="folder for results.jsonl and the maps (default earth)",
    )
    parser.add_argument("--catalogues", nargs="+", default=list(PUBLISHED), choices=list(PUBLISHED))
    parser.add_argument("--families", nargs="+", default=["vmf", "kent"], choices=["vmf", "kent"])
    parser.add_argument(
        "--components", type=int, nargs="+", default=[10, 30, 60], help="numbers of regions to choose from"
    )
    parser.add_argument(
        "--repeats", nargs="*", default=["volcano", "earthquake"], help="score these with all their rows, too"
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of splits (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the inference (default 0)")
    parser.add_argument("--steps", type=int, default=400, help="steps of SVI (default 400)")
    parser.add_argument("--batch", type=int, default=512, help="places a step (default 512)")
    parser.add_argument(
        "--draws", type=int, default=25, help="draws from the guide in the predictive density (default 25)"
    )
    parser.add_argument(
        "--mcmc", nargs="*", default=["volcano"], choices=list(PUBLISHED), help="catalogues for MCMC"
    )
    parser.add_argument("--mcmc-components", type=int, default=10, help="regions for MCMC (default 10)")
    parser.add_argument("--mcmc-families", nargs="+", default=["vmf"], choices=["vmf", "kent"])
    parser.add_argument(
        "--mcmc-draws", type=int, default=50, help="draws a chain, after as many for warm-up (default 50)"
    )
    parser.add_argument("--mcmc-seeds", type=int, default=1, help="splits for MCMC (default 1)")
    parser.add_argument(
        "--chains", type=int, default=4, help="chains, and SVI fits of which the best starts them (default 4)"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="one catalogue, 2 splits, 3 regions, a few steps"
    )
    args = parser.parse_args()
    if args.smoke:
        args.catalogues, args.mcmc = args.catalogues[:1], args.catalogues[:1]
        args.components, args.mcmc_components, args.seeds, args.steps, args.draws, args.mcmc_draws = (
            [2, 3],
            3,
            2,
            4,
            3,
            4,
        )
    args.out.mkdir(parents=True, exist_ok=True)

    torch.set_default_dtype(torch.float64)
    pyro.enable_validation(False)
    print(
        f"uniform density: {math.log(4 * math.pi):.3f} nats; all scores are nats w.r.t. area on the unit "
        f"sphere"
    )
    print(
        "| catalogue | places | distribution | inference | K | -log p (valid) | -log p (test) | published | "
        "CPU s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    maps: dict[str, tuple[Tensor, dict[str, Tensor]]] = {}
    compared: dict[str, tuple[Tensor, dict[str, Tensor]]] = {}
    for name in args.catalogues:
        for distinct in [True, False] if name in args.repeats else [True]:
            for family in args.families:
                fits = [svi_row(name, family, k, distinct, args) for k in args.components]
                best, each = min(fits, key=lambda fit: sum(fit[0]["valid"]))  # K by validation
                for row, _ in fits:
                    note = f"{PUBLISHED[name][family]} (all rows)" if row is best else "not chosen"
                    report(row, args.out, note)
                if distinct:
                    maps[name] = (earth(name, folder=args.data), each[0])
        for family in args.mcmc_families if name in args.mcmc else []:
            svi, (q, *_) = svi_row(name, family, args.mcmc_components, True, args)
            row, (p, *_) = nuts_row(name, family, args.mcmc_components, True, args)
            same = summary(svi["test"][: args.mcmc_seeds])
            report(
                row,
                args.out,
                f"SVI on the same splits: {same}; R-hat {[round(r['r_hat'], 2) for r in row['reports']]}",
            )
            train = splits(name, 1, args.data, True)[0][0]
            compared |= {f"{name}, SVI, {family}": (train, q), f"{name}, NUTS, {family}": (train, p)}
    resolution = 20 if args.smoke else 120
    draw_maps(maps, args.out / "earth.png", resolution)
    if compared:
        draw_maps(compared, args.out / "earth_mcmc.png", resolution)


if __name__ == "__main__":
    main()
