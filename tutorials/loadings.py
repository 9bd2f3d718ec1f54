"""Orthonormal loadings: probabilistic principal components with their uncertainty, and what is identified.

    python tutorials/loadings.py

Takes about a minute of one core and writes two pictures.
"""

# %% [markdown]
# # Orthonormal loadings and their symmetries
#
# Principal components are a point estimate. How sure are the loadings, and which of them? *Probabilistic*
# principal components {cite:p}`tipping1999` is a model, so it has a posterior; but the loadings are orthonormal
# columns, a point of a Stiefel manifold, and the model cannot tell a column from its negative. This page samples
# them and shows what to do about the copies. It takes ten minutes to read.
#
# ## Data
#
# 178 wines from three growers, 13 chemical measurements each, standardised (scikit-learn's `load_wine`). The
# growers are not used until the end.

# %% tags=["options"]
import argparse
import warnings
from pathlib import Path

parser = argparse.ArgumentParser(description="Orthonormal loadings.")
parser.add_argument("--out", type=Path, default=Path("loadings"), help="folder for the pictures")
parser.add_argument("--quick", action="store_true", help="a few steps only: to see that everything runs")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
draws, depth = (8, 2) if args.quick else (150, 8)

# %%
import geoopt
import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from sklearn.datasets import load_wine

import pyro_manifold.distributions as mdist
from pyro_manifold.geometry import Grassmann, geometry
from pyro_manifold.infer import GeodesicNUTS, VectorizedMCMC, align_axes, geodesic_ess, geodesic_r_hat

pyro.set_rng_seed(0)
torch.set_default_dtype(torch.float64)
wine = load_wine()
names = wine.feature_names
x = torch.as_tensor(wine.data)
x = (x - x.mean(0)) / x.std(0)
print(x.shape, "largest eigenvalues", torch.linalg.eigvalsh(torch.cov(x.T)).flip(0)[:5].round(decimals=2))

# %% [markdown]
# ## The model
#
# A wine has $k$ hidden numbers $z$, standard normal, and $x = U\,\mathrm{diag}(s)\,z + \sigma\epsilon$. Without
# the hidden numbers, which can be integrated out,
#
# $$x \sim \mathcal N\big(0,\; U\,\mathrm{diag}(s^2)\,U^\top + \sigma^2 I\big), \qquad U^\top U = I.$$
#
# The loadings $U$ are uniform on the Stiefel manifold. The scales are ordered, so that columns cannot trade
# places: $s_2$ is a part of $s_1$.


# %%
stiefel = geoopt.Stiefel()


def components(x, k=2):
    d = x.shape[-1]
    loadings = pyro.sample("loadings", mdist.ManifoldUniform(stiefel, (d, k)))
    largest = pyro.sample("largest", dist.LogNormal(0.5, 1.0))
    parts = pyro.sample("parts", dist.Beta(2.0, 1.0).expand([k - 1]).to_event(1))
    scales = largest.unsqueeze(-1) * torch.cat([torch.ones_like(parts[..., :1]), parts.cumprod(-1)], -1)
    noise = pyro.sample("noise", dist.LogNormal(-0.5, 0.5))
    factor = loadings * scales.unsqueeze(-2)
    diagonal = noise.square().unsqueeze(-1).expand(factor.shape[:-1])
    with pyro.plate("rows", len(x)):
        spread = dist.LowRankMultivariateNormal(torch.zeros(d), factor.unsqueeze(-3), diagonal.unsqueeze(-2))
        pyro.sample("x", spread, obs=x)


def sample(x, k):
    kernel = GeodesicNUTS(lambda rows: components(rows, k), chains=4, max_tree_depth=depth)
    mcmc = VectorizedMCMC(kernel, num_samples=draws, warmup_steps=draws, disable_progbar=True)
    mcmc.run(x)
    return mcmc.get_samples(group_by_chain=True)


posterior = sample(x, 2)
u = posterior["loadings"]
print(u.shape, "columns orthonormal to", f"{(u.mT @ u - torch.eye(2)).abs().max():.0e}")

# %% [markdown]
# ## Copies
#
# Four chains began at random. Each found loadings, and some found the negative of what others found: $U$ and
# $U\,\mathrm{diag}(\pm1, \pm1)$ have the same likelihood. The mean over all chains is then of no use, and
# R-hat says that chains disagree.

# %%
proline = names.index("proline")
by_chain = u[..., proline, 0].mean(1)
print("loading of proline in the first component, by chain:", [f"{v:.2f}" for v in by_chain])
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # one about copies without a common mean
    center = u[0, -1]
    print(f"R-hat of the frames as they are: {geodesic_r_hat(stiefel, u, center):.1f}")

