"""Tensors into orientation functions: learn how likely one field on a manifold is, given a field on another.

    python tutorials/tensors_into_odfs.py               # simulated voxels; real ones too, if dipy is installed
    python tutorials/tensors_into_odfs.py --quick       # a few steps only: to see that everything runs

Takes about a minute of one core, goes on where it was interrupted, and writes four pictures.
"""

# %% [markdown]
# # Tensors into orientation functions
#
# Water in white matter diffuses along fibres. A cheap scan gives one *diffusion tensor* for each voxel, a symmetric
# positive definite matrix; an expensive one an *orientation distribution function* (ODF), how much diffuses along each
# axis. Where two bundles of fibres cross, the tensor does not say how. This page learns how likely a field of ODFs
# is, given a field of tensors: a density on one manifold given a point of another. It takes about fifteen minutes to
# read.
#
# ## The data
#
# Fields of 4 x 4 voxels in which two bundles of fibres cross, simulated. In each voxel there is a tensor, a $3\times3$
# matrix, and an ODF, the probabilities of 21 axes.
#
# The probabilities $p_1, \dots, p_m$ of the axes are not negative and add up to one, so the vector of $\sqrt{p_k}$ has
# length 1: a point of the sphere $S^{20}$. There, distances are angles, a field of $4 \times 4$ voxels is a point of
# the product of 16 spheres, and a density is one with respect to the product of their areas. (An axis stands for two
# opposite directions. Published work takes both, points of $S^{2m-1}$; but an ODF has the same value at both, so
# these points lie on a great subsphere of half the dimension, and no density on all of $S^{2m-1}$ exists. Distances
# are the same.)

# %% tags=["options"]
import argparse
from pathlib import Path

parser = argparse.ArgumentParser(description="Tensors into orientation functions.")
parser.add_argument("--out", type=Path, default=Path("tensors_into_odfs"), help="folder for the pictures")
parser.add_argument("--quick", action="store_true", help="a few steps only: to see that everything runs")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
fields, epochs, depth, stride = (10, 1, 1, 4) if args.quick else (400, 15, 4, 2)

# %%
import geoopt
import matplotlib.pyplot as plt
import torch

from pyro_manifold.datasets import crossing_bundles, diffusion_scan, sphere_to_odf
from pyro_manifold.geometry import geometry
from pyro_manifold.models import ManifoldGLOW, ManifoldToManifoldFlow
from pyro_manifold.plotting import odf_glyphs, tensor_glyphs
from pyro_manifold.training import fit_likelihood

