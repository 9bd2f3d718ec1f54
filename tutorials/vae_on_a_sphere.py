"""A VAE whose latent is a sphere: pictures of an asteroid under light from every direction.

    python tutorials/vae_on_a_sphere.py             # about two minutes of one core
    python tutorials/vae_on_a_sphere.py --quick     # a few steps only: to see that everything runs

Writes three pictures and the scores of every model.
"""

# %%
import argparse
import json
import math
from functools import partial
from pathlib import Path

import geoopt
import matplotlib.pyplot as plt
import pyro
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_manifold.distributions import ManifoldUniform, VonMisesFisher
from pyro_manifold.models import ManifoldVAE
from pyro_manifold.plotting import image_grid, sphere_points, world_axes
from pyro_manifold.training import Phase, fit

parser = argparse.ArgumentParser(description="A VAE whose latent is a sphere.")
parser.add_argument("--out", type=Path, default=Path("vae_on_a_sphere"), help="folder for the pictures")
parser.add_argument("--seeds", type=int, default=4, help="paired repetitions of the comparison (default 4)")
parser.add_argument("--quick", action="store_true", help="a few steps only: to see that everything runs")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
seeds, epochs, rows, draws = (2, 2, 60, 10) if args.quick else (args.seeds, 60, 1000, 200)
SPHERE, NOISE, QUIET = geoopt.Sphere(), 0.1, {"disable_progbar": args.quick}

# %% [data]
# An asteroid: a ball with bumps, seen by two cameras on opposite sides. A pixel shows max(0, n . l), the cosine of
# the angle between its surface normal n and the direction l of the light (Lambert's law), plus noise.
SIDE = 10


def surface_normals() -> Tensor:
    """Unit normals at the pixels inside the two discs, shape (pixels, 3)."""
    t = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    u, v = (c.flatten() for c in torch.meshgrid(t, t, indexing="xy"))
    u, v = u[u**2 + v**2 < 1], v[u**2 + v**2 < 1]
    z = (1 - u**2 - v**2).sqrt()
    ball = torch.cat([torch.stack([u, v, z], -1), torch.stack([-u, v, -z], -1)])
    waves = 4 * torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    bumps = (ball @ waves.mT).cos() @ waves * 0.06  # gradient of a sum of six sine waves
    return torch.nn.functional.normalize(ball - bumps, dim=-1)


NORMALS = surface_normals()


def photographs(light: Tensor) -> Tensor:
    """Noisy pixels under light from each direction, shape (n, pixels)."""
    return (light @ NORMALS.mT).clamp_min(0) + NOISE * torch.randn(len(light), len(NORMALS))


def as_images(pixels: Tensor) -> Tensor:
    """The two discs side by side before a black sky, (n, SIDE, 2 * SIDE); 0 is white."""
    t = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    inside = (t[:, None] ** 2 + t**2 < 1).expand(SIDE, SIDE)
    out = torch.zeros(len(pixels), 2, SIDE, SIDE)
    out[:, :, inside] = pixels.reshape(len(pixels), 2, -1).clamp(0, 1)
    return 1 - out.transpose(1, 2).flatten(2)


def lights(n: int) -> Tensor:
    return ManifoldUniform(SPHERE, 3).sample((n,))


# %% [models]
# The same networks about three latent spaces. On the sphere: uniform prior, von Mises-Fisher posterior (the
# defaults). On the plane and in space: normal distributions, the usual VAE.
LATENTS = {
    "sphere": lambda: ManifoldVAE(SPHERE, dim=2, **OPTIONS),
    "plane": lambda: ManifoldVAE(geoopt.Euclidean(1), dim=2, **OPTIONS),
    "space": lambda: ManifoldVAE(geoopt.Euclidean(1), dim=3, **OPTIONS),
}
OPTIONS = dict(data_dim=len(NORMALS), hidden=64, likelihood="normal", likelihood_scale=NOISE)


# %% [train]
def train(vae: ManifoldVAE, x: Tensor, seed: int, name: str) -> ManifoldVAE:
    """Maximises the evidence bound, whose divergence term is exact for all three."""
    phase = Phase("-ELBO", lambda x: -vae.elbo(x).mean(), list(vae.parameters()), lr=3e-3, epochs=epochs)
    fit([phase], x, model=vae, batch_size=50, validation=None, seed=seed, description=name, **QUIET)
    return vae


scores: dict[str, list[float]] = {name: [] for name in LATENTS}
kept: dict[str, ManifoldVAE] = {}
for seed in range(seeds):
    pyro.set_rng_seed(seed)
    light, test_light = lights(rows), lights(500)
    x, test = photographs(light), photographs(test_light)  # the same for all three
    for name, make in LATENTS.items():
        pyro.set_rng_seed(seed)
        vae = train(make(), x, seed, f"{name}, seed {seed}")
        pyro.set_rng_seed(seed)
        scores[name].append(float(vae.iwae(test, draws).mean()))
        kept[name] = vae

# %% [score]
# How much better are new photographs predicted? Differences are paired: both models saw the same data.
truth = (
    torch.distributions.Normal((test_light @ NORMALS.mT).clamp_min(0), NOISE).log_prob(test).sum(-1).mean()
)
print(f"test log-likelihood, nats per photograph (IWAE, K = {draws}, {seeds} seeds)")
for name, values in scores.items():
    gain = torch.tensor(scores["sphere"]) - torch.tensor(values)
    error = gain.std() / math.sqrt(len(gain))
    print(f"{name:>7}: {sum(values) / len(values):7.2f}   sphere better by {gain.mean():+.2f} +- {error:.2f}")
print(f"(with the light known: {truth:.2f})")
(args.out / "scores.json").write_text(json.dumps({"epochs": epochs, "rows": rows, "scores": scores}) + "\n")

