r"""Learned manifolds whose truth is known: densities on a circle, a bumpy surface, the Lorenz attractor, and images.

Six ways to put a density on data x that fill a manifold of dimension n in :math:`\mathbb R^d`:

    AF      a flow of all of the space                               dx = volume of the space
    PIE     the same, with d - n latent coordinates squeezed          dx = volume of the space
    FOM     the manifold is given, its density is learned             dx = volume of the manifold
    M       the manifold is the image of an injective flow            dx = volume of the learned manifold
    M_e     as M, with a network in place of the inverse              dx = volume of the learned manifold
    PAE     networks both ways                                        density of the latent coordinates only

M, M_e and PAE learn the manifold by reconstruction, then its density by likelihood, one after the other ("sequential") or pass by
pass ("alternating"). Log densities with different dx cannot be compared with each other; distances, samples and posteriors can.

    polynomial   the M-flow paper's surface and metrics; posterior of theta on a grid, and by the paper's Metropolis chain
    circle       a Gaussian wrapped around a circle
    lorenz       two dimensions for an attractor of dimension 2.06
    digits       scikit-learn's digits by a flow of several scales
    images       spots whose four factors of variation, and density, are known

Budgets are CPU seconds of one process, as upper bounds: a pass over a few rows is timed cold and as many are made as would fit
at that speed; what a run really took is in its row. Finished runs are kept in ``--out`` and not repeated.

    python tutorials/manifold_flows.py --data polynomial --algorithms M --seeds 5 --budget 150
    python tutorials/manifold_flows.py --smoke
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_manifold.datasets import (
    GaussianOnCircle,
    PolynomialSurface,
    digits,
    grid_mmd2,
    image_manifold,
    lorenz,
    mmd2,
    ood_auc,
)
from pyro_manifold.flows import InjectiveFlow, LatentFlow, LULinear, coupling_chain, multiscale_layers
from pyro_manifold.models import AmbientFlow, ManifoldFlow, fit_md
from pyro_manifold.plotting import image_grid
from pyro_manifold.transforms import Chart, LinearEmbedding, Pad


# --- training by CPU time -------------------------------------------------------------------------------------------------
def fit(
    flow: Any, x: Tensor, context: Tensor | None, *, budget: float, share: float = 0.5, schedule: str = "sequential",
    lr: tuple[float, float] = (1e-2, 3e-3), batch: int = 250, validation: float = 0.25, seed: int = 0, progress: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """:func:`fit_md` with as many passes as ``budget`` CPU seconds allow, by a pass timed on a few batches of a copy.

    :param share: of the budget, for the manifold; the rest is for the density.
    """
    began, few = time.process_time(), min(len(x), 25 * batch)
    common: dict[str, Any] = dict(batch_size=batch, disable_progbar=not progress, seed=seed)

    def seconds(epochs: tuple[int, int]) -> float:
        start = time.process_time()
        part = None if context is None else context[:few]
        fit_md(copy.deepcopy(flow), x[:few], part, epochs=epochs, schedule=schedule, validation=0.0, **common)
        return (time.process_time() - start) * len(x) / few

    moves = isinstance(flow, ManifoldFlow) and any(p.requires_grad for p in flow.transform.parameters())
    if not moves or schedule == "alternating":
        each = (1, 1) if moves else (0, 1)
        passes = (max(1, int(budget / seconds(each))),) * 2
    else:
        times = seconds((1, 0)), seconds((0, 1))
        passes = max(1, int(share * budget / times[0])), max(1, int((1 - share) * budget / times[1]))
    history = fit_md(flow, x, context, epochs=passes, schedule=schedule, validation=validation, lr=lr, **common)
    losses = {phase: min(loss) for phase, loss in history.losses.items()}
    return {"cpu_seconds": time.process_time() - began, "passes": passes, "validation": losses}


def project(flow: Any, x: Tensor, context: Tensor | None = None) -> Tensor:
    """The point of the manifold that the model makes of x; for PIE, v = 0 in its place."""
    if isinstance(flow, ManifoldFlow):
        return flow.transform.project(x)
    layers = flow.condition(context).transforms
    for layer in reversed(layers):
        x = layer.inv(x)
    x = torch.cat([x[..., : flow.latent.dim], torch.zeros_like(x[..., flow.latent.dim :])], -1)
    for layer in layers:
        x = layer(x)
    return x


def error(flow: Any, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Reconstruction error, capped at 10 as in the paper."""
    return torch.linalg.vector_norm(x - project(flow, x, context), dim=-1).clamp(max=10.0)


