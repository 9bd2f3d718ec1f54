r"""The MNIST table of the Poincaré VAE paper (Mathieu et al., NeurIPS 2019, table 2), and the same models on images
that make the score a likelihood.

A cell is a model (``N``: flat latent space; ``wrapped`` or ``riemannian``: the Poincaré ball of curvature -c with
that family as prior and posterior; from dimension 10 on the hyperboloid, which is the same space and has room for
points that the ball's coordinates cannot tell from its rim), a dimension and a seed. All cells of a seed see the
same minibatches. An interrupted run goes on from the last pass that it has saved.

* ``grey``: the paper's protocol. Grey values with the Bernoulli cross-entropy, which is no likelihood of grey
  values; one hidden layer of 600 units, gyroplane decoder (N: linear), 80 passes, batches of 128, Adam with amsgrad
  and rate 5e-4, prior scale 1.
* ``binary``: the same with pixels drawn once with a fixed seed, so that the score bounds a log-likelihood.

Scores: minus the importance-weighted bound on log p(x) in nats per image, of all 10 000 test images with 500 draws
each (or of the first ones, see --score), and of a tenth of them with the paper's 5000 draws. Accuracy of the digit
from the latent code (the posterior centre in tangent coordinates at the origin): nearest neighbours by geodesic
distance, and a small perceptron, both given the codes of the training images.

    python tutorials/experiments/mnist.py run --data FOLDER --out OUT --cells CELL ...
    python tutorials/experiments/mnist.py report --out OUT
    python tutorials/experiments/mnist.py draw --data FOLDER --out OUT

with cells such as ``grey/N/2/0`` (images, model, dimension, seed) or ``grey/riemannian-1.4/2/0``; ``*`` for the
seed stands for 0, 1, 2.
"""

import argparse
import json
import math
import statistics
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import geoopt
import pyro
import torch
from torch import Tensor

from pyro_manifold.datasets import mnist
from pyro_manifold.geometry import geometry
from pyro_manifold.models import PoincareVAE
from pyro_manifold.training import Phase, fit, load_checkpoint, save_checkpoint

PUBLISHED = {  # model: dimension 2, 5, 10, 20; None where the paper has a star (the run failed)
    "N": (144.5, 114.7, 100.2, 97.6),
    "wrapped-0.1": (143.9, 115.5, 100.2, 97.2),
    "wrapped-0.2": (144.2, 115.3, 100.0, 97.1),
    "wrapped-0.7": (143.8, 115.1, 100.2, 97.5),
    "wrapped-1.4": (144.0, 114.7, 100.7, 98.0),
    "riemannian-0.1": (143.7, 115.2, 99.9, 97.0),
    "riemannian-0.2": (143.8, 114.7, 99.7, 97.4),
    "riemannian-0.7": (143.1, 114.1, 101.2, None),
    "riemannian-1.4": (142.5, 115.5, None, None),
}
DIMENSIONS = (2, 5, 10, 20)


@dataclass(frozen=True)
class Cell:
    """Of the table: images, model, latent dimension, seed."""

    images: str
    model: str
    dim: int
    seed: int

    @classmethod
    def parse(cls, text: str) -> "list[Cell]":
        images, model, dim, seed = text.split("/")
        if images not in ("grey", "binary") or model not in PUBLISHED:
            raise argparse.ArgumentTypeError(
                f"got {text!r}; expected grey or binary, one of {', '.join(PUBLISHED)}, dimension, seed"
            )
        seeds = (0, 1, 2) if seed == "*" else (int(seed),)
        return [cls(images, model, int(dim), s) for s in seeds]

    @property
    def dtype(self) -> torch.dtype:
        """Hyperbolic coordinates need the digits of float64."""
        return torch.float32 if self.model == "N" else torch.float64

    def __str__(self) -> str:
        return f"{self.images}-{self.model}-{self.dim}-{self.seed}"

    def build(self, x: Tensor, hidden: int) -> PoincareVAE:
        """The decoder starts from the mean image of ``x``, as in the paper's code."""
        if self.model == "N":
            manifold, family = geoopt.Euclidean(1), "wrapped"
        else:
            family, c = self.model.split("-")
            manifold = geoopt.PoincareBall(float(c)) if self.dim < 10 else geoopt.Lorentz(1 / float(c))
        vae = PoincareVAE(
            manifold, self.dim, x.shape[1], hidden=hidden, prior=family, posterior=family, decoder="gyroplane"
        )
        vae.decoder.net[-1].bias.data = torch.logit(x.mean(0).clamp(1e-3, 1 - 1e-3))
        return vae


@dataclass(frozen=True)
class Sizes:
    """Of a run: hidden units, passes, draws of the bound, rows that are scored by each."""

    hidden: int = 600
    epochs: int = 80
    draws: int = 500
    rows: int = 10_000
    many_draws: int = 5000
    few_rows: int = 1000
    neighbours: int = 15


QUICK = Sizes(hidden=16, epochs=1, draws=3, rows=64, many_draws=5, few_rows=32)


