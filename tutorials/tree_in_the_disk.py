"""A tree in the disk: embed a real tree into the hyperbolic plane, by MAP, SVI and NUTS.

    python tutorials/tree_in_the_disk.py                # some minutes on one core
    python tutorials/tree_in_the_disk.py --quick        # a few steps only: to see that everything runs

Writes two pictures into a folder (--out).
"""

import argparse
from pathlib import Path

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

parser = argparse.ArgumentParser(description="A tree in the disk.")
parser.add_argument("--out", type=Path, default=Path("tree_in_the_disk"), help="folder for the pictures")
parser.add_argument("--quick", action="store_true", help="a few steps only: to see that everything runs")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
steps, draws = (3, 3) if args.quick else (600, 100)
torch.set_default_dtype(torch.float64)  # points far out in hyperbolic space need the digits
pyro.set_rng_seed(0)

# [tree]
names, parents = exception_tree()
graph = tree_distances(parents)  # numbers of edges between any two classes
n, adjacency = len(names), graph == 1
i, j = torch.triu_indices(n, n, 1)  # all pairs
print(f"{n} classes, {len(i)} pairs, at most {int(graph.max())} edges apart")
print(f"most children: {int(adjacency.sum(-1).max()) - 1}")


# [metrics]
def metrics(manifold: geoopt.Manifold, z: torch.Tensor) -> tuple[float, float]:
    d = geometry(manifold).dist(z.unsqueeze(-2), z.unsqueeze(-3))
    return float(distortion(d, graph).mean()), float(graph_map(d, adjacency).mean())


def show(what: str, manifold: geoopt.Manifold, z: torch.Tensor) -> None:
    print(
        f"{what:<44} distortion {metrics(manifold, z)[0]:.3f}   mean average precision {metrics(manifold, z)[1]:.3f}"
    )


# [model]
EDGE = 3.0  # length of an edge, where the curvature is -1
SPREAD = 0.1  # relative error of a distance
hyperbolic, flat = geoopt.Lorentz(), geoopt.Euclidean(1)


def model(manifold: geoopt.Manifold, edge: float) -> None:
    geo = geometry(manifold)
    with pyro.plate("classes", n):
        z = pyro.sample("z", mdist.WrappedNormal(manifold, geo.origin(2), 4 * edge))
    d = geo.dist(z[..., i, :], z[..., j, :]) / edge
    with pyro.plate("pairs", len(i)):
        pyro.sample("D", dist.Normal(d, SPREAD * graph[i, j]), obs=graph[i, j])