# %% [markdown]
# Nothing is wrong with the chains; the question is. Three questions that have an answer:
#
# *Which plane?* The plane spanned by the columns does not know signs, nor rotations within. As a projector
# $UU^\top$ it is a point of a Grassmann manifold, whose distances are angles between planes.

# %%
planes = Grassmann(13, 2)
projector = geometry(planes).project(u @ u.mT)
print(
    f"R-hat of the plane {geodesic_r_hat(planes, projector):.2f}, effective draws {geodesic_ess(planes, projector):.0f}"
)

# %% [markdown]
# *Which axes?* With different scales each column is an axis: a line without a direction. `align_axes` turns all
# draws of a column to one side.

# %%
aligned = align_axes(u.mT).mT  # columns as the last axis, and back
sphere = geoopt.Sphere()
for j in range(2):
    column = aligned[..., j]
    mean = torch.nn.functional.normalize(column.mean((0, 1)), dim=0)
    away = sphere.dist(mean, column.flatten(0, 1)).quantile(0.95).rad2deg()
    print(
        f"component {j + 1}: R-hat {geodesic_r_hat(sphere, column):.2f}, 95 % within {away:.0f} degrees of its mean"
    )

# %% [markdown]
# *Which sign?* A convention: make proline positive.

# %%
aligned = aligned * aligned[..., proline, :].mean((0, 1)).sign()
flat = aligned.flatten(0, 1)
low, middle, high = flat.quantile(torch.tensor([0.025, 0.5, 0.975]), dim=0)
fig, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
for j, ax in enumerate(axes):
    ax.hlines(range(13), low[:, j], high[:, j], color=f"C{j}", linewidth=3)
    ax.plot(middle[:, j], range(13), "o", color="black", markersize=3)
    ax.axvline(0, color="0.7", linewidth=0.8)
    ax.set(title=f"component {j + 1}", xlabel="loading, 95 % interval")
axes[0].set_yticks(range(13), names, fontsize=7)
fig.savefig(args.out / "loadings.png", dpi=110)

# %% [markdown]
# ![Loadings of thirteen measurements on two components, with their intervals](loadings.png)
#
# Compared with the principal components of the same data, the posterior is centred where they are, and it says
# which loadings may be zero.

# %%
principal = torch.linalg.eigh(torch.cov(x.T)).eigenvectors.flip(1)[:, :2]
mean = torch.nn.functional.normalize(flat.mean(0), dim=0)
print(
    "angle to the principal components:",
    (principal * mean).sum(0).abs().clamp(max=1).acos().rad2deg().round().int().tolist(),
)

# %% [markdown]
# ## What the hidden numbers say
#
# Given loadings, the hidden numbers of each wine are normal, with mean $s\,U^\top x/(s^2+\sigma^2)$. Averaged
# over the posterior they separate the growers, which the model has never seen.

# %%
scale = torch.cat([torch.ones_like(posterior["parts"][..., :1]), posterior["parts"]], -1)
scale = (posterior["largest"].unsqueeze(-1) * scale).flatten(0, 1)
noise = posterior["noise"].flatten().unsqueeze(-1)
hidden = (x @ flat) * (scale / (scale**2 + noise**2)).unsqueeze(1)
fig, ax = plt.subplots(figsize=(5, 4), layout="constrained")
for g in range(3):
    ax.scatter(*hidden.mean(0)[wine.target == g].T, s=12, color=f"C{g}", label=f"grower {g + 1}")
ax.set(xlabel="first hidden number", ylabel="second")
ax.legend()
fig.savefig(args.out / "loadings_wines.png", dpi=110)

# %% [markdown]
# ![Wines by their two hidden numbers](loadings_wines.png)
#
# ## Exercise
#
# Take five components. The fourth and fifth eigenvalues are nearly equal. Which columns are identified as axes,
# and what is, of those that are not?

# %% tags=["answer"]
u = sample(x, 5)["loadings"]
for j in range(5):
    column = align_axes(u[..., j])
    mean = torch.nn.functional.normalize(column.mean((0, 1)), dim=0)
    away = sphere.dist(mean, column.flatten(0, 1)).median().rad2deg()
    print(f"component {j + 1}: median angle to its mean axis {away:.0f} degrees")
pair = geometry(planes).project(u[..., 3:] @ u[..., 3:].mT)
within = planes.dist(pair[0, -1], pair.flatten(0, 1)).median().rad2deg()
print(f"the plane of the last two: median angle {within:.0f} degrees")
# The first three are axes. Of the last two neither means much by itself: report the plane they span, or leave them out.

# %% tags=["options"]
torch.set_default_dtype(torch.float32)

# %% [markdown]
# Where next: {doc}`../explanation/symmetries`, and `FrameFlow` in {doc}`../api/flows`.