def train(cell: Cell, x: Tensor, out: Path, sizes: Sizes, quiet: bool) -> tuple[PoincareVAE, float]:
    """The trained model and its CPU seconds, from the file of an earlier run if there is one."""
    pyro.clear_param_store()
    pyro.set_rng_seed(cell.seed)
    vae = cell.build(x, sizes.hidden)
    elbo = pyro.infer.Trace_ELBO()
    settings = {"cell": str(cell), "hidden": sizes.hidden, "epochs": sizes.epochs}
    done, running = out / f"{cell}.pt", out / f"{cell}-running.pt"
    if done.exists():
        state = load_checkpoint(done, settings)
        vae.load_state_dict(state["model"])
        return vae, state["seconds"]
    phase = Phase(
        "-ELBO",
        lambda rows: elbo.differentiable_loss(vae.model, vae.guide, rows) / len(rows),
        list(vae.parameters()),
        optimizer=partial(torch.optim.Adam, lr=5e-4, amsgrad=True, fused=True),
        schedule=partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0),
        clip=math.inf,
        epochs=sizes.epochs,
    )
    history = fit(
        [phase], x, model=vae, batch_size=128, validation=None, seed=cell.seed, clock=time.process_time,
        checkpoint=running, save_every=20, settings=settings, description=str(cell), disable_progbar=quiet,
    )  # fmt: skip
    state = {"model": vae.state_dict(), "seconds": history.seconds}
    save_checkpoint(done, state, settings)
    running.unlink()
    return vae, history.seconds


@torch.no_grad()
def codes(vae: PoincareVAE, x: Tensor) -> Tensor:
    """Tangent coordinates at the origin of the posterior centres."""
    loc = torch.cat([vae.encode(part).loc for part in x.split(1000)])
    return geometry(vae.manifold).chart_inv(loc)


def accuracy(
    vae: PoincareVAE, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], k: int
) -> dict[str, Any]:
    """Of the digit from the code; by digit too."""
    from sklearn.neural_network import MLPClassifier

    a, b = codes(vae, train[0]), codes(vae, test[0])
    geo = geometry(vae.manifold)
    points, queries = geo.chart(a), geo.chart(b)
    votes = []
    for part in queries.split(100):
        near = geo.dist(part.unsqueeze(1), points).topk(k, largest=False).indices
        votes.append(torch.nn.functional.one_hot(train[1][near], 10).sum(1).argmax(-1))
    nearest = torch.cat(votes) == test[1]
    net = MLPClassifier((64,), max_iter=30, early_stopping=True, random_state=0)
    net.fit(a.numpy(), train[1].numpy())
    guess = torch.as_tensor(net.predict(b.numpy())) == test[1]
    return {
        "neighbours": float(nearest.double().mean()),
        "perceptron": float(guess.double().mean()),
        "by_digit": [round(float(guess[test[1] == i].double().mean()), 4) for i in range(10)],
    }


def run(cell: Cell, data: Any, out: Path, sizes: Sizes, quiet: bool) -> dict[str, Any]:
    train_set, test_set = data
    x, y = train_set[0], test_set[0][: sizes.rows]
    vae, seconds = train(cell, x, out, sizes, quiet)
    vae.eval()
    pyro.set_rng_seed(cell.seed)
    began = time.process_time()
    scores = vae.iwae(y, sizes.draws)
    few = vae.iwae(y[: sizes.few_rows], sizes.many_draws)
    elbo = vae.iwae(y, 1)
    spent = time.process_time() - began
    save_checkpoint(out / f"{cell}-scores.pt", {"scores": scores, "few": few}, {"cell": str(cell)})
    row = {
        "images": cell.images, "model": cell.model, "dim": cell.dim, "seed": cell.seed, "epochs": sizes.epochs,
        "nll": -float(scores.mean()), "draws": sizes.draws, "rows": len(y), "nll_5000": -float(few.mean()),
        "same_rows": -float(scores[: sizes.few_rows].mean()), "few_rows": len(few), "many_draws": sizes.many_draws,
        "minus_elbo": -float(elbo.mean()), "train_seconds": seconds, "score_seconds": spent,
        "parameters": sum(p.numel() for p in vae.parameters() if p.requires_grad),
    }  # fmt: skip
    if cell.dim == 2:
        row.update(accuracy(vae, train_set, test_set, sizes.neighbours))
    return row


# --- the table ----------------------------------------------------------------------------------------------
def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def spread(values: list[float], digits: int = 2) -> str:
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) < 2:
        return f"{mean} (1)"
    return f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):.{digits}f} ({len(values)})"


