"""Learn a manifold from your own data: scaling, dimension, charts, when training stalls, save and load.

    python tutorials/learn_a_manifold.py

Takes some minutes of one core and writes three pictures.
"""

# %% [markdown]
# # Learn a manifold from your own data
#
# Eight sensors on a robot arm report eight numbers, but the arm has two joints: whatever it does, the readings
# lie on a surface of two dimensions in $\mathbb R^8$. Nobody has written down its equations. This page learns the
# surface and a density on it from readings alone, with what goes wrong on the way: units, the number of
# dimensions, a surface that closes up. Then it finds a broken sensor. It takes fifteen minutes to read.
#
# ## Data
#
# The arm is simulated: two links of 0.4 and 0.3 m, a shoulder that turns by ±60° and an elbow that bends between
# 10° and 120°. The sensors are the positions of elbow and hand in millimetres, the lengths of two cables in
# metres, and two tilt meters in volts, each with noise of its own.

# %% tags=["options"]
import argparse
import warnings
from pathlib import Path

parser = argparse.ArgumentParser(description="Learn a manifold from your own data.")
parser.add_argument("--out", type=Path, default=Path("learn_a_manifold"), help="folder for the pictures")
parser.add_argument("--quick", action="store_true", help="a few steps only: to see that everything runs")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
passes = 1 if args.quick else 40
if args.quick:
    warnings.simplefilter("ignore")  # one pass fits nothing, and says so

# %%
import matplotlib.pyplot as plt
import torch

from pyro_manifold.models import ManifoldFlow, ManifoldMixture
from pyro_manifold.plotting import elbow
from pyro_manifold.training import fit_charts, fit_md, load_checkpoint, save_checkpoint, scan_dimension

torch.manual_seed(0)
noise = torch.tensor([5.0, 5.0, 5.0, 5.0, 0.01, 0.01, 0.05, 0.05])  # mm, mm, mm, mm, m, m, V, V


def readings(shoulder, bend):
    """Of an arm with these joint angles, in radians."""
    elbow_at = 400 * torch.stack([shoulder.cos(), shoulder.sin()], -1)
    hand_at = elbow_at + 300 * torch.stack([(shoulder + bend).cos(), (shoulder + bend).sin()], -1)
    posts = torch.tensor([[-100.0, 300.0], [-100.0, -300.0]])
    cables = (hand_at.unsqueeze(-2) - posts).norm(dim=-1) / 1000
    tilts = torch.stack([2 * shoulder.sin(), 2 * (shoulder + bend).sin()], -1)
    clean = torch.cat([elbow_at, hand_at, cables, tilts], -1)
    return clean + noise * torch.randn_like(clean)


def uniform(n, low, high):
    return torch.deg2rad(low + (high - low) * torch.rand(n))


rows = 200 if args.quick else 2000
x = readings(uniform(rows, -60, 60), uniform(rows, 10, 120))
print(x.shape, "standard deviations", x.std(0).round(decimals=2))

# %% [markdown]
# ## Scale
#
# A surface is fitted by its distance to the rows. Millimetres beside metres mean that the distance is all in the
# first four columns. If you know the noise of each column, divide by it: then a distance of 1 is one standard
# deviation of noise, whatever the sensor. If not, divide by the smallest change that you would care about.

# %%
x = x / noise
print("in units of noise:", x.std(0).round().int())

# %% [markdown]
# ## Dimension
#
# How many numbers does it take? `scan_dimension` trains a surface of each dimension and measures its distance to
# rows that were held out.


