"""Directions: the magnetic field of the past, from a few specimens of a few lava flows.

    python tutorials/directions.py

Takes one or two minutes of one core and writes two pictures.
"""

# %% [markdown]
# # Directions: cones of confidence and site means
#
# Rocks keep the direction of the Earth's magnetic field at the time when they cooled. Cores drilled from one lava
# flow (a *site*) give directions that scatter about one true direction; flows of different centuries scatter
# about the mean field of their time. This page takes the two classical steps of palaeomagnetism, a cone of
# confidence for one site and a mean of site means, does them again as one Bayesian model, and turns its answer
# into a latitude. It takes ten minutes to read.
#
# ## The data
#
# They are simulated from physics, so that the truth is known. Averaged over some thousand years the field is that
# of a dipole along the Earth's axis: at latitude $\lambda$ it dips below the horizon by the *inclination* $I$,
# with $\tan I = 2\tan\lambda$. A lava flow records the field of one moment, some ten degrees away from that; a
# specimen records it with errors of drilling, of laboratory and of lightning. Directions are unit vectors, north,
# east and down.

# %% tags=["options"]
import argparse
from pathlib import Path

parser = argparse.ArgumentParser(description="Cones of confidence and site means.")
parser.add_argument("--out", type=Path, default=Path("directions"), help="folder for the pictures")
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
from pyro_manifold.infer import GeodesicNUTS, VectorizedMCMC, confidence_cone, credible_ball, manifold_summary
from pyro_manifold.plotting import from_lon_lat

pyro.set_rng_seed(3)
sphere = geoopt.Sphere()
latitude = torch.tensor(30.0).deg2rad()
inclination = (2 * latitude.tan()).atan()
field = from_lon_lat(
    torch.tensor(0.0), inclination
)  # declination 0, "latitude" below the horizon: (north, east, down)
print(f"true inclination: {inclination.rad2deg():.1f} degrees")

counts = torch.tensor([6, 8, 3, 5, 8, 4, 7, 3, 6, 5])  # specimens of each of ten sites
quality = torch.tensor([200.0, 150, 20, 300, 80, 40, 250, 30, 120, 200])  # concentration within each
moments = mdist.VonMisesFisher(field, 40.0).sample((10,))
specimens = mdist.VonMisesFisher(moments, quality).sample(
    (8,)
)  # (specimens, sites, 3): room for the largest site
measured = torch.arange(8).unsqueeze(-1) < counts  # the others were never drilled
print(specimens.shape, int(measured.sum()), "specimens")

# %% [markdown]
# The von Mises–Fisher distribution, $p(x) \propto e^{\kappa\,\mu\cdot x}$, is for directions what the normal
# distribution is for numbers. For large concentrations its spread is $\kappa^{-1/2}$ radians in each of two
# perpendicular directions: 4° for $\kappa = 200$, 13° for $\kappa = 20$. Ronald Fisher introduced it for just
# these data {cite:p}`fisher1953`.
#
# Palaeomagnetists look at directions from above, in an equal-area projection of the half-sphere: north is up, the
# centre is straight down. (Only the part with data is drawn.)


# %%
def stereonet(ax, x, **style):
    """Directions that point down, in Lambert's equal-area projection."""
    north, east, down = x.unbind(-1)
    radius = (1 - down).clamp_min(0).sqrt()
    horizontal = torch.hypot(north, east).clamp_min(1e-9)
    ax.scatter(radius * east / horizontal, radius * north / horizontal, **{"s": 8, "linewidths": 0, **style})


def net(ax, title):
    ax.add_patch(plt.Circle((0, 0), 1, fill=False, color="0.5"))
    ax.plot([0], [0], "+", color="0.5")
    ax.set(xlim=(-0.6, 0.6), ylim=(-0.1, 1.05), aspect="equal", title=title)
    ax.axis("off")


# %% [markdown]
# ## One site, one cone
#
# Fisher's answer for one site is the mean direction, the concentration, and a cone around the mean that holds the
# true direction with probability 95 %. With the resultant length $R = \lvert\sum_i x_i\rvert$ of $n$ specimens
# its half-angle is
#
# $$\cos\alpha_{95} = 1 - \frac{n-R}{R}\Big(20^{1/(n-1)} - 1\Big).$$

