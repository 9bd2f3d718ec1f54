"""A manifold in pieces: learn a distribution on two linked circles, which no single chart covers.

    python tutorials/manifold_in_pieces.py            # about two CPU minutes
    python tutorials/manifold_in_pieces.py --quick    # a few steps only: to see that everything runs

Goes on where it was interrupted, and writes three pictures.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import torch

from pyro_manifold.datasets import InterlockedCircles
from pyro_manifold.models import ManifoldFlow, VQFlow
from pyro_manifold.plotting import atlas_draws
from pyro_manifold.training import fit_md, fit_vq

parser = argparse.ArgumentParser(description="A manifold in pieces.")
parser.add_argument("--out", type=Path, default=Path("manifold_in_pieces"), help="folder for the pictures")
parser.add_argument("--quick", action="store_true", help="a few steps only: to see that everything runs")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
rows, passes = (400, 1) if args.quick else (5000, 40)
pyro.set_rng_seed(0)
quiet = dict(disable_progbar=args.quick)


def scatter(ax, x, colour="C0", **style):
    ax.scatter(*x.detach().T.numpy(), s=2, c=colour, linewidths=0, **style)
    ax.set(xlim=(-1.2, 2.2), ylim=(-1.2, 1.2), zlim=(-1.2, 1.2), xticks=[], yticks=[], zticks=[])
    ax.view_init(elev=25, azim=-60)


# [data]
# Two unit circles, each through the centre of the other: 40 % of the rows on one, 60 % on the other, unevenly spread.
# The simulator knows its density by arc length, so that what is learned can be judged.
truth = InterlockedCircles()
x = truth.sample(rows, seed=0).float()
test = truth.sample(2000, seed=1).float()

# [one]
# One chart is one bent piece of the real line. It must cross from one circle to the other somewhere.
one = ManifoldFlow.from_data(x, dim=1)
fit_md(one, x, epochs=passes, batch_size=100, checkpoint=args.out / "one.pt", **quiet)
with torch.no_grad():
    between = truth.distance(one.condition().sample((3000,))) > 0.05
print(f"one chart: {100 * between.double().mean():.0f} % of the draws are more than 0.05 from the circles")

# [codes]
# Instead: sixteen short charts. An auto-encoder that may keep only one of sixteen codes of each row places the codes;
# the cell of a code is where it is the nearest one.
flow = VQFlow.from_data(x, dim=1, charts=16)
cell = flow.autoencoder.assign(x)
usage = flow.autoencoder.usage(x)
print(f"rows in each cell: {usage.counts.min()} to {usage.counts.max()}, perplexity {usage.perplexity:.1f}")

fig = plt.figure(figsize=(10, 4), constrained_layout=True)
ax = fig.add_subplot(1, 2, 1, projection="3d")
with torch.no_grad():
    scatter(ax, one.condition().sample((3000,)))
ax.set_title("draws of one chart")
ax = fig.add_subplot(1, 2, 2, projection="3d")
scatter(ax, x, plt.get_cmap("tab20")(cell.numpy()))
ax.set_title("cells of sixteen codes")
fig.savefig(args.out / "cells.png", dpi=110)

# [fit]
# Training has three phases, each with what it needs of the ones before it fixed: the codes; the charts, by
# reconstruction of the rows around each code; the densities of the coordinates, by likelihood.
history = fit_vq(
    flow, x, epochs=(5 if not args.quick else 1, passes, passes), lr=(1e-3, 1e-2, 5e-3), batch_size=100,
    checkpoint=args.out / "pieces.pt", **quiet,
)  # fmt: skip
flow.requires_grad_(False)
print(f"reconstruction error of test rows: {flow.ood_score(test).square().mean().sqrt():.4f}")

# [density]
# Each chart keeps to the cell of its code: its density is cut off there and divided by the share that is left, and its
# draws are repeated until they fall into the cell. So the pieces fit together, and the whole is a density.
d = flow.condition()
mean, error = d.acceptance()
print(f"draws that charts keep: {mean.min():.2f} to {mean.max():.2f}")
print(
    f"mean log density of test rows: {d.log_prob(test).mean():.3f}, under the truth {truth.log_prob(test).mean():.3f}"
)
print("total mass: {:.3f} ± {:.3f}".format(*d.mass(20_000)))

draws = d.sample((3000,))
print(f"farthest draw from the circles: {truth.distance(draws).max():.3f}")
print(f"share of draws on the first circle: {(truth.component(draws) == 0).double().mean():.3f} (truth 0.4)")

# [look]
fig = plt.figure(figsize=(10, 4), constrained_layout=True)
ax = atlas_draws(d, fig.add_subplot(1, 2, 1, projection="3d"))
ax.set_title("draws, coloured by chart")
ax = fig.add_subplot(1, 2, 2)
for i, name in enumerate(("first circle", "second circle")):
    own = test[truth.component(test) == i]
    centre = torch.tensor([float(i), 0.0, 0.0])
    other = own[:, 2] if i else own[:, 1]
    angle = torch.atan2(other, own[:, 0] - centre[0])
    order = angle.argsort()
    ax.plot(angle[order], truth.log_prob(own).exp()[order], color=f"C{i}", label=f"{name}, truth")
    ax.plot(angle[order], d.log_prob(own).exp()[order], ".", ms=2, color=f"C{i}", label=f"{name}, learned")
ax.set(xlabel="angle", ylabel="density by arc length", ylim=(0, None))
ax.legend()
fig.savefig(args.out / "density.png", dpi=110)

# [use]
# What the atlas says of a point: the chart it belongs to, its coordinate there, the nearest point of the manifold, and
# how far it is from it, which tells strangers from rows.
noisy = test + 0.1 * torch.randn_like(test)
print(f"charts: {d.responsibilities(noisy[:3]).argmax(-1).tolist()}")
print(f"coordinates: {d.expected_coordinates(noisy[:3]).squeeze(-1).tolist()}")
before, after = (truth.distance(y).square().mean().sqrt() for y in (noisy, flow.denoise(noisy)))
print(f"distance from the circles: {before:.3f} with noise, {after:.3f} after denoising")

# [exercise]
# Exercise. Charts are trained a little beyond their cells. With overlap=True the distribution has these larger regions,
# as in the paper, and adds the densities of all charts there. Is it still a density? Which points have two charts?
flow.overlap = True
flow.fit_weights(x)
both = flow.condition()
print("with overlap, total mass: {:.3f} ± {:.3f}".format(*both.mass(20_000)))
print(f"mean log density of test rows: {both.log_prob(test).mean():.3f}")

share = both.responsibilities(test)
fig = plt.figure(figsize=(5, 4), constrained_layout=True)
ax = fig.add_subplot(projection="3d")
scatter(ax, test, share.amax(-1).numpy(), cmap="viridis")
ax.set_title("largest responsibility of a chart")
fig.savefig(args.out / "overlap.png", dpi=110)