# --- the polynomial surface -----------------------------------------------------------------------------------------------
SURFACE = PolynomialSurface()
PUBLISHED = {  # distance, reconstruction, MMD, AUC: Brehmer and Cranmer 2020, medians of 5 runs
    "AF": (0.005, None, 0.071, 0.990), "PIE original": (0.035, 1.278, 0.131, 0.933), "PIE": (0.006, 1.253, 0.075, 0.972),
    "PAE": (0.002, 0.002, None, 0.990), "M": (0.009, 0.013, 0.017, 0.961), "M alternating": (0.002, 0.003, 0.020, 0.986),
    "M_e": (0.002, 0.002, 0.007, 0.987), "M_e alternating": (0.003, 0.003, 0.030, 0.985),
}  # fmt: skip


class Polynomial:
    """The paper's metrics with 10 000 test and noisy points in place of 1000, and 20 observed sets in place of one."""

    algorithms = list(PUBLISHED)
    columns = ["distance", "reco", "mmd2", "mmd2_chain", "auc", "kl", "kl_error", "cpu_seconds"]

    def __init__(self, smoke: bool = False) -> None:
        self.rows, self.many, self.sets, self.steps = (2000, 200, 2, 200) if smoke else (100_000, 10_000, 20, 5100)
        theta = SURFACE.prior(self.rows, seed=1)
        self.x = SURFACE.sample(self.rows, theta, seed=2).float()
        self.context = theta.float().unsqueeze(-1)
        self.grid = torch.linspace(-1, 1, 401, dtype=torch.float64)

    def build(self, name: str) -> tuple[Any, dict[str, Any]]:
        x, kind = self.x, name.split()[0]
        settings: dict[str, Any] = {"schedule": "alternating"} if "alternating" in name else {}
        if kind in ("M", "M_e"):  # one coupling: the surface as a graph over a plane that is learned
            flow: Any = ManifoldFlow.from_data(x, 2, 1, depth=1, encoder=kind == "M_e")
        elif kind == "PAE":
            flow, settings = ManifoldFlow.autoencoder(x, 2, 1), {"lr": (3e-3, 3e-3)}
        else:
            dim, outer = (3, False) if kind == "AF" else (2, "original" in name)
            return AmbientFlow.from_data(x, dim, 1, depth=5, latent_depth=3, outer=outer, eps=0.01), {}
        flow.latent = LatentFlow(2, coupling_chain(2, 3, 1, hidden=(64, 64), bins=12), 1)
        return flow, settings

    def log_likelihood(self, flow: Any, y: Tensor) -> Tensor:
        """log p(set | theta) for each set of y, (sets, n, 3), and theta of the grid, up to what theta does not change."""
        x, out = y.float().flatten(0, 1), []
        u = flow.transform.inv(x) if isinstance(flow, ManifoldFlow) else None
        for theta in self.grid.float().split(40):
            c = theta[:, None, None].expand(-1, len(x), -1)
            log_prob = flow.log_prob(x.expand(len(theta), -1, -1), c) if u is None else flow.latent.condition(c).log_prob(u)
            out.append(log_prob.double().unflatten(-1, y.shape[:2]).sum(-1))
        return torch.cat(out).mT

    @cached_property
    def truth(self) -> tuple[Tensor, Tensor, Tensor]:
        """Observed sets, their exact posteriors on the grid, draws of the exact posteriors by the paper's chain."""
        y = torch.stack([SURFACE.sample(20, 0.0, seed=1000 + s) for s in range(self.sets)])
        log_weight = torch.stack([SURFACE.log_likelihood(self.grid, each) for each in y])
        return y, log_weight.softmax(-1), self.chain(log_weight, seed=0)

    def chain(self, log_weight: Tensor, seed: int) -> Tensor:
        """The paper's sampler: Metropolis with step 0.15 from the true theta, 100 steps of burn-in; one row for each set."""
        gen = torch.Generator().manual_seed(seed)
        noise = 0.15 * torch.randn(self.steps, len(log_weight), generator=gen, dtype=torch.float64)
        chance = torch.rand(self.steps, len(log_weight), generator=gen, dtype=torch.float64).log()
        theta = log_weight.new_zeros(len(log_weight))
        at, path = self.between(log_weight, theta), []
        for jump, log_uniform in zip(noise, chance, strict=True):
            new = self.between(log_weight, theta + jump)
            accept = new - at > log_uniform
            theta, at = torch.where(accept, theta + jump, theta), torch.where(accept, new, at)
            path.append(theta)
        return torch.stack(path[100:], -1)

    def between(self, log_weight: Tensor, theta: Tensor) -> Tensor:
        """Linear interpolation on the grid; -inf off the prior's support."""
        place = (theta.clamp(-1, 1) + 1) * (len(self.grid) - 1) / 2
        low = place.floor().clamp(max=len(self.grid) - 2)
        values = [log_weight.gather(-1, low.long().unsqueeze(-1) + i).squeeze(-1) for i in (0, 1)]
        return torch.where(theta.abs() <= 1, torch.lerp(values[0], values[1], place - low), -math.inf)

    def mmd_of_chains(self, log_weight: Tensor, seed: int = 1) -> float:
        """Mean over the sets, every fifth step of the chains."""
        a, b = self.chain(log_weight, seed)[:, ::5], self.truth[2][:, ::5]
        return sum(map(mmd2, a, b)) / len(a)

    def floor(self) -> dict[str, float]:
        """What the truth scores against itself: chains with other random numbers; orthogonal distances as the OOD score."""
        test, noisy = SURFACE.sample(self.many, 0.0, seed=3), SURFACE.out_of_distribution(self.many, seed=4)
        auc = ood_auc(SURFACE.distance(test), SURFACE.distance(noisy))
        return {"mmd2_chain": self.mmd_of_chains(self.truth[1].log()), "auc": auc}

    def evaluate(self, flow: Any) -> dict[str, float]:
        theta = torch.zeros(1)
        drawn = flow.condition(theta).sample((self.many,))
        test, noisy = (f(self.many, seed=s).float() for f, s in ((SURFACE.sample, 3), (SURFACE.out_of_distribution, 4)))
        out = {"distance": float(SURFACE.vertical_distance(drawn).clamp(max=10.0).mean())}
        out["orthogonal_distance"] = float(SURFACE.distance(drawn).clamp(max=10.0).mean())
        aucs = [ood_auc(flow.log_prob(test, theta), flow.log_prob(noisy, theta))]
        if not (isinstance(flow, AmbientFlow) and flow.latent.dim == 3):
            errors = error(flow, test, theta), error(flow, noisy, theta)
            out["reco"] = float(errors[0].mean())
            aucs.append(ood_auc(*errors))
        out["auc"] = max(aucs)
        if isinstance(flow, ManifoldFlow):
            out["kl"], out["kl_error"] = SURFACE.kl(lambda x: flow.log_prob(x.float(), theta), n=2 * self.many, seed=5)
        y, exact, _ = self.truth
        log_weight = self.log_likelihood(flow, y)
        each = grid_mmd2(log_weight.softmax(-1), exact, self.grid)
        out |= {"mmd2": float(each.mean()), "mmd2_median": float(each.median()), "mmd2_chain": self.mmd_of_chains(log_weight)}
        return out

    def draw(self, flows: dict[str, Any], path: Path) -> None:
        from matplotlib.figure import Figure

        flow = flows.get("M") or next(iter(flows.values()))
        drawn = flow.condition(torch.zeros(1)).sample((6000,)).double()
        true = SURFACE.sample(6000, 0.0, seed=6)
        figure = Figure(figsize=(13, 4.4), layout="constrained")
        for i, (title, x) in enumerate({"truth": true, "learned": drawn}.items()):
            ax: Any = figure.add_subplot(1, 3, i + 1, projection="3d")
            colour = SURFACE.log_prob(x, 0.0) if i == 0 else flow.log_prob(x.float(), torch.zeros(1))
            shown = ax.scatter(*x.T.numpy(), c=colour.numpy(), s=1.5, vmin=-10, vmax=-1.5, cmap="viridis")
            ax.set(title=f"{title}: points and their log density", xlim=(-6, 8), ylim=(-8, 6), zlim=(-5, 5))
        figure.colorbar(shown, ax=ax, shrink=0.6, label="nats, w.r.t. area")
        ax = figure.add_subplot(1, 3, 3)
        z, _ = SURFACE.chart(drawn)
        distance = SURFACE.distance(drawn).clamp_min(1e-6).log10()
        shown = ax.scatter(*z.T.numpy(), c=distance.numpy(), s=2, vmin=-4.5, vmax=-1.5, cmap="magma_r")
        ax.set(title="distance of its draws from the true surface", xlabel="$z_0$", ylabel="$z_1$", xlim=(-6, 8), ylim=(-8, 6))
        figure.colorbar(shown, ax=ax, label="log10")
        figure.savefig(path, dpi=90)


