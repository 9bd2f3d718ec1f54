"""Rotations: how a satellite is turned, from directions that it sees.

    python tutorials/rotations.py

Takes about a minute of one core and writes one picture.
"""

# %% [markdown]
# # Rotations from vector observations
#
# A satellite wants to know how it is turned. It knows where the Sun and the stars are, and which way the Earth's
# magnetic field points, in coordinates of the sky; its sensors tell where it sees them, in coordinates of its own
# body. The rotation between the two is the unknown. Finding the best one is Wahba's problem {cite:p}`wahba1965`;
# this page finds the whole posterior, says how uncertain the answer is in degrees, and survives a sensor that is
# wrong at times. It takes ten minutes to read.
#
# ## Data
#
# Points of the manifold are rotation matrices: `SpecialOrthogonal(3)`, events of shape `(3, 3)`, distances are
# angles in radians. The satellite sees the Sun, well (half a degree), and the magnetic field, badly (about four
# degrees).

# %% tags=["options"]
import argparse
from pathlib import Path

parser = argparse.ArgumentParser(description="How a satellite is turned.")
parser.add_argument("--out", type=Path, default=Path("rotations"), help="folder for the pictures")
parser.add_argument("--quick", action="store_true", help="a few steps only: to see that everything runs")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
draws, depth = (8, 2) if args.quick else (200, 10)

# %%
import geoopt
import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

import pyro_manifold.distributions as mdist
from pyro_manifold.geometry import SpecialOrthogonal, geometry
from pyro_manifold.infer import GeodesicNUTS, VectorizedMCMC, credible_ball, manifold_summary
from pyro_manifold.plotting import sphere_points, world_axes

pyro.set_rng_seed(0)
rotations = SpecialOrthogonal(3)
unit = torch.nn.functional.normalize


def concentration(degrees):
    """Of a von Mises-Fisher distribution with this standard deviation in each direction."""
    return torch.deg2rad(torch.as_tensor(degrees)) ** -2


truth = mdist.ManifoldUniform(rotations, (3, 3)).sample()
sky = unit(torch.tensor([[0.9, 0.4, 0.1], [0.1, -0.3, 0.95]]), dim=-1)  # the Sun, the magnetic field
kappa = concentration([0.5, 4.0])
seen = mdist.VonMisesFisher(sky @ truth.mT, kappa).sample()  # the body sees R times the direction in the sky
print(truth.shape, rotations.dist(torch.eye(3), truth).rad2deg())

# %% [markdown]
# ## The best rotation
#
# The likelihood is $\prod_i e^{\kappa_i\, y_i\cdot R x_i} = e^{\operatorname{tr}(F^\top R)}$ with $F = \sum_i
# \kappa_i\, y_i x_i^\top$: the best $R$ is the rotation nearest to $F$, which a singular value decomposition
# gives.


# %%
def attitude_profile(seen, kappa):
    return (kappa.unsqueeze(-1) * seen).mT @ sky


best = geometry(rotations).project(attitude_profile(seen, kappa))
print(f"Wahba's solution: {rotations.dist(best, truth).rad2deg():.1f} degrees from the truth")

# %% [markdown]
# ## The posterior, by a model
#
# Uniform on the rotations (Haar measure) beforehand; each observation is a von Mises–Fisher distribution about
# where the rotation puts its direction. `GeodesicNUTS` turns the satellite along one-parameter rotations; no
# Euler angles, no gimbal lock, no sign of a quaternion.


# %%
def attitude(seen, kappa):
    rotation = pyro.sample("rotation", mdist.ManifoldUniform(rotations, (3, 3)))
    with pyro.plate("sensors", len(seen)):
        pyro.sample("seen", mdist.VonMisesFisher(sky @ rotation.mT, kappa), obs=seen)


def sample(model, *data):
    kernel = GeodesicNUTS(model, chains=4, max_tree_depth=depth)
    mcmc = VectorizedMCMC(kernel, num_samples=draws, warmup_steps=draws, disable_progbar=True)
    mcmc.run(*data)
    return mcmc


def ball(draws):
    """The ball about the Fréchet mean that holds 95 % of the draws, in degrees."""
    return credible_ball(rotations, draws, 0.95, unit="degrees")


mcmc = sample(attitude, seen, kappa)
posterior, row = mcmc.get_samples()["rotation"], manifold_summary(mcmc)["rotation"]
print(f"R-hat {row['r_hat']:.2f}, effective draws {row['n_eff']:.0f} of {len(posterior)}")
print(f"95 % of the posterior within {ball(posterior).radius:.1f} degrees of its mean")

# %% [markdown]
# Given the concentrations the posterior has a name: it is the matrix Fisher distribution with parameter $F$,
# whose draws are exact. They should have the same ball.

# %%
exact = mdist.MatrixFisher(attitude_profile(seen, kappa)).sample((4000,))
print(f"exact draws: within {ball(exact).radius:.1f} degrees")

# %% [markdown]
# ## Uncertain about which axis?
#
# One angle does not say it all. The Sun is seen to half a degree, so the satellite knows well which way it faces;
# what it hardly knows is how far it is turned *about* the line to the Sun, for which there is only the compass.
# Logarithms at the mean are rotation vectors in coordinates of the sky, and their covariance shows it.

# %%
vectors = geometry(rotations).log_frame(row["mean"].expand_as(posterior), posterior).rad2deg()
variance, axes = torch.linalg.eigh(torch.cov(vectors.T))
for v, axis in zip(variance, axes.T, strict=True):
    from_sun = (axis @ sky[0]).abs().clamp(max=1).acos().rad2deg()
    print(f"{v.sqrt():.2f} degrees about an axis {from_sun:.0f} degrees from the Sun")

