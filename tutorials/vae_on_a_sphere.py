"""A VAE whose latent is a sphere: pictures of an asteroid under light from every direction.

    python tutorials/vae_on_a_sphere.py             # about two minutes of one core
    python tutorials/vae_on_a_sphere.py --quick     # a few steps only: to see that everything runs

Writes two pictures.
"""

# %% [markdown]
# # A VAE whose latent is a sphere
#
# A variational auto-encoder learns what varies in a set of pictures: a *latent variable* for each picture, and a
# network that draws the picture from it. The usual latent space is flat. But what varies is often not: the direction
# of a light or of a camera is a point of a sphere, a phase is a point of a circle, a pose is a rotation. This page
# trains an auto-encoder whose latent space is a sphere, compares it with flat ones on the same data, and reads the
# direction of the light off a picture with the help of 20 labels. It takes about fifteen minutes to read.
#
# ## The data
#
# An asteroid hangs in space, a ball with bumps. Two cameras look at it from opposite sides, and a light shines from a
# random direction. The pictures are simulated: a pixel shows $\max(0, n\cdot l)$, the cosine of the angle between its
# surface normal $n$ and the direction $l$ of the light (Lambert's law), plus noise.

# %% tags=["options"]
import argparse
from pathlib import Path

parser = argparse.ArgumentParser(description="A VAE whose latent is a sphere.")
parser.add_argument("--out", type=Path, default=Path("vae_on_a_sphere"), help="folder for the pictures")
parser.add_argument("--quick", action="store_true", help="a few steps only: to see that everything runs")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
seeds, epochs, rows, draws = (2, 2, 60, 10) if args.quick else (4, 60, 1000, 200)
quiet = {"disable_progbar": args.quick}

# %%
import math

import geoopt
import matplotlib.pyplot as plt
import pyro
import torch
from torch.distributions import Normal, kl_divergence

from pyro_manifold.distributions import ManifoldUniform, VonMisesFisher
from pyro_manifold.models import ManifoldVAE
from pyro_manifold.plotting import image_grid, sphere_points, world_axes
from pyro_manifold.training import Phase, fit

sphere, noise, side = geoopt.Sphere(), 0.1, 10
t = (torch.arange(side) + 0.5) / side * 2 - 1
disc = t[:, None] ** 2 + t**2 < 1  # the pixels inside of it


def surface_normals():
    """Unit normals at the pixels inside the two discs, shape (pixels, 3)."""
    u, v = (c[disc] for c in torch.meshgrid(t, t, indexing="xy"))
    z = (1 - u**2 - v**2).sqrt()
    ball = torch.cat([torch.stack([u, v, z], -1), torch.stack([-u, v, -z], -1)])
    waves = 4 * torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    bumps = (ball @ waves.mT).cos() @ waves * 0.06  # gradient of a sum of six sine waves
    return torch.nn.functional.normalize(ball - bumps, dim=-1)


normals = surface_normals()


def photographs(light):
    """Noisy pixels under light from each direction, shape (n, pixels)."""
    return (light @ normals.mT).clamp_min(0) + noise * torch.randn(len(light), len(normals))


def as_images(pixels):
    """The two discs side by side before a black sky, (n, side, 2 * side); 0 is white."""
    out = torch.zeros(len(pixels), 2, side, side)
    out[:, :, disc] = pixels.reshape(len(pixels), 2, -1).clamp(0, 1)
    return 1 - out.transpose(1, 2).flatten(2)


print(f"a picture has {len(normals)} pixels")

# %% [markdown]
# All that varies is the light, a unit vector, so the pictures lie about a surface in the space of pixels that is a
# crumpled sphere. The models are not told so.
#
# ## Three latent spaces
#
# `ManifoldVAE` takes the manifold as its first argument. It asks the manifold for the rest: the last layer of the
# encoder gives unit vectors on a sphere (it divides by the length), cosines and sines on a torus, rotation matrices
# on $SO(3)$; the prior is uniform where the volume is finite; the posterior is a von Mises–Fisher distribution
# {cite:p}`davidson2018`
#
# $$q(z \mid x) \propto e^{\kappa(x)\, \mu(x)\cdot z}$$
#
# with direction $\mu(x)$ and concentration $\kappa(x)$ from the encoder. On `geoopt.Euclidean` the same class is the
# usual VAE with a normal prior. All three models below have the same networks.

# %%
options = dict(data_dim=len(normals), hidden=64, likelihood="normal", likelihood_scale=noise)
latents = {
    "sphere": lambda: ManifoldVAE(sphere, dim=2, **options),
    "plane": lambda: ManifoldVAE(geoopt.Euclidean(1), dim=2, **options),
    "space": lambda: ManifoldVAE(geoopt.Euclidean(1), dim=3, **options),
}

