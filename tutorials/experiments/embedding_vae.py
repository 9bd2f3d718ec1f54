r"""Embedding-reparameterised VAE: the toy experiment of Golikov and Kretov (2018) at full protocol, and beyond.

**The paper's five rows.** x = f(s) in R^100 for s uniform on the circle and f a random network with one hidden layer of
100 ReLU units; likelihood N(., .1^2), 10000 steps of 256 fresh rows. The VAEs: a normal latent variable in R^1; a Beta
variable of [0, 1] embedded into the circle by a learned map (Wasserstein auto-encoder, frozen), by the exact map; the
learned map with a rotation that the encoder chooses; a normal latent variable in R^2. A row that is not a bound on
log p(x) says so. Beyond the paper: the exact map with rotations; von Mises-Fisher, power spherical, wrapped normal and
flow posteriors; points of the sphere and rotations of space behind the data; digits turned by random angles.

Each seed has its own f, weights and data, and all seeds of a row train side by side in one model whose layers have a
leading axis for the seed. Rows are appended to a file; what is there is not run again.

    python tutorials/experiments/embedding_vae.py --out rows.jsonl                  # the paper's rows, no noise
    python tutorials/experiments/embedding_vae.py --out rows.jsonl --noise 0.1      # with noise: the oracle is the best
    python tutorials/experiments/embedding_vae.py --out rows.jsonl --world sphere --noise 0.1
    python tutorials/experiments/embedding_vae.py --out rows.jsonl --world rotations --noise 0.1
    python tutorials/experiments/embedding_vae.py --out rows.jsonl --world digits
    python tutorials/experiments/embedding_vae.py --smoke                           # a minute's check that it runs
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import geoopt
import pyro.distributions as dist
import torch
from embedding_vae_data import MANIFOLDS, SIGMA, World, digit_rows, turned_digits
from torch import Tensor, nn
from tqdm import tqdm

import pyro_manifold.distributions as mdist
from pyro_manifold.evaluation import embedding_report
from pyro_manifold.flows import Conditional, LearnedEmbedding, RotationFlow, SphereFlow
from pyro_manifold.models import EmbeddingVAE, ManifoldVAE
from pyro_manifold.nn import ManifoldHead
from pyro_manifold.training import fit_embedding

Make = Callable[[int], Any]  # a seed to a model


class StackedLinear(nn.Module):
    """The linear layers of several models side by side: (..., models, n, in) -> (..., models, n, out)."""

    def __init__(self, layers: list[nn.Linear]) -> None:
        super().__init__()
        self.in_features = layers[0].in_features
        trained = layers[0].weight.requires_grad
        self.weight = nn.Parameter(torch.stack([layer.weight.detach().mT for layer in layers]), trained)
        bias = [torch.zeros(len(la.weight)) if la.bias is None else la.bias.detach() for la in layers]
        self.bias = nn.Parameter(torch.stack(bias).unsqueeze(1), trained)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def stacked(models: list[Any]) -> Any:
    """One model that computes what ``models`` compute, for data with a leading axis of one model each."""
    whole = copy.deepcopy(models[0])

    def replace(module: nn.Module, same: list[nn.Module]) -> None:
        for name, child in module.named_children():
            children = [getattr(m, name) for m in same]
            if isinstance(child, nn.Linear):
                setattr(module, name, StackedLinear(children))
            else:
                replace(child, children)

    replace(whole, models)
    return whole


# --- the rows -------------------------------------------------------------------------------------------------------


class FlowPosterior(nn.Module):
    """A von Mises-Fisher or wrapped normal distribution moved by a flow; all of them depend on the features."""

    def __init__(self, world: str, hidden: int) -> None:
        super().__init__()
        self.manifold, self.dim, _ = MANIFOLDS[world]
        options: dict[str, Any] = dict(bins=8, hidden=(64,))
        rotations = world == "rotations"
        flow = RotationFlow(1, **options) if rotations else SphereFlow(self.dim, 1, **options)
        self.family = "wrapped" if rotations else "vmf"
        self.flow = Conditional(flow, context_dim=hidden)
        self.loc = ManifoldHead(self.manifold, hidden, self.dim)
        self.scale = nn.Linear(hidden, self.dim if rotations else 1)

    def forward(self, h: Tensor) -> Any:
        scale = nn.functional.softplus(self.scale(h)) + 1e-5
        if self.family == "vmf":
            base: Any = mdist.VonMisesFisher(self.loc(h), scale.squeeze(-1) ** -2)
        else:
            base = mdist.WrappedNormal(self.manifold, self.loc(h), scale)
        return dist.TransformedDistribution(base, [self.flow.condition(h)])


@cache
def learned(world: str, smoke: bool, seed: int) -> LearnedEmbedding:
    torch.manual_seed(1000 + seed)
    phi = LearnedEmbedding(MANIFOLDS[world][0], MANIFOLDS[world][1])
    size: dict[str, Any] = dict(points=200, epochs=2, validation=None) if smoke else dict(epochs=50)
    fit_embedding(phi, seed=seed, disable_progbar=True, **size)
    return phi


def embedded(world: str, phi: Any, action: bool, options: dict[str, Any], seed: int) -> EmbeddingVAE:
    torch.manual_seed(2000 + seed)
    embedding = MANIFOLDS[world][2] if phi is None else phi(seed)
    return EmbeddingVAE(embedding, group_action=action, **options)


def manifold_vae(manifold: Any, dim: int, options: dict[str, Any], posterior: Any, seed: int) -> ManifoldVAE:
    torch.manual_seed(2000 + seed)
    if callable(posterior):
        posterior = posterior(options["hidden"])
    return ManifoldVAE(manifold, dim, posterior=posterior, **options)


def rows(world: str, options: dict[str, Any], smoke: bool) -> dict[str, Make]:
    """The rows of a world: from a seed to an untrained model."""
    world = "circle" if world == "digits" else world
    manifold, dim, _ = MANIFOLDS[world]
    line, phi = geoopt.Euclidean(1), partial(learned, world, smoke)
    if world == "circle":
        names = {"R^1": 1, "R^2": 2}
    else:
        names = {f"R^{dim}": dim, f"R^{dim + 1}": dim + 1}
    plain = {f"VAE, {k}": partial(manifold_vae, line, d, options, None) for k, d in names.items()}
    low, high = plain
    out: dict[str, Make] = {low: plain[low]}
    out["ER, learned"] = partial(embedded, world, phi, False, options)
    out["ER, exact"] = partial(embedded, world, None, False, options)
    out["ER, learned, group action"] = partial(embedded, world, phi, True, options)
    out[high] = plain[high]
    out["ER, exact, group action"] = partial(embedded, world, None, True, options)
    families = ["wrapped"] if world == "rotations" else ["vmf", "power_spherical", "wrapped"]
    for family in families:
        out[f"manifold VAE, {family}"] = partial(manifold_vae, manifold, dim, options, family)
    if world in ("sphere", "rotations"):
        flow = partial(FlowPosterior, world)
        out["manifold VAE, flow"] = partial(manifold_vae, manifold, dim, options, flow)
    return out


# --- training and scores --------------------------------------------------------------------------------------------


def train(model: Any, batch: Callable[[int], Tensor], steps: int, size: int, lr: float, quiet: bool) -> None:
    """Adam on the mean bound of each seed, the rate falling to zero along a cosine."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in tqdm(range(steps), disable=quiet, leave=False):
        loss = -model.elbo(batch(size)).mean(-1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def seam(model: Any, like: Tensor) -> Tensor | None:
    """How far apart, in units of sigma and per pixel, the decoder's outputs are at the two ends of the latent line: of
    [0, 1], or of the 0.5% and 99.5% quantiles of the codes of the rows ``like``. None where there is no line."""
    if isinstance(model, EmbeddingVAE) and model.dim == 1:
        ends = [model.decode(torch.full((*like.shape[:-2], 1, 1), t)).mean for t in (1e-5, 1 - 1e-5)]
    elif isinstance(model, ManifoldVAE) and model.point_shape == (1,):
        z = model.embed(like)
        ends = [model.decode(z.quantile(q, -2, keepdim=True)).mean for q in (0.005, 0.995)]
    else:
        return None
    scale = float(model.likelihood_scale)
    return (ends[0] - ends[1]).square().mean((-1, -2)).sqrt() / scale


@torch.no_grad()
def score(model: Any, x: Tensor, draws: int) -> dict[str, Any]:
    """One number for each seed, of rows ``(seeds, n, size)``."""
    bound = getattr(model, "is_bound", True)
    line = isinstance(model, EmbeddingVAE) and model.dim == 1
    mean = model.reconstruct(x) if isinstance(model, EmbeddingVAE) else model.decode(model.embed(x)).mean
    values = {
        "elbo": torch.stack([model.elbo(x, 5).mean(-1) for _ in range(4)]).mean(0),
        "iwae": model.iwae(x, draws).mean(-1) if bound else None,
        "evidence": model.log_evidence(x, min(1024, 16 * draws)).mean(-1) if line else None,
        "rmse": (mean - x).square().mean((-1, -2)).sqrt(),
        "seam": seam(model, x),
    }
    return {"bound": bound, **{k: None if v is None else v.tolist() for k, v in values.items()}}


@torch.no_grad()
def latent_angle(model: Any, x: Tensor) -> Tensor:
    """The angle that a row's latent point stands for: its own on the circle, about the mean in the plane, by rank on
    the line."""
    z = model.embed(x)
    if z.shape[-1] == 1:
        return 2 * math.pi * (z.squeeze(-1).argsort(-1).argsort(-1) + 0.5) / z.shape[-2]
    flat = isinstance(model, ManifoldVAE) and isinstance(model.manifold, geoopt.Euclidean)
    return torch.atan2(*(z - z.mean(-2, keepdim=True) if flat else z)[..., [1, 0]].unbind(-1))


def correlation(a: Tensor, b: Tensor) -> Tensor:
    r"""Of angles, over the last axis: :math:`\max_\pm |\mathrm E\,e^{i(a \mp b)}|`, 1 if one is the other, or its
    mirror image, up to a turn."""
    lengths = [torch.polar(torch.ones_like(a), a - sign * b).mean(-1).abs() for sign in (1, -1)]
    return torch.maximum(*lengths)


class Digits:
    """The world of pictures: like :class:`World`, with the true angles for points."""

    def __init__(self, label: int, seeds: list[int]) -> None:
        self.label, self.seeds = label, len(seeds)
        self.numbers = {train: [digit_rows(label, seed, train) for seed in seeds] for train in (True, False)}

    def draw(self, n: int, train: bool = False) -> tuple[Tensor, Tensor]:
        angle = 2 * math.pi * torch.rand(self.seeds, n)
        pick = [rows[torch.randint(len(rows), (n,))] for rows in self.numbers[train]]
        return torch.stack([turned_digits(self.label, a, i) for a, i in zip(angle, pick, strict=True)]), angle

    def batch(self, n: int) -> Tensor:
        return self.draw(n, train=True)[0]


def angle_of(points: Tensor) -> Tensor:
    return torch.atan2(points[..., 1], points[..., 0])


def measure(
    name: str, make: Make, world: Any, args: argparse.Namespace, scored: bool = True
) -> tuple[dict[str, Any], Any]:
    """Train a row and, unless it has been, score it: the record, and the model of all seeds."""
    begun = time.process_time()
    models = [make(seed) for seed in args.seeds]
    model = stacked(models)
    torch.manual_seed(3000)
    train(model, world.batch, args.steps, args.batch, args.lr, args.quiet)
    seconds = time.process_time() - begun
    if not scored:
        return {}, model
    torch.manual_seed(4000)  # the same test rows for all models
    x, points = world.draw(args.rows)
    record = {"world": args.world, "noise": args.noise, "row": name, "seeds": args.seeds, "steps": args.steps}
    record |= {"batch": args.batch, "lr": args.lr, "draws": args.draws, **score(model, x, args.draws)}
    if isinstance(world, World):
        record["oracle"] = world.oracle(x, points).mean(-1).tolist()
    if args.world in ("circle", "digits"):
        true = points if points.dim() == 2 else angle_of(points)
        record["correlation"] = correlation(latent_angle(model, x), true).tolist()
    if isinstance(getattr(models[0], "embedding", None), LearnedEmbedding):
        draws = 100 if args.smoke else 1000
        reports = [vars(embedding_report(m.embedding, draws=draws)) for m in models]
        record["embedding"] = {k: [r[k] for r in reports] for k in reports[0]}
    return record | {"cpu_seconds": round(seconds, 1)}, model


def mean_and_error(values: list[float]) -> str:
    v = torch.tensor(values, dtype=torch.float64)
    return f"{v.mean():.2f}" + (f" ± {v.std() / len(v) ** 0.5:.2f}" if len(v) > 1 else "")


def table(records: list[dict[str, Any]]) -> str:
    """Markdown; bounds as shortfalls from the oracle where there is one, paired by seed."""
    oracle = "oracle" in records[0]
    shown = "oracle − " if oracle else ""
    head = [
        f"{shown}ELBO",
        f"{shown}IWAE",
        f"{shown}evidence, quadrature",
        "RMSE",
        "seam gap / σ",
        "correlation",
    ]
    lines = ["| model | bound? | " + " | ".join(head) + " | CPU s |", "|---" * (len(head) + 3) + "|"]
    for r in records:
        cells = []
        for key in ("elbo", "iwae", "evidence"):
            if r[key] is None:
                cells.append("–")
            else:
                cells.append(
                    mean_and_error(
                        [o - v for o, v in zip(r["oracle"], r[key], strict=True)] if oracle else r[key]
                    )
                )
        for key in ("rmse", "seam", "correlation"):
            value = r.get(key)
            cells.append("–" if value is None else f"{sum(value) / len(value):.3f}" + (
                f" ({min(value):.3f} to {max(value):.3f})" if key != "rmse" and len(value) > 1 else ""))  # fmt: skip
        bound = "yes" if r["bound"] else "**no**"
        lines.append(f"| {r['row']} | {bound} | " + " | ".join(cells) + f" | {r['cpu_seconds']:.0f} |")
    return "\n".join(lines)


def differences(records: list[dict[str, Any]]) -> str:
    """Markdown: how much each bound exceeds those of the two flat models of the same seeds."""
    flat = [r for r in records if r["row"].startswith("VAE, ")]
    scores = [
        (f"{label} − {r['row']}", key, r) for r in flat for key, label in (("elbo", "ELBO"), ("iwae", "IWAE"))
    ]
    lines = [
        "| model | " + " | ".join(head for head, _, _ in scores) + " |",
        "|---" * (len(scores) + 1) + "|",
    ]
    for r in records:
        cells = []
        for _, key, other in scores:
            known = r is not other and r[key] is not None
            gain = [a - b for a, b in zip(r[key], other[key], strict=True)] if known else []
            cells.append(mean_and_error(gain) if known else "–")
        lines.append(f"| {r['row']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(models: dict[str, Any], world: World, path: Path) -> None:
    """Latent against true angle of the first seed, and the error of the reconstruction along the circle."""
    from matplotlib.figure import Figure

    angle = (torch.arange(1500) + 0.5) * (2 * math.pi / 1500)
    points = torch.stack([angle.cos(), angle.sin()], -1).expand(world.seeds, -1, -1)
    x = world.mean(points)
    figure = Figure(figsize=(3.3 * len(models), 5.4), layout="constrained")
    axes = figure.subplots(2, len(models), sharex=True, sharey="row", squeeze=False)
    for (name, model), (top, bottom) in zip(models.items(), axes.T, strict=True):
        with torch.no_grad():
            latent = latent_angle(model, x)[0].remainder(2 * math.pi)
            made = (
                model.reconstruct(x) if isinstance(model, EmbeddingVAE) else model.decode(model.embed(x)).mean
            )
        error = (made - x)[0].square().mean(-1).sqrt() / SIGMA
        top.plot(angle, latent, ".", markersize=2, color="C0")
        bottom.plot(angle, error, color="C3", linewidth=1)
        top.set_title(name, fontsize=10)
        bottom.set(xlabel="true angle (radians)", xlim=(0, 2 * math.pi), yscale="log")
    axes[0, 0].set(ylabel="latent angle (radians)", ylim=(0, 2 * math.pi))
    axes[1, 0].set_ylabel("reconstruction error / sigma")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--world", default="circle", choices=[*MANIFOLDS, "digits"])
    parser.add_argument(
        "--noise", type=float, default=0.0, help="standard deviation of the data about f (default 0)"
    )
    parser.add_argument("--label", type=int, default=7, help="which digit is turned (default 7)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--draws", type=int, default=1000, help="K of the IWAE bound (default 1000)")
    parser.add_argument("--rows", type=int, default=400, help="test rows of each seed (default 400)")
    parser.add_argument("--only", nargs="+", help="names of the rows to run")
    parser.add_argument(
        "--out", type=Path, help="file of rows, one JSON line each; what it holds is not run again"
    )
    parser.add_argument("--figure", type=Path, help="picture of the rows that are run (circle)")
    parser.add_argument("--report", action="store_true", help="run nothing: print the tables of --out")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("--smoke", action="store_true", help="2 seeds, 3 steps, few rows")
    args = parser.parse_args()
    if args.smoke:
        args.seeds, args.steps, args.batch, args.draws, args.rows = [0, 1], 3, 16, 8, 20
    torch.set_num_threads(1)
    dist.enable_validation(False)
    torch.distributions.Distribution.set_default_validate_args(False)
    options: dict[str, Any] = {
        "data_dim": 100,
        "hidden": 100,
        "likelihood": "normal",
        "likelihood_scale": SIGMA,
    }
    world: Any
    if args.world == "digits":
        options |= {"data_dim": 256, "hidden": 200, "likelihood_scale": 0.2}
        world = Digits(args.label, args.seeds)
    else:
        world = World.of(args.world, args.seeds, args.noise)
    makes = {
        k: v for k, v in rows(args.world, options, args.smoke).items() if args.only is None or k in args.only
    }
    same = ("world", "noise", "seeds", "steps", "batch", "lr", "draws")
    lines = args.out.read_text().splitlines() if args.out is not None and args.out.exists() else []
    known = [r for r in map(json.loads, lines) if all(r[k] == getattr(args, k) for k in same)]
    records, models = {r["row"]: r for r in known}, {}
    if args.report:
        makes = {k: v for k, v in makes.items() if k in records}
    for name, make in makes.items():
        if name in records and args.figure is None:
            continue
        record, models[name] = measure(name, make, world, args, scored=name not in records)
        if name in records:
            continue
        records[name] = record
        if args.out is not None:
            with args.out.open("a") as f:
                f.write(json.dumps(record) + "\n")
        print(f"{name}: {record['cpu_seconds']} CPU seconds", flush=True)
    if not makes:
        parser.error(f"--report: {args.out} has no rows of these settings")
    print(table([records[k] for k in makes]) + "\n\nPaired by seed:\n")
    print(differences([records[k] for k in makes]) + "\n")
    if "oracle" in records[next(iter(makes))]:
        print(f"oracle log p(x): {mean_and_error(records[next(iter(makes))]['oracle'])}")
    if args.figure is not None:
        draw(models, world, args.figure)


if __name__ == "__main__":
    main()