# --- the circle -----------------------------------------------------------------------------------------------------------
class Circle:
    """Radial noise of 0.01. KL is to the exact density on the circle (AF and PIE: in the plane)."""

    algorithms = ["AF", "FOM", "PIE", "PAE", "M", "M_e"]
    columns = ["distance", "reco", "kl", "kl_error", "cpu_seconds"]

    def __init__(self, smoke: bool = False) -> None:
        self.many = 300 if smoke else 10_000
        self.law, self.on = GaussianOnCircle(), GaussianOnCircle(noise=0.0)
        self.x, self.context = self.law.sample(self.many, seed=1).float(), None

    def build(self, name: str) -> tuple[Any, dict[str, Any]]:
        bends: dict[str, Any] = {"batch": 100, "lr": (1e-2, 2e-2), "share": 0.7}
        if name == "FOM":
            flow = ManifoldFlow.from_data(self.x, 1)
            angle = Chart(lambda u: torch.cat([-u.sin(), u.cos()], -1), lambda x: torch.atan2(-x[..., :1], x[..., 1:]), 1, 2)
            return ManifoldFlow(angle, flow.latent), bends  # the cut is at the bottom, 4 standard deviations away
        if name in ("M", "M_e"):
            return ManifoldFlow.from_data(self.x, 1, depth=5, encoder=name == "M_e"), bends
        if name == "PAE":
            return ManifoldFlow.autoencoder(self.x, 1), bends | {"lr": (3e-3, 2e-2)}
        if name == "PIE":
            return AmbientFlow.from_data(self.x, 1, eps=0.1), {"batch": 100}
        return AmbientFlow.from_data(self.x, 2, latent_depth=2), {"batch": 100}

    def evaluate(self, flow: Any) -> dict[str, float]:
        drawn = flow.condition().sample((self.many,))
        out = {"distance": float((drawn.norm(dim=-1) - 1).abs().mean())}
        learned = isinstance(flow, ManifoldFlow)
        truth = self.on if learned else self.law
        x = truth.sample(self.many, seed=2).float()
        if learned or flow.latent.dim == 1:
            out["reco"] = float(error(flow, x).mean())
        gap = truth.log_prob(x.double()) - flow.log_prob(x).double()
        return out | {"kl": float(gap.mean()), "kl_error": float(gap.std() / self.many**0.5)}

    def draw(self, flows: dict[str, Any], path: Path) -> None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, 7.4), layout="constrained")
        axes = figure.subplots(2, -(-len(flows) // 2), sharex=True, sharey=True, squeeze=False).flat
        side = torch.linspace(-1.5, 1.5, 301)
        grid = torch.cartesian_prod(side, side)
        for ax, (name, flow) in zip(axes, flows.items(), strict=False):
            if isinstance(flow, ManifoldFlow):  # a curve, coloured by the density along it
                x = flow.transform(torch.linspace(-4, 4, 1500).unsqueeze(-1))
                value = flow.log_prob(x)
                shown = ax.scatter(*x.T.numpy(), c=value.numpy(), s=5, vmin=-6, vmax=0, cmap="viridis", zorder=2)
                label = "log density along the curve"
            else:
                value = flow.log_prob(grid).reshape(301, 301).mT
                extent = (-1.5, 1.5, -1.5, 1.5)
                shown = ax.imshow(value.numpy(), origin="lower", extent=extent, vmin=-6, vmax=4, cmap="viridis")
                label = "log density in the plane"
            figure.colorbar(shown, ax=ax, shrink=0.7, label=label)
            ax.scatter(*self.x[:60].T.numpy(), s=2, color="tab:red", zorder=3)
            ax.set(title=name, xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")
        figure.savefig(path, dpi=70)


# --- the attractor --------------------------------------------------------------------------------------------------------
class Lorenz:
    """Standardised units. Distances are to the nearest of 200 000 points of trajectories that training has not seen."""

    algorithms = ["M", "M_e", "PAE"]
    columns = ["distance", "coverage", "reco", "pca", "floor", "cpu_seconds"]

    def __init__(self, smoke: bool = False) -> None:
        size: dict[str, Any] = dict(trajectories=100, warm_up=5.0) if smoke else {}
        self.many = 300 if smoke else 10_000
        self.x, self.context = lorenz(1000 if smoke else 100_000, seed=711, **size).float(), None
        self.held = lorenz(2000 if smoke else 200_000, seed=712, **size).float()
        self.test = lorenz(self.many, seed=713, **size).float()

    def build(self, name: str) -> tuple[Any, dict[str, Any]]:
        if name == "PAE":
            return ManifoldFlow.autoencoder(self.x, 2, latent_depth=4), {"share": 0.6, "lr": (3e-3, 3e-3)}
        flow = ManifoldFlow.from_data(self.x, 2, depth=5, kind="spline", latent_depth=4, encoder=name == "M_e")
        return flow, {"share": 0.6, "lr": (3e-3, 3e-3)}

    def evaluate(self, flow: Any) -> dict[str, float]:
        from scipy.spatial import cKDTree

        tree = cKDTree(self.held.numpy())
        drawn = flow.condition().sample((self.many,))
        start = ManifoldFlow.from_data(self.x, 2).requires_grad_(False)
        return {
            "distance": float(tree.query(drawn.numpy())[0].mean()),
            "coverage": float(cKDTree(drawn.numpy()).query(self.test.numpy())[0].mean()),
            "reco": float(error(flow, self.test).mean()),
            "pca": float(error(start, self.test).mean()),  # what the plane of most variance leaves
            "floor": float(tree.query(self.test.numpy())[0].mean()),  # the distance of true points
        }

    def draw(self, flows: dict[str, Any], path: Path) -> None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, 4.6), layout="constrained")
        pictures = {"held-out trajectories": self.test} | {
            f"{name}: draws": flow.condition().sample((len(self.test),)) for name, flow in list(flows.items())[:2]
        }
        for i, (title, x) in enumerate(pictures.items()):
            ax: Any = figure.add_subplot(1, len(pictures), i + 1, projection="3d")
            ax.scatter(*x.T.numpy(), s=0.3, c=x[:, 2].numpy(), cmap="viridis")
            ax.view_init(elev=12, azim=-60)
            ax.set(title=title, xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), zlim=(-2.5, 2.5))
        figure.savefig(path, dpi=80)