# %%
site = specimens[measured[:, 0], 0]
fit = mdist.VonMisesFisher.fit(site)
fisher = confidence_cone(site, unit="degrees")
print(f"concentration {fit.concentration:.0f}, 95 % cone {fisher.angle:.1f} degrees, "
      f"off by {sphere.dist(fisher.direction, moments[0]).rad2deg():.1f}")  # fmt: skip

# %% [markdown]
# `fit` gives the distribution of greatest likelihood, which is too sure of itself with six specimens. The same
# question as a Pyro model: the prior of the direction is uniform on the sphere, that of the concentration wide.
# `GeodesicNUTS` moves along great circles, so no pole and no date line matters.


# %%
def one_site(x):
    direction = pyro.sample("direction", mdist.ManifoldUniform(sphere, 3))
    concentration = pyro.sample("concentration", dist.LogNormal(4.0, 2.0))
    with pyro.plate("specimens", len(x)):
        pyro.sample("x", mdist.VonMisesFisher(direction, concentration), obs=x)


def sample(model, *data):
    kernel = GeodesicNUTS(model, chains=4, max_tree_depth=depth)
    mcmc = VectorizedMCMC(kernel, num_samples=draws, warmup_steps=draws, disable_progbar=True)
    mcmc.run(*data)
    return mcmc


mcmc = sample(one_site, site)
posterior = mcmc.get_samples()["direction"]
cone = credible_ball(sphere, posterior, 0.95, unit="degrees")
print(f"posterior cone {cone.radius:.1f} degrees, R-hat {manifold_summary(mcmc)['direction']['r_hat']:.2f}")

# %% [markdown]
# `credible_ball` is the ball about the Fréchet mean that holds 95 % of the draws. The two cones agree to a few
# tenths of a degree: Fisher's formula is the posterior under a uniform mean and the prior $1/\kappa$, and the
# log-normal is nearly flat in $\log\kappa$ over the range that matters.
#
# ## Ten sites
#
# Now all sites. The textbook way takes the mean of each site as one observation, and Fisher's cone of these ten.
# The tempting way throws all specimens into one pot.

# %%
means = torch.stack([mdist.VonMisesFisher.fit(specimens[measured[:, i], i]).loc for i in range(10)])
pot = specimens[measured]
for name, x in (("ten site means", means), ("all specimens in one pot", pot)):
    fisher = confidence_cone(x, unit="degrees")
    away = sphere.dist(fisher.direction, field).rad2deg()
    print(f"{name}: 95 % cone {fisher.angle:.1f} degrees, off by {away:.1f}")

# %% [markdown]
# The pot's cone is too narrow, and the true direction is outside of it: specimens of one site are not independent
# draws about the mean field. The mean of means is honest about that, but counts a site of three poor specimens
# like one of eight good ones.
#
# A *hierarchical* model weighs them by what they say. Sites scatter about the mean field with one concentration,
# specimens about their site with a concentration of the site's own, and these concentrations have a common
# distribution. Sites have different numbers of specimens: the tensor has room for eight, and a mask drops the
# rest, whatever is in there.


# %%
def sites(x, measured):
    mean = pyro.sample("mean", mdist.ManifoldUniform(sphere, 3))
    between = pyro.sample("between", dist.LogNormal(3.5, 1.0))
    typical = pyro.sample("typical", dist.Normal(4.5, 1.0))
    spread = pyro.sample("spread", dist.HalfNormal(1.0))
    with pyro.plate("sites", x.shape[1]):
        direction = pyro.sample("direction", mdist.VonMisesFisher(mean, between))
        log_within = pyro.sample("log_within", dist.Normal(typical, spread))
        with pyro.plate("specimens", x.shape[0]), pyro.poutine.mask(mask=measured):
            pyro.sample("x", mdist.VonMisesFisher(direction, log_within.exp()), obs=x)


mcmc = sample(sites, specimens, measured)
posterior, summary = mcmc.get_samples(), manifold_summary(mcmc)
cone = credible_ball(sphere, posterior["mean"], 0.95, unit="degrees")
print(f"hierarchical: 95 % cone {cone.radius:.1f} degrees, "
      f"off by {sphere.dist(cone.center, field).rad2deg():.1f}")  # fmt: skip
