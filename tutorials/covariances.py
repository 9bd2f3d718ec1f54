"""Covariance matrices of subjects: means, groups and a classifier on the manifold of positive definite matrices.

    python tutorials/covariances.py

Takes about a minute of one core and writes two pictures.
"""

# %% [markdown]
# # Covariance matrices of subjects
#
# Three electrodes record a signal from each of twenty subjects. What matters is not the signal itself but how the
# channels go together: one covariance matrix for each subject. Ten of the subjects rest, ten do a task. How do
# the groups differ, how sure are we, and to which group does a new subject belong? Covariance matrices are
# positive definite: a curved space, in which the usual means and straight lines do odd things. It takes ten
# minutes to read.
#
# ## Data
#
# They are simulated: each subject has a true covariance that scatters about that of the group, and a recording of
# 100 samples. In the task the first two channels go together more closely.

# %% tags=["options"]
import argparse
from pathlib import Path

parser = argparse.ArgumentParser(description="Covariance matrices of subjects.")
parser.add_argument("--out", type=Path, default=Path("covariances"), help="folder for the pictures")
parser.add_argument("--quick", action="store_true", help="a few steps only: to see that everything runs")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
draws, depth, steps = (8, 2, 10) if args.quick else (150, 10, 800)

# %%
import geoopt
import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

import pyro_manifold.distributions as mdist
from pyro_manifold.infer import (
    AutoManifoldNormal,
    GeodesicNUTS,
    VectorizedMCMC,
    frechet_mean,
    manifold_summary,
)
from pyro_manifold.plotting import tensor_glyphs

pyro.set_rng_seed(1)
torch.set_default_dtype(torch.float64)
spd = geoopt.SymmetricPositiveDefinite()

rest = torch.tensor([[1.0, 0.2, 0.1], [0.2, 1.0, 0.3], [0.1, 0.3, 1.0]])
task = torch.tensor([[1.2, 0.8, 0.1], [0.8, 1.2, 0.3], [0.1, 0.3, 0.8]])
group = torch.arange(20) // 10  # 0 rests, 1 does the task
subjects = mdist.WrappedNormal(spd, torch.stack([rest, task])[group], 0.2).sample()
signals = dist.MultivariateNormal(torch.zeros(3), subjects).sample((100,))  # (samples, subjects, channels)
covariances = torch.einsum("tsi,tsj->sij", signals, signals) / 100
print(covariances.shape, "smallest eigenvalue", torch.linalg.eigvalsh(covariances).min())

# %%
fig, ax = plt.subplots(figsize=(9, 2.6), layout="constrained")
tensor_glyphs(covariances.reshape(2, 10, 3, 3), ax)
ax.set_title("above: at rest; below: during the task")
fig.savefig(args.out / "covariances.png", dpi=110)

# %% [markdown]
# ![Twenty covariance matrices as ellipsoids](covariances.png)
#
# Each ellipsoid has the eigenvectors of a matrix as its axes, with half axes proportional to the eigenvalues.
#
# ## A distance that does not depend on units
#
# The affine-invariant distance $d(A, B) = \lVert\log(A^{-1/2} B A^{-1/2})\rVert$ is the same if all channels are
# rescaled or mixed: $d(WAW^\top, WBW^\top) = d(A, B)$. A different gain of one amplifier changes no conclusion.
# The straight-line distance of matrices has no such property. And means differ: the arithmetic mean of matrices
# *swells*, its determinant is larger than those of the matrices typically are, while the Fréchet mean keeps the
# mean log determinant.

# %%
gain = torch.diag(torch.tensor([1.0, 10.0, 1.0]))
a, b = covariances[0], covariances[10]
print(
    f"affine-invariant: {spd.dist(a, b):.3f}, with another gain {spd.dist(gain @ a @ gain, gain @ b @ gain):.3f}"
)
print(f"straight line:    {(a - b).norm():.3f}, with another gain {(gain @ (a - b) @ gain).norm():.3f}")

frechet, variance = frechet_mean(spd, covariances)
print(f"mean log determinant {covariances.logdet().mean():.2f}, of the Fréchet mean {frechet.logdet():.2f}, "
      f"of the arithmetic mean {covariances.mean(0).logdet():.2f}")  # fmt: skip

# %% [markdown]
# ## Two groups
#
# Each group has a mean matrix; its subjects scatter about it with the same spread, a geodesic length.
# `WrappedNormal` on this manifold is a normal distribution of symmetric matrices, mapped by the matrix
# exponential. The prior of the means is wide: a standard deviation of 1 is a factor of $e$ in an eigenvalue.


# %%
def groups(x):
    spread = pyro.sample("spread", dist.LogNormal(-1.0, 1.0))
    with pyro.plate("groups", 2):
        mean = pyro.sample("mean", mdist.WrappedNormal(spd, torch.eye(3), 1.0))
    with pyro.plate("subjects", len(x)):
        pyro.sample("x", mdist.WrappedNormal(spd, mean[..., group, :, :], spread.unsqueeze(-1)), obs=x)


kernel = GeodesicNUTS(groups, chains=4, max_tree_depth=depth)
mcmc = VectorizedMCMC(kernel, num_samples=draws, warmup_steps=draws, disable_progbar=True)
mcmc.run(covariances)
posterior, row = mcmc.get_samples(), manifold_summary(mcmc)["mean"]
print("R-hat", row["r_hat"].round(decimals=2).tolist(), "effective draws", row["n_eff"].round().tolist())

# %% [markdown]
# How far are the groups apart? A distance between draws, in the unit of the spread: no formula needed.

