"""A tree in the disk: embed a real tree into the hyperbolic plane, by MAP, SVI and NUTS.

    python tutorials/tree_in_the_disk.py                # some minutes of one core
    python tutorials/tree_in_the_disk.py --quick        # a few steps only: to see that everything runs

Writes two pictures into a folder (--out).
"""

# %% [markdown]
# # A tree in the disk
#
# A tree does not fit into the plane: the number of nodes grows exponentially with the distance from the root, the
# room in the plane only quadratically. In the hyperbolic plane the room grows exponentially too. This page takes a
# real tree, puts its nodes into the hyperbolic plane as the latent variables of a Pyro model, and finds them three
# ways: a point estimate (MAP), a variational posterior (SVI), and draws (`GeodesicNUTS`). Most attempts at this fail
# for the same few reasons, which are explained on the way. It takes fifteen minutes to read.
#
# ## The tree
#
# The built-in exceptions of Python are a tree that is on your machine: every class derives from another one, up to
# `BaseException`. The data are the numbers of edges between any two classes.

# %% tags=["options"]
import argparse
from pathlib import Path

parser = argparse.ArgumentParser(description="A tree in the disk.")
parser.add_argument("--out", type=Path, default=Path("tree_in_the_disk"), help="folder for the pictures")
parser.add_argument("--quick", action="store_true", help="a few steps only: to see that everything runs")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
steps, draws = (3, 3) if args.quick else (600, 100)

# %%
import geoopt
import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, SVI, Trace_ELBO
from pyro.infer.autoguide.initialization import init_to_value

import pyro_manifold.distributions as mdist
from pyro_manifold.datasets import exception_tree, sarkar_embedding, tree_distances, tree_layout
from pyro_manifold.evaluation import distortion, graph_map
from pyro_manifold.geometry import geometry
from pyro_manifold.infer import AutoManifoldDelta, AutoManifoldNormal, GeodesicNUTS, RiemannianAdam
from pyro_manifold.plotting import geodesic, latent_axes, to_plane
from pyro_manifold.transforms import Translation

torch.set_default_dtype(torch.float64)  # points far out in hyperbolic space need the digits
pyro.set_rng_seed(0)
names, parents = exception_tree()
graph = tree_distances(parents)  # numbers of edges between any two classes
n, adjacency = len(names), graph == 1
i, j = torch.triu_indices(n, n, 1)  # all pairs
print(f"{n} classes, {len(i)} pairs, at most {int(graph.max())} edges apart")
print(f"most children: {int(adjacency.sum(-1).max()) - 1}")

# %% [markdown]
# Two figures say how good an embedding is. The *distortion* is the mean relative error of the distances, after the
# best common scale: 0 is perfect. The *mean average precision* asks, for each node, whether its neighbours in the
# tree are nearer to it than all other nodes: 1 is perfect.


# %%
def metrics(manifold, z):
    d = geometry(manifold).dist(z.unsqueeze(-2), z.unsqueeze(-3))
    return float(distortion(d, graph).mean()), float(graph_map(d, adjacency).mean())


def show(what, manifold, z):
    distorted, precision = metrics(manifold, z)
    print(f"{what:<42} distortion {distorted:.3f}, precision {precision:.3f}")


# %% [markdown]
# ## The model
#
# Each class $i$ is a latent point $z_i$ of the hyperbolic plane with a wide prior, and each distance is observed with
# a relative error of 10 %:
#
# $$
# z_i \sim \mathrm{WrappedNormal}(o, (4\ell)^2), \qquad
# D_{ij} \sim \mathcal N\big(d(z_i, z_j) / \ell,\ (0.1\,D_{ij})^2\big).
# $$
#
# The *length of an edge* $\ell$ is the one number to think about. The curvature is −1, and at distances well below 1
# the hyperbolic plane is flat for all practical purposes: with short edges nothing is gained over the plane.
# `Exception` has 19 children here, and they have room around it, two edges apart from each other, only if the circle
# of radius $\ell$ is long enough. So edges are 3 long. (Changing the curvature at unit edges is the same thing: only
# the ratio counts.)

