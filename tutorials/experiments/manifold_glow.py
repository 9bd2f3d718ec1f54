r"""Orientation distribution functions (ODFs) from diffusion tensors: conditional flows of fields on manifolds against
regressions, nearest neighbours and a flow of log-coordinates.

Given a field of tensors, the models say how likely a field of ODFs is, each ODF a point of a sphere: the square roots
of the probabilities of m axes. Scores, per voxel, on fields that were not trained on:

* the mean negative log density w.r.t. the volume of :math:`S^{m-1}`, in nats;
* the geodesic distance of a single answer (the mean of draws, or a regression's own) to the truth, and the mean
  distance of draws;
* the angle between the true peaks of an ODF and the nearest peak of the answer;
* calibration: how often the truth is among the half, and the nine tenths, of it and the draws that are nearest to the
  mean of the others;
* simulated crossings only: how often a draw is nearer to the truth than to its mirror image, which the tensor does not
  tell from it, and how often it is within twice the distance that noise makes to either.

    python tutorials/experiments/manifold_glow.py --out FOLDER                # simulated, and real voxels where dipy is
    python tutorials/experiments/manifold_glow.py --out FOLDER --data simulated --pictures
    python tutorials/experiments/manifold_glow.py --out FOLDER --rows docs/experiments/rows/manifold_glow.jsonl
    python tutorials/experiments/manifold_glow.py --out FOLDER --smoke        # seconds: that it runs

It goes on where it was interrupted.
"""

import argparse
import json
import math
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from manifold_glow_models import MODELS, SPHERE, SPHERES, Pairs
from torch import Tensor, nn

from pyro_manifold.datasets import crossing_bundles, diffusion_scan, odf_peaks, sphere_to_odf
from pyro_manifold.distributions import WrappedNormal
from pyro_manifold.training import TrainingWarning

RESOLUTION = (
    0.005  # standard deviation of what is added to real ODFs, which lie on a surface of few dimensions
)


@dataclass(frozen=True)
class Sizes:
    fields: int = 500
    test: int = 40
    draws: int = 39  # the truth is the nearest to the mean, and so on, with probability 1/40
    seconds: float = 60.0
    lr: float = 2e-3
    size: int = 8
    frequency: int = 3
    depth: int = 4
    hidden: int = 32


SMOKE = Sizes(fields=6, test=2, draws=4, seconds=0.05, size=2, frequency=2, depth=1, hidden=4)


@dataclass
class Row:
    data: str
    model: str
    seed: int
    dim: int
    seconds: float  # CPU, of training
    parameters: int
    nll: float  # per voxel
    nll_error: float
    noise_entropy: float  # per voxel: what nobody gets below
    distance: float  # of the answer, radians
    draw_distance: float
    peak_angle: float  # degrees
    draw_peak_angle: float
    inside_half: float
    inside_nine_tenths: float
    nearer_truth: float = math.nan
    near_either: float = math.nan
    beyond: float = 0.0  # share of draws whose log-coordinates are longer than pi


# --- data -------------------------------------------------------------------------------------------------------
@dataclass
class Data:
    train: Pairs
    valid: Pairs
    test: Pairs
    truth: Tensor  # of the test fields, without noise
    axes: Tensor
    noise_entropy: float
    mirrored: Tensor | None = None


