r"""Learned manifolds whose truth is known: densities on a circle, a bumpy surface, the Lorenz attractor, and images.

Six ways to put a density on data x that fill a manifold of dimension n in :math:`\mathbb R^d`:

    AF      a flow of all of the space                               dx = volume of the space
    PIE     the same, with d - n latent coordinates squeezed          dx = volume of the space
    FOM     the manifold is given, its density is learned             dx = volume of the manifold
    M       the manifold is the image of an injective flow            dx = volume of the learned manifold
    M_e     as M, with a network in place of the inverse              dx = volume of the learned manifold
    PAE     networks both ways                                        density of the latent coordinates only

M, M_e and PAE learn the manifold by reconstruction, then its density by likelihood, one after the other ("sequential") or pass by
pass ("alternating"). Log densities with different dx cannot be compared with each other; distances, samples and posteriors can.

    polynomial   the M-flow paper's surface and metrics; posterior of theta on a grid, and by the paper's Metropolis chain
    circle       a Gaussian wrapped around a circle
    lorenz       two dimensions for an attractor of dimension 2.06
    digits       scikit-learn's digits by a flow of several scales
    images       spots whose four factors of variation, and density, are known

Budgets are CPU seconds of one process: a pass over the data is timed first and as many are made as fit. Finished runs are kept in
``--out`` and not repeated.

    python tutorials/manifold_flows.py --data polynomial --algorithms M --seeds 5 --budget 150
    python tutorials/manifold_flows.py --smoke
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_manifold.datasets import (
    GaussianOnCircle,
    PolynomialSurface,
    grid_mmd2,
    lorenz,
    mmd2,
    ood_auc,
)
from pyro_manifold.flows import LatentFlow, coupling_chain
from pyro_manifold.models import AmbientFlow, ManifoldFlow, fit_md
from pyro_manifold.transforms import Chart


# --- training by CPU time -------------------------------------------------------------------------------------------------
def fit(
    flow: Any, x: Tensor, context: Tensor | None, *, budget: float, share: float = 0.35, schedule: str = "sequential",
    lr: tuple[float, float] = (1e-2, 3e-3), batch: int = 250, validation: float = 0.25, seed: int = 0, progress: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """:func:`fit_md` with as many passes as ``budget`` CPU seconds allow, by a pass timed on a few batches of a copy.

    :param share: of the budget, for the manifold; the rest is for the density.
    """
    began, few = time.process_time(), min(len(x), 25 * batch)
    common: dict[str, Any] = dict(batch_size=batch, disable_progbar=not progress, seed=seed)

    def seconds(epochs: tuple[int, int]) -> float:
        start = time.process_time()
        part = None if context is None else context[:few]
        fit_md(copy.deepcopy(flow), x[:few], part, epochs=epochs, schedule=schedule, validation=0.0, **common)
        return (time.process_time() - start) * len(x) / few

    moves = isinstance(flow, ManifoldFlow) and any(p.requires_grad for p in flow.transform.parameters())
    if not moves or schedule == "alternating":
        each = (1, 1) if moves else (0, 1)
        passes = (max(1, int(budget / seconds(each))),) * 2
    else:
        times = seconds((1, 0)), seconds((0, 1))
        passes = max(1, int(share * budget / times[0])), max(1, int((1 - share) * budget / times[1]))
    history = fit_md(flow, x, context, epochs=passes, schedule=schedule, validation=validation, lr=lr, **common)
    losses = {phase: min(loss) for phase, loss in history.losses.items()}
    return {"cpu_seconds": time.process_time() - began, "passes": passes, "validation": losses}


def project(flow: Any, x: Tensor, context: Tensor | None = None) -> Tensor:
    """The point of the manifold that the model makes of x; for PIE, v = 0 in its place."""
    if isinstance(flow, ManifoldFlow):
        return flow.transform.project(x)
    layers = flow.condition(context).transforms
    for layer in reversed(layers):
        x = layer.inv(x)
    x = torch.cat([x[..., : flow.latent.dim], torch.zeros_like(x[..., flow.latent.dim :])], -1)
    for layer in layers:
        x = layer(x)
    return x


def error(flow: Any, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Reconstruction error, capped at 10 as in the paper."""
    return torch.linalg.vector_norm(x - project(flow, x, context), dim=-1).clamp(max=10.0)


