"""Torsion angles of a protein: densities, clusters and predictions on a torus.

    python tutorials/torsions.py --folder FOLDER     # FOLDER has adk.csv, see pyro_manifold.datasets.torsions
    python tutorials/torsions.py                     # simulated angles instead

Takes about two minutes of one core and writes two pictures.
"""

# %% [markdown]
# # Torsion angles on a torus
#
# The backbone of a protein turns at two bonds of each residue, by the torsion angles $\varphi$ and $\psi$. A pair
# of angles is a point of a torus: −180° and 180° are one place, and a rectangle with edges is the wrong space for
# it. This page finds the conformations of a protein's backbone by a mixture on the torus, first by maximum
# likelihood, then with its uncertainty by Markov chain Monte Carlo, and predicts an angle from the other. It
# takes ten minutes to read.
#
# ## Data
#
# The angles are those of adenylate kinase along a simulated opening of the enzyme, frame by frame
# ({func}`~pyro_manifold.datasets.torsions`); a thousand of its 17052 pairs are used, drawn at random. (Without the
# file the script draws from four well-known regions instead.)

# %% tags=["options"]
import argparse
from pathlib import Path

parser = argparse.ArgumentParser(description="Torsion angles on a torus.")
parser.add_argument("--folder", help="where adk.csv is; without it angles are simulated")
parser.add_argument("--out", type=Path, default=Path("torsions"), help="folder for the pictures")
parser.add_argument("--quick", action="store_true", help="a few steps only: to see that everything runs")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
draws, depth, rows = (8, 2, 60) if args.quick else (150, 8, 1000)

# %%
import math

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

import pyro_manifold.distributions as mdist
from pyro_manifold.datasets import torsions
from pyro_manifold.geometry import Torus
from pyro_manifold.infer import GeodesicNUTS, VectorizedMCMC, frechet_mean, manifold_summary
from pyro_manifold.plotting import torus_density, torus_points

pyro.set_rng_seed(0)
torus = Torus()


def simulated(n):
    """Helices, sheets, extended and left-handed turns, in degrees."""
    centers = torch.tensor([[-63.0, -43.0], [-120.0, 135.0], [-70.0, 150.0], [57.0, 40.0]]).deg2rad()
    widths = torch.tensor([[8.0, 9.0], [22.0, 20.0], [12.0, 15.0], [9.0, 10.0]]).deg2rad()
    kinds = dist.Categorical(torch.tensor([0.45, 0.3, 0.2, 0.05])).sample((n,))
    return mdist.WrappedNormal(torus, centers[kinds], widths[kinds]).sample()


angles = torsions("general", folder=args.folder) if args.folder else simulated(rows)
angles = angles[torch.randperm(len(angles))[:rows]]
print(angles.shape, "radians between", angles.min(), "and", angles.max())

# %% [markdown]
# ## Means of angles
#
# Extended strands have $\psi$ near 180°, which is −180°. The mean of the numbers is then somewhere else.
# `frechet_mean` is the point of least mean squared distance on the torus, and exact there.

# %%
extended = angles[angles[:, 1].abs() > 2.6]
print("mean of the numbers:", extended.mean(0).rad2deg().round())
print("Fréchet mean:       ", frechet_mean(torus, extended)[0].rad2deg().round())

# %% [markdown]
# ## A mixture by maximum likelihood
#
# `WrappedNormal(torus, loc, ...)` is a normal distribution wound around the torus, with all its windings summed;
# the covariance may tilt it. `fit_mixture` fits a mixture of them by EM and chooses the number of components on
# held-out angles. The uniform component catches what fits nowhere.

# %%
train, valid = angles[: len(angles) * 4 // 5], angles[len(angles) * 4 // 5 :]
mixture = mdist.fit_mixture(
    train, [1, 2, 3, 4, 6, 8], family="wrapped_normal", uniform=True, validation=valid
)
weights = mixture.mixture_distribution.probs
print(f"{len(weights) - 1} components and the uniform one; log density of held-out angles "
      f"{mixture.log_prob(valid).mean():.2f}, of the uniform density {-2 * math.log(2 * math.pi):.2f}")  # fmt: skip
fig, ax = plt.subplots(figsize=(5.5, 4.8), layout="constrained")
torus_density(mixture.log_prob, ax, decades=4)
torus_points(angles[::2], ax, s=3, color="white", alpha=0.5)
ax.set(xlabel="phi", ylabel="psi")
fig.savefig(args.out / "torsions.png", dpi=110)

# %% [markdown]
# ![A Ramachandran plot: angles over the density of the mixture](torsions.png)
#
# The axes wrap around: the region at the top left goes on at the bottom.
#
# ## How sure are we?
#
# A fit has no error bars. As a Pyro model: three conformations, each with a centre on the torus, a width for each
# angle, and a share. The component of a residue is summed out by `MixtureSameFamily`, so all that is sampled is
# continuous. Centres are points of the torus, and `GeodesicNUTS` moves them across ±180° without noticing.


# %%
def conformations(x, k=3):
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((k + 1,), 2.0)))
    with pyro.plate("conformations", k):
        center = pyro.sample("center", mdist.ManifoldUniform(torus, 2))
        width = pyro.sample("width", dist.LogNormal(math.log(0.3), 0.7).expand([2]).to_event(1))
    loc = torch.cat([center, torch.zeros_like(center[..., :1, :])], -2)
    scale = torch.cat([width, torch.full_like(width[..., :1, :], 10.0)], -2)  # so wide that it is uniform
    parts = mdist.WrappedNormal(torus, loc, scale)
    with pyro.plate("residues", len(x)):
        return pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), parts), obs=x)