# %%
EDGE = 3.0  # length of an edge, where the curvature is -1
SPREAD = 0.1  # relative error of a distance
hyperbolic, flat = geoopt.Lorentz(), geoopt.Euclidean(1)


def model(manifold, edge):
    geo = geometry(manifold)
    with pyro.plate("classes", n):
        z = pyro.sample("z", mdist.WrappedNormal(manifold, geo.origin(2), 4 * edge))
    d = geo.dist(z[..., i, :], z[..., j, :]) / edge
    with pyro.plate("pairs", len(i)):
        pyro.sample("D", dist.Normal(d, SPREAD * graph[i, j]), obs=graph[i, j])


# %% [markdown]
# Points are up to $4 \cdot 3 = 12$ units from the origin. Coordinates of the Poincaré disk in float32 end at about 6
# to 8 such units, so numbers are float64, and the model uses the hyperboloid, `geoopt.Lorentz()`, the same space in
# coordinates that reach farther. Pictures are drawn in the disk all the same.
#
# ## A start that is not a saddle, and the point estimate
#
# If all points start at the origin they are all alike: the gradient of a distance between equal points is zero or
# arbitrary, and by symmetry nothing tells the branches where to go. It is a saddle. Starting *near* the origin, at
# random, breaks the symmetry the wrong way: the first steps fix an order of the branches around the circle, at
# random, and in two dimensions branches cannot pass each other later without a cost. What is needed is a start in
# which branches are already side by side. Sarkar's construction is one: the children of a node go out from it at
# equal angles, at the length of an edge.


