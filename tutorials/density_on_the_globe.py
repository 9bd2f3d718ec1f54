"""A density on the globe: learn where on Earth things happen, and use what was learned in a Pyro model.

    python tutorials/density_on_the_globe.py                    # downloads the catalogues (three small files)
    python tutorials/density_on_the_globe.py --folder FOLDER    # they are in FOLDER: fire.csv, flood.csv, ...

Takes about ten minutes of one core, goes on where it was interrupted, and writes three pictures.
"""

# %% [markdown]
# # A density on the globe
#
# Where on Earth do earthquakes happen? The answer is a probability density on the sphere, and this page learns one
# from a catalogue: a *normalizing flow* on the sphere, with exact densities and draws. Then it uses the density twice
# in Pyro models, as a likelihood with a covariate and as a prior. It takes about fifteen minutes to read.
#
# ## The data
#
# Points on Earth are unit vectors of $\mathbb R^3$: no map projection, no date line, no poles. Of the earthquakes
# 80 % are to learn from, 10 % to choose the weights, 10 % to judge. Places that occur twice were removed before the
# split: copies of training rows among the test rows would reward remembering.

# %% tags=["options"]
import argparse
from pathlib import Path

parser = argparse.ArgumentParser(description="A density on the globe.")
parser.add_argument("--folder", help="where the catalogues are; else they are downloaded")
parser.add_argument("--out", type=Path, default=Path("density_on_the_globe"), help="folder for the pictures")
parser.add_argument("--quick", action="store_true", help="a few steps on made-up rows: to see that all runs")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
folder, epochs, draws, chains, fine, cells = args.folder, None, 1000, 32, 300, 200
if args.quick:
    import random

    epochs, draws, chains, fine, cells = 1, 5, 4, 60, 20
    folder, rng = args.folder or str(args.out), random.Random(0)
    for file in ("quakes_all.csv", "flood.csv", "fire.csv") if args.folder is None else ():
        lines = (f"{90 * rng.triangular(-1, 1):.4f},{rng.uniform(-180, 180):.4f}" for _ in range(60))
        (args.out / file).write_text("\n".join(lines))

# %%
import math

import geoopt
import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

import pyro_manifold.distributions as mdist
from pyro_manifold.datasets import earth_split
from pyro_manifold.flows import Conditional, SphereFlow
from pyro_manifold.infer import GeodesicNUTS, VectorizedMCMC
from pyro_manifold.plotting import sphere_density, sphere_points, world_axes
from pyro_manifold.testing import manifold_rule
from pyro_manifold.training import fit_likelihood

pyro.set_rng_seed(0)
train, valid, test = earth_split("earthquake", folder=folder)
print(f"{len(train)} earthquakes; of shape {tuple(train.shape[1:])}, length {train[0].norm():.3f}")

# %% [markdown]
# ## A flow on the sphere
#
# A flow is a bijection $f$ of the sphere with a learned shape. It takes uniform points $u$ to points $x = f(u)$ that
# lie where earthquakes do, and their density is
#
# $$p(x) = \frac{1}{4\pi}\,\big|\det J_{f^{-1}}(x)\big|,$$
#
# with respect to surface area. `SphereFlow` is made of layers. Each looks along a random axis, and changes first the
# angle about the axis, by a smooth map of the circle whose shape depends on the height, then the height, by a smooth
# map of $[-1, 1]$ whose shape depends on the angle. Both are closed forms, both ways
# {cite:p}`rezende2020,durkan2019`.

# %%
sphere = geoopt.Sphere()
flow = SphereFlow(2, depth=6)
density = dist.TransformedDistribution(mdist.ManifoldUniform(sphere, 3), [flow])
options = dict(epochs=epochs, batch_size=512, disable_progbar=args.quick)
fit_likelihood(density, train, validation=valid, checkpoint=args.out / "earthquakes.pt", **options)