# --- the polynomial surface -----------------------------------------------------------------------------------------------
SURFACE = PolynomialSurface()
PUBLISHED = {  # distance, reconstruction, MMD, AUC: Brehmer and Cranmer 2020, medians of 5 runs
    "AF": (0.005, None, 0.071, 0.990), "PIE original": (0.035, 1.278, 0.131, 0.933), "PIE": (0.006, 1.253, 0.075, 0.972),
    "PAE": (0.002, 0.002, None, 0.990), "M": (0.009, 0.013, 0.017, 0.961), "M alternating": (0.002, 0.003, 0.020, 0.986),
    "M_e": (0.002, 0.002, 0.007, 0.987), "M_e alternating": (0.003, 0.003, 0.030, 0.985),
}  # fmt: skip


class Polynomial:
    """The paper's metrics with more points: 10 000 test and 10 000 noisy points instead of 1000, 20 observed sets instead of 1."""

    algorithms = list(PUBLISHED)
    columns = ["distance", "reco", "mmd2", "mmd2_chain", "auc", "kl", "kl_error", "cpu_seconds"]

    def __init__(self, smoke: bool = False) -> None:
        self.rows, self.many, self.sets, self.steps = (2000, 200, 2, 200) if smoke else (100_000, 10_000, 20, 5100)
        theta = SURFACE.prior(self.rows, seed=1)
        self.x = SURFACE.sample(self.rows, theta, seed=2).float()
        self.context = theta.float().unsqueeze(-1)
        self.grid = torch.linspace(-1, 1, 401, dtype=torch.float64)

    def build(self, name: str) -> tuple[Any, dict[str, Any]]:
        x, kind = self.x, name.split()[0]
        settings = {"schedule": "alternating"} if "alternating" in name else {}
        if kind in ("M", "M_e"):  # one coupling: the surface as a graph over a plane that is learned
            flow: Any = ManifoldFlow.from_data(x, 2, 1, depth=1, encoder=kind == "M_e")
        elif kind == "PAE":
            flow, settings = ManifoldFlow.autoencoder(x, 2, 1), {"lr": (3e-3, 3e-3)}
        else:
            dim, outer = (3, False) if kind == "AF" else (2, "original" in name)
            return AmbientFlow.from_data(x, dim, 1, depth=5, latent_depth=3, outer=outer, eps=0.01), {}
        flow.latent = LatentFlow(2, coupling_chain(2, 3, 1, hidden=(64, 64), bins=12), 1)
        return flow, settings

    def log_likelihood(self, flow: Any, y: Tensor) -> Tensor:
        """log p(set of points | theta) for each theta of the grid and set of y, (sets, n, 3), up to what theta does not change."""
        x, out = y.float().flatten(0, 1), []
        u = flow.transform.inv(x) if isinstance(flow, ManifoldFlow) else None
        for theta in self.grid.float().split(40):
            c = theta[:, None, None].expand(-1, len(x), -1)
            log_prob = flow.log_prob(x.expand(len(theta), -1, -1), c) if u is None else flow.latent.condition(c).log_prob(u)
            out.append(log_prob.double().unflatten(-1, y.shape[:2]).sum(-1))
        return torch.cat(out).mT

    @cache  # noqa: B019
    def truth(self) -> tuple[Tensor, Tensor, Tensor]:
        """Observed sets, their exact posteriors on the grid, draws of the exact posteriors by the paper's chain."""
        y = torch.stack([SURFACE.sample(20, 0.0, seed=1000 + s) for s in range(self.sets)])
        log_weight = torch.stack([SURFACE.log_likelihood(self.grid, each) for each in y])
        return y, log_weight.softmax(-1), self.chain(log_weight, seed=0)

    def chain(self, log_weight: Tensor, seed: int) -> Tensor:
        """The paper's sampler: Metropolis with step 0.15 from the true theta, 100 steps of burn-in; one row for each set."""
        gen = torch.Generator().manual_seed(seed)
        noise = 0.15 * torch.randn(self.steps, len(log_weight), generator=gen, dtype=torch.float64)
        chance = torch.rand(self.steps, len(log_weight), generator=gen, dtype=torch.float64).log()
        theta = log_weight.new_zeros(len(log_weight))
        at, path = self.between(log_weight, theta), []
        for jump, log_uniform in zip(noise, chance, strict=True):
            new = self.between(log_weight, theta + jump)
            accept = new - at > log_uniform
            theta, at = torch.where(accept, theta + jump, theta), torch.where(accept, new, at)
            path.append(theta)
        return torch.stack(path[100:], -1)

    def between(self, log_weight: Tensor, theta: Tensor) -> Tensor:
        """Linear interpolation on the grid; -inf off the prior's support."""
        place = (theta.clamp(-1, 1) + 1) * (len(self.grid) - 1) / 2
        low = place.floor().clamp(max=len(self.grid) - 2)
        values = [log_weight.gather(-1, low.long().unsqueeze(-1) + i).squeeze(-1) for i in (0, 1)]
        return torch.where(theta.abs() <= 1, torch.lerp(values[0], values[1], place - low), -math.inf)

    def mmd_of_chains(self, log_weight: Tensor, seed: int = 1) -> float:
        """Mean over the sets, every fifth step of the chains."""
        a, b = self.chain(log_weight, seed)[:, ::5], self.truth()[2][:, ::5]
        return sum(map(mmd2, a, b)) / len(a)

    def floor(self) -> dict[str, float]:
        """What the truth scores against itself: chains with other random numbers; orthogonal distances as the OOD score."""
        test, noisy = SURFACE.sample(self.many, 0.0, seed=3), SURFACE.out_of_distribution(self.many, seed=4)
        auc = ood_auc(SURFACE.distance(test), SURFACE.distance(noisy))
        return {"mmd2_chain": self.mmd_of_chains(self.truth()[1].log()), "auc": auc}

    def evaluate(self, flow: Any) -> dict[str, float]:
        theta = torch.zeros(1)
        drawn = flow.condition(theta).sample((self.many,))
        test, noisy = (f(self.many, seed=s).float() for f, s in ((SURFACE.sample, 3), (SURFACE.out_of_distribution, 4)))
        out = {"distance": float(SURFACE.vertical_distance(drawn).clamp(max=10.0).mean())}
        out["orthogonal_distance"] = float(SURFACE.distance(drawn).clamp(max=10.0).mean())
        aucs = [ood_auc(flow.log_prob(test, theta), flow.log_prob(noisy, theta))]
        if not (isinstance(flow, AmbientFlow) and flow.latent.dim == 3):
            errors = error(flow, test, theta), error(flow, noisy, theta)
            out["reco"] = float(errors[0].mean())
            aucs.append(ood_auc(*errors))
        out["auc"] = max(aucs)
        if isinstance(flow, ManifoldFlow):
            out["kl"], out["kl_error"] = SURFACE.kl(lambda x: flow.log_prob(x.float(), theta), n=2 * self.many, seed=5)
        y, exact, _ = self.truth()
        log_weight = self.log_likelihood(flow, y)
        each = grid_mmd2(log_weight.softmax(-1), exact, self.grid)
        out |= {"mmd2": float(each.mean()), "mmd2_median": float(each.median()), "mmd2_chain": self.mmd_of_chains(log_weight)}
        return out


