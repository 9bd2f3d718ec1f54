"""Tensors into orientation functions: learn how likely one field on a manifold is, given a field on another.

    python tutorials/tensors_into_odfs.py               # simulated voxels; real ones too, if dipy is installed
    python tutorials/tensors_into_odfs.py --quick       # a few steps only: to see that everything runs

Takes about two minutes on one core, resumes where it was interrupted, and writes four pictures.
"""

import argparse
from pathlib import Path

import geoopt
import matplotlib.pyplot as plt
import torch

from pyro_manifold.datasets import crossing_bundles, diffusion_scan, sphere_to_odf
from pyro_manifold.geometry import geometry
from pyro_manifold.models import ManifoldGLOW, ManifoldToManifoldFlow
from pyro_manifold.plotting import odf_glyphs, tensor_glyphs
from pyro_manifold.training import fit_likelihood

parser = argparse.ArgumentParser(description="Tensors into orientation functions.")
parser.add_argument("--out", type=Path, default=Path("tensors_into_odfs"), help="folder for the pictures")
parser.add_argument("--quick", action="store_true", help="a few steps only: to see that everything runs")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
fields, epochs, depth = (10, 1, 1) if args.quick else (400, 15, 4)
torch.manual_seed(0)

# %% [data]
# Fields of 4 x 4 voxels in which two bundles of fibres cross. In each voxel a tensor, a symmetric positive definite
# 3 x 3 matrix, and an orientation distribution function (ODF): the probabilities of 21 axes. Its square roots are a
# vector of length 1, a point of the sphere S^20.
train = crossing_bundles(fields, size=4, frequency=2, seed=1)
test = crossing_bundles(max(4, fields // 6), size=4, frequency=2, seed=2)
print(f"tensors {tuple(train.tensors.shape)}, ODFs {tuple(train.odfs.shape)}")

spd, sphere = geoopt.SymmetricPositiveDefinite(), geoopt.Sphere()
dist = geometry(sphere).dist
i = int(
    dist(test.clean, test.mirrored).mean((1, 2, 3)).argmax()
)  # a field that is hard to tell from its mirror image
fig, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
tensor_glyphs(test.tensors[i, 0], axes[0], title="tensors")
odf_glyphs(sphere_to_odf(test.clean[i, 0]), test.axes, axes[1], title="ODFs")
odf_glyphs(sphere_to_odf(test.mirrored[i, 0]), test.axes, axes[2], title="others with these tensors")
fig.savefig(args.out / "data.png", dpi=110)

# %% [flow]
# A density of fields of ODFs given fields of tensors. It starts as a regression of coordinates, and is trained by
# maximum likelihood.
flow = ManifoldToManifoldFlow.from_data(spd, train.tensors, sphere, train.odfs, depth=depth)
options = dict(epochs=epochs, batch_size=32, lr=2e-3, disable_progbar=args.quick)
with torch.no_grad():
    start = flow.log_prob(test.odfs, test.tensors).mean() / 16
fit_likelihood(flow, train.odfs, train.tensors, checkpoint=args.out / "flow.pt", **options)

# %% [score]
with torch.no_grad():
    end = flow.log_prob(test.odfs, test.tensors).mean() / 16
print(f"log density per voxel of the test fields: {start:.1f} nats as a regression, {end:.1f} trained")

# %% [draws]
draws = flow.sample(test.tensors, 20)  # (20, fields, 1, 4, 4, 21)
truth, mirrored = (t.expand_as(draws) for t in (test.clean, test.mirrored))
ambiguous = dist(test.clean, test.mirrored) > 0.12
nearer = (dist(draws, truth) < dist(draws, mirrored)).float().mean(0)
print(f"draws that are nearer to the truth than to its mirror image: {nearer[ambiguous].mean():.0%}")

fig, axes = plt.subplots(1, 4, figsize=(12, 3.3), layout="constrained")
for k, ax in enumerate(axes):
    odf_glyphs(sphere_to_odf(draws[k, i, 0]), test.axes, ax, title=f"draw {k + 1}")
fig.savefig(args.out / "draws.png", dpi=110)

# %% [fields]
# A density of fields without a source: of the tensors. A field is one point of a product of 16 manifolds, and its
# voxels depend on each other: shuffled, they make a field that is less likely.
glow = ManifoldGLOW.from_data(spd, train.tensors, depth=depth)
fit_likelihood(glow, train.tensors, checkpoint=args.out / "glow.pt", **options)
with torch.no_grad():
    whole = glow.log_prob(test.tensors).mean() / 16
    order = torch.randperm(16)
    shuffled = test.tensors.flatten(2, 3)[:, :, order].unflatten(2, (4, 4))
    print(
        f"log density per voxel: {whole:.1f} nats; voxels shuffled: {glow.log_prob(shuffled).mean() / 16:.1f}"
    )
fig, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
for k, (x, ax) in enumerate(zip(glow.sample(3), axes, strict=True)):
    tensor_glyphs(x[0], ax, title=f"draw {k + 1} of tensors")
fig.savefig(args.out / "fields.png", dpi=110)

# %% [exercise]
# The same flow for single voxels, which cannot know which way the bundles around them go: is the mirror image drawn
# half of the time?
voxels = [
    t.reshape(-1, 1, 1, 1, *t.shape[4:])[:: 4 if args.quick else 2] for t in (train.tensors, train.odfs)
]
single = ManifoldToManifoldFlow.from_data(spd, voxels[0], sphere, voxels[1], depth=depth)
options |= dict(batch_size=256)
fit_likelihood(single, voxels[1], voxels[0], checkpoint=args.out / "single.pt", **options)
one = single.sample(test.tensors.reshape(-1, 1, 1, 1, 3, 3), 20).reshape(draws.shape)
nearer = (dist(one, truth) < dist(one, mirrored)).float().mean(0)
print(f"single voxels: {nearer[ambiguous].mean():.0%} nearer to the truth")

# %% [real]
# Real voxels: a piece of a brain that the package dipy ships, 6 x 10 x 10 voxels. For files of your own there is
# fit_diffusion_scan("data.nii.gz", "bvals", "bvecs").
try:
    scan = diffusion_scan("small_101D")
except ImportError as error:
    print(error)
else:
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    tensor_glyphs(scan.tensors[:, :, 4], axes[0], title="tensors of a scan")
    odf_glyphs(sphere_to_odf(scan.odfs[:, :, 4]), scan.axes, axes[1], title="ODFs")
    fig.savefig(args.out / "scan.png", dpi=110)