def report(rows: list[dict[str, Any]], images: str) -> str:
    """Rows of the table by model and dimension: published, ours, and ours paired with the N of the same seeds."""
    scored = {(r["model"], r["dim"], r["seed"]): r for r in rows if r["images"] == images}
    head = [
        "model",
        "dimension",
        "published",
        "-log p, K = 500",
        "minus N, paired",
        "K = 5000, a tenth of the rows",
    ]
    head += ["-ELBO", "passes", "scored rows", "train, CPU min"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for dim in DIMENSIONS:
        for model, published in PUBLISHED.items():
            own = [r for (m, d, _), r in scored.items() if (m, d) == (model, dim)]
            if not own:
                continue
            pairs = [(r, scored.get(("N", dim, r["seed"]))) for r in own]
            gains = [r["nll"] - n["nll"] for r, n in pairs if n is not None and n["epochs"] == r["epochs"]]
            told = published[DIMENSIONS.index(dim)]
            cells = [
                model, str(dim), "" if images != "grey" else "*" if told is None else str(told),
                spread([r["nll"] for r in own]), spread(gains) if gains and model != "N" else "",
                spread([r["nll_5000"] for r in own]), spread([r["minus_elbo"] for r in own]),
                "/".join(sorted({str(r["epochs"]) for r in own})), "/".join(sorted({str(r["rows"]) for r in own})),
                f"{statistics.fmean(r['train_seconds'] for r in own) / 60:.0f}",
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def digits_table(rows: list[dict[str, Any]], images: str) -> str:
    """Share of test digits recognised from two latent numbers."""
    head = ["model", *map(str, range(10)), "mean of digits", "perceptron", "nearest neighbours"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for model in PUBLISHED:
        own = [r for r in rows if r["images"] == images and r["model"] == model and "by_digit" in r]
        if own:
            by = [[100 * r["by_digit"][i] for r in own] for i in range(10)]
            cells = [f"{statistics.fmean(v):.0f}" for v in by]
            cells.append(spread([100 * statistics.fmean(r["by_digit"]) for r in own], 1))
            cells += [spread([100 * r[key] for r in own], 1) for key in ("perceptron", "neighbours")]
            lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(data: Any, out: Path, sizes: Sizes, path: Path) -> None:
    """Codes of the first 3000 test images by digit, for the cells of dimension 2 and seed 0."""
    from matplotlib.figure import Figure

    from pyro_manifold.plotting import latent_axes, to_plane

    cells = [Cell("grey", m, 2, 0) for m in ("N", "riemannian-1.4") if (out / f"grey-{m}-2-0.pt").exists()]
    figure = Figure(figsize=(6.4 * len(cells), 6), layout="constrained")
    for i, cell in enumerate(cells):
        torch.set_default_dtype(cell.dtype)
        x = data[1][0][:3000].to(cell.dtype)
        vae, _ = train(cell, data[0][0].to(cell.dtype), out, sizes, True)
        with torch.no_grad():
            xy = to_plane(vae.manifold, vae.encode(x).loc)
        ax = latent_axes(vae.manifold, figure.add_subplot(1, len(cells), i + 1))
        dots = ax.scatter(*xy.T.numpy(), c=data[1][1][:3000].numpy(), s=3, cmap="tab10", vmin=-0.5, vmax=9.5)
        ax.set_title("flat (N)" if cell.model == "N" else "Poincaré ball, c = 1.4, Riemannian normal")
        if cell.model == "N":
            ax.autoscale()
    figure.colorbar(dots, ax=figure.axes, ticks=range(10), label="digit", shrink=0.7)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["run", "report", "draw"])
    parser.add_argument(
        "--cells", nargs="+", type=Cell.parse, default=[], metavar="CELL", help="such as grey/N/2/0"
    )
    parser.add_argument("--data", type=Path, help="folder of MNIST's files (default: they are downloaded)")
    parser.add_argument(
        "--out", type=Path, default=Path("mnist"), help="folder for models and rows (default mnist)"
    )
    parser.add_argument("--rows", type=Path, help="file of the rows (default OUT/rows.jsonl)")
    parser.add_argument("--epochs", type=int, default=Sizes.epochs, help="passes (default 80)")
    parser.add_argument(
        "--score", type=int, default=Sizes.rows, help="test images that are scored (default all)"
    )
    parser.add_argument("--picture", type=Path, default=Path("mnist.png"), help="file of draw")
    parser.add_argument("--quick", action="store_true", help="a small model and a few images: that it runs")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.rows or args.out / "rows.jsonl"
    sizes = QUICK if args.quick else Sizes(epochs=args.epochs, rows=args.score, few_rows=args.score // 10)
    rows = read(path)
    if args.what == "report":
        for images in ("grey", "binary"):
            if any(r["images"] == images for r in rows):
                print(f"## {images}\n\n{report(rows, images)}\n")
            if any(r["images"] == images and "by_digit" in r for r in rows):
                print(digits_table(rows, images))
        return

    def load(images: str) -> Any:
        data = mnist(folder=args.data, binarize=images == "binary")
        return [(x[:256], y[:256]) for x, y in data] if args.quick else data

    if args.what == "draw":
        draw(load("grey"), args.out, sizes, args.picture)
        return
    known = {(r["images"], r["model"], r["dim"], r["seed"]) for r in rows}
    with pyro.validation_enabled(False):  # grey values are outside the support of a Bernoulli distribution
        for cell in [c for group in args.cells for c in group]:
            if (cell.images, cell.model, cell.dim, cell.seed) not in known:
                torch.set_default_dtype(cell.dtype)
                row = run(cell, load(cell.images), args.out, sizes, args.quiet)
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