# %%
apart = spd.dist(posterior["mean"][:, 0], posterior["mean"][:, 1])
print(f"distance of the means {apart.mean():.2f}, 95 % between {apart.quantile(0.025):.2f} and "
      f"{apart.quantile(0.975):.2f}; true {spd.dist(rest, task):.2f}")  # fmt: skip


def correlation(c):
    """Between the first two channels."""
    return c[..., 0, 1] / (c[..., 0, 0] * c[..., 1, 1]).sqrt()


more = correlation(posterior["mean"][:, 1]) - correlation(posterior["mean"][:, 0])
print(f"correlation of the first two channels: more by {more.mean():.2f} ± {more.std():.2f} in the task "
      f"(true {correlation(task) - correlation(rest):.2f})")  # fmt: skip

# %% [markdown]
# ## What 100 samples do to a covariance
#
# So far the estimated covariances were taken for the subjects' own. An estimate from $n$ samples scatters, too:
# $n$ times it has a Wishart distribution about the truth. Say so, and the true matrices become latent, one for
# each subject. For twenty of them a guide is quicker than a chain: `AutoManifoldNormal` puts a wrapped normal
# distribution on each.


# %%
def recordings(x, n):
    spread = pyro.sample("spread", dist.LogNormal(-1.0, 1.0))
    with pyro.plate("groups", 2):
        mean = pyro.sample("mean", mdist.WrappedNormal(spd, torch.eye(3), 1.0))
    with pyro.plate("subjects", len(x)):
        subject = pyro.sample(
            "subject", mdist.WrappedNormal(spd, mean[..., group, :, :], spread.unsqueeze(-1))
        )
        pyro.sample("x", dist.Wishart(torch.tensor(float(n)), covariance_matrix=subject), obs=n * x)


guide = AutoManifoldNormal(recordings)
optimizer = pyro.optim.ClippedAdam({"lr": 0.03, "lrd": 0.1 ** (1 / steps)})
svi = pyro.infer.SVI(recordings, guide, optimizer, pyro.infer.Trace_ELBO())
losses = [svi.step(covariances, 100) for _ in range(steps)]
with pyro.plate("draws", 500, dim=-2):
    found = guide(covariances, 100)
print(f"spread of the subjects {found['spread'].mean():.2f} (true 0.20; with estimates taken for truth "
      f"{posterior['spread'].mean():.2f})")  # fmt: skip
before, after = spd.dist(covariances, subjects).mean(), spd.dist(guide.median()["subject"], subjects).mean()
print(f"mean distance from the true matrices: of the estimates {before:.2f}, of the posterior {after:.2f}")

# %% [markdown]
# The spread between subjects was overstated before, because it held the errors of estimation; and each subject's
# matrix is better known when the group helps.
#
# ## To which group does a new subject belong?
#
# Compare the densities of the two groups, averaged over the posterior. For new subjects, 200 of each:

# %%
truth = torch.arange(400) // 200
new = mdist.WrappedNormal(spd, torch.stack([rest, task])[truth], 0.2).sample()
record = dist.MultivariateNormal(torch.zeros(3), new).sample((100,))
estimate = torch.einsum("tsi,tsj->sij", record, record) / 100
some = slice(0, None, max(1, len(posterior["mean"]) // 50))
mean, spread = posterior["mean"][some], posterior["spread"][some].reshape(-1, 1)
scores = []
for k in (0, 1):
    density = mdist.WrappedNormal(spd, mean[:, k], spread)
    scores.append(density.log_prob(estimate.unsqueeze(1)).logsumexp(-1))
right = (scores[1] > scores[0]).long() == truth
print(f"{right.double().mean():.3f} of 400 new subjects are put into their group")
straight = torch.stack([covariances[group == k].mean(0) for k in (0, 1)])
nearest = (estimate.unsqueeze(1) - straight).norm(dim=(-2, -1)).argmin(-1)
print(f"by the nearest arithmetic mean: {(nearest == truth).double().mean():.3f}")

fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
for k, name in enumerate(("at rest", "task")):
    ax.hist((scores[1] - scores[0])[truth == k].numpy(), bins=30, alpha=0.6, color=f"C{k}", label=name)
ax.axvline(0, color="black", linewidth=0.8)
ax.set(xlabel="log odds of the task", yticks=[])
ax.legend()
fig.savefig(args.out / "covariances_groups.png", dpi=110)

# %% [markdown]
# ![Log odds of new subjects of the two groups](covariances_groups.png)
#
# ## Exercise
#
# The amplifier of the second channel had ten times the gain for *all* new subjects and all old ones. Which of the
# two classifiers still works, without being told?

# %% tags=["answer"]
# Distances on the manifold do not change under a common change of gain, so the first one does, once its model has
# seen data of that gain: the same posterior moves along. The second is dominated by the second channel.
straight = gain @ straight @ gain
nearest = (gain @ estimate @ gain).unsqueeze(1).sub(straight).norm(dim=(-2, -1)).argmin(-1)
print(f"by the nearest arithmetic mean: {(nearest == truth).double().mean():.3f}")
moved = mdist.WrappedNormal(spd, gain @ mean[:, 1] @ gain, spread).log_prob(
    gain @ estimate[:3].unsqueeze(1) @ gain
)
plain = mdist.WrappedNormal(spd, mean[:, 1], spread).log_prob(estimate[:3].unsqueeze(1))
print(f"log densities differ by at most {(moved - plain).abs().max():.1e}")

# %% tags=["options"]
torch.set_default_dtype(torch.float32)

# %% [markdown]
# Where next: {doc}`tensors_into_odfs` (fields of positive definite matrices),
# {doc}`../explanation/measure_and_frames`.