# %%
def fit_map(manifold, edge, start):
    pyro.clear_param_store()
    guide = AutoManifoldDelta(model, init_loc_fn=init_to_value(values={"z": start}))
    for lr in (0.05, 0.01, 0.002):  # large steps first, then small ones that settle
        svi = SVI(model, guide, RiemannianAdam({"lr": lr}), Trace_ELBO())
        for _ in range(steps // 3):
            svi.step(manifold, edge)
    return guide.median(manifold, edge)["z"]


start = sarkar_embedding(hyperbolic, parents, EDGE)
best = fit_map(hyperbolic, EDGE, start)
show("start: Sarkar's points, edges of 3", hyperbolic, start)
show("MAP from there", hyperbolic, best)

# %% [markdown]
# `AutoManifoldDelta` makes the point estimate, with respect to Riemannian volume, and `RiemannianAdam` steps along
# geodesics. Compare with starts near the origin, and with edges of length 1; and with the flat plane, from points
# near the origin and from a layout in sectors:

# %%
near_origin = geometry(hyperbolic).chart(1e-3 * torch.randn(n, 2))
show("from near the origin, edges of 1", hyperbolic, fit_map(hyperbolic, 1.0, near_origin))
show("from near the origin, edges of 3", hyperbolic, fit_map(hyperbolic, EDGE, near_origin))
short = sarkar_embedding(hyperbolic, parents)
show("from Sarkar's points, edges of 1", hyperbolic, fit_map(hyperbolic, 1.0, short))

show("flat plane, from near the origin", flat, fit_map(flat, 1.0, 1e-3 * torch.randn(n, 2)))
in_sectors = fit_map(flat, 1.0, tree_layout(parents))
show("flat plane, from a layout in sectors", flat, in_sectors)

# %% [markdown]
# The first row is what a first attempt usually looks like: points drawn near the origin, an edge as long as the unit
# of the space. It ends at .247, exactly where the flat plane ends: nothing of the curvature was used. Neither remedy
# is enough alone: longer edges from the same random start give .271, because the branches are in disorder and stay
# so, and a good start with edges of 1 gives .183, because there is no room. Together they give .107, and nodes that
# are near their neighbours.
#
# ## Look at it
#
# Most classes hang on `Exception`, so an isometry carries it to the centre of the disk: distances stay as they are.


# %%
def draw_tree(manifold, z, ax, title):
    for child, parent in enumerate(parents[1:], start=1):
        geodesic(manifold, z[parent], z[child], ax, color="0.55", linewidth=0.8, zorder=1)
    ax.scatter(*to_plane(manifold, z).T.numpy(), c=graph[0].numpy(), s=14, cmap="viridis", zorder=2)
    ax.set_title(title, fontsize=10, pad=10)


centred = Translation(hyperbolic, best[names.index("Exception")]).inv(best)
fig = plt.figure(figsize=(12, 6.2), constrained_layout=True)
left, right = latent_axes(hyperbolic, fig.add_subplot(1, 2, 1)), fig.add_subplot(1, 2, 2)
draw_tree(hyperbolic, centred, left, f"hyperbolic plane: distortion {metrics(hyperbolic, best)[0]:.2f}")
draw_tree(flat, in_sectors, right, f"flat plane: distortion {metrics(flat, in_sectors)[0]:.2f}")
right.set_aspect("equal")
for name in ("Exception", "OSError", "Warning", "ValueError"):
    k = names.index(name)
    left.annotate(name, to_plane(hyperbolic, centred)[k].numpy(), fontsize=8)
    right.annotate(name, in_sectors[k].numpy(), fontsize=8)
fig.savefig(args.out / "tree.png", dpi=110, bbox_inches="tight")

# %% [markdown]
# ![In the Poincaré disk branches lie apart, in the flat plane they are crowded](tree.png)
#
# ## Without Pyro
#
# The same squared errors, minimised by geoopt's own `RiemannianAdam` with no prior and no model:

# %%
z = geoopt.ManifoldParameter(start.clone(), manifold=hyperbolic)
for lr in (0.05, 0.01, 0.002):
    optimizer = geoopt.optim.RiemannianAdam([z], lr=lr)
    for _ in range(steps // 3):
        d = hyperbolic.dist(z[i], z[j]) / EDGE
        loss = ((d - graph[i, j]) / graph[i, j]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
show("geoopt's RiemannianAdam", hyperbolic, z.detach())

# %% [markdown]
# ## Not one tree but a distribution of them
#
# A point estimate does not say how well a class is placed. `AutoManifoldNormal` learns a wrapped normal distribution
# about each point by SVI.

# %%
pyro.clear_param_store()
guide = AutoManifoldNormal(model, init_loc_fn=init_to_value(values={"z": best}), init_scale=0.05)
svi = SVI(model, guide, RiemannianAdam({"lr": 0.01}), Trace_ELBO())
for _ in range(steps):
    svi.step(hyperbolic, EDGE)
with torch.no_grad():
    by_svi = torch.stack([guide(hyperbolic, EDGE)["z"] for _ in range(draws)])
show("SVI, mean over draws", hyperbolic, by_svi)

# %% [markdown]
# `GeodesicNUTS` draws from the posterior itself, along geodesics, started at the MAP.

# %%
kernel = GeodesicNUTS(model, init_strategy=init_to_value(values={"z": best}), max_tree_depth=5)
mcmc = MCMC(kernel, num_samples=draws, warmup_steps=draws // 2, disable_progbar=args.quick)
mcmc.run(hyperbolic, EDGE)
by_nuts = mcmc.get_samples()["z"]
show("NUTS, mean over draws", hyperbolic, by_nuts)

# %% [markdown]
# How far do the draws of a class lie from its point estimate? In the root mean square, in edges:


# %%
def spread(draws):
    return geometry(hyperbolic).dist(draws, best).square().mean(0).sqrt() / EDGE


leaf = torch.tensor([p not in parents[1:] for p in range(n)])
for what, z_draws in (("SVI ", by_svi), ("NUTS", by_nuts)):
    s = spread(z_draws)
    print(f"{what} spread: leaves {float(s[leaf].mean()):.2f}, others {float(s[~leaf].mean()):.2f}")

# %% [markdown]
# The two disagree about the leaves. A leaf may sit in any direction from its parent where nobody else is, so its
# posterior is an arc about the parent rather than a normal distribution about one point. NUTS moves along it; SVI,
# which fits one wrapped normal distribution to each class, stays with the part next to the MAP. The draws of NUTS
# even have a lower distortion than the point estimate (.101 against .107): they have left the local optimum in which
# it ended. (One chain of 50 + 100 transitions: enough to see this, too short for posterior intervals.)
#
# ## Links, negative sampling, and burn-in
#
# With a million nodes there are too many pairs to look at, and often only the edges are known, not the distances.
# Then each edge is an observation that two nodes are near, and each pair that is no edge an observation that they are
# not. There are far more of the latter: 2145 here, against 66 edges. *Negative sampling* takes a random part of them
# at each step. In Pyro that is the `subsample_size` of a plate: the plate multiplies what it sees by total over part,
# so that the loss is right on average, and nothing needs to be tuned when the number of negatives changes.

# %%
edges = torch.stack([torch.arange(1, n), torch.tensor(parents[1:])], -1)
others = torch.stack([i, j], -1)[graph[i, j] > 1]


def link_model(manifold, edge):
    geo = geometry(manifold)
    with pyro.plate("classes", n):
        z = pyro.sample("z", mdist.WrappedNormal(manifold, geo.origin(2), 4 * edge))

    def logit(pairs):
        return 4 * (1.5 - geo.dist(z[..., pairs[:, 0], :], z[..., pairs[:, 1], :]) / edge)

    with pyro.plate("edges", len(edges)):
        pyro.sample("edge", dist.Bernoulli(logits=logit(edges)), obs=torch.ones(len(edges)))
    with pyro.plate("others", len(others), subsample_size=10 * n) as k:  # ten negatives for each node
        pyro.sample("other", dist.Bernoulli(logits=logit(others[k])), obs=torch.zeros(len(k)))


# %% [markdown]
# *Burn-in* is the usual remedy where no tree is known beforehand that could be laid out: begin with a small learning
# rate, so that the points sort themselves out by angle near the origin, where moving is cheap, before large steps
# carry them outwards.


# %%
def fit_links(start, burn_in):
    pyro.clear_param_store()
    guide = AutoManifoldDelta(link_model, init_loc_fn=init_to_value(values={"z": start}))
    for lr, count in ((0.01, burn_in), (0.1, steps // 2), (0.02, steps // 4)):
        svi = SVI(link_model, guide, RiemannianAdam({"lr": lr}), Trace_ELBO())
        for _ in range(count):
            svi.step(hyperbolic, EDGE)
    return guide.median(hyperbolic, EDGE)["z"]


random = geometry(hyperbolic).chart(0.1 * torch.randn(n, 2))
show("links, random start", hyperbolic, fit_links(random, 0))
show("links, random start, burn-in", hyperbolic, fit_links(random, steps // 4))
show("links, Sarkar's start", hyperbolic, fit_links(start, 0))

# %% [markdown]
# Burn-in helps little here; the start decides again. And a likelihood of links buys what it is asked for: neighbours
# are nearer than with the likelihood of distances (.915 against .809), distances less faithful (.166 against .107).
#
# ## Exercise
#
# How long may an edge be? Draw the distortion of Sarkar's points, without any fit, against the length of an edge.
# What stops it from falling to zero?

# %% tags=["answer"]
lengths = torch.linspace(0.5, 5, 10).tolist()
errors = [metrics(hyperbolic, sarkar_embedding(hyperbolic, parents, length))[0] for length in lengths]
print("distortion: " + ", ".join(f"{error:.2f}" for error in errors))

fig, ax = plt.subplots(figsize=(5, 3.4), constrained_layout=True)
ax.plot(lengths, errors, marker="o")
ax.set(xlabel="length of an edge", ylabel="distortion, before any fit", ylim=(0, None))
fig.savefig(args.out / "lengths.png", dpi=110)

# %% [markdown] tags=["answer"]
# ![The distortion falls with the length of an edge](lengths.png)
#
# The distance between two nodes falls short of its due by about the same length wherever they are, so the relative
# error falls like one over the length of an edge, and any tree fits with as little distortion as one likes. The price
# is paid in digits: coordinates grow like the exponential of the distance from the origin, and the fit becomes as
# stiff as the edges are long. Long edges also leave nothing for the data to say: the posterior of each angle gets
# exponentially narrow.

# %% [markdown]
# ## Where to go from here
#
# * Hidden trees, where only noisy features of the nodes are seen: {doc}`../experiments/branching_diffusion`.
# * Other samplers and guides: {doc}`../howto/choose_an_inference`.
