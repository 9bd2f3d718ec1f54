r"""Images in pieces: MNIST by RealNVP and by a masked autoregressive flow (MAF), each alone, as a density in the
space of all pixels, and as the density of the charts of a VQ-flow, which have a lower dimension.

Images of 14 x 14 pixels (means of blocks of 2 x 2, rounded to bytes g), dequantised and taken to logits as in the MAF
paper:

    u = (g + noise) / 256 in [0, 1]^196,        x = logit(1e-6 + (1 - 2e-6) u)

All methods have about the same number of trained parameters and the same budget of CPU seconds; the rate falls to zero
and starts again at each mark, 1/16, 1/8, 1/4, 1/2 of the budget and the end. There 2000 samples are drawn and turned
into bytes:

    Fréchet distance    of the features of a small classifier of digits that is trained here on the training images (not
                        Inception: the values compare with no published ones) from those of all test images
    C2ST (at the end)   accuracy of a classifier that tells samples from test images, by features and by pixels
    NLL (RealNVP, MAF)  nats per test image w.r.t. Lebesgue measure of u. The density of a VQ-flow is w.r.t. the
                        volume of its charts and compares with no other

A row for each mark is appended to OUT/vq_images.jsonl; a rerun goes on from there, and between marks from a
checkpoint.

    python tutorials/experiments/vq_images.py --data FOLDER --out results            # about 15 CPU minutes
    python tutorials/experiments/vq_images.py --out results --smoke                  # a few seconds, on random images
    python tutorials/experiments/vq_images.py --data FOLDER --out results --report   # table and pictures
"""

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_manifold.datasets import mnist
from pyro_manifold.evaluation import classifier_two_sample, frechet_distance
from pyro_manifold.flows import Affine, LatentFlow, autoregressive_chain, coupling_chain
from pyro_manifold.models import AmbientFlow, VQFlow
from pyro_manifold.nn import MaskedMLP
from pyro_manifold.training import Phase, fit, fit_likelihood, fit_vq, load_checkpoint, save_checkpoint

METHODS = ["RealNVP", "VQ-RealNVP", "MAF", "VQ-MAF"]
MARKS = [0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0]  # shares of the budget
CODES, CHARTS = 1 / 16, 1 / 8  # shares after which a VQ-flow has learned its codes and its charts
SIDE, LEVELS, EDGE = 14, 256, 1e-6
LAYERS = 6
WIDTH = {
    "RealNVP": 168,
    "VQ-RealNVP": 218,
    "MAF": 198,
    "VQ-MAF": 287,
}  # units of each of the two hidden layers


# --- images -------------------------------------------------------------------------------------------------
def halved(pixels: Tensor) -> Tensor:
    """Bytes of images of half the side from pixels in [0, 1], shape ``(n, 784)``."""
    blocks = nn.functional.avg_pool2d(pixels.reshape(-1, 1, 2 * SIDE, 2 * SIDE), 2)
    return (255 * blocks).round().flatten(1)


def logits(g: Tensor, seed: int) -> Tensor:
    u = (g + torch.rand(g.shape, generator=torch.Generator().manual_seed(seed))) / LEVELS
    return (EDGE + (1 - 2 * EDGE) * u).logit()


def as_bytes(x: Tensor) -> Tensor:
    u = (x.sigmoid() - EDGE) / (1 - 2 * EDGE)
    return (LEVELS * u).floor().clamp(0, LEVELS - 1)


def log_volume(x: Tensor) -> Tensor:
    """log |dx/du|, from [0, 1]^196 to logits."""
    p = x.double().sigmoid()
    return (torch.tensor(1 - 2 * EDGE).double().log() - p.log() - (1 - p).log()).sum(-1)