# --- images ---------------------------------------------------------------------------------------------------------------
class _Images:
    """What both sets of images share: an M-flow of several scales, or of one."""

    algorithms = ["M", "M one scale"]
    columns: list[str]
    x: Tensor
    test: Tensor
    context = None
    size: int
    dim: int
    levels: int

    def build(self, name: str) -> tuple[Any, dict[str, Any]]:
        settings: dict[str, Any] = {"share": 0.7, "lr": (1e-2, 3e-3), "batch": 100, "validation": 0.1}
        levels = 0 if "one" in name else self.levels
        layers = multiscale_layers(self.x, (self.size, self.size), self.dim, levels=levels, depth=2)
        latent = LatentFlow(self.dim, coupling_chain(self.dim, 4, hidden=(64, 64)))
        return ManifoldFlow(InjectiveFlow(Pad(self.dim, self.size**2), layers), latent), settings

    def pca(self, test: Tensor) -> float:
        """The mean error that n principal axes leave."""
        return float(LinearEmbedding.from_pca(self.x, self.dim).reconstruction_error(test).mean())

    def draw(self, flows: dict[str, Any], path: Path) -> None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 4.2), layout="constrained")
        axes = figure.subplots(1, 3)
        flow, shape = next(iter(flows.values())), (-1, self.size, self.size)
        real = self.test[:36]
        pictures = {"held out": real, "on the learned manifold": project(flow, real), "drawn": flow.condition().sample((36,))}
        for ax, (title, x) in zip(axes, pictures.items(), strict=True):
            image_grid(x.reshape(shape).clamp(0, 1), ax, title=title)
        figure.savefig(path, dpi=100)