# [map]
def fit_map(manifold: geoopt.Manifold, edge: float, start: torch.Tensor) -> torch.Tensor:
    pyro.clear_param_store()
    guide = AutoManifoldDelta(model, init_loc_fn=init_to_value(values={"z": start}))
    for lr in (0.05, 0.01, 0.002):  # large steps first, then small ones that settle
        svi = SVI(model, guide, RiemannianAdam({"lr": lr}), Trace_ELBO())
        for _ in range(steps // 3):
            svi.step(manifold, edge)
    return guide.median(manifold, edge)["z"]


start = sarkar_embedding(hyperbolic, parents, EDGE)
best = fit_map(hyperbolic, EDGE, start)
show("start: Sarkar's construction, edges of 3", hyperbolic, start)
show("MAP from there", hyperbolic, best)

# [starts]
near_origin = geometry(hyperbolic).chart(1e-3 * torch.randn(n, 2))
show("MAP from points near the origin, edges of 1", hyperbolic, fit_map(hyperbolic, 1.0, near_origin))
show("MAP from points near the origin, edges of 3", hyperbolic, fit_map(hyperbolic, EDGE, near_origin))
show(
    "MAP from Sarkar's points, edges of 1",
    hyperbolic,
    fit_map(hyperbolic, 1.0, sarkar_embedding(hyperbolic, parents)),
)

# [flat]
show("flat plane, MAP from points near the origin", flat, fit_map(flat, 1.0, 1e-3 * torch.randn(n, 2)))
in_sectors = fit_map(flat, 1.0, tree_layout(parents))
show("flat plane, MAP from a layout in sectors", flat, in_sectors)

# [geoopt]
z = geoopt.ManifoldParameter(start.clone(), manifold=hyperbolic)
for lr in (0.05, 0.01, 0.002):
    optimizer = geoopt.optim.RiemannianAdam([z], lr=lr)
    for _ in range(steps // 3):
        d = hyperbolic.dist(z[i], z[j]) / EDGE
        loss = ((d - graph[i, j]) / graph[i, j]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
show("geoopt's RiemannianAdam on the squared errors", hyperbolic, z.detach())

# [svi]
pyro.clear_param_store()
guide = AutoManifoldNormal(model, init_loc_fn=init_to_value(values={"z": best}), init_scale=0.05)
svi = SVI(model, guide, RiemannianAdam({"lr": 0.01}), Trace_ELBO())
for _ in range(steps):
    svi.step(hyperbolic, EDGE)
with torch.no_grad():
    by_svi = torch.stack([guide(hyperbolic, EDGE)["z"] for _ in range(draws)])
show("SVI, mean over draws", hyperbolic, by_svi)

# [nuts]
kernel = GeodesicNUTS(model, init_strategy=init_to_value(values={"z": best}), max_tree_depth=5)
mcmc = MCMC(kernel, num_samples=draws, warmup_steps=draws // 2, disable_progbar=args.quick)
mcmc.run(hyperbolic, EDGE)
by_nuts = mcmc.get_samples()["z"]
show("NUTS, mean over draws", hyperbolic, by_nuts)


# [uncertainty]
def spread(draws: torch.Tensor) -> torch.Tensor:
    """Root mean square distance from the MAP, in edges."""
    return geometry(hyperbolic).dist(draws, best).square().mean(0).sqrt() / EDGE


leaf = torch.tensor([p not in parents[1:] for p in range(n)])
for what, z_draws in (("SVI ", by_svi), ("NUTS", by_nuts)):
    s = spread(z_draws)
    print(f"{what} spread, in edges: leaves {float(s[leaf].mean()):.3f}, others {float(s[~leaf].mean()):.3f}")


# [picture]
def draw_tree(manifold: geoopt.Manifold, z: torch.Tensor, ax: plt.Axes, title: str) -> None:
    for child, parent in enumerate(parents[1:], start=1):
        geodesic(manifold, z[parent], z[child], ax, color="0.55", linewidth=0.8, zorder=1)
    xy = to_plane(manifold, z)
    ax.scatter(*xy.T.numpy(), c=graph[0].numpy(), s=14, cmap="viridis", zorder=2)
    ax.set_title(title, fontsize=10, pad=10)


# Most classes hang on Exception, so an isometry carries it to the centre of the disk: distances stay as they are.
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

# [negatives]
# A graph too large for all pairs: edges are observed one by one, and of the pairs that are no edges a random part.
edges = torch.stack([torch.arange(1, n), torch.tensor(parents[1:])], -1)
others = torch.stack([i, j], -1)[graph[i, j] > 1]


def link_model(manifold: geoopt.Manifold, edge: float) -> None:
    geo = geometry(manifold)
    with pyro.plate("classes", n):
        z = pyro.sample("z", mdist.WrappedNormal(manifold, geo.origin(2), 4 * edge))

    def logit(pairs: torch.Tensor) -> torch.Tensor:
        return 4 * (1.5 - geo.dist(z[..., pairs[:, 0], :], z[..., pairs[:, 1], :]) / edge)

    with pyro.plate("edges", len(edges)):
        pyro.sample("edge", dist.Bernoulli(logits=logit(edges)), obs=torch.ones(len(edges)))
    with pyro.plate("others", len(others), subsample_size=10 * n) as k:  # ten negatives for each node
        pyro.sample("other", dist.Bernoulli(logits=logit(others[k])), obs=torch.zeros(len(k)))


def fit_links(start: torch.Tensor, burn_in: int) -> torch.Tensor:
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

# [exercise]
# How long may an edge be? The distortion of Sarkar's points falls with the length of an edge, until float64 ends.
lengths = torch.linspace(0.5, 5, 10).tolist()
errors = [metrics(hyperbolic, sarkar_embedding(hyperbolic, parents, length))[0] for length in lengths]
fig, ax = plt.subplots(figsize=(5, 3.4), constrained_layout=True)
ax.plot(lengths, errors, marker="o")
ax.set(
    xlabel="length of an edge, in units of the curvature radius",
    ylabel="distortion, before any fit",
    ylim=(0, None),
)
fig.savefig(args.out / "lengths.png", dpi=110)