print(
    f"R-hat of the mean {summary['mean']['r_hat']:.2f}, of the sites at most {summary['direction']['r_hat'].max():.2f}"
)
print(
    f"scatter between sites {posterior['between'].rsqrt().mean().rad2deg():.0f} degrees, true {(40**-0.5) * 57.3:.0f}"
)

# %% [markdown]
# `manifold_summary` gives the Fréchet mean of the draws and R-hat from geodesic distances. Sites with few
# specimens borrow strength: their directions are drawn towards the mean field, the more so the less they say
# themselves.

# %%
shift = sphere.dist(means, summary["direction"]["mean"]).rad2deg()
for i in counts.argsort():
    print(
        f"{int(counts[i])} specimens of concentration {int(quality[i]):3d}: moved by {shift[i]:.1f} degrees"
    )

fig, axes = plt.subplots(1, 3, figsize=(11, 4), layout="constrained")
net(axes[0], "specimens, by site")
for i in range(10):
    stereonet(axes[0], specimens[measured[:, i], i], color=f"C{i}", s=14)
net(axes[1], "posterior of three sites")
for i in (0, 2, 7):
    stereonet(axes[1], posterior["direction"][::4, i], color=f"C{i}", s=3)
    stereonet(axes[1], moments[i : i + 1], color="black", marker="*", s=40)
net(axes[2], "posterior of the mean field")
stereonet(axes[2], posterior["mean"][::2], color="C0", s=3, label="posterior")
stereonet(axes[2], means, color="C1", s=14, label="site means")
stereonet(axes[2], field[None], color="black", marker="*", s=60, label="truth")
axes[2].legend(loc="lower left", fontsize=8)
fig.savefig(args.out / "directions.png", dpi=110)

# %% [markdown]
# ![Specimens of ten sites, posteriors of three of them, and the posterior of the mean field](directions.png)
#
# ## From a direction to a latitude
#
# What one wants to know is often not the direction. The latitude at which the rock formed is $\tan\lambda =
# \tfrac12\tan I$. Of draws this is one line: no linearisation, and the lopsidedness of the result comes for free.

# %%
declination, dip = (
    torch.atan2(posterior["mean"][:, 1], posterior["mean"][:, 0]),
    posterior["mean"][:, 2].asin(),
)
palaeolatitude = (dip.tan() / 2).atan().rad2deg()
low, high = palaeolatitude.quantile(0.025), palaeolatitude.quantile(0.975)
print(f"latitude {palaeolatitude.mean():.1f}, 95 % between {low:.1f} and {high:.1f} (true: 30)")

fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.hist(palaeolatitude.numpy(), bins=40, color="C0", alpha=0.7)
ax.axvline(30, color="black")
ax.set(xlabel="latitude, degrees", yticks=[], title="where the lava flowed")
fig.savefig(args.out / "directions_latitude.png", dpi=110)

# %% [markdown]
# ![Posterior of the latitude](directions_latitude.png)
#
# ## Exercise
#
# The field reverses now and then: some sites point the opposite way. Turn the sites 1, 4 and 6 around, and
# estimate the mean field from all ten.
#
# Hint: whether a site is reversed is plain to see. What have $x$ and $-x$ in common?

# %% tags=["answer"]
# Their axis. Bring all sites to one side of the main axis of the site means, and use the same model; the sign of
# the whole is a convention (here: the field points down).
from pyro_manifold.infer import align_axes

reversed_sites = specimens.clone()
reversed_sites[:, [1, 4, 6]] *= -1
site_means = torch.where(measured.unsqueeze(-1), reversed_sites, 0.0).sum(0)
site_means = torch.nn.functional.normalize(site_means, dim=-1)
aligned = align_axes(site_means, sample_dims=1)
sign = (aligned * site_means).sum(-1).sign() * aligned.mean(0)[2].sign()
mcmc = sample(sites, reversed_sites * sign.unsqueeze(-1), measured)
mean = manifold_summary(mcmc)["mean"]["mean"]
print(
    f"off by {sphere.dist(mean, field).rad2deg():.1f} degrees; reversed: {(sign < 0).nonzero().flatten().tolist()}"
)

# %% [markdown]
# Where next: {doc}`../howto/missing_rows`, {doc}`../explanation/diagnostics`,
# {doc}`../howto/choose_a_distribution` for ovals (`Kent`) and axes (`Bingham`), and
# {doc}`../experiments/directions_and_rotations` for Fisher's cone beside the exact posterior.