class Digits(_Images):
    """Grey values of 1797 digits; 397 are held out. OOD: the same digits with rows and columns exchanged."""

    columns = ["reco", "pca", "auc", "nearest", "nearest_true", "cpu_seconds"]
    size, dim, levels = 8, 10, 1

    def __init__(self, smoke: bool = False) -> None:
        x = digits(binarize=False)[0].float()[torch.randperm(1797, generator=torch.Generator().manual_seed(0))]
        self.x, self.test = x[:200] if smoke else x[:1400], x[1400:]

    def build(self, name: str) -> tuple[Any, dict[str, Any]]:
        flow, settings = super().build(name)
        # the coordinates spread beyond the range of the splines while g is trained: a linear layer brings them back
        layers = [*coupling_chain(self.dim, 4, hidden=(64, 64)), LULinear(self.dim)]
        flow.latent = LatentFlow(self.dim, layers)
        return flow, settings | {"lr": (1e-2, 1e-2)}

    def evaluate(self, flow: Any) -> dict[str, float]:
        flipped = self.test.unflatten(-1, (8, 8)).mT.flatten(-2)
        inside = error(flow, self.test)
        drawn = flow.condition().sample((1000,))
        near, near_true = (torch.cdist(y, self.x).amin(-1).mean() for y in (drawn, self.test))
        return {
            "reco": float(inside.mean()),
            "pca": self.pca(self.test),
            "auc": ood_auc(inside, error(flow, flipped)),
            "nearest": float(near),  # of draws to the nearest training image
            "nearest_true": float(near_true),  # of held-out images
        }


