r"""Manifolds in pieces: VQ-flows against a single chart and against flows in all of space, on sets whose exact
density is known.

Sets: two interlocked circles, a trefoil knot, a helix with ends, a sphere, a torus, 10000 rows each; and a swiss roll
of 5000 noisy rows. Methods, each with the same budget of CPU seconds:

    VQ-flow      charts of one conditional flow around codes, an atlas (density on the manifold)
    conformal    the same with conformal charts, as in the paper: pieces of planes and spheres (density on the manifold)
    M-flow       one chart (density on the manifold)
    RealNVP      affine couplings in space (density in space)
    spline flow  spline couplings in space (density in space)

Negative log likelihoods of the first three are in nats with respect to length or area, and have the truth's entropy to
be compared with; those of the others are with respect to volume and cannot be compared with either. Samples can:
squared MMD and energy distance from 3000 fresh draws of the truth, the share farther from the manifold than 0.05
(0.2 on the swiss roll), the connected components of 3000 samples. Rows are appended to OUT/vq_flows.jsonl; a rerun
goes on from there.

    python tutorials/experiments/vq_flows.py --out results                  # about 13 CPU minutes
    python tutorials/experiments/vq_flows.py --out results --smoke          # a few seconds
    python tutorials/experiments/vq_flows.py --out results --report         # table and pictures of what is there
"""

import argparse
import json
import math
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_manifold.datasets import (
    Helix,
    InterlockedCircles,
    SphereMixture,
    SwissRoll,
    TorusOfRevolution,
    TrefoilKnot,
)
from pyro_manifold.evaluation import connected_components, energy_distance, mmd2
from pyro_manifold.flows import Affine, Coupling, LatentFlow, LULinear
from pyro_manifold.models import AmbientFlow, ManifoldFlow, VQFlow
from pyro_manifold.training import fit_md, fit_vq, load_checkpoint, save_checkpoint

TRUTHS: dict[str, Any] = {
    "circles": InterlockedCircles,
    "knot": TrefoilKnot,
    "helix": Helix,
    "sphere": SphereMixture,
    "torus": TorusOfRevolution,
    "roll": SwissRoll,
}
CHARTS = {"circles": 16, "knot": 24, "helix": 16, "sphere": 16, "torus": 32, "roll": 80}
EPS = {
    "roll": 0.5
}  # how far charts are trained beyond their cells, where it is not the default 0.3: rows are few
METHODS = ["VQ-flow", "conformal", "M-flow", "RealNVP", "spline flow"]
PIECES = {"VQ-flow": "affine", "conformal": "conformal"}  # and the kind of their charts
ON_MANIFOLD = {*PIECES, "M-flow"}
NOISE = 0.05  # of the swiss roll
OFF = 0.05  # farther from the manifold than this, a sample is off it; four standard deviations on the swiss roll


def off_limit(name: str) -> float:
    return 4 * NOISE if name == "roll" else OFF


def draws(name: str, n: int, seed: int) -> Tensor:
    truth = TRUTHS[name]()
    return (truth.sample(n, seed=seed, noise=NOISE) if name == "roll" else truth.sample(n, seed=seed)).float()


def real_nvp(x: Tensor, depth: int = 8) -> AmbientFlow:
    """Affine couplings that change odd and even coordinates in turn, with linear layers between them."""
    d = x.shape[1]
    halves = [range(0, d, 2), range(1, d, 2)]
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [Coupling(d, halves[i % 2], kind="affine", hidden=(64, 64)), LULinear(d)]
    return AmbientFlow([*layers, Affine.from_pca(x)], LatentFlow(d, []), d)