# --- the circle -----------------------------------------------------------------------------------------------------------
class Circle:
    """Radial noise of 0.01, which a one-dimensional manifold averages out; KL to the exact density on the circle, or in the plane."""

    algorithms = ["AF", "FOM", "PIE", "PAE", "M", "M_e"]
    columns = ["distance", "reco", "kl", "kl_error", "cpu_seconds"]

    def __init__(self, smoke: bool = False) -> None:
        self.many = 300 if smoke else 10_000
        self.law, self.on = GaussianOnCircle(), GaussianOnCircle(noise=0.0)
        self.x, self.context = self.law.sample(self.many, seed=1).float(), None

    def build(self, name: str) -> tuple[Any, dict[str, Any]]:
        if name == "FOM":
            flow = ManifoldFlow.from_data(self.x, 1)
            angle = Chart(lambda u: torch.cat([-u.sin(), u.cos()], -1), lambda x: torch.atan2(-x[..., :1], x[..., 1:]), 1, 2)
            return ManifoldFlow(angle, flow.latent), {}  # the cut is at the bottom, 4 standard deviations away
        if name in ("M", "M_e"):
            return ManifoldFlow.from_data(self.x, 1, depth=5, encoder=name == "M_e"), {"batch": 100}
        if name == "PAE":
            return ManifoldFlow.autoencoder(self.x, 1), {"lr": (3e-3, 3e-3), "batch": 100}
        if name == "PIE":
            return AmbientFlow.from_data(self.x, 1, eps=0.1), {"batch": 100}
        return AmbientFlow.from_data(self.x, 2, latent_depth=2), {"batch": 100}

    def evaluate(self, flow: Any) -> dict[str, float]:
        drawn = flow.condition().sample((self.many,))
        out = {"distance": float((drawn.norm(dim=-1) - 1).abs().mean())}
        learned = isinstance(flow, ManifoldFlow)
        truth = self.on if learned else self.law
        x = truth.sample(self.many, seed=2).float()
        if learned or flow.latent.dim == 1:
            out["reco"] = float(error(flow, x).mean())
        gap = truth.log_prob(x.double()) - flow.log_prob(x).double()
        return out | {"kl": float(gap.mean()), "kl_error": float(gap.std() / self.many**0.5)}


