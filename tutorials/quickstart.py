"""Five minutes with pyro_manifold: a mean direction, by variational inference and by Markov chain Monte Carlo.

    python tutorials/quickstart.py

Takes half a minute of one core and writes one picture.
"""

# %% [markdown]
# # Quickstart: a mean direction
#
# Five minutes for someone who knows Pyro: a latent direction, fitted by a guide that knows the sphere, then sampled by
# a Hamiltonian Monte Carlo that moves on it.
#
# ```
# pip install .[tutorials]        # from a clone of the repository
# python tutorials/quickstart.py  # half a minute; it writes the picture below
# ```
#
# ## Data on a manifold
#
# Rocks keep the direction of the Earth's magnetic field at the time when they cooled. Thirty specimens of one lava
# flow give thirty directions that scatter about one true direction. A direction is a unit vector of $\mathbb R^3$, a
# plain tensor of shape `(3,)`, and a point of the unit sphere: a *manifold*, a curved space that looks flat from near
# by. Manifolds are plain [geoopt](https://geoopt.readthedocs.io) objects.

# %% tags=["options"]
import argparse
from pathlib import Path

parser = argparse.ArgumentParser(description="Five minutes with pyro_manifold.")
parser.add_argument("--out", type=Path, default=Path("quickstart"), help="folder for the picture")
parser.add_argument("--quick", action="store_true", help="a few steps only: to see that everything runs")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
steps, warmup, draws = (20, 10, 10) if args.quick else (500, 200, 300)

# %%
import math

import geoopt
import pyro
import pyro.distributions as dist
import torch

import pyro_manifold.distributions as mdist
from pyro_manifold.plotting import from_lon_lat

pyro.set_rng_seed(0)
sphere = geoopt.Sphere()
truth = from_lon_lat(torch.tensor(-20.0).deg2rad(), torch.tensor(55.0).deg2rad())
specimens = mdist.VonMisesFisher(truth, 12.0).sample((30,))
print(tuple(specimens.shape), specimens[0], f"length {specimens[0].norm():.3f}")

# %% [markdown]
# ## A model
#
# It is a Pyro model like any other. The prior is uniform on the sphere; the likelihood is the von Mises–Fisher
# distribution, the normal distribution's counterpart for directions. Its density, like every density of this package,
# is with respect to surface area, so uniform means $1/4\pi$.


# %%
def model(x):
    direction = pyro.sample("direction", mdist.ManifoldUniform(sphere, 3))
    concentration = pyro.sample("concentration", dist.LogNormal(3.0, 1.0))
    with pyro.plate("specimens", len(x)):
        pyro.sample("x", mdist.VonMisesFisher(direction, concentration), obs=x)


# %% [markdown]
# ## Variational inference
#
# `AutoManifoldNormal` finds the site's manifold from its support, gives it a posterior on the sphere, and keeps what
# it learns there. The other site is positive and gets what Pyro's `AutoNormal` would give it. Distances on the sphere
# are angles, in radians.

# %%
from pyro_manifold.infer import AutoManifoldNormal

guide = AutoManifoldNormal(model)
svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), pyro.infer.Trace_ELBO())
losses = [svi.step(specimens) for _ in range(steps)]
center = guide.median()["direction"]
print(f"guide: {math.degrees(sphere.dist(center, truth)):.1f} degrees from the truth")

# %% [markdown]
# ## Markov chain Monte Carlo
#
# `GeodesicNUTS` is a No-U-Turn sampler whose paths follow great circles where a site is a direction and straight lines
# where it is a number. Here four chains run side by side.

# %%
from pyro_manifold.infer import GeodesicNUTS, VectorizedMCMC, manifold_summary

kernel = GeodesicNUTS(model, chains=4)
mcmc = VectorizedMCMC(kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=args.quick)
mcmc.run(specimens)
direction = mcmc.get_samples()["direction"]
row = manifold_summary(mcmc)["direction"]
print(f"R-hat {row['r_hat']:.3f}, effective draws {row['n_eff']:.0f} of {len(direction)}")

# %% [markdown]
# R-hat and effective draws are computed from geodesic distances, so they do not depend on coordinates. The mean is the
# point of the sphere with the least mean squared distance from the draws. How far may the true direction be from it?
# The circle about the mean that holds 95 % of the posterior says so.

# %%
radius = sphere.dist(row["mean"], direction).quantile(0.95)
print(f"the true direction is {math.degrees(sphere.dist(row['mean'], truth)):.1f} degrees from the mean, "
      f"95 % of the posterior within {math.degrees(radius):.1f} degrees")  # fmt: skip

# %% [markdown]
# ## Look at it

# %%
from pyro_manifold.plotting import sphere_points, world_axes

ax = sphere_points(direction, world_axes(), s=2, color="C0", label="posterior draws")
sphere_points(specimens, ax, s=16, color="C1", label="specimens")
sphere_points(truth.unsqueeze(0), ax, s=70, color="C3", marker="*", label="true direction")
ax.legend(loc="lower right")
ax.figure.savefig(args.out / "quickstart.png", dpi=110, bbox_inches="tight")

# %% [markdown]
# ![Thirty specimens about the true direction, and a small cloud of posterior draws](quickstart.png)
#
# Why not plain Pyro and geoopt? Because coordinates of a sphere have seams and poles, supports get lost, and densities
# need volumes: {doc}`../start/why`.
#
# ## Exercise
#
# Give each of five lava flows its own direction: `pyro.plate("flows", 5)` around a `direction` drawn from
# `VonMisesFisher(mean, between)`, with `mean` uniform and `between` log-normal. How far are the directions of the flows
# from each other?

# %% [markdown] tags=["answer"]
# Only the model changes; the sites `mean` and `direction` both live on spheres, the second in a plate. Five flows of
# six specimens each, simulated:


# %% tags=["answer"]
def flows(x):  # x: (specimens, flows, 3)
    mean = pyro.sample("mean", mdist.ManifoldUniform(sphere, 3))
    between = pyro.sample("between", dist.LogNormal(3.0, 1.0))
    within = pyro.sample("within", dist.LogNormal(3.0, 1.0))
    with pyro.plate("flows", x.shape[1]):
        direction = pyro.sample("direction", mdist.VonMisesFisher(mean, between))
        with pyro.plate("specimens", x.shape[0]):
            pyro.sample("x", mdist.VonMisesFisher(direction, within), obs=x)


true_directions = mdist.VonMisesFisher(truth, 40.0).sample((5,))
x = mdist.VonMisesFisher(true_directions, 12.0).sample((6,))
mcmc = VectorizedMCMC(
    GeodesicNUTS(flows, chains=4), num_samples=draws, warmup_steps=warmup, disable_progbar=args.quick
)
mcmc.run(x)
posterior = mcmc.get_samples()
off = sphere.dist(manifold_summary(mcmc)["direction"]["mean"], true_directions).rad2deg()
print("degrees from the true directions:", [round(float(angle), 1) for angle in off])
scatter = posterior["between"].rsqrt().mean().rad2deg()
print(f"scatter of the flows {scatter:.0f} degrees, true {math.degrees(40**-0.5):.0f}")
# The scatter between flows is between ** -0.5 radians for each of two perpendicular directions.

# %% [markdown]
# Where next: {doc}`directions` does this with real questions, {doc}`../howto/choose_a_distribution`,
# {doc}`../howto/choose_an_inference`, {doc}`density_on_the_globe`.