# %% [markdown]
# `fit_likelihood` maximises the mean log density of the training rows and gives the weights back that did best on the
# validation rows. With `checkpoint=` it keeps its state in a file and goes on where it was interrupted.
#
# Is what it found any good, and is it a density? Quadrature over the whole sphere (a ball of radius $\pi$ about the
# north pole) answers the second question.

# %%
with torch.no_grad():
    print(f"mean log density of the test rows: {density.log_prob(test).mean():.2f}")
    print(f"of the uniform distribution:       {-math.log(4 * math.pi):.2f}")
    rule = manifold_rule(sphere, torch.eye(3)[2], math.pi, n_radial=fine, n_angular=fine)
    print(f"integral: {rule.integrate(density.log_prob(rule.points).exp()):.3f}")

# %% [markdown]
# Each nat of log density is a factor $e$: test earthquakes are, in the geometric mean, 14 times as probable under the
# flow as under the uniform distribution. (Kernel estimates do a little better on this catalogue, and a flow on top of
# one better still: see {doc}`../experiments/densities`.)
#
# Maps are drawn in an equal-area projection: equal areas of equal colour have equal probability.

# %%
fig = plt.figure(figsize=(10, 8), constrained_layout=True)
axes = fig.subplots(2, 1, subplot_kw={"projection": "mollweide"})
sphere_density(density.log_prob, world_axes(axes[0]), decades=4, resolution=cells)
axes[0].set_title("learned density")
with torch.no_grad():
    sphere_points(density.sample((2000,)), world_axes(axes[1]), s=2, color="C1", label="draws")
sphere_points(test, axes[1], s=2, color="C0", label="test rows")
axes[1].legend(loc="lower right")
fig.savefig(args.out / "earthquakes.png", dpi=110)

# %% [markdown]
# ![The learned density of earthquakes follows the plate boundaries; draws look like the test rows](earthquakes.png)
#
# ## A covariate
#
# Densities often depend on something else: the season, the depth, a temperature. `Conditional` gives the networks of
# all layers a further input, and training takes one row of it for each place. Here it is the kind of event, one of
# three indicators, so one flow serves three catalogues.

# %%
kinds = ["earthquake", "flood", "fire"]
rows = [earth_split(kind, folder=folder)[0][:4000] for kind in kinds]
places = torch.cat(rows)
kind = torch.eye(len(kinds)).repeat_interleave(torch.tensor([len(r) for r in rows]), 0)

flow_of_kind = Conditional(SphereFlow(2, depth=6), context_dim=len(kinds))
base = mdist.ManifoldUniform(sphere, 3)
density_of_kind = dist.ConditionalTransformedDistribution(base, [flow_of_kind])
fit_likelihood(density_of_kind, places, kind, checkpoint=args.out / "kinds.pt", **options)

fig = plt.figure(figsize=(7, 10), constrained_layout=True)
axes = fig.subplots(3, 1, subplot_kw={"projection": "mollweide"})
for ax, k, name in zip(axes, torch.eye(3), kinds, strict=True):
    sphere_density(
        density_of_kind.condition(k).log_prob, world_axes(ax, labels=False), decades=4, resolution=cells
    )
    ax.set_title(name)
fig.savefig(args.out / "kinds.png", dpi=110)

# %% [markdown]
# ![Three densities by one flow](kinds.png)
#
# ## As a likelihood
#
# In a Pyro model the density is a distribution like any other. In a plate every event has its own covariate; with
# `places` given the model is a likelihood, without it simulates.


# %%
def catalogue(kind, places=None):
    pyro.module("flow", flow_of_kind)
    with pyro.plate("events", len(kind)):
        return pyro.sample("place", density_of_kind.condition(kind), obs=places)


floods = kind[len(rows[0]) : len(rows[0]) + 3]
print(f"three simulated floods: {tuple(catalogue(floods).shape)}")

