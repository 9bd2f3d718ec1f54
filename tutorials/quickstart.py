"""Five minutes with pyro_manifold: a mean direction, by variational inference and by Markov chain Monte Carlo.

    python tutorials/quickstart.py

Takes half a minute on one core and writes one picture.
"""

# %% data
import argparse
import math
from pathlib import Path

import geoopt
import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

import pyro_manifold.distributions as mdist
from pyro_manifold.infer import AutoManifoldNormal, GeodesicNUTS, VectorizedMCMC, manifold_summary
from pyro_manifold.plotting import from_lon_lat, sphere_points, world_axes

parser = argparse.ArgumentParser(description="Five minutes with pyro_manifold.")
parser.add_argument("--out", type=Path, default=Path("quickstart"), help="folder for the picture")
parser.add_argument("--quick", action="store_true", help="a few steps only: to see that everything runs")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
steps, warmup, draws = (20, 10, 10) if args.quick else (500, 200, 300)
pyro.set_rng_seed(0)

# Rocks keep the direction of the Earth's magnetic field at the time when they cooled. Thirty specimens of one lava
# flow give thirty directions, unit vectors of R^3, that scatter about one true direction.
truth = from_lon_lat(torch.tensor(-20.0).deg2rad(), torch.tensor(55.0).deg2rad())
specimens = mdist.VonMisesFisher(truth, 12.0).sample((30,))
print(specimens.shape, specimens.norm(dim=-1).min())

# %% model
sphere = geoopt.Sphere()


def model(x):
    direction = pyro.sample("direction", mdist.ManifoldUniform(sphere, 3))
    concentration = pyro.sample("concentration", dist.LogNormal(3.0, 1.0))
    with pyro.plate("specimens", len(x)):
        pyro.sample("x", mdist.VonMisesFisher(direction, concentration), obs=x)


# %% svi
guide = AutoManifoldNormal(model)
svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), pyro.infer.Trace_ELBO())
losses = [svi.step(specimens) for _ in range(steps)]
center = guide.median()["direction"]
print(f"guide: {math.degrees(sphere.dist(center, truth)):.1f} degrees from the truth")

# %% mcmc
mcmc = VectorizedMCMC(
    GeodesicNUTS(model, chains=4), num_samples=draws, warmup_steps=warmup, disable_progbar=args.quick
)
mcmc.run(specimens)
direction = mcmc.get_samples()["direction"]
row = manifold_summary(mcmc)["direction"]
print(f"R-hat {row['r_hat']:.3f}, effective draws {row['n_eff']:.0f} of {len(direction)}")

# The circle about the mean that holds 95 % of the posterior:
radius = sphere.dist(row["mean"], direction).quantile(0.95)
print(f"the true direction is {math.degrees(sphere.dist(row['mean'], truth)):.1f} degrees from the mean, "
      f"95 % of the posterior within {math.degrees(radius):.1f} degrees")  # fmt: skip

# %% picture
ax = sphere_points(direction, world_axes(), s=2, color="C0", label="posterior draws")
sphere_points(specimens, ax, s=16, color="C1", label="specimens")
sphere_points(truth.unsqueeze(0), ax, s=70, color="C3", marker="*", label="true direction")
ax.legend(loc="lower right")
ax.figure.savefig(args.out / "quickstart.png", dpi=110, bbox_inches="tight")
plt.close(ax.figure)