torch.manual_seed(0)
train = crossing_bundles(fields, size=4, frequency=2, seed=1)
test = crossing_bundles(max(4, fields // 6), size=4, frequency=2, seed=2)
print(f"tensors {tuple(train.tensors.shape)}, ODFs {tuple(train.odfs.shape)}")

# %% [markdown]
# A mirror plane through the longest and the shortest axis of a tensor leaves the tensor alone and moves the fibres.
# So there are other ODFs with the same tensors, and where the two differ most shows best what is to be learned.

# %%
spd, sphere = geoopt.SymmetricPositiveDefinite(), geoopt.Sphere()
distance = geometry(sphere).dist
i = int(distance(test.clean, test.mirrored).mean((1, 2, 3)).argmax())

fig, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
tensor_glyphs(test.tensors[i, 0], axes[0], title="tensors")
odf_glyphs(sphere_to_odf(test.clean[i, 0]), test.axes, axes[1], title="ODFs")
odf_glyphs(sphere_to_odf(test.mirrored[i, 0]), test.axes, axes[2], title="others with these tensors")
fig.savefig(args.out / "tensors_into_odfs_data.png", dpi=110)

# %% [markdown]
# ![Tensors, the ODFs behind them, and the mirror image with the same tensors](tensors_into_odfs_data.png)
#
# Both are possible answers. Their mean is none: what is needed is a density, not a regression.
#
# ## A flow from field to field
#
# `ManifoldToManifoldFlow` is Glow on manifolds. Vectors $z$ of tangent coordinates are normal, with a mean $m$ and a
# scale $s$ that convolutions compute from the tensors $y$; a bijection $f_y$ makes a field of ODFs of them. It is a
# chain of steps, each of
#
# * a **coupling**: half of the coordinates of each voxel are scaled and shifted by what a convolutional network says,
#   which reads the other half, those of the neighbours, and the tensors;
# * **actnorm**, a scale and a shift of each coordinate;
# * an **invertible 1 x 1 layer**: a rotation of the coordinates and channels, and a rotation of the sphere itself. (On
#   positive definite matrices it is a congruence $X \mapsto AXA^T$. Both are isometries and keep volume.)
#
# The first two act in a chart at the Fréchet mean $\mu$: the exponential map after a radial map of flat space onto the
# ball of radius $\pi$, which is the stereographic projection and misses only the antipode of $\mu$. What it does to
# volume, $(1+|v|^2/4)^{-d}$, is part of the density:
#
# $$\log p(x \mid y) = \log N\big(f_y^{-1}(x);\, m(y), s(y)^2\big) - \log\mathrm{vol}_{f_y} .$$
#
# It starts as a regression of coordinates, and is trained by maximum likelihood.

# %%
flow = ManifoldToManifoldFlow.from_data(spd, train.tensors, sphere, train.odfs, depth=depth)
options = dict(epochs=epochs, batch_size=32, lr=2e-3, disable_progbar=args.quick)
with torch.no_grad():
    start = flow.log_prob(test.odfs, test.tensors).mean() / 16
fit_likelihood(flow, train.odfs, train.tensors, checkpoint=args.out / "flow.pt", **options)
with torch.no_grad():
    end = flow.log_prob(test.odfs, test.tensors).mean() / 16
print(f"log density per voxel of the test fields: {start:.1f} nats as a regression, {end:.1f} trained")

# %% [markdown]
# ## Draws
#
# Twenty draws for each test field. Where truth and mirror image differ, which of the two is a draw nearer to?

# %%
draws = flow.sample(test.tensors, 20)  # (20, fields, 1, 4, 4, 21)
truth, mirrored = (t.expand_as(draws) for t in (test.clean, test.mirrored))
ambiguous = distance(test.clean, test.mirrored) > 0.12


def near_the_truth(draws):
    nearer = (distance(draws, truth) < distance(draws, mirrored)).float().mean(0)
    return float(nearer[ambiguous].mean())


print(f"draws that are nearer to the truth than to its mirror image: {near_the_truth(draws):.0%}")

fig, axes = plt.subplots(1, 4, figsize=(12, 3.3), layout="constrained")
for k, ax in enumerate(axes):
    odf_glyphs(sphere_to_odf(draws[k, i, 0]), test.axes, ax, title=f"draw {k + 1}")
fig.savefig(args.out / "tensors_into_odfs_draws.png", dpi=110)

# %% [markdown]
# ![Four draws of a field of ODFs for the tensors above](tensors_into_odfs_draws.png)
#
# A regression answers with something between the two. Draws of the flow are one or the other, or both at once, and
# not the same in all voxels of a field: half a minute of training on 400 fields has not taught it that bundles go on
# from voxel to voxel, nor, as the share near 50 % says, what in a field tells the truth from its mirror image.
#
# ## A density of fields
#
# Without a source there is `ManifoldGLOW`, here a density of fields of tensors. A field is one point of a product of
# 16 manifolds, and its voxels depend on each other: a density that knows gives less to a field whose voxels are
# shuffled.

# %%
glow = ManifoldGLOW.from_data(spd, train.tensors, depth=depth)
fit_likelihood(glow, train.tensors, checkpoint=args.out / "glow.pt", **options)
with torch.no_grad():
    shuffled = test.tensors.flatten(2, 3)[:, :, torch.randperm(16)].unflatten(2, (4, 4))
    whole, mixed = (glow.log_prob(t).mean() / 16 for t in (test.tensors, shuffled))
    print(f"log density per voxel: {whole:.1f} nats; voxels shuffled: {mixed:.1f}")

fig, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
for k, (x, ax) in enumerate(zip(glow.sample(3), axes, strict=True)):
    tensor_glyphs(x[0], ax, title=f"draw {k + 1} of tensors")
fig.savefig(args.out / "tensors_into_odfs_fields.png", dpi=110)

# %% [markdown]
# ![Draws of fields of tensors](tensors_into_odfs_fields.png)
#
# Here the shuffled fields lose only a little: the density has learned the voxels better than how they go together.
#
# ## Real voxels
#
# A piece of a brain that the package dipy ships, 6 x 10 x 10 voxels. For files of your own there is
# `fit_diffusion_scan("data.nii.gz", "bvals", "bvecs")`.

# %%
try:
    scan = diffusion_scan("small_101D")
except ImportError as error:  # it says how to install dipy
    print(error)
else:
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    tensor_glyphs(scan.tensors[:, :, 4], axes[0], title="tensors of a scan")
    odf_glyphs(sphere_to_odf(scan.odfs[:, :, 4]), scan.axes, axes[1], title="ODFs")
    fig.savefig(args.out / "tensors_into_odfs_scan.png", dpi=110)

# %% [markdown]
# ![Tensors and ODFs of a piece of a brain](tensors_into_odfs_scan.png)
#
# How well flows do on these, beside regressions and nearest neighbours, is measured in
# {doc}`../experiments/manifold_glow`.
#
# ## Exercise
#
# A voxel alone does not see which way the bundles around it go. Train the flow on single voxels (fields of 1 x 1). How
# often is a draw nearer to the truth than to its mirror image?

# %% tags=["answer"]
tensors, odfs = (t.reshape(-1, 1, 1, 1, *t.shape[4:])[::stride] for t in (train.tensors, train.odfs))
single = ManifoldToManifoldFlow.from_data(spd, tensors, sphere, odfs, depth=depth)
options |= dict(batch_size=256)
fit_likelihood(single, odfs, tensors, checkpoint=args.out / "single.pt", **options)
one = single.sample(test.tensors.reshape(-1, 1, 1, 1, 3, 3), 20).reshape(draws.shape)
print(f"single voxels: {near_the_truth(one):.0%} nearer to the truth")
# Half of the time, as it must be: both are equally likely.

# %% [markdown]
# ## Where to go from here
#
# * Other manifolds for pixels: any sphere, positive definite matrices, hyperbolic space, SO(3), and products:
#   {doc}`../api/flows`.
# * The layers one by one, to build another architecture: `ActNorm`, `GroupAction`, `ChannelMixing`, `FieldCoupling`,
#   `Squeeze`, `MultiScaleField`.
