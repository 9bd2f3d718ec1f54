r"""Densities on given manifolds: mixtures, kernels and flows on the earth catalogues, on protein torsions, and on
targets whose entropy is known.

    python tutorials/experiments/densities.py earth --data FOLDER --out results      # every place once
    python tutorials/experiments/densities.py earth --data FOLDER --out results --raw      # all rows, as published
    python tutorials/experiments/densities.py torsions --data FOLDER --out results
    python tutorials/experiments/densities.py oracles --out results
    python tutorials/experiments/densities.py report --out results               # the tables
    python tutorials/experiments/densities.py maps --data FOLDER --out results  # fits its row again, with these --steps

Score: minus the mean log density of test points, in nats with respect to area (sphere, torus), so that a uniform
density scores log 4 pi = 2.531 and 2 log 2 pi = 3.676. All choices are made on validation points. Rows are appended
to ``results.jsonl`` one by one; what is there is not run again, so an interrupted command goes on where it was.

The catalogues hold repeated places: with all rows, the test set holds copies of training places and the score has no
lower bound. The headline is therefore with every place once, removed before the split.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import densities_models as rows
import densities_oracles as oracles
import geoopt
import pyro
import torch
from densities_mass import Mass, mass
from torch import Tensor

import pyro_manifold.distributions as mdist
from pyro_manifold.datasets import earth, earth_split, torsions, torsions_split
from pyro_manifold.flows import ContinuousFlow, SphereFlow, TorusFlow
from pyro_manifold.geometry import Torus
from pyro_manifold.nn import KillingField, TangentField
from pyro_manifold.training import fit_flow_matching
from pyro_manifold.transforms import StereographicChart

CATALOGUES = ["volcano", "earthquake", "flood", "fire"]
RESIDUES = ["general", "glycine", "proline", "pre-proline"]
# test score as printed in the literature, random splits of all rows; sources: docs/experiments/densities.md
PUBLISHED = {
    "mixture of vMF": ["-0.31", "0.59", "1.09", "-0.23"],
    "stereographic CNF": ["-0.64", "0.43", "0.99", "-0.40"],
    "Riemannian CNF (first table)": ["-0.97 ± .15", "0.18", "0.90", "-0.66"],
    "Moser flow": ["-4.21 ± .17", "-0.16", "0.57", "-1.28"],
    "score-based model (RSGM)": ["-4.92 ± .25", "-0.19 ± .07", "0.48", "-1.33"],
    "Riemannian flow matching": ["-7.93", "-0.28", "0.42", "-1.86"],
}


# --- rows ---------------------------------------------------------------------------------------------------
def sphere_flow(train: Tensor, valid: Tensor, *, seed: int, steps: int, **_: Any) -> Any:
    torch.manual_seed(seed)
    flow = SphereFlow(2, 5, bins=24, hidden=(64, 64))
    base = mdist.ManifoldUniform(geoopt.Sphere(), 3)
    small = len(train) < 1000
    return rows.fit_flow(
        flow, base, train, valid, steps=steps, batch=256, jitter=0.03 if small else 0.01, decay=0.1, seed=seed
    )


def riemannian_cnf(train: Tensor, valid: Tensor, *, seed: int, steps: int, **_: Any) -> Any:
    torch.manual_seed(seed)
    flow = ContinuousFlow(KillingField(geoopt.Sphere(), 3, hidden=(64, 64)), solver="rk4", steps=8)
    base = mdist.ManifoldUniform(geoopt.Sphere(), 3)
    return rows.fit_flow(flow, base, train, valid, steps=max(1, steps // 4), batch=128, seed=seed)


def stereographic_cnf(train: Tensor, valid: Tensor, *, seed: int, steps: int, **_: Any) -> Any:
    """A continuous flow of the plane, and the chart that leaves out one point."""
    torch.manual_seed(seed)
    flow = ContinuousFlow(TangentField(geoopt.Euclidean(ndim=1), 2, hidden=(64, 64)), solver="rk4", steps=8)
    chart = StereographicChart(2)
    plane = pyro.distributions.Normal(torch.zeros(2), 1.0).to_event(1)
    u, v = chart.inv(train), chart.inv(valid)  # the chart's volume change does not depend on the flow
    rows.fit_flow(flow, plane, u, v, steps=max(1, steps // 4), batch=128, seed=seed)
    return pyro.distributions.TransformedDistribution(plane, [flow, chart])


def flow_matching(train: Tensor, valid: Tensor, *, seed: int, steps: int, **_: Any) -> Any:
    """Four times the steps of the other flows: one costs a fraction of theirs. The likelihood takes 64 steps of RK4."""
    torch.manual_seed(seed)
    manifold = geoopt.Sphere() if rows.is_sphere(train) else Torus()
    field = TangentField(manifold, train.shape[-1], hidden=(128, 128, 128))
    flow = ContinuousFlow(field, solver="rk4", steps=64).float()
    epochs = max(1, 4 * steps * 256 // len(train))
    options: dict[str, Any] = dict(batch_size=256, lr=2e-3, epochs=epochs, seed=seed, disable_progbar=True)
    fit_flow_matching(flow, train.float(), validation=valid.float(), **options)
    return pyro.distributions.TransformedDistribution(rows.uniform(train, valid), [flow.double()])


def sphere_flow_on_kernels(train: Tensor, valid: Tensor, *, seed: int, steps: int, **_: Any) -> Any:
    torch.manual_seed(seed)
    flow = SphereFlow(2, 3, bins=8, hidden=(32,), number=2)  # smooth: a wigglier one learns the sample
    return rows.fit_flow_on_kernels(flow, train, valid, steps=max(1, steps // 10), seed=seed)


def torus_flow(
    train: Tensor, valid: Tensor, *, seed: int, steps: int, kind: str = "coupling", base: Any = None, **_: Any
) -> Any:
    torch.manual_seed(seed)
    flow = TorusFlow(2, 4 if kind == "coupling" else 2, kind=kind, bins=16, hidden=(32, 32))
    base = mdist.ManifoldUniform(Torus(), 2) if base is None else base
    return rows.fit_flow(flow, base, train, valid, steps=steps, batch=256, jitter=0.05, decay=0.1, seed=seed)


def torus_flow_on_mixture(train: Tensor, valid: Tensor, *, fitted: Mapping[str, Any], **more: Any) -> Any:
    return torus_flow(train, valid, base=fitted["wrapped normal mixture"], **more)


def stacked(train: Tensor, valid: Tensor, *, fitted: Mapping[str, Any], **_: Any) -> Any:
    return rows.stack(valid, [fitted[row] for row in fitted if row != "stack"])


SPHERE_MIXTURE = partial(rows.mixture, caps=[1e4], components=[30, 100], em_steps=40)
TORUS_MIXTURE = partial(rows.mixture, caps=[300.0], components=[5, 20], em_steps=30)
EARTH: dict[str, Callable[..., Any]] = {
    "uniform": rows.uniform,
    "vMF mixture": partial(SPHERE_MIXTURE, family="von_mises_fisher"),
    "Kent mixture": partial(SPHERE_MIXTURE, family="kent", components=[100]),
    "vMF kernels": rows.kernels,
    "local Kent kernels": rows.local_kernels,
    "stereographic CNF": stereographic_cnf,
    "Riemannian CNF": riemannian_cnf,
    "flow matching": flow_matching,
    "spline flow": sphere_flow,
    "spline flow on kernels": sphere_flow_on_kernels,
    "spline flow on local kernels": rows.flow_on_local_kernels,
    "stack": stacked,
}
TORSIONS: dict[str, Callable[..., Any]] = {
    "uniform": rows.uniform,
    "von Mises mixture": partial(TORUS_MIXTURE, family="von_mises"),
    "wrapped normal mixture": partial(TORUS_MIXTURE, family="wrapped_normal", components=[10]),
    "von Mises kernels": rows.kernels,
    "spline flow, coupling": torus_flow,
    "spline flow, autoregressive": partial(torus_flow, kind="autoregressive"),
    "spline flow on mixture": torus_flow_on_mixture,
    "flow matching": flow_matching,
    "stack": stacked,
}


# --- running ------------------------------------------------------------------------------------------------
def seconds(f: Callable[[], Any]) -> float:
    """Least CPU seconds of two calls."""
    times = []
    for _ in range(2):
        start = time.process_time()
        f()
        times.append(time.process_time() - start)
    return min(times)


def scored(density: Any, valid: Tensor, test: Tensor) -> dict[str, Any]:
    with torch.no_grad():
        x = test[torch.randint(len(test), (250,))]
        return {
            "valid": -float(density.log_prob(valid).mean()),
            "test": -float(density.log_prob(test).mean()),
            "log_prob_ms": 4e3 * seconds(lambda: density.log_prob(x)),  # per 1000
            "sample_ms": 1e3 * seconds(lambda: density.sample((1000,))),
        }


def mass_of(density: Any, train: Tensor, budget: int) -> Mass | None:
    """By quadrature. Thousands of kernels are too many for it, and their mass is 1 by construction: for a flow on
    kernels the mass is that of the flow on the uniform distribution, for kernels themselves there is None."""
    many = 1000
    base = getattr(density, "base_dist", density)
    if len(getattr(getattr(base, "mixture_distribution", None), "logits", ())) > many:
        if base is density:
            return None
        uniform = rows.uniform(train, train)
        density = torch.distributions.TransformedDistribution(uniform, density.transforms)
    pyro.set_rng_seed(0)
    with torch.no_grad():
        where = torch.cat([train, density.sample((2000,))])
    return mass(density.log_prob, where, train.shape[-1] == 3, budget=budget)


class Results:
    """Rows in a file, one JSON object a line."""

    def __init__(self, out: Path) -> None:
        self.file = out / "results.jsonl"
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.rows = [json.loads(line) for line in lines]

    def find(self, **key: Any) -> dict[str, Any] | None:
        return next((r for r in self.rows if all(r[k] == v for k, v in key.items())), None)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        with self.file.open("a") as f:
            f.write(json.dumps(row) + "\n")
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


class Fits(Mapping[str, Any]):
    """Densities of one set and split by row, each fitted when it is first asked for, and the same each time since a
    fit starts at the seed: what a resumed run needs of earlier rows, and the maps, is fitted again rather than read
    from a file.

    Rows are those chosen; :attr:`seconds` are CPU seconds of each fit, without those of rows it is built on.
    """

    def __init__(
        self, kinds: dict[str, Any], parts: tuple[Tensor, Tensor, Tensor], seed: int, args: Any
    ) -> None:
        self.kinds, self.parts, self.seed, self.steps = kinds, parts, seed, args.steps
        self.chosen = [row for row in kinds if args.rows is None or row in args.rows]
        self.seconds: dict[str, float] = {}
        self._densities: dict[str, Any] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self.chosen)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, row: str) -> Any:
        if row not in self._densities:
            train, valid, _ = self.parts
            before, start = sum(self.seconds.values()), time.process_time()
            with torch.random.fork_rng(devices=[]):
                pyro.set_rng_seed(self.seed)
                density = self.kinds[row](train, valid, seed=self.seed, steps=self.steps, fitted=self)
            others = sum(self.seconds.values()) - before
            self.seconds[row] = time.process_time() - start - others
            self._densities[row] = density
        return self._densities[row]


def run_row(results: Results, key: dict[str, Any], fits: Fits, args: Any) -> None:
    if results.find(**key) is not None:
        return
    row, seed = key["row"], key["seed"]
    train, valid, test = fits.parts
    density = fits[row]
    out: dict[str, Any] = {**key, "seconds": fits.seconds[row], "n": len(train)}
    out |= scored(density, valid, test)
    if seed in args.mass and row != "stack":
        m = mass_of(density, train, args.budget)
        out |= {} if m is None else {"mass": m.value, "mass_error": m.error}
    if isinstance(density, rows.Stack):
        out["weights"] = density.weights.tolist()
    results.add(out)


def run(results: Results, table: str, names: list[str], kinds: dict[str, Any], split: Any, args: Any) -> None:
    for seed in args.seeds:
        for name in names:
            fits = Fits(kinds, split(name, seed=seed, folder=args.data), seed, args)
            for row in fits:
                run_row(results, dict(table=table, name=name, row=row, seed=seed), fits, args)


# --- tables -------------------------------------------------------------------------------------------------
def summary(values: list[float], digits: int = 2) -> str:
    """Mean and standard error over seeds."""
    x = torch.tensor(values, dtype=torch.float64)
    if len(x) == 1:
        return f"{float(x):.{digits}f} (1)"
    return f"{float(x.mean()):.{digits}f} ± {float(x.std()) / math.sqrt(len(x)):.{digits}f} ({len(x)})"


def table_of(results: Results, table: str, names: list[str], kinds: list[str]) -> list[str]:
    """Test scores by row and set; in brackets the number of seeds. Bold: the best mean among rows of all seeds whose
    mass is within 1e-2 of 1."""
    cells = {
        (row, name): [r for r in results.rows if (r["table"], r["row"], r["name"]) == (table, row, name)]
        for row in kinds
        for name in names
    }
    most = {name: max(len(cells[row, name]) for row in kinds) for name in names}
    best = {}
    for name in names:
        means = {
            row: sum(r["test"] for r in cells[row, name]) / len(cells[row, name])
            for row in kinds
            if len(cells[row, name]) == most[name] > 0
            and all(abs(r.get("mass", 1.0) - 1) <= 1e-2 for r in cells[row, name])
        }
        best[name] = min(means, key=lambda row: means[row]) if means else None
    lines = [f"| row | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for row in kinds:
        if not any(cells[row, name] for name in names):
            continue
        shown = [
            summary([r["test"] for r in cells[row, name]]) if cells[row, name] else "not run"
            for name in names
        ]
        shown = [f"**{s}**" if best[name] == row else s for s, name in zip(shown, names, strict=True)]
        lines.append(f"| {row} | {' | '.join(shown)} |")
    return lines


def costs_of(results: Results, table: str, kinds: list[str]) -> list[str]:
    """Means over sets and seeds; of the mass, the farthest from 1."""
    lines = [
        "| row | training, CPU s (most) | log_prob, ms per 1000 | samples, ms per 1000 | mass farthest from 1 |",
        "|---|---|---|---|---|",
    ]
    for row in kinds:
        found = [r for r in results.rows if (r["table"], r["row"]) == (table, row)]
        if not found:
            continue
        masses = [r for r in found if "mass" in r]
        far = max(masses, key=lambda r: abs(r["mass"] - 1)) if masses else None
        shown = f"{far['mass']:.4f} (± {far['mass_error']:.0e}, {far['name']})" if far else "not computed"
        mean = {k: sum(r[k] for r in found) / len(found) for k in ("seconds", "log_prob_ms", "sample_ms")}
        lines.append(
            f"| {row} | {mean['seconds']:.1f} ({max(r['seconds'] for r in found):.0f}) | "
            f"{mean['log_prob_ms']:.1f} | {mean['sample_ms']:.1f} | {shown} |"
        )
    return lines


def report(results: Results) -> None:
    for title, table, names, kinds in (
        ("Earth, every place once", "earth", CATALOGUES, list(EARTH)),
        ("Earth, all rows", "earth-raw", CATALOGUES, list(EARTH)),
        ("Torsions, split by residue", "torsions", RESIDUES, list(TORSIONS)),
    ):
        lines = table_of(results, table, names, kinds)
        if len(lines) > 2:
            if table == "earth-raw":
                lines += [f"| *{row} (published)* | {' | '.join(v)} |" for row, v in PUBLISHED.items()]
            print(f"\n## {title}\n", *lines, "", *costs_of(results, table, kinds), sep="\n")
    for line in oracles.table(results.rows):
        print(line)


# --- pictures -----------------------------------------------------------------------------------------------
def maps(results: Results, args: Any) -> None:
    """The catalogues and the density of one row, trained on split 0."""
    from matplotlib.figure import Figure

    from pyro_manifold.plotting import sphere_density, sphere_points, world_axes

    figure = Figure(figsize=(13, 3.4 * len(CATALOGUES)), layout="constrained")
    for i, name in enumerate(CATALOGUES):
        if results.find(table="earth", name=name, row=args.row, seed=0) is None:
            continue
        x = earth(name, folder=args.data)
        left, right = (
            figure.add_subplot(len(CATALOGUES), 2, 2 * i + j, projection="mollweide") for j in (1, 2)
        )
        sphere_points(x, world_axes(left), s=min(6.0, 4000 / len(x)), alpha=0.6)
        left.set_title(f"{name}: {len(x)} places", fontsize=10)
        density = Fits(EARTH, earth_split(name, seed=0, folder=args.data), 0, args)[args.row]

        def flat(points: Tensor, d: Any = density) -> Tensor:
            return d.log_prob(points.reshape(-1, 3).double()).reshape(points.shape[:-1])

        sphere_density(flat, right, resolution=args.resolution, decades=4)
        right.set_title(f"density: {args.row}", fontsize=10)
    figure.savefig(args.out / "densities_earth.png", dpi=100)


def ramachandran(results: Results, args: Any) -> None:
    """The torsions and the density of one row, trained on split 0."""
    import matplotlib.colors
    from matplotlib.figure import Figure

    names = [n for n in RESIDUES if results.find(table="torsions", name=n, row=args.row, seed=0) is not None]
    figure = Figure(figsize=(3.4 * len(names), 3.6), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    t = torch.linspace(-math.pi, math.pi, args.resolution)
    for ax, name in zip(axes, names, strict=True):
        x = torsions(name, folder=args.data)
        density = Fits(TORSIONS, torsions_split(name, seed=0, folder=args.data), 0, args)[args.row]
        with torch.no_grad():
            p = density.log_prob(torch.cartesian_prod(t, t).double()).exp()
        top = float(p.max())
        degrees = t.rad2deg().numpy()
        shown = p.reshape(len(t), -1).T.clamp_min(1e-4 * top).numpy()
        norm = matplotlib.colors.LogNorm(1e-4 * top, top)
        ax.pcolormesh(degrees, degrees, shown, cmap="magma", rasterized=True, norm=norm)
        few = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:800]].rad2deg()
        ax.scatter(few[:, 0].numpy(), few[:, 1].numpy(), s=1, color="white", linewidths=0, alpha=0.6)
        ax.set(title=f"{name}: {len(x)} pairs", xlabel="phi, degrees", ylabel="psi, degrees", aspect="equal")
    figure.savefig(args.out / "densities_torsions.png", dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["earth", "torsions", "oracles", "report", "maps", "ramachandran"])
    parser.add_argument("--data", type=Path, help="folder of the catalogues or torsions")
    parser.add_argument(
        "--out", type=Path, default=Path("densities"), help="folder for results (default densities)"
    )
    parser.add_argument(
        "--raw", action="store_true", help="earth: all rows, as published, instead of places once"
    )
    parser.add_argument("--names", nargs="+", help="sets (default all)")
    parser.add_argument("--rows", nargs="+", help="rows (default all); the stack is of these")
    parser.add_argument("--row", default="stack", help="row of the maps (default stack)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=800, help="steps of a flow's training (default 800)")
    parser.add_argument(
        "--mass", nargs="*", type=int, default=[0], help="seeds whose mass is computed (default 0)"
    )
    parser.add_argument("--budget", type=int, default=60_000, help="evaluations for a mass (default 60000)")
    parser.add_argument(
        "--rows-of-data", type=int, default=20_000, help="oracles: training points (default 20000)"
    )
    parser.add_argument("--resolution", type=int, default=150, help="of maps (default 150)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_default_dtype(torch.float64)
    pyro.enable_validation(False)
    results = Results(args.out)
    if args.what == "earth":
        split = partial(earth_split, distinct=not args.raw)
        run(results, "earth-raw" if args.raw else "earth", args.names or CATALOGUES, EARTH, split, args)
    elif args.what == "torsions":
        run(results, "torsions", args.names or RESIDUES, TORSIONS, torsions_split, args)
    elif args.what == "oracles":
        oracles.run(results, args, rows_of_data=args.rows_of_data)
    elif args.what == "report":
        report(results)
    else:
        (maps if args.what == "maps" else ramachandran)(results, args)


if __name__ == "__main__":
    main()