def fitted(method: str, name: str, x: Tensor, args: argparse.Namespace) -> Any:
    """A model of the rows ``x`` after so many CPU seconds of training."""
    dim, budget, epochs = TRUTHS[name].dim, args.seconds, args.epochs
    loop: dict[str, Any] = dict(clock=time.process_time, seed=args.seed, disable_progbar=True, batch_size=200)
    if method in PIECES:
        charts = args.charts or CHARTS[name]
        flow = VQFlow.from_data(x, dim, charts, kind=PIECES[method], eps=EPS.get(name, 0.3), seed=args.seed)
        share = (0.08 * budget, 0.52 * budget, 0.4 * budget)
        fit_vq(flow, x, epochs=epochs, seconds=share, lr=(1e-3, 1e-2, 5e-3), **loop)
        return flow
    if method == "M-flow":
        one = ManifoldFlow.from_data(x, dim, hidden=(64, 64))
        fit_md(one, x, epochs=epochs, seconds=(0.6 * budget, 0.4 * budget), **loop)
        return one
    ambient = real_nvp(x) if method == "RealNVP" else AmbientFlow.from_data(x, 3)
    fit_md(ambient, x, epochs=epochs, seconds=budget, **loop)
    return ambient


def radius_of_pieces(truth: Any, x: Tensor) -> float:
    """One and a half times the longest gap between neighbouring draws ``x`` of one component of the truth: the longest
    edge of its minimal spanning tree."""
    from scipy.sparse.csgraph import minimum_spanning_tree

    which, longest = truth.component(x), 0.0
    for k in range(truth.components):
        own = x[which == k].double()
        longest = max(longest, float(minimum_spanning_tree(torch.cdist(own, own).numpy()).max()))
    return 1.5 * longest


@torch.no_grad()
def measured(method: str, name: str, model: Any, args: argparse.Namespace) -> tuple[dict[str, Any], Tensor]:
    truth, n = TRUTHS[name](), args.draws
    test, again = draws(name, n, args.seed + 101), draws(name, n, args.seed + 202)
    torch.manual_seed(args.seed)
    row: dict[str, Any] = {"nll": -float(model.log_prob(test).mean()), "parameters": count(model)}
    if method in ON_MANIFOLD:
        row["rms reconstruction"] = float(model.ood_score(test).square().mean().sqrt())
    x = model.condition().sample((n,))
    finite = x.isfinite().all(-1)
    row["not finite"] = int((~finite).sum())
    x = x[finite]
    away = truth.distance(x)
    row |= {
        "oracle": -float(truth.log_prob(test).mean()),
        "mmd2": mmd2(x, test),
        "mmd2 floor": mmd2(again, test),
        "energy": energy_distance(x, test),
        "energy floor": energy_distance(again, test),
        "off": float((away > off_limit(name)).double().mean()),
        "rms distance": float(away.square().mean().sqrt()),
        "components": connected_components(x, radius_of_pieces(truth, again)),
        "true components": truth.components,
    }
    if name == "roll":
        over = truth.overshoot(x)
        row |= {
            "overshoot 99%": float(over.quantile(0.99)),
            "overshoot": float((over > 3 * NOISE).double().mean()),
        }
        row |= {"largest overshoot": float(over.max())}
        row["overshoot of rows"] = float((truth.overshoot(again) > 3 * NOISE).double().mean())
        row["rms truth"] = rms(test - truth.project(test))
    if method in PIECES:
        inside = within_ends(model, test)
        row |= {
            "beyond ends": float((~inside).double().mean()),
            "rms within ends": float(model.ood_score(test[inside]).square().mean().sqrt()),
            "rms training": float(
                model.ood_score(draws(name, args.count(name), args.seed)).square().mean().sqrt()
            ),
        }
    if method in PIECES:
        mass, error = model.condition().mass(n)
        row |= {"mass": mass, "mass error": error, "charts": len(model.codes)}
        row["perplexity"] = model.autoencoder.usage(test).perplexity
    return row, x


def rms(x: Tensor) -> float:
    return float(x.square().sum(-1).mean().sqrt())