# %% [markdown]
# ## Training
#
# The loss is the negative evidence bound,
#
# $$\log p(x) \;\ge\; \mathrm E_{q(z \mid x)} \log p(x \mid z) - \mathrm{KL}\big(q(z \mid x)\,\|\,p(z)\big).$$
#
# `vae.elbo(x)` returns it for each row, differentiable, and with the divergence in closed form where there is one, as
# for a von Mises–Fisher distribution and the uniform one. (`vae.model` and `vae.guide` are ordinary Pyro functions
# too: `SVI(vae.model, vae.guide, optimizer, TraceMeanField_ELBO())` does the same.)


# %%
def train(vae, x, name):
    phase = Phase("-ELBO", lambda x: -vae.elbo(x).mean(), list(vae.parameters()), lr=3e-3, epochs=epochs)
    fit([phase], x, model=vae, batch_size=50, validation=None, description=name, **quiet)
    return vae


# %% [markdown]
# Which latent space predicts new pictures best? The number to compare is the evidence $\log p(x)$ of test pictures,
# by importance sampling: it counts errors of reconstruction and the cost of the latent variable in one unit. Each
# repetition has its own training and test pictures, the same for all models, so differences are paired.

# %%
scores, kept = {name: [] for name in latents}, {}
for seed in range(seeds):
    pyro.set_rng_seed(seed)
    light, test_light = (ManifoldUniform(sphere, 3).sample((n,)) for n in (rows, 500))
    x, test = photographs(light), photographs(test_light)
    for name, make in latents.items():
        pyro.set_rng_seed(seed)
        kept[name] = train(make(), x, f"{name}, seed {seed}")
        scores[name].append(float(kept[name].iwae(test, draws).mean()))

print(f"test log-likelihood, nats per picture (K = {draws}, {seeds} seeds)")
for name, values in scores.items():
    gain = torch.tensor(scores["sphere"]) - torch.tensor(values)
    error = gain.std() / math.sqrt(len(gain))
    print(f"{name:>7}: {sum(values) / len(values):7.2f}   sphere better by {gain.mean():+.2f} ± {error:.2f}")
truth = Normal((test_light @ normals.mT).clamp_min(0), noise).log_prob(test).sum(-1).mean()
print(f"(with the light known: {truth:.2f})")

# %% [markdown]
# A nat is a factor $e$ of probability. The plane, which has as many dimensions as the sphere, is far behind, and how
# far depends on where each run happens to cut. Three flat dimensions hold a sphere, and this model predicts almost as
# well. It still loses 2.9 nats a picture: its normal prior fills all of space, and it must first say that the latent
# points lie on a sphere. No model can reach the last line, the noise alone: to say where on the sphere a light is to
# $\sigma = 0.020$ radian in both directions, the median width of a posterior below, takes
# $\log 4\pi - \log 2\pi e\sigma^2 = 7.5$ nats, and the rest is what networks that have seen 1000 noisy pictures do
# not know about the asteroid.
#
# ## Look at the latent space
#
# Where are the test pictures in latent space? The colour of a point is the true direction of its light.

# %%
colour = (0.5 + 0.5 * test_light).clamp(0, 1).numpy()
fig = plt.figure(figsize=(11, 4.6), layout="constrained")
grid = fig.add_gridspec(2, 3, height_ratios=[1, 2.2])
image_grid(as_images(test[:24]), fig.add_subplot(grid[0, :]), columns=12, title="photographs, front and back")
for column, title, points in (
    (0, "true direction of the light", test_light),
    (1, "latent sphere", kept["sphere"].embed(test)),
):
    ax = world_axes(fig.add_subplot(grid[1, column], projection="mollweide"), labels=False)
    sphere_points(points, ax, c=colour, s=12)
    ax.set_title(title)
ax = fig.add_subplot(grid[1, 2])
ax.scatter(*kept["plane"].embed(test).T.numpy(), c=colour, s=12)
ax.set(title="latent plane", aspect="equal")
fig.savefig(args.out / "vae_on_a_sphere.png", dpi=110)

# %% [markdown]
# ![Photographs, the true directions of their lights, and where two auto-encoders put them](vae_on_a_sphere.png)
#
# On the latent sphere neighbours have like colours everywhere: the model has found the sphere of lights, turned in
# some direction. On the plane it cannot: a sphere does not fit into a plane without being cut, so somewhere two
# pictures that look alike are far apart, and no continuous encoder can be right there. How often? Of the pairs of
# pictures under light from within 10 degrees, count those whose latent points are farther apart than a tenth of all
# pairs are.


# %%
def torn(name):
    z = kept[name].embed(test)
    distance = kept[name].manifold.dist(z[:, None], z[None]) if name == "sphere" else torch.cdist(z, z)
    near = (test_light @ test_light.mT > math.cos(math.radians(10))) & ~torch.eye(len(test), dtype=torch.bool)
    return float((distance[near] > distance.quantile(0.1)).float().mean())


print("pairs torn apart: " + ", ".join(f"{name} {100 * torn(name):.1f} %" for name in latents))

# %% [markdown]
# A straight line between two latent points is a geodesic of the plane, a great circle one of the sphere.
# `interpolate` decodes the points along it, here from one picture to that with the most opposite light.