# --- the attractor --------------------------------------------------------------------------------------------------------
class Lorenz:
    """Standardised units. Distances are to the nearest of 200 000 points of trajectories that training has not seen."""

    algorithms = ["M", "M_e", "PAE"]
    columns = ["distance", "coverage", "reco", "pca", "floor", "cpu_seconds"]

    def __init__(self, smoke: bool = False) -> None:
        size: dict[str, Any] = dict(trajectories=100, warm_up=5.0) if smoke else {}
        self.many = 300 if smoke else 10_000
        self.x, self.context = lorenz(1000 if smoke else 100_000, seed=711, **size).float(), None
        self.held = lorenz(2000 if smoke else 200_000, seed=712, **size).float()
        self.test = lorenz(self.many, seed=713, **size).float()

    def build(self, name: str) -> tuple[Any, dict[str, Any]]:
        if name == "PAE":
            return ManifoldFlow.autoencoder(self.x, 2, latent_depth=4), {"share": 0.6, "lr": (3e-3, 3e-3)}
        flow = ManifoldFlow.from_data(self.x, 2, depth=5, kind="spline", latent_depth=4, encoder=name == "M_e")
        return flow, {"share": 0.6, "lr": (3e-3, 3e-3)}

    def evaluate(self, flow: Any) -> dict[str, float]:
        from scipy.spatial import cKDTree

        tree = cKDTree(self.held.numpy())
        drawn = flow.condition().sample((self.many,))
        start = ManifoldFlow.from_data(self.x, 2).requires_grad_(False)
        return {
            "distance": float(tree.query(drawn.numpy())[0].mean()),
            "coverage": float(cKDTree(drawn.numpy()).query(self.test.numpy())[0].mean()),
            "reco": float(error(flow, self.test).mean()),
            "pca": float(error(start, self.test).mean()),  # what the plane of most variance leaves
            "floor": float(tree.query(self.test.numpy())[0].mean()),  # the distance of true points
        }