def bundles(sizes: Sizes, seed: int, i: int) -> Any:
    """Fields for training, for validation, for the test."""
    n = (sizes.fields, max(2, sizes.fields // 10), sizes.test)[i]
    return crossing_bundles(n, size=sizes.size, frequency=sizes.frequency, seed=3 * seed + i)


def simulated(sizes: Sizes, seed: int) -> Data:
    sets = [bundles(sizes, seed, i) for i in range(3)]
    train, valid, test = (Pairs(s.tensors, s.odfs) for s in sets)
    known = WrappedNormal(SPHERE, SPHERES.project(sets[2].clean.double()), 0.01)
    entropy = -float(known.log_prob(SPHERES.project(test.x.double())).mean())
    return Data(train, valid, test, sets[2].clean, sets[2].axes, entropy, sets[2].mirrored)


def patches(field: Tensor, mask: Tensor, size: int, stride: int) -> Tensor:
    """Squares of the planes (X, Y) that lie in the mask, (n, 1, size, size) + voxel."""
    out = []
    for z in range(field.shape[2]):
        for i in range(0, field.shape[0] - size + 1, stride):
            for j in range(0, field.shape[1] - size + 1, stride):
                window = slice(i, i + size), slice(j, j + size), z
                if bool(mask[window].all()):
                    out.append(field[window].unsqueeze(0))
    return torch.stack(out)


def real(name: str, seed: int) -> Data:
    """The lowest six planes to train on, one to validate, three to test."""
    scan = diffusion_scan(name)
    parts = []
    for planes, stride in ((slice(0, 6), 1), (slice(6, 7), 1), (slice(7, 10), 2)):
        y, x = (
            patches(t[:, :, planes], scan.mask[:, :, planes], 2, stride) for t in (scan.tensors, scan.odfs)
        )
        parts.append(Pairs(y, x, RESOLUTION))
    d = scan.odfs.shape[-1] - 1
    entropy = 0.5 * d * math.log(2 * math.pi * math.e * RESOLUTION**2)
    return Data(*parts, truth=parts[2].x, axes=scan.axes, noise_entropy=entropy)


# --- scores -----------------------------------------------------------------------------------------------------
def peak_angle(odf: Tensor, true: Tensor, axes: Tensor) -> Tensor:
    """Mean angle, in degrees, of the true peaks to the nearest of the other ODF's."""
    own, wanted = odf_peaks(odf, axes, number=3), odf_peaks(true, axes)
    cos = (wanted.unsqueeze(-2) * own.unsqueeze(-3)).sum(-1).abs().amax(-1).clamp(max=1)
    real_ones = wanted.norm(dim=-1) > 0.5
    return torch.rad2deg(cos.acos()).mul(real_ones).sum() / real_ones.sum()


def nearer_share(draws: Tensor, x: Tensor) -> Tensor:
    """The share of draws that are nearer than ``x`` to the centre of the others, each of the draws and x being
    compared with the mean of all but itself: if x is a draw of the same distribution, all of its ranks are equally
    likely. (The mean of the draws is nearer to any of them than to x, so that a comparison with it is not fair.)"""
    every = torch.cat([draws, x.unsqueeze(0)]).double()
    others = nn.functional.normalize(every.sum(0) - every, dim=-1)
    distance = (every - others).square().sum(-1)  # of chords
    return (distance[:-1] < distance[-1]).float().mean(0)


@torch.no_grad()
def scores(model: Any, data: Data, sizes: Sizes, seed: int) -> dict[str, float]:
    torch.manual_seed(1000 + seed)
    y, x, truth = data.test.y, data.test.noisy(data.test.x), data.truth
    voxels = math.prod(x.shape[1:4])
    nll = (
        -torch.cat([model.log_prob(a, b) for a, b in zip(x.split(8), y.split(8), strict=True)]).double()
        / voxels
    )
    draws = torch.cat([model.sample(b, sizes.draws) for b in y.split(8)], 1)
    answer = torch.cat([model.predict(b, d) for b, d in zip(y.split(8), draws.split(8, 1), strict=True)])
    rank = nearer_share(draws, x)
    far = SPHERES.dist(draws, truth.expand_as(draws))
    few = draws[:4]
    out = dict(
        nll=float(nll.mean()),
        nll_error=float(nll.std()) / len(nll) ** 0.5,
        distance=float(SPHERES.dist(answer, truth).mean()),
        draw_distance=float(far.mean()),
        peak_angle=float(peak_angle(sphere_to_odf(answer), sphere_to_odf(truth), data.axes)),
        draw_peak_angle=float(
            peak_angle(sphere_to_odf(few), sphere_to_odf(truth).expand(few.shape).contiguous(), data.axes)
        ),
        inside_half=float((rank <= 0.5).float().mean()),
        inside_nine_tenths=float((rank <= 0.9).float().mean()),
        beyond=getattr(model, "beyond", 0.0),
    )
    if data.mirrored is not None:
        other = SPHERES.dist(draws, data.mirrored.expand_as(draws))
        apart = SPHERES.dist(truth, data.mirrored) > 0.12
        noise = float(SPHERES.dist(truth, x).mean())
        if bool(apart.any()):
            out["nearer_truth"] = float((far < other)[:, apart].float().mean())
            out["near_either"] = float((torch.minimum(far, other)[:, apart] < 2 * noise).float().mean())
    return out


@torch.no_grad()
def calibration(made: Any, sets: dict[str, Any], draws: int, fields: int = 16) -> str:
    """For fields for training and test fields, by the distance of a voxel's ODF from its mirror image: how often the
    truth is in the inner draws, and how much farther it is from their centre than they are."""
    lines = [
        "| fields | mirror image at | voxels | in 50 % | in 90 % | squared distance, truth over draws |",
        "|---|---|---|---|---|---|",
    ]
    for tag, known in sets.items():
        x = known.odfs[:fields]
        drawn = made.sample(known.tensors[:fields], draws)
        share, centre = nearer_share(drawn, x), nn.functional.normalize(drawn.double().mean(0), dim=-1)
        ratio = (x - centre).square().sum(-1) / (drawn - centre).square().sum(-1).mean(0)
        apart = SPHERES.dist(known.clean[:fields], known.mirrored[:fields])
        for low, high in ((0.0, 0.03), (0.03, 0.12), (0.12, math.inf)):
            own = (apart >= low) & (apart < high)
            cells = [tag, f"{low:g} to {high:g}", str(int(own.sum()))]
            cells += [f"{float((share[own] <= level).double().mean()):.0%}" for level in (0.5, 0.9)]
            lines.append("| " + " | ".join([*cells, f"{float(ratio[own].double().mean()):.2f}"]) + " |")
    return "\n".join(lines)


# --- runs -------------------------------------------------------------------------------------------------------
def trained(data: Data, name: str, model: str, seed: int, sizes: Sizes, out: Path) -> Any:
    options: dict[str, Any] = {}
    if "GLOW" in model:
        options = dict(depth=sizes.depth, hidden=sizes.hidden, width=sizes.hidden)
    made = MODELS[model](**options)
    file = out / f"{name}-{model.replace(' ', '_').replace(',', '')}-{seed}.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        share = 1.0 if name == "simulated" else 0.4  # of rate and time, for fewer voxels
        made.fit(data.train, data.valid, seconds=share * sizes.seconds, lr=share * sizes.lr, checkpoint=file)
    return made


def load(name: str, sizes: Sizes, seed: int) -> Data:
    return simulated(sizes, seed) if name == "simulated" else real(name, seed)


def run(name: str, model: str, seed: int, sizes: Sizes, out: Path) -> Row:
    data = load(name, sizes, seed)
    began = time.process_time()
    made = trained(data, name, model, seed, sizes, out)
    seconds = time.process_time() - began
    found = scores(made, data, sizes, seed)
    return Row(
        name,
        model,
        seed,
        data.truth.shape[-1] - 1,
        seconds,
        made.parameters,
        noise_entropy=data.noise_entropy,
        **found,
    )


HEAD = ["data", "model", "NLL per voxel", "distance", "of draws", "peaks", "of draws", "in 50 %", "in 90 %"]
HEAD += ["nearer truth", "near either", "CPU s"]


def line(r: dict[str, Any]) -> str:
    cells = [f"{r['data']}, S^{r['dim']}", r["model"], f"{r['nll']:.1f} ± {r['nll_error']:.1f}"]
    cells += [f"{r[key]:.3f}" for key in ("distance", "draw_distance")]
    cells += [f"{r[key]:.1f}°" for key in ("peak_angle", "draw_peak_angle")]
    cells += [f"{r[key]:.0%}" for key in ("inside_half", "inside_nine_tenths")]
    cells += ["–" if math.isnan(r[key]) else f"{r[key]:.0%}" for key in ("nearer_truth", "near_either")]
    return "| " + " | ".join([*cells, f"{r['seconds']:.0f}"]) + " |"


def table(rows: list[dict[str, Any]]) -> str:
    return "\n".join(["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD), *map(line, rows)])


def pictures(name: str, seed: int, sizes: Sizes, out: Path) -> Path:
    """Tensors, true ODFs, and what the models say, of one field."""
    import matplotlib.pyplot as plt

    from pyro_manifold.plotting import odf_glyphs, tensor_glyphs

    data = load(name, sizes, seed)
    i = 0
    if data.mirrored is not None:
        i = int(SPHERES.dist(data.truth, data.mirrored).mean((1, 2, 3)).argmax())
    y = data.test.y[i : i + 1]
    fig, axs = plt.subplots(2, 3, figsize=(13, 9), layout="constrained")
    tensor_glyphs(y[0, 0], axs[0, 0], title="tensors")
    odf_glyphs(sphere_to_odf(data.truth[i, 0]), data.axes, axs[0, 1], title="true ODFs")
    made = trained(data, name, "ManifoldGLOW", seed, sizes, out)
    torch.manual_seed(seed)
    for k, ax in enumerate((axs[1, 0], axs[1, 1], axs[1, 2])):
        odf_glyphs(
            sphere_to_odf(made.sample(y, 1)[0, 0, 0]), data.axes, ax, title=f"ManifoldGLOW, draw {k + 1}"
        )
    ridge = trained(data, name, "ridge", seed, sizes, out)
    odf_glyphs(sphere_to_odf(ridge.predict(y, y)[0, 0]), data.axes, axs[0, 2], title="ridge regression")
    file = out / f"manifold_glow_{name}.png"
    fig.savefig(file, dpi=80)
    plt.close(fig)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description="ODFs from tensors.")
    parser.add_argument(
        "--out", type=Path, default=Path("manifold_glow"), help="folder of trained models and pictures"
    )
    parser.add_argument("--rows", type=Path, help="file of the rows; rows.jsonl in the folder if omitted")
    parser.add_argument("--data", nargs="+", default=None, choices=["simulated", "small_64D", "small_101D"])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--pictures", action="store_true")
    parser.add_argument(
        "--calibration", action="store_true", help="of ManifoldGLOW on simulated fields, the first seed"
    )
    parser.add_argument("--smoke", "--quick", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sizes = SMOKE if args.smoke else Sizes()
    names = args.data
    if names is None:
        names = ["simulated"]
        try:
            import dipy  # noqa: F401

            names += ["small_101D", "small_64D"]
        except ImportError:
            print("real voxels need dipy: pip install pyro-manifold[dipy]")
    file = args.rows or args.out / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(r["data"], r["model"], r["seed"]) for r in rows}
    for name in names:
        for seed in args.seeds:
            for model in args.models:
                if (name, model, seed) in done:
                    continue
                row = asdict(run(name, model, seed, sizes, args.out))
                rows.append(row)
                with open(file, "a") as f:
                    f.write(json.dumps(row) + "\n")
                print(table([row]).splitlines()[-1], flush=True)
    print(table(rows))
    if args.calibration:
        seed = args.seeds[0]
        made = trained(simulated(sizes, seed), "simulated", "ManifoldGLOW", seed, sizes, args.out)
        print(
            calibration(
                made,
                {tag: bundles(sizes, seed, i) for tag, i in (("for training", 0), ("test", 2))},
                sizes.draws,
            )
        )
    for name in dict.fromkeys(r["data"] for r in rows):
        entropy = next(r["noise_entropy"] for r in rows if r["data"] == name)
        print(f"{name}: entropy of the noise {entropy:.1f} nats per voxel")
        if args.pictures:
            print(pictures(name, args.seeds[0], sizes, args.out))


if __name__ == "__main__":
    main()