def within_ends(flow: VQFlow, x: Tensor) -> Tensor:
    """Which rows are not moved back to the end of their chart."""
    regions, chart = flow.regions(), flow.regions().first(x)
    u, inside = flow.coordinates_in(x, flow.contexts[chart]), torch.zeros(len(x), dtype=torch.bool)
    for k in chart.unique().tolist():
        inside[chart == k] = regions.domain(u[chart == k], k)
    return inside


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def run(args: argparse.Namespace) -> None:
    file = args.out / "vq_flows.jsonl"
    done = {(r["set"], r["method"], r["seed"]) for r in rows_of(file)}
    for name in args.sets:
        for method in args.methods:
            if (name, method, args.seed) in done:
                continue
            x = draws(name, args.count(name), args.seed)
            torch.manual_seed(args.seed)
            began = time.process_time()
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                model = fitted(method, name, x, args)
            spent = time.process_time() - began
            row, samples = measured(method, name, model, args)
            row = {"set": name, "method": method, "seed": args.seed, "rows": len(x), "cpu": spent, **row}
            row["warnings"] = [str(w.message)[:100] for w in seen]
            save_checkpoint(args.out / f"{name}_{method.replace(' ', '_')}_{args.seed}.pt", samples, {})
            with file.open("a") as out:
                out.write(json.dumps(row) + "\n")
            print(
                f"{name:8} {method:12} nll {row['nll']:.3f}  off {row['off']:.3f}  cpu {spent:.0f} s",
                flush=True,
            )


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def spread(values: list[float], digits: int, factor: float = 1.0) -> str:
    """Mean and standard deviation over seeds."""
    x = factor * torch.tensor(values, dtype=torch.float64)
    mean = f"{float(x.mean()):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {float(x.std()):.{digits}f}"