# --- runs, tables -----------------------------------------------------------------------------------------------------------
EXPERIMENTS: dict[str, Callable[..., Any]] = {"polynomial": Polynomial, "circle": Circle, "lorenz": Lorenz}


def run(experiment: Any, data: str, name: str, seed: int, args: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    """A row and its trained flow; what ``--out`` holds of them is read, not made again."""
    key = {"data": data, "algorithm": name, "seed": seed, "budget": args.budget}
    path = args.out / f"{data}-{name.replace(' ', '-')}-{seed}-{args.budget:g}"
    pyro.set_rng_seed(seed)
    flow, settings = experiment.build(name)
    if path.with_suffix(".json").exists():
        flow.load_state_dict(torch.load(path.with_suffix(".pt")))
        return json.loads(path.with_suffix(".json").read_text()), flow.requires_grad_(False)
    row = key | fit(flow, experiment.x, experiment.context, budget=args.budget, seed=seed, progress=args.progress, **settings)
    flow.requires_grad_(False)
    pyro.set_rng_seed(1_000 + seed)
    row |= experiment.evaluate(flow)
    torch.save(flow.state_dict(), path.with_suffix(".pt"))
    path.with_suffix(".json").write_text(json.dumps(row))
    return row, flow


def table(rows: list[dict[str, Any]], columns: list[str], published: dict[str, Any]) -> str:
    """Medians over the seeds of each algorithm."""

    def cell(values: list[float]) -> str:
        return f"{torch.tensor(values).double().quantile(0.5):.4g}" if values else "-"

    lines = ["| algorithm | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for name in dict.fromkeys(row["algorithm"] for row in rows):
        own = [row for row in rows if row["algorithm"] == name]
        cells = [cell([row[c] for row in own if c in row]) for c in columns]
        lines.append(f"| {name} | {len(own)} | " + " | ".join(cells) + " |")
        if name in published:
            known = dict(zip(("distance", "reco", "mmd2_chain", "auc"), published[name], strict=True))
            lines.append("| published | 5 | " + " | ".join(str(known.get(c) or "-") for c in columns) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", default=list(EXPERIMENTS), choices=list(EXPERIMENTS))
    parser.add_argument("--algorithms", nargs="+", help="some of AF, PIE, FOM, M, M_e, PAE, ... (default: all of the data's)")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each, 0, 1, ... (default 1)")
    parser.add_argument("--budget", type=float, default=150.0, help="CPU seconds of training a run (default 150)")
    parser.add_argument("--out", type=Path, default=Path("manifold_flows"), help="folder for results and pictures")
    parser.add_argument("--progress", action="store_true", help="show progress bars")
    parser.add_argument("--no-pictures", action="store_true")
    parser.add_argument("--smoke", action="store_true", help="little data, one pass")
    args = parser.parse_args()
    args.budget = 0.0 if args.smoke else args.budget
    args.out.mkdir(parents=True, exist_ok=True)
    pyro.enable_validation(False)
    torch.distributions.Distribution.set_default_validate_args(False)
    for data in args.data:
        experiment = EXPERIMENTS[data](args.smoke)
        names = [n for n in experiment.algorithms if args.algorithms is None or n in args.algorithms]
        rows, flows = [], {}
        for name in names:
            for seed in range(args.seeds):
                row, flow = run(experiment, data, name, seed, args)
                rows.append(row)
                flows.setdefault(name, flow)
                print(json.dumps(row), flush=True)
        print(f"\n{data}\n" + table(rows, experiment.columns, PUBLISHED if data == "polynomial" else {}))
        if hasattr(experiment, "floor"):
            print("the truth against itself:", json.dumps(experiment.floor()))
        if flows and not args.no_pictures:
            experiment.draw(flows, args.out / f"{data}.png")


if __name__ == "__main__":
    main()
