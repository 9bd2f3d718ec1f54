"""A density on the globe: learn where on Earth things happen, and use what was learned in a Pyro model.

    python tutorials/density_on_the_globe.py                    # downloads the catalogues (three small files)
    python tutorials/density_on_the_globe.py --folder FOLDER    # they are in FOLDER: fire.csv, flood.csv, ...

Takes about ten minutes on one core, resumes where it was interrupted, and writes three pictures.
"""

import argparse
import math
from pathlib import Path

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

parser = argparse.ArgumentParser(description="A density on the globe.")
parser.add_argument("--folder", help="where the catalogues are; else they are downloaded")
parser.add_argument("--out", type=Path, default=Path("density_on_the_globe"), help="folder for the pictures")
parser.add_argument("--quick", action="store_true", help="a few steps only: to see that everything runs")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
epochs, draws = (1, 10) if args.quick else (None, 1000)
pyro.set_rng_seed(0)

# [data]
# Earthquakes as unit vectors, 80 % to learn from, 10 % to choose the weights, 10 % to judge. Places that occur
# twice were removed before the split: copies of training rows among the test rows would reward remembering.
train, valid, test = earth_split("earthquake", folder=args.folder)
print(f"{len(train)} earthquakes; of shape {tuple(train.shape[1:])}, length {train[0].norm():.3f}")

# [flow]
# A bijection of the sphere, on top of the uniform distribution, is a density on the sphere.
flow = SphereFlow(2, depth=6)
density = dist.TransformedDistribution(mdist.ManifoldUniform(geoopt.Sphere(), 3), [flow])
options = dict(epochs=epochs, batch_size=512, disable_progbar=args.quick)
fit_likelihood(density, train, validation=valid, checkpoint=args.out / "earthquakes.pt", **options)

# [score]
with torch.no_grad():
    print(f"mean log density of the test rows: {density.log_prob(test).mean():.2f}")
    print(f"of the uniform distribution:       {-math.log(4 * math.pi):.2f}")

    # Is it a density? Its integral over the sphere, by quadrature:
    rule = manifold_rule(geoopt.Sphere(), torch.eye(3)[2], math.pi, n_radial=300, n_angular=300)
    print(f"integral: {rule.integrate(density.log_prob(rule.points).exp()):.3f}")

# [map]
fig = plt.figure(figsize=(10, 8), constrained_layout=True)
axes = fig.subplots(2, 1, subplot_kw={"projection": "mollweide"})
sphere_density(density.log_prob, world_axes(axes[0]), decades=4)
axes[0].set_title("learned density")
with torch.no_grad():
    sphere_points(density.sample((2000,)), world_axes(axes[1]), s=2, color="C1", label="draws")
sphere_points(test, axes[1], s=2, color="C0", label="test rows")
axes[1].legend(loc="lower right")
fig.savefig(args.out / "earthquakes.png", dpi=110)

# [covariate]
# One flow for several catalogues: the kind of event is a covariate of the density, here one of three indicators.
# Any vector will do: season, depth, temperature.
kinds = ["earthquake", "flood", "fire"]
rows = [earth_split(kind, folder=args.folder)[0][:4000] for kind in kinds]
places = torch.cat(rows)
kind = torch.eye(len(kinds)).repeat_interleave(torch.tensor([len(r) for r in rows]), 0)

flow_of_kind = Conditional(SphereFlow(2, depth=6), context_dim=len(kinds))
base = mdist.ManifoldUniform(geoopt.Sphere(), 3)
density_of_kind = dist.ConditionalTransformedDistribution(base, [flow_of_kind])
fit_likelihood(density_of_kind, places, kind, checkpoint=args.out / "kinds.pt", **options)

fig = plt.figure(figsize=(7, 10), constrained_layout=True)
axes = fig.subplots(3, 1, subplot_kw={"projection": "mollweide"})
for ax, k, name in zip(axes, torch.eye(3), kinds, strict=True):
    sphere_density(density_of_kind.condition(k).log_prob, world_axes(ax, labels=False), decades=4)
    ax.set_title(name)
fig.savefig(args.out / "kinds.png", dpi=110)


# [likelihood]
# In a Pyro model the density is a distribution like any other, in a plate, observed or not.
def catalogue(kind: torch.Tensor, places: torch.Tensor | None = None) -> torch.Tensor:
    pyro.module("flow", flow_of_kind)
    with pyro.plate("events", len(kind)):
        return pyro.sample("place", density_of_kind.condition(kind), obs=places)


print(f"three simulated floods: {catalogue(kind[len(rows[0]) : len(rows[0]) + 3]).shape}")

# [prior]
# Or a prior. A seismometer reports a direction that is off by about 8 degrees (a von Mises-Fisher distribution of
# concentration 50). What has been learned of earthquakes says more precisely where it was. The prior is rough, with
# valleys that paths do not cross: draws around the report, as proposals, carry the chains over them, and the paths
# between may be short.
flow.requires_grad_(False)
report = torch.nn.functional.normalize(torch.tensor([-0.62, 0.60, 0.35]), dim=0)


def localise(report: torch.Tensor) -> None:
    place = pyro.sample("place", density)
    pyro.sample("report", mdist.VonMisesFisher(place, torch.tensor(50.0)), obs=report)


around = mdist.VonMisesFisher(report, torch.tensor(50.0))
kernel = GeodesicNUTS(localise, chains=32, max_tree_depth=2, proposals={"place": around})
mcmc = VectorizedMCMC(
    kernel,
    num_samples=draws,
    warmup_steps=min(draws, 300),
    initial_params={"place": around.sample((32,))},
    disable_progbar=args.quick,
)
mcmc.run(report)
mcmc.summary()
posterior = mcmc.get_samples()["place"]

fig = plt.figure(figsize=(8, 4.5), constrained_layout=True)
ax = sphere_density(density.log_prob, fig.add_subplot(projection="mollweide"), decades=4)
sphere_points(posterior[::16], ax, s=2, color="C9", label="posterior")
sphere_points(report[None], ax, s=80, marker="x", linewidths=2, color="lime", label="report")
ax.legend(loc="lower right")
fig.savefig(args.out / "posterior.png", dpi=110)

away = torch.rad2deg((posterior @ report).clamp(-1, 1).acos())
print(f"posterior: {away.mean():.1f} degrees from the report on average")