# %%
opposite = int((test_light @ test_light[0]).argmin())
fig = plt.figure(figsize=(11, 2.4), layout="constrained")
for i, name in enumerate(("sphere", "plane")):
    _, means = kept[name].interpolate(test[0], test[opposite], steps=12)
    image_grid(as_images(means), fig.add_subplot(2, 1, i + 1), columns=12, title=name)
fig.savefig(args.out / "vae_on_a_sphere_geodesic.png", dpi=110)

# %% [markdown]
# ![Pictures along geodesics](vae_on_a_sphere_geodesic.png)
#
# On the sphere the light wanders around the asteroid; on the plane the middle of the way is a blend of shadows that
# no light makes.
#
# ## With a few labels
#
# Pictures alone determine the latent sphere only up to a rotation, a reflection or a smooth warp: all of these give
# the same pictures. Labels fix it. Suppose the light was measured, to about 0.1 radian, for 20 of the 1000 pictures.
# Then these 20 have one more observed variable, a direction near the latent point, and one more term in the bound;
# the other 980 are trained on as before. The 20 count as much as all rows together, so that they set the orientation
# before the pictures settle on another one.


# %%
def train_with_labels(x, light, known):
    vae, weight = latents["sphere"](), len(known) / known.sum()

    def loss(x, light, known):
        posterior = vae.encode(x)
        z = posterior.rsample()
        bound = vae.decode(z).log_prob(x) - kl_divergence(posterior, vae.prior)
        label = VonMisesFisher(z, 100.0).log_prob(light)
        return -(bound + weight * known * label).mean()

    phase = Phase("loss", loss, list(vae.parameters()), lr=3e-3, epochs=epochs)
    fit([phase], (x, light, known), model=vae, batch_size=50, validation=None, description="labels", **quiet)
    return vae


def median_error(direction):
    return float(torch.rad2deg(sphere.dist(direction, test_light)).median())


pyro.set_rng_seed(0)
known = (torch.arange(len(x)) < 20).float()
labelled = train_with_labels(x, light, known)
print(f"light read off the latent point: median error {median_error(labelled.embed(test)):.1f} degrees")

nearest = light[:20][torch.cdist(test, x[:20]).argmin(-1)]
print(f"light of the most similar labelled picture:     {median_error(nearest):.1f} degrees")

# %% [markdown]
# The 980 pictures without a label have told the model the shape of the sphere, so 20 labels are enough to orient it.
#
# The posterior has a width, too. Is it the uncertainty of the light? If it were, 90 % of the true lights would lie in
# the regions that hold 90 % of it.

# %%
q = labelled.encode(test)
with torch.no_grad():
    level = q.log_prob(q.sample((draws * 5,))).quantile(0.1, dim=0)
    inside = (q.log_prob(test_light) >= level).float().mean()
    width = (1 / q.concentration).sqrt().median()
print(f"90 % regions hold {100 * float(inside):.0f} % of the true lights")
print(f"median standard deviation {width:.3f} radian, {math.degrees(width):.1f} degrees")

# %% [markdown]
# It is not. The posterior is that of the latent variable of one picture, given the trained networks. The warp that is
# left between the latent sphere and the true one is the same for all pictures and is not in it. More labels reduce
# the warp; a model of the warp could add it.
#
# ## Exercise
#
# On a planet with a sun the light turns about an axis, and its directions lie on one great circle. Which manifold
# should the latent space be, and what changes in the code?

# %% [markdown] tags=["answer"]
# A circle, `dim=1`; nothing else changes. A line must cut it, and a sphere has room to spare, for which the posterior
# pays: it must tell where on the sphere the circle is.

# %% tags=["answer"]
pyro.set_rng_seed(0)
angle = 2 * math.pi * torch.rand(rows + 500)
x = photographs(torch.stack([angle.cos(), torch.zeros_like(angle), angle.sin()], -1))
for name, manifold, dim in (
    ("circle", sphere, 1),
    ("sphere", sphere, 2),
    ("line", geoopt.Euclidean(1), 1),
):
    pyro.set_rng_seed(0)
    vae = train(ManifoldVAE(manifold, dim=dim, **options), x[:rows], f"a day on the {name}")
    print(f"a day, latent {name:>6}: {float(vae.iwae(x[rows:], draws).mean()):.2f} nats")

# %% [markdown]
# ## Where to go from here
#
# - Other latent spaces: `Torus()` for several phases, `SpecialOrthogonal(3)` for poses, `geoopt.PoincareBall()` for
#   hierarchies, `geoopt.ProductManifold((geoopt.Sphere(), 3), (geoopt.Euclidean(1), 5))` for a direction and five
#   numbers.
# - Other distributions: `posterior="power_spherical"`, `prior="vmf"`; or a function of the encoder's features that
#   returns a distribution, such as a flow on the sphere conditioned on them.
# - Networks of your own: `encoder=` and `decoder=` take any `torch.nn.Module`; `ConvEncoder` and `ConvDecoder` are
#   for small images.
# - All arguments: {class}`pyro_manifold.models.ManifoldVAE`.