def loaded(args: argparse.Namespace) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Bytes and digits, of training and test."""
    if args.smoke and args.data is None:
        random = torch.Generator().manual_seed(0)
        kinds = torch.rand(10, SIDE * SIDE, generator=random)
        out = []
        for n in (400, 200):
            digit = torch.randint(10, (n,), generator=random)
            g = 255 * (kinds[digit] * torch.rand(n, 1, generator=random)).clamp(0, 1)
            out.append((g.round(), digit))
        return out[0], out[1]
    train, test = mnist(folder=args.data)
    return (halved(train[0]), train[1]), (halved(test[0]), test[1])


class Classifier(nn.Module):
    """Of digits: two convolutions, 64 units, whose values are the features."""

    def __init__(self) -> None:
        super().__init__()
        pooled = [nn.ReLU(), nn.MaxPool2d(2)]
        convolutions = [nn.Conv2d(1, 16, 3, padding=1), *pooled, nn.Conv2d(16, 32, 3, padding=1), *pooled]
        self.body = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(32 * 9, 64), nn.ReLU())
        self.last = nn.Linear(64, 10)

    def features(self, g: Tensor) -> Tensor:
        return self.body(g.reshape(-1, 1, SIDE, SIDE) / 255)

    def forward(self, g: Tensor) -> Tensor:
        return self.last(self.features(g))


def classifier(data: Any, args: argparse.Namespace) -> tuple[Classifier, float]:
    """Trained, and its accuracy on the test images."""
    (g, digit), (g_test, digit_test) = data
    torch.manual_seed(0)
    net, file = Classifier(), args.out / "classifier.pt"
    if file.exists():
        net.load_state_dict(load_checkpoint(file))
    else:
        phase = Phase(
            "digits", lambda g, c: nn.functional.cross_entropy(net(g), c), list(net.parameters()), lr=3e-3,
            epochs=args.classifier_epochs,
        )  # fmt: skip
        one = nn.functional.one_hot(digit, 10).to(g)
        fit([phase], (g, one), model=net, batch_size=200, disable_progbar=args.quiet, description="digits")
        save_checkpoint(file, net.state_dict(), {})
    with torch.no_grad():
        right = torch.cat([net(part).argmax(-1) for part in g_test.split(2000)]) == digit_test
    return net, float(right.double().mean())


@torch.no_grad()
def features(net: Classifier, g: Tensor) -> Tensor:
    return torch.cat([net.features(part) for part in g.split(2000)])


# --- models -------------------------------------------------------------------------------------------------
def built(method: str, x: Tensor, seed: int, args: argparse.Namespace) -> Any:
    torch.manual_seed(seed)
    width = args.width or WIDTH[method]
    autoregressive, d = method.endswith("MAF"), x.shape[1]
    hidden = (width, width)
    if method.startswith("VQ"):
        return VQFlow.from_data(
            x, args.dim, args.charts, depth=args.chart_depth, kind=args.chart_kind, hidden=(128, 128),
            latent_depth=LAYERS, latent_hidden=hidden, latent_kind="autoregressive" if autoregressive else "affine",
            eps=0.1, draws=1024, seed=seed,
        )  # fmt: skip
    chain = autoregressive_chain if autoregressive else coupling_chain
    kind = {} if autoregressive else {"kind": "affine"}
    return AmbientFlow([*chain(d, LAYERS, hidden=hidden, **kind), Affine.from_pca(x)], LatentFlow(d, []), d)


def count(model: nn.Module) -> int:
    """Trained parameters, less the weights of masked networks that are always zero."""
    masked = 0
    for net in model.modules():
        if isinstance(net, MaskedMLP):
            masked += sum(int((~b).sum()) for name, b in net.named_buffers() if name.startswith("mask"))
    return sum(p.numel() for p in model.parameters()) - masked


def train(method: str, model: Any, x: Tensor, i: int, seed: int, args: argparse.Namespace) -> None:
    """From one mark to the next."""
    begin, end = MARKS[i], MARKS[i + 1]
    seconds = args.seconds * (end - begin)
    options: dict[str, Any] = dict(
        seed=100 * seed + i, clock=time.process_time, batch_size=200, disable_progbar=args.quiet,
        checkpoint=args.out / f"{method}_{seed}_stage{i}.pt", save_every=20.0,
    )  # fmt: skip
    epochs = 1 if args.smoke else 10_000
    if not method.startswith("VQ"):
        fit_likelihood(
            model, x, log_prob=model.log_prob, seconds=seconds, epochs=epochs, lr=args.lr, **options
        )
        return
    phase = 0 if end <= CODES else 1 if end <= CHARTS else 2
    passes = tuple(epochs if p == phase else 0 for p in range(3))
    fit_vq(model, x, epochs=passes, seconds=seconds, lr=(1e-3, args.lr, args.lr), **options)  # type: ignore[arg-type]


# --- measurements -------------------------------------------------------------------------------------------
@torch.no_grad()
def drawn(model: Any, n: int, seed: int) -> tuple[Tensor, int]:
    """Samples as bytes, and how many were not finite."""
    torch.manual_seed(seed)
    x = model.condition().sample((n,))
    finite = x.isfinite().all(-1)
    return as_bytes(x[finite]), int((~finite).sum())


@torch.no_grad()
def measured(method: str, model: Any, net: Classifier, data: Any, last: bool, seed: int, args: Any) -> Any:
    (g_train, _), (g_test, _) = data
    truth = features(net, g_test)
    g, missing = drawn(model, args.draws, seed)
    own = features(net, g)
    row: dict[str, Any] = {"frechet": frechet_distance(own, truth), "not finite": missing}
    row["parameters"] = count(model)
    some = part_of(g_test, args.draws, 1000 + seed)
    x = logits(some, 1000 + seed)
    if method.startswith("VQ"):
        projected = torch.cat([model.denoise(part) for part in x.split(500)])
        row["rms logit"] = float((projected - x).square().mean().sqrt())
        row["rms grey"] = float((as_bytes(projected) - some).square().mean().sqrt())
        row["charts"], row["perplexity"] = len(model.codes), model.autoencoder.usage(x).perplexity
        row["frechet of reconstructions"] = frechet_distance(features(net, as_bytes(projected)), truth)
    else:
        nll = -torch.cat([model.log_prob(part) for part in x.split(500)]).double() - log_volume(x)
        own_x = logits(g_train[: args.rows], seed)[: args.draws]
        row["nll"], row["nll error"] = float(nll.mean()), float(nll.std() / len(nll) ** 0.5)
        fitted = -torch.cat([model.log_prob(part) for part in own_x.split(500)]).double() - log_volume(own_x)
        row["nll of training images"] = float(fitted.mean())
    if last:
        for name, a, b in (("features", own, features(net, some)), ("pixels", g, some)):
            accuracy, error = classifier_two_sample(a, b, epochs=args.c2st_epochs, seed=seed)
            row[f"c2st {name}"], row[f"c2st {name} error"] = accuracy, error
    return row, g


def part_of(g: Tensor, n: int, seed: int) -> Tensor:
    """So many images at random: the first test images are of other writers than the last."""
    return g[torch.randperm(len(g), generator=torch.Generator().manual_seed(seed))[:n]]


def floors(net: Classifier, data: Any, args: argparse.Namespace) -> dict[str, float]:
    """The same measures of training images in the place of samples."""
    (g_train, _), (g_test, _) = data
    a, b = part_of(g_train, args.draws, 11), part_of(g_test, args.draws, 12)
    out = {"frechet": frechet_distance(features(net, a), features(net, g_test))}
    pairs = {"c2st features": (features(net, a), features(net, b)), "c2st pixels": (a, b)}
    return out | {k: classifier_two_sample(*v, epochs=args.c2st_epochs)[0] for k, v in pairs.items()}


def run(args: argparse.Namespace) -> None:
    data = loaded(args)
    net, accuracy = classifier(data, args)
    file = args.out / "vq_images.jsonl"
    rows = rows_of(file)
    if not any(r["method"] == "training images" for r in rows):
        add(file, {"method": "training images", "classifier accuracy": accuracy, **floors(net, data, args)})
    for seed in args.seeds:
        x = logits(data[0][0][: args.rows], seed)
        for method in args.methods:
            done = {r["mark"]: r for r in rows if r["method"] == method and r["seed"] == seed}
            if MARKS[-1] in done:
                continue
            model = built(method, x, seed, args)
            spent = 0.0
            for i, mark in enumerate(MARKS):
                state = args.out / f"{method}_{seed}_{i}.pt"
                if mark in done:
                    model.load_state_dict(load_checkpoint(state))
                    spent = done[mark]["cpu"]
                    continue
                began = time.process_time()
                if i:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        train(method, model, x, i - 1, seed, args)
                spent += time.process_time() - began
                row, g = measured(method, model, net, data, i == len(MARKS) - 1, seed, args)
                row = {"method": method, "seed": seed, "mark": mark, "rows": len(x), "cpu": spent, **row}
                save_checkpoint(state, model.state_dict(), {})
                if i == len(MARKS) - 1:
                    save_checkpoint(args.out / f"{method}_{seed}_samples.pt", g[:100].byte(), {})
                add(file, row)
                for old in args.out.glob(f"{method}_{seed}_stage*"):
                    old.unlink()


def add(file: Path, row: dict[str, Any]) -> None:
    with file.open("a") as out:
        out.write(json.dumps(row) + "\n")
    print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


# --- table and pictures -------------------------------------------------------------------------------------
def spread(values: list[float], digits: int) -> str:
    """Mean and standard deviation of the trials."""
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def table(rows: list[dict[str, Any]]) -> str:
    head = [
        "method",
        "parameters",
        *(f"Fréchet at {m:g}" for m in MARKS),
        "C2ST features",
        "C2ST pixels",
        "NLL",
        "trials",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for method in METHODS:
        at = {m: [r for r in rows if r["method"] == method and r["mark"] == m] for m in MARKS}
        last = at[MARKS[-1]]
        if not at[0.0]:
            continue
        cells = [
            method,
            str(at[0.0][0]["parameters"]),
            *(spread([r["frechet"] for r in at[m]], 1) for m in MARKS),
        ]
        cells += [spread([r[key] for r in last], 3) for key in ("c2st features", "c2st pixels")]
        cells += [spread([r["nll"] for r in last if "nll" in r], 1), str(len(last))]
        lines.append("| " + " | ".join(cells) + " |")
    for r in rows:
        if r["method"] == "training images":
            cells = ["training images", "", *[""] * (len(MARKS) - 1), f"{r['frechet']:.1f}"]
            cells += [f"{r['c2st features']:.3f}", f"{r['c2st pixels']:.3f}", "", ""]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Fréchet distance over training: means of the trials, and their range."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.add_subplot()
    for i, method in enumerate(METHODS):
        own = [r for r in rows if r["method"] == method]
        marks = [m for m in MARKS if any(r["mark"] == m for r in own)]
        values = [[r["frechet"] for r in own if r["mark"] == m] for m in marks]
        if marks:
            color, style = f"C{i // 2}", "-" if method.startswith("VQ") else "--"
            ax.plot(
                marks, [statistics.fmean(v) for v in values], style, color=color, marker="o", label=method
            )
            ax.fill_between(marks, [min(v) for v in values], [max(v) for v in values], color=color, alpha=0.2)
    for r in rows:
        if r["method"] == "training images":
            ax.axhline(r["frechet"], color="gray", lw=1, label="training images")
    ax.set(
        yscale="log", xlabel="share of the training time", ylabel="Fréchet distance in classifier features"
    )
    ax.legend()
    figure.savefig(path, dpi=110)


def picture(args: argparse.Namespace, data: Any, path: Path) -> None:
    """Forty images of the data and of each method."""
    from matplotlib.figure import Figure

    shown = {"test images": data[1][0][:40]}
    for method in METHODS:
        file = args.out / f"{method}_{args.seeds[0]}_samples.pt"
        if file.exists():
            shown[method] = load_checkpoint(file)[:40].float()
    figure = Figure(figsize=(2.1 * len(shown), 3.6), layout="constrained")
    for i, (name, g) in enumerate(shown.items()):
        g = torch.cat([g, g.new_zeros(40 - len(g), SIDE * SIDE)])
        ax = figure.add_subplot(1, len(shown), i + 1)
        tiles = nn.functional.pad(g.reshape(8, 5, SIDE, SIDE), (1, 1, 1, 1), value=128.0)
        ax.imshow(tiles.permute(0, 2, 1, 3).reshape(8 * (SIDE + 2), 5 * (SIDE + 2)).numpy(), cmap="gray")
        ax.set_title(name, fontsize=10)
        ax.set_axis_off()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description="RealNVP and MAF on MNIST, alone and as VQ-flows.")
    parser.add_argument("--data", type=Path, help="folder of MNIST's files (default: they are downloaded)")
    parser.add_argument("--out", type=Path, default=Path("vq_images"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="trials")
    parser.add_argument("--seconds", type=float, default=40.0, help="CPU seconds of training of each trial")
    parser.add_argument("--rows", type=int, default=30_000, help="training images")
    parser.add_argument("--draws", type=int, default=2000, help="samples at each mark")
    parser.add_argument("--dim", type=int, default=24, help="dimension of the charts")
    parser.add_argument("--charts", type=int, default=16)
    parser.add_argument("--chart-kind", choices=["conformal", "affine", "spline"], default="conformal")
    parser.add_argument("--chart-depth", type=int, default=3)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--width", type=int, help="hidden units, instead of those chosen for each method")
    parser.add_argument("--classifier-epochs", type=int, default=4)
    parser.add_argument("--c2st-epochs", type=int, default=20)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--report", action="store_true", help="only table and pictures of what is in OUT")
    parser.add_argument("--smoke", action="store_true", help="one pass over a few images: that it runs")
    args = parser.parse_args()
    if args.smoke:
        args.rows, args.draws, args.seeds, args.width, args.quiet = 200, 60, args.seeds[:1], 16, True
        args.charts, args.dim, args.classifier_epochs, args.c2st_epochs, args.seconds = 4, 3, 1, 1, 1e6
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.report:
        run(args)
    rows = rows_of(args.out / "vq_images.jsonl")
    print(table(rows))
    curves(rows, args.out / "vq_images_frechet.png")
    picture(args, loaded(args), args.out / "vq_images.png")


if __name__ == "__main__":
    main()