# %%
def flow_of(rows, dim):
    return ManifoldFlow.from_data(rows, dim, hidden=(32,))


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that one dimension does not fit is what we want to see
    scan = scan_dimension(x, [1, 2, 3], make=flow_of, epochs=max(1, passes // 2), disable_progbar=True)
for dim, error in zip(scan.dims, scan.errors, strict=True):
    print(f"dimension {dim}: distance {error:.1f}")
ax = elbow(scan)
ax.figure.savefig(args.out / "learn_a_manifold_elbow.png", dpi=110, bbox_inches="tight")

# %% [markdown]
# ![Held-out error against the dimension](learn_a_manifold_elbow.png)
#
# The error falls until two and then hardly. Noise of size 1 in each of the six directions across the surface is a
# distance of about $\sqrt6 = 2.4$: nothing is left to explain there.
#
# ## Surface, then density
#
# `fit_md` trains the surface by distance and then the density by likelihood, with the surface held. Trained by
# likelihood alone, the surface would go where densities are high, not where the rows are
# ({doc}`../explanation/injective_flows`).

# %%
flow = flow_of(x, 2)
history = fit_md(flow, x, epochs=(passes, passes // 2), disable_progbar=True, checkpoint=args.out / "arm.pt")
print("warnings:", history.warnings)
fresh = readings(uniform(1000, -60, 60), uniform(1000, 10, 120)) / noise
with torch.no_grad():
    away = (flow.denoise(fresh) - fresh).norm(dim=-1)
    print(f"new rows: distance {away.square().mean().sqrt():.1f} (noise alone: 2.4)")
    draws = flow.condition().sample((1000,))

fig, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
for ax, (i, j), name in zip(
    axes, ((2, 3), (4, 5), (6, 7)), ("hand, mm", "cables, m", "tilts, V"), strict=True
):
    ax.scatter(*(fresh * noise)[:, [i, j]].T, s=2, color="C0", label="new readings")
    ax.scatter(*(draws * noise)[:, [i, j]].T, s=2, color="C1", alpha=0.5, label="draws")
    ax.set_title(name)
axes[0].legend(fontsize=7)
fig.savefig(args.out / "learn_a_manifold.png", dpi=110)

# %% [markdown]
# ![Readings and draws of the learned model, three pairs of sensors](learn_a_manifold.png)
#
# `checkpoint=` keeps the state of the training; call it again after an interruption and it goes on. The trained
# flow itself:

# %%
save_checkpoint(args.out / "flow.pt", dict(flow.state_dict()), {"sensors": 8, "dim": 2})
again = flow_of(x, 2)
again.load_state_dict(load_checkpoint(args.out / "flow.pt", {"sensors": 8, "dim": 2}))
print("same density:", torch.equal(again.log_prob(fresh[:5]), flow.log_prob(fresh[:5])))

# %% [markdown]
# ## A broken sensor
#
# The surface knows how sensors go together. Let the first cable stretch by 6 cm in some readings: each reading is
# possible by itself, but not with the others. The distance from the surface tells.

# %%
broken = fresh.clone()
broken[:500, 4] += 0.06 / noise[4]
with torch.no_grad():
    distance = (flow.denoise(broken) - broken).norm(dim=-1)
    limit = (flow.denoise(x) - x).norm(dim=-1).quantile(0.99)
print(f"found {(distance[:500] > limit).float().mean():.2f} of the broken, "
      f"{(distance[500:] > limit).float().mean():.2f} of the others by mistake")  # fmt: skip

# %% [markdown]
# ## When training stalls
#
# Now let both joints turn all the way around. The surface closes up in two directions, a torus, and no single chart
# covers it: a plane, bent as you like, must be torn somewhere. `fit_md` says so.

# %%
turning = readings(uniform(2 * rows, -180, 180), uniform(2 * rows, -180, 180)) / noise
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    one = flow_of(turning, 2)
    fit_md(one, turning, epochs=(max(1, passes // 2), 0), disable_progbar=True)
for w in caught:
    if "far from the rows" in str(w.message):
        print(str(w.message)[: str(w.message).index(". ")])

# %% [markdown]
# The remedy is several charts, each a piece of the torus. `ManifoldMixture` starts them at clusters of rows,
# `fit_charts` trains each on the rows nearest to it.

# %%
charts = ManifoldMixture.from_data(turning, dim=2, charts=12, hidden=(32,))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    fit_charts(charts, turning, rounds=2, epochs=(max(1, passes // 2), passes // 4), disable_progbar=True)
new = readings(uniform(1000, -180, 180), uniform(1000, -180, 180)) / noise
with torch.no_grad():
    single = (one.denoise(new) - new).norm(dim=-1)
    several = (charts.denoise(new) - new).norm(dim=-1)
print(f"distance of new rows, median and 95 %: one chart {single.median():.1f}, {single.quantile(0.95):.1f}; "
      f"twelve {several.median():.1f}, {several.quantile(0.95):.1f}")  # fmt: skip

fig, ax = plt.subplots(figsize=(5, 4.4), layout="constrained")
ax.scatter(*(new * noise)[:, [2, 3]].T, s=4, c=charts.assign(new), cmap="tab20")
ax.set(title="hand, mm: which chart", aspect="equal")
fig.savefig(args.out / "learn_a_manifold_charts.png", dpi=110)

# %% [markdown]
# ![Positions of the hand, coloured by chart](learn_a_manifold_charts.png)
#
# Other reasons for a poor fit, and what to do: {doc}`../howto/learn_a_manifold`. (For tubes, spheres and data in
# several components see also `VQFlow`, which glues charts without overlap, in {doc}`manifold_in_pieces`.)
#
# ## Exercise
#
# How much does scaling matter? Train a surface on the readings in their original units, and compare the distances
# of the *volts* from it, in units of their noise.

# %% tags=["answer"]
raw = x * noise
unscaled = flow_of(raw, 2)
fit_md(unscaled, raw, epochs=(passes, 0), disable_progbar=True)
with torch.no_grad():
    volts = ((unscaled.denoise(fresh * noise) / noise - fresh)[:, 6:]).square().mean().sqrt()
    scaled = ((flow.denoise(fresh) - fresh)[:, 6:]).square().mean().sqrt()
print(f"volts are off by {volts:.1f} without scaling, by {scaled:.1f} with it, in units of noise")

# %% [markdown]
# Where next: {doc}`../experiments/learned_latents` (a learned surface as the prior of a latent variable),
# {doc}`../explanation/injective_flows`.