# %% [markdown]
# ## As a prior
#
# The density can also be what is known beforehand about a latent direction. A seismometer reports a direction that is
# off by about 8 degrees (a von Mises–Fisher distribution of concentration 50). What has been learned of earthquakes
# says more precisely where it was.
#
# `GeodesicNUTS` moves along great circles and needs no coordinates. The prior is rough, with valleys that paths do
# not cross. Draws around the report, as proposals, carry the chains over them, and the paths between may be short.

# %%
flow.requires_grad_(False)
report = torch.nn.functional.normalize(torch.tensor([-0.62, 0.60, 0.35]), dim=0)
around = mdist.VonMisesFisher(report, torch.tensor(50.0))


def localise(report):
    place = pyro.sample("place", density)
    pyro.sample("report", mdist.VonMisesFisher(place, torch.tensor(50.0)), obs=report)


mcmc = VectorizedMCMC(
    GeodesicNUTS(localise, chains=chains, max_tree_depth=2, proposals={"place": around}),
    num_samples=draws,
    warmup_steps=min(draws, 300),
    initial_params={"place": around.sample((chains,))},
    disable_progbar=args.quick,
)
mcmc.run(report)
mcmc.summary()

posterior = mcmc.get_samples()["place"]
away = torch.rad2deg((posterior @ report).clamp(-1, 1).acos())
print(f"posterior: {away.mean():.1f} degrees from the report on average")

fig = plt.figure(figsize=(8, 4.5), constrained_layout=True)
ax = sphere_density(density.log_prob, fig.add_subplot(projection="mollweide"), decades=4, resolution=cells)
sphere_points(posterior[::16], ax, s=2, color="C9", label="posterior")
sphere_points(report[None], ax, s=80, marker="x", linewidths=2, color="lime", label="report")
ax.legend(loc="lower right")
fig.savefig(args.out / "posterior.png", dpi=110)

# %% [markdown]
# ![The posterior of the place lies on the plate boundaries around the report](posterior.png)
#
# The report lies in the Philippine Sea, where few earthquakes are; the posterior is on the arcs around it, from Japan
# to the Philippines and along the Marianas.
#
# ## Exercise
#
# A density gives probabilities of regions. According to the flow, how probable is it that an earthquake of the
# catalogue lies within 1000 km of Tokyo? Answer it twice, by quadrature and by draws, and compare with the test rows.
# The radius of the Earth is 6371 km.

# %% tags=["answer"]
# Both count the same thing: `manifold_rule` about Tokyo integrates over the cap of 1000/6371 radians, draws are
# counted inside of it. The test rows are few, so their share is off by a standard error of its own.
from pyro_manifold.plotting import from_lon_lat

tokyo, radius = from_lon_lat(torch.tensor(139.7).deg2rad(), torch.tensor(35.7).deg2rad()), 1000 / 6371
with torch.no_grad():
    cap = manifold_rule(sphere, tokyo, radius, n_radial=60, n_angular=60)
    by_quadrature = cap.integrate(density.log_prob(cap.points).exp())
    by_draws = (sphere.dist(density.sample((10_000,)), tokyo) < radius).float().mean()
share = (sphere.dist(test, tokyo) < radius).float().mean()
error = (share * (1 - share) / len(test)).sqrt()
print(f"quadrature {100 * by_quadrature:.1f} %, draws {100 * by_draws:.1f} %, "
      f"test rows {100 * share:.1f} ± {100 * error:.1f} %")  # fmt: skip

# %% [markdown]
# ## Where to go from here
#
# * Other manifolds: `TorusFlow` (angles), `RotationFlow` (rotations of space), `FrameFlow` (orthonormal frames),
#   `InChart` (hyperbolic space, positive definite matrices), `FactorCoupling` (products): {doc}`../api/flows`.
# * How flows compare with mixtures, kernel estimates and continuous flows on four catalogues:
#   {doc}`../experiments/densities`.
# * A flow as a guide, for posteriors with several modes: `AutoManifoldFlow`, {doc}`../howto/choose_an_inference`.