def by_method(rows: list[dict[str, Any]]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    return [
        (name, method, own)
        for name in TRUTHS
        for method in METHODS
        if (own := [r for r in rows if (r["set"], r["method"]) == (name, method)])
    ]


def table(rows: list[dict[str, Any]]) -> str:
    head = "set | method | NLL | NLL − oracle | 1000 MMD² − floor | energy − floor | off, % | rms distance | components"
    lines = [f"| {head} | parameters | seeds |", "|" + "---|" * 11]
    for name, method, own in by_method(rows):

        def cell(key: str, digits: int, factor: float = 1.0, less: str = "", own: Any = own) -> str:
            return spread([r[key] - (r[less] if less else 0.0) for r in own], digits, factor)

        comparable = method in ON_MANIFOLD and name != "roll"
        pieces = ", ".join(dict.fromkeys(f"{r['components']}" for r in own))
        cells = [name, method, cell("nll", 3), cell("nll", 3, less="oracle") if comparable else "–"]
        cells += [cell("mmd2", 2, 1000, "mmd2 floor"), cell("energy", 4, less="energy floor")]
        cells += [cell("off", 1, 100), cell("rms distance", 3), f"{pieces} of {own[0]['true components']}"]
        lines.append("| " + " | ".join([*cells, str(own[0]["parameters"]), str(len(own))]) + " |")
    return "\n".join(lines)


def masses(rows: list[dict[str, Any]]) -> str:
    head = "set | charts | perplexity of the codes | reconstruction error (rms) | total mass (standard error) | seeds"
    lines = [f"| {head} |", "|" + "---|" * 6]
    for name, method, own in by_method(rows):
        if method in PIECES:
            mass = ", ".join(f"{r['mass']:.4f} ({r['mass error']:.4f})" for r in own)
            cells = [name + (", conformal" if method == "conformal" else ""), str(own[0]["charts"])]
            cells += [
                spread([r[key] for r in own], d) for key, d in (("perplexity", 1), ("rms reconstruction", 4))
            ]
            lines.append("| " + " | ".join([*cells, mass, str(len(own))]) + " |")
    return "\n".join(lines)


def ends(rows: list[dict[str, Any]]) -> str:
    """What a swiss roll of noisy rows is reconstructed to, and how far samples run on."""
    head = "method | error of test rows (rms) | of the truth | ratio | within the ends | of training rows"
    lines = [f"| {head} | samples beyond by > 0.15, % | largest, each seed | seeds |", "|" + "---|" * 9]
    for _, method, own in by_method([r for r in rows if r["set"] == "roll"]):
        cells = [method]
        known = all("rms truth" in r for r in own) and method in ON_MANIFOLD
        for key in ("rms reconstruction", "rms truth", "ratio", "rms within ends", "rms training"):
            if key == "ratio":
                values = [r["rms reconstruction"] / r["rms truth"] for r in own] if known else []
            else:
                values = [r[key] for r in own if key in r]
            cells.append(spread(values, 3 if key == "ratio" else 4) if len(values) == len(own) else "–")
        cells.append(spread([r["overshoot"] for r in own], 2, 100))
        cells.append(", ".join(f"{r['largest overshoot']:.2f}" for r in own))
        lines.append("| " + " | ".join([*cells, str(len(own))]) + " |")
    return "\n".join(lines)


def picture(args: argparse.Namespace, names: list[str], path: Path) -> None:
    """A row of scatter plots for each set: draws of the truth, samples of each method, red if off the manifold."""
    import matplotlib.pyplot as plt

    titles = ["rows", *args.methods]
    fig = plt.figure(figsize=(2.6 * len(titles), 2.6 * len(names)), constrained_layout=True)
    for i, name in enumerate(names):
        truth = TRUTHS[name]()
        limits = None
        for j, title in enumerate(titles):
            file = args.out / f"{name}_{title.replace(' ', '_')}_{args.seed}.pt"
            if title != "rows" and not file.exists():
                continue
            x = draws(name, 3000, 1) if title == "rows" else load_checkpoint(file)
            ax: Any = fig.add_subplot(len(names), len(titles), i * len(titles) + j + 1, projection="3d")
            limits = limits or [(float(a), float(b)) for a, b in zip(x.amin(0), x.amax(0), strict=True)]
            off = truth.distance(x) > off_limit(name)
            for part, color in ((x[~off], "C0"), (x[off], "C3")):
                ax.scatter(*part.T.numpy(), s=1, color=color, linewidths=0)
            ax.set(xlim=limits[0], ylim=limits[1], zlim=limits[2], xticks=[], yticks=[], zticks=[])
            ax.set_title(title if i == 0 else "", fontsize=10)
            if name == "roll":
                ax.view_init(elev=10, azim=-75)
    fig.savefig(path, dpi=90)
    plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description="VQ-flows on manifolds with a known density.")
    parser.add_argument("--out", type=Path, default=Path("vq_flows"))
    parser.add_argument("--sets", nargs="+", choices=list(TRUTHS), default=list(TRUTHS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seconds", type=float, default=20.0, help="CPU seconds of training for each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--rows", type=int, help="rows of each set, instead of 10000 (5000 of the swiss roll)"
    )
    parser.add_argument("--draws", type=int, default=3000, help="samples and test rows")
    parser.add_argument("--charts", type=int, help="instead of those chosen for each set")
    parser.add_argument("--report", action="store_true", help="only table and pictures of the rows in OUT")
    parser.add_argument(
        "--smoke", action="store_true", help="one pass over few rows: to see that everything runs"
    )
    args = parser.parse_args()
    args.epochs = 10_000
    if args.smoke:
        args.rows, args.draws, args.epochs, args.seconds = 300, 200, 1, math.inf
        args.charts = args.charts or 4
    args.count = lambda name: args.rows or (5000 if name == "roll" else 10_000)
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.report:
        for seed in args.seeds:
            args.seed = seed
            run(args)
    args.seed = args.seeds[0]
    rows = rows_of(args.out / "vq_flows.jsonl")
    print(table(rows), masses(rows), ends(rows), sep="\n\n")
    present = [name for name in TRUTHS if any(r["set"] == name for r in rows)]
    toys = [name for name in present if name != "roll"]
    for names, stem in ((toys, "vq_flows"), ([n for n in present if n == "roll"], "vq_flows_roll")):
        if names:
            picture(args, names, args.out / f"{stem}.png")


if __name__ == "__main__":
    main()