start = mdist.fit_mixture(train, 3, family="wrapped_normal", covariance="diagonal", uniform=True, seed=1)
centers = start.component_distribution.loc[:3]
widths = torch.tensor([0.2, 0.2]).expand(3, 2)
unconstrained = {
    "weights": dist.transforms.biject_to(dist.constraints.simplex).inv(torch.tensor([0.4, 0.3, 0.2, 0.1])),
    "width": widths.log(),
    "center": centers,
}
chains = 4
initial = {name: value.expand(chains, *value.shape).clone() for name, value in unconstrained.items()}
kernel = GeodesicNUTS(conformations, chains=chains, max_tree_depth=depth)
mcmc = VectorizedMCMC(
    kernel, num_samples=draws, warmup_steps=draws, initial_params=initial, disable_progbar=True
)
mcmc.run(train[:250])
posterior, row = mcmc.get_samples(), manifold_summary(mcmc)["center"]
print("R-hat of the centres", row["r_hat"].round(decimals=2).tolist())
for i in range(3):
    phi, psi = row["mean"][i].rad2deg().round().tolist()
    share, error = posterior["weights"][:, i].mean(), row["scale"][i].rad2deg()
    print(f"centre ({phi:.0f}, {psi:.0f}) known to {error:.1f} degrees, share {share:.2f}")

# %% [markdown]
# All chains start at the fit, in one order of the components: which is called the first is arbitrary, and chains
# that start elsewhere would find the same answer in another order ({doc}`../explanation/symmetries`). Initial
# values are points for sites on manifolds and unconstrained values for the others, as Pyro wants them.
#
# ## Predict one angle from the other
#
# A joint density answers conditional questions. What does $\varphi = -70°$ say about $\psi$? Cut the mixture of
# each posterior draw along that line and average.

# %%
grid = torch.linspace(-math.pi, math.pi, 181)
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
for phi in (-70.0, -130.0):
    line = torch.stack([torch.full_like(grid, math.radians(phi)), grid], -1)
    cut = torch.zeros_like(grid)
    for i in range(0, len(posterior["weights"]), max(1, len(posterior["weights"]) // 50)):
        draw = pyro.poutine.condition(conformations, {n: v[i] for n, v in posterior.items()})
        joint = pyro.poutine.trace(draw).get_trace(line).nodes["x"]
        cut += joint["fn"].log_prob(line).exp()
    cut /= cut.sum() * (grid[1] - grid[0])
    ax.plot(grid.rad2deg(), cut.detach(), label=f"phi = {phi:.0f}°")
ax.set(xlabel="psi, degrees", ylabel="density", xlim=(-180, 180))
ax.legend()
fig.savefig(args.out / "torsions_conditional.png", dpi=110)

# %% [markdown]
# ![Density of psi given phi, for two values of phi](torsions_conditional.png)
#
# ## Exercise
#
# Is a tilt needed? Fit mixtures of three components with a full covariance and with independent angles
# (`covariance="diagonal"`), and compare their log densities on held-out angles.

# %% tags=["answer"]
for covariance in ("full", "diagonal"):
    fitted = mdist.fit_mixture(train, 3, family="wrapped_normal", covariance=covariance, uniform=True)
    print(f"{covariance}: {fitted.log_prob(valid).mean():.3f}")
# The standard error of such a mean: the standard deviation of the log density over the root of the number of rows.
print(f"standard error about {fitted.log_prob(valid).std() / len(valid) ** 0.5:.2f}")

# %% [markdown]
# Where next: densities of any shape on the torus, `TorusFlow`, and how they compare on whole residues held out,
# in {doc}`../experiments/densities`; frames of one residue are not independent, so a test on single frames, as
# here, flatters every model ({func}`~pyro_manifold.datasets.torsions_split`).