fig = plt.figure(figsize=(8, 4.4))
ax = world_axes(fig.add_subplot(projection="mollweide"), labels=False)
for j, name in enumerate("xyz"):
    sphere_points(posterior[..., j], ax, s=3, color=f"C{j}", label=f"posterior of {name}")
sphere_points(truth.mT, ax, s=50, color="black", marker="*", label="true axes")
ax.legend(loc="lower right", fontsize=7)
fig.savefig(args.out / "rotations.png", dpi=110, bbox_inches="tight")

# %% [markdown]
# ![Posterior of the three axes of the sky, seen from the body: small arcs about the Sun](rotations.png)
#
# The picture shows where the three axes of the sky are, seen from the body. They are smeared along circles about
# the Sun.
#
# ## A sensor that is wrong at times
#
# Now a camera names twenty stars, to a tenth of a degree, but takes one in five for another star. One wrong star,
# taken at its word, turns the satellite by degrees. So the likelihood says: with probability 0.8 the direction is
# right, else it may be anywhere. It is a mixture of a von Mises–Fisher and the uniform distribution, which is the
# same family with concentration 0.

# %%
catalogue = mdist.ManifoldUniform(geoopt.Sphere(), 3).sample((20,))
stars = mdist.VonMisesFisher(catalogue @ truth.mT, concentration(0.1)).sample()
stars[[2, 7, 11, 16]] = mdist.ManifoldUniform(geoopt.Sphere(), 3).sample((4,))

trusting = geometry(rotations).project(stars.mT @ catalogue)
print(f"all stars trusted: {rotations.dist(trusting, truth).rad2deg():.1f} degrees off")


def star(expected, kappa):
    """Right with probability 0.8, else anywhere."""
    loc = torch.stack([expected, expected], -2)
    weights = dist.Categorical(torch.tensor([0.8, 0.2]))
    return dist.MixtureSameFamily(weights, mdist.VonMisesFisher(loc, torch.stack([kappa, torch.zeros(())])))


# %% [markdown]
# Such a likelihood has a narrow peak, some hundredths of a degree wide, in a space of turns up to 180°, and small
# peaks wherever one or two stars happen to fit. A chain that starts anywhere ends in one of these. Start it where
# a coarse estimate is, at the Sun and the compass, and make the stars sharper in steps: two degrees first, then a
# tenth.


# %%
def sharpen(start, degrees):
    """Draws with star positions taken to be good to ``degrees``, from chains that start at ``start``."""

    def model(stars):
        rotation = pyro.sample("rotation", mdist.ManifoldUniform(rotations, (3, 3)))
        with pyro.plate("stars", len(stars)):
            pyro.sample("star", star(catalogue @ rotation.mT, concentration(degrees)), obs=stars)

    kernel = GeodesicNUTS(model, chains=4, max_tree_depth=depth)
    options = dict(num_samples=draws // 2, warmup_steps=draws // 2, disable_progbar=True)
    mcmc = VectorizedMCMC(kernel, initial_params={"rotation": start}, **options)
    mcmc.run(stars)
    return mcmc


coarse = sharpen(posterior[:: len(posterior) // 4][:4], 2.0)
fine = sharpen(coarse.get_samples(group_by_chain=True)["rotation"][:, -1], 0.1)
row = manifold_summary(fine)["rotation"]
found = fine.get_samples()["rotation"]
print(f"with doubt: {rotations.dist(row['mean'], truth).rad2deg():.3f} degrees off, "
      f"95 % within {ball(found).radius:.3f}, R-hat {row['r_hat']:.2f}")  # fmt: skip

# %% [markdown]
# Which stars were taken for others? Those that are far from where the rotation puts them.

# %%
expected = catalogue @ row["mean"].mT
away = torch.acos((expected * stars).sum(-1).clamp(-1, 1)).rad2deg()
print("stars that cannot be right:", (away > 1).nonzero().flatten().tolist())

# %% [markdown]
# ## Exercise
#
# The satellite was looked at five minutes ago: its rotation then was within about 3° (one standard deviation
# about each axis) of `previous`. Use that as a prior, with the Sun alone and no compass. How large is the 95 %
# ball now, and without the prior?
#
# Hint: a normal distribution of rotations is `WrappedNormal(rotations, previous, scale)`, with `scale` in
# radians.

# %% tags=["answer"]
previous = mdist.WrappedNormal(rotations, truth, torch.tensor(3.0).deg2rad()).sample()


def tracked(seen):
    rotation = pyro.sample("rotation", mdist.WrappedNormal(rotations, previous, torch.tensor(3.0).deg2rad()))
    pyro.sample("sun", mdist.VonMisesFisher(rotation @ sky[0], kappa[0]), obs=seen[0])


with_prior = sample(tracked, seen).get_samples()["rotation"]
print(f"with the prior: 95 % within {ball(with_prior).radius:.1f} degrees")
# Without it every turn about the line to the Sun is as good as any other: a circle of rotations, up to 180 degrees
# apart. A ball about a mean means nothing there; report the direction that is known, rotation @ sky[0].

# %% [markdown]
# Where next: {doc}`../experiments/directions_and_rotations` (the same posterior beside its closed form, and its
# calibration), {doc}`../explanation/geodesic_nuts`, and `RotationFlow` in {doc}`../api/flows` for densities of
# rotations of any shape.