# %% [map]
# Where are the test photographs in latent space? The colour of a point is the true direction of its light.
colour = (0.5 + 0.5 * test_light).clamp(0, 1).numpy()
fig = plt.figure(figsize=(11, 4.6), layout="constrained")
grid = fig.add_gridspec(2, 3, height_ratios=[1, 2.2])
image_grid(as_images(test[:24]), fig.add_subplot(grid[0, :]), columns=12, title="photographs, front and back")
ax = world_axes(fig.add_subplot(grid[1, 0], projection="mollweide"), labels=False)
sphere_points(test_light, ax, c=colour, s=12)
ax.set_title("true direction of the light")
ax = world_axes(fig.add_subplot(grid[1, 1], projection="mollweide"), labels=False)
sphere_points(kept["sphere"].embed(test), ax, c=colour, s=12)
ax.set_title("latent sphere")
ax = fig.add_subplot(grid[1, 2])
ax.scatter(*kept["plane"].embed(test).T.numpy(), c=colour, s=12)
ax.set(title="latent plane", aspect="equal")
fig.savefig(args.out / "latent.png", dpi=110)


# %% [neighbours]
# A test of topology: photographs under nearly the same light should be neighbours in latent space.
def tears(name: str) -> float:
    """Share of pairs under light from within 10 degrees whose latent points are farther apart than a tenth of all
    pairs are."""
    z, geo = kept[name].embed(test), kept[name].manifold
    distance = geo.dist(z[:, None], z[None]) if name == "sphere" else torch.cdist(z, z)
    near = (test_light @ test_light.mT > math.cos(math.radians(10))) & ~torch.eye(len(test), dtype=torch.bool)
    return float((distance[near] > distance.quantile(0.1)).float().mean())


print("pairs torn apart: " + ", ".join(f"{name} {100 * tears(name):.1f} %" for name in LATENTS))

# %% [geodesic]
# Along the shortest path between two latent points the light turns by equal steps.
a, b = int((test_light @ test_light[0]).argmin()), 0
fig = plt.figure(figsize=(11, 2.4), layout="constrained")
for i, name in enumerate(("sphere", "plane")):
    _, means = kept[name].interpolate(test[b], test[a], steps=12)
    image_grid(
        as_images(means),
        fig.add_subplot(2, 1, i + 1),
        columns=12,
        title=f"{name}: from one light to the opposite",
    )
fig.savefig(args.out / "geodesic.png", dpi=110)


# %% [labels]
# The latent sphere is the sphere of lights up to a rotation, a reflection or a warp, which nothing in the
# photographs determines. A few labels do: for 20 of the 1000 rows the light was measured. One more term of the bound
# says that the latent point is near it. The 20 count as much as all rows together, so that they set the orientation
# before the photographs settle on another one.
def train_with_labels(x: Tensor, light: Tensor, known: Tensor) -> ManifoldVAE:
    vae, weight = LATENTS["sphere"](), len(known) / known.sum()

    def loss(x: Tensor, light: Tensor, known: Tensor) -> Tensor:
        posterior = vae.encode(x)
        z = posterior.rsample()
        bound = vae.decode(z).log_prob(x) - kl_divergence(posterior, vae.prior)
        label = VonMisesFisher(z, 100.0).log_prob(light)  # measured to about 0.1 radian
        return -(bound + weight * known * label).mean()

    phase = Phase("loss", loss, list(vae.parameters()), lr=3e-3, epochs=epochs)
    rows = (x, light, known)
    fit([phase], rows, model=vae, batch_size=50, validation=None, description="labels", **QUIET)
    return vae


def median_error(direction: Tensor) -> float:
    return float(torch.rad2deg(SPHERE.dist(direction, test_light)).median())


pyro.set_rng_seed(0)
known = (torch.arange(len(x)) < 20).float()
labelled = train_with_labels(x, light, known)
print(f"light read off the latent point: median error {median_error(labelled.embed(test)):.1f} degrees")

# With the 20 labelled rows alone, and no model of the others: the light of the most similar photograph.
nearest = light[:20][torch.cdist(test, x[:20]).argmin(-1)]
print(f"light of the most similar labelled photograph:  {median_error(nearest):.1f} degrees")

# %% [uncertainty]
# A posterior of z is not yet one of the light: it knows the noise of a photograph, but not the warp between latent
# sphere and true sphere that 20 labels leave. Share of the true lights in the regions that hold 90 % of it:
q = labelled.encode(test)
with torch.no_grad():
    level = q.log_prob(q.sample((1000,))).quantile(0.1, dim=0)
    inside = (q.log_prob(test_light) >= level).float().mean()
    width = torch.rad2deg((1 / q.concentration).sqrt()).median()
print(f"90 % regions of the posterior hold {100 * float(inside):.0f} % of the true lights; ", end="")
print(f"median standard deviation {float(width):.1f} degrees")

# %% [exercise]
# Exercise. On a planet with a sun the light turns about an axis: its directions lie on a great circle. Which
# manifold should the latent space be, and what changes in the code? Answer:
pyro.set_rng_seed(0)
angle = 2 * math.pi * torch.rand(rows + 500)
day = torch.stack([angle.cos(), torch.zeros_like(angle), angle.sin()], -1)
x = photographs(day)
choices = {
    "circle": partial(ManifoldVAE, SPHERE, dim=1),
    "sphere": partial(ManifoldVAE, SPHERE, dim=2),
    "line": partial(ManifoldVAE, geoopt.Euclidean(1), dim=1),
}
for name, make in choices.items():
    pyro.set_rng_seed(0)
    vae = train(make(**OPTIONS), x[:rows], 0, f"a day on the {name}")
    print(f"a day, latent {name:>6}: {float(vae.iwae(x[rows:], draws).mean()):.2f} nats")