class Images(_Images):
    """One spot of four factors on 32 x 32 pixels; its density on the manifold of images is known."""

    algorithms = ["M"]
    columns = ["reco", "pca", "kl", "kl_error", "cpu_seconds"]
    size, dim, levels = 32, 4, 2

    def __init__(self, smoke: bool = False) -> None:
        self.many = 100 if smoke else 2000
        train, held = (image_manifold(4, 32, n, seed=s) for n, s in ((300 if smoke else 10_000, 0), (self.many, 1)))
        self.x, self.test, self.factors = train.images.flatten(1), held.images.flatten(1), held.factors
        self.chart = Chart(lambda u: held.render(u).flatten(-3), lambda x: x[..., :4], 4, 1024)

    def evaluate(self, flow: Any) -> dict[str, float]:
        volume = torch.cat([self.chart.log_volume(u) for u in self.factors.split(100)])
        gap = torch.cat([-flow.log_prob(x) for x in self.test.split(100)]) - 4 * math.log(2) - volume
        out = {"reco": float(error(flow, self.test).mean()), "pca": self.pca(self.test)}
        return out | {"kl": float(gap.mean()), "kl_error": float(gap.std() / self.many**0.5)}


# --- runs, tables -----------------------------------------------------------------------------------------------------------
EXPERIMENTS: dict[str, Callable[..., Any]] = {
    "polynomial": Polynomial,
    "circle": Circle,
    "lorenz": Lorenz,
    "digits": Digits,
    "images": Images,
}


def run(experiment: Any, data: str, name: str, seed: int, args: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    """A row and its trained flow; what ``--out`` holds of them is read, not made again."""
    key = {"data": data, "algorithm": name, "seed": seed, "budget": args.budget}
    path = args.out / f"{data}-{name.replace(' ', '-')}-{seed}-{args.budget:g}"
    pyro.set_rng_seed(seed)
    flow, settings = experiment.build(name)
    if path.with_suffix(".json").exists():
        flow.load_state_dict(torch.load(path.with_suffix(".pt")))
        return json.loads(path.with_suffix(".json").read_text()), flow.requires_grad_(False)
    row = key | fit(flow, experiment.x, experiment.context, budget=args.budget, seed=seed, progress=args.progress, **settings)
    flow.requires_grad_(False)
    pyro.set_rng_seed(1_000 + seed)
    row |= experiment.evaluate(flow)
    torch.save(flow.state_dict(), path.with_suffix(".pt"))
    path.with_suffix(".json").write_text(json.dumps(row))
    return row, flow


def table(rows: list[dict[str, Any]], columns: list[str], published: dict[str, Any]) -> str:
    """Medians over the seeds of each algorithm."""

    def cell(values: list[float]) -> str:
        return f"{torch.tensor(values).double().quantile(0.5):.4g}" if values else "-"

    lines = ["| algorithm | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for name in dict.fromkeys(row["algorithm"] for row in rows):
        own = [row for row in rows if row["algorithm"] == name]
        cells = [cell([row[c] for row in own if c in row]) for c in columns]
        lines.append(f"| {name} | {len(own)} | " + " | ".join(cells) + " |")
        if name in published:
            known = dict(zip(("distance", "reco", "mmd2_chain", "auc"), published[name], strict=True))
            lines.append("| published | 5 | " + " | ".join(str(known.get(c) or "-") for c in columns) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", default=list(EXPERIMENTS), choices=list(EXPERIMENTS))
    parser.add_argument("--algorithms", nargs="+", help="some of AF, PIE, FOM, M, M_e, PAE, ... (default: all of the data's)")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each, 0, 1, ... (default 1)")
    parser.add_argument("--budget", type=float, default=150.0, help="CPU seconds of training a run (default 150)")
    parser.add_argument("--out", type=Path, default=Path("manifold_flows"), help="folder for results and pictures")
    parser.add_argument("--progress", action="store_true", help="show progress bars")
    parser.add_argument("--no-pictures", action="store_true")
    parser.add_argument("--smoke", action="store_true", help="little data, one pass")
    args = parser.parse_args()
    args.budget = 0.0 if args.smoke else args.budget
    args.out.mkdir(parents=True, exist_ok=True)
    pyro.enable_validation(False)
    torch.distributions.Distribution.set_default_validate_args(False)
    for data in args.data:
        experiment = EXPERIMENTS[data](args.smoke)
        names = [n for n in experiment.algorithms if args.algorithms is None or n in args.algorithms]
        rows: list[dict[str, Any]] = []
        flows: dict[str, Any] = {}
        for name in names:
            for seed in range(args.seeds):
                row, flow = run(experiment, data, name, seed, args)
                rows.append(row)
                flows.setdefault(name, flow)
                print(json.dumps(row), flush=True)
        print(f"\n{data}\n" + table(rows, experiment.columns, PUBLISHED if data == "polynomial" else {}))
        if hasattr(experiment, "floor"):
            print("the truth against itself:", json.dumps(experiment.floor()))
        if flows and not args.no_pictures:
            experiment.draw(flows, args.out / f"{data}.png")


if __name__ == "__main__":
    main()
