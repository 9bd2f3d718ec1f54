r"""Data sets of ``manifold_flows.py``, each with its flows, metrics and picture: a circle, the Lorenz
attractor, images.

An experiment has rows ``x`` and their ``context``; ``build(name)`` makes one of its ``algorithms``, a flow
and settings of its training; ``evaluate(flow)`` gives the ``columns`` of its row; ``draw(flows, path)`` the
picture.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_manifold.datasets import GaussianOnCircle, digits, image_manifold, lorenz
from pyro_manifold.evaluation import ood_auc
from pyro_manifold.flows import InjectiveFlow, LatentFlow, LULinear, coupling_chain, multiscale_layers
from pyro_manifold.models import AmbientFlow, ManifoldFlow
from pyro_manifold.plotting import image_grid
from pyro_manifold.transforms import Chart, LinearEmbedding, Pad


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


# --- the circle ---------------------------------------------------------------------------------------------
class Circle:
    """Radial noise of 0.01. KL is to the exact density on the circle (AF and PIE: in the plane)."""

    algorithms = ["AF", "FOM", "PIE", "PAE", "M", "M_e"]
    columns = ["distance", "reco", "kl", "kl_error", "cpu_seconds"]

    def __init__(self, smoke: bool = False) -> None:
        self.many = 300 if smoke else 10_000
        self.distribution, self.on = GaussianOnCircle(), GaussianOnCircle(noise=0.0)
        self.x, self.context = self.distribution.sample(self.many, seed=1).float(), None

    def build(self, name: str) -> tuple[Any, dict[str, Any]]:
        bends: dict[str, Any] = {"batch": 100, "lr": (1e-2, 2e-2), "share": 0.7}
        if name == "FOM":
            flow = ManifoldFlow.from_data(self.x, 1, depth=3, mix=False)
            angle = Chart(
                lambda u: torch.cat([-u.sin(), u.cos()], -1),
                lambda x: torch.atan2(-x[..., :1], x[..., 1:]),
                1,
                2,
            )
            return ManifoldFlow(
                angle, flow.latent
            ), bends  # the cut is at the bottom, 4 standard deviations away
        if name in ("M", "M_e"):
            return ManifoldFlow.from_data(self.x, 1, depth=5, mix=False, encoder=name == "M_e"), bends
        if name == "PAE":
            return ManifoldFlow.autoencoder(self.x, 1), bends | {"lr": (3e-3, 2e-2)}
        if name == "PIE":
            return AmbientFlow.from_data(self.x, 1, eps=0.1), {"batch": 100}
        return AmbientFlow.from_data(self.x, 2, latent_depth=2), {"batch": 100}

    def evaluate(self, flow: Any) -> dict[str, float]:
        drawn = flow.condition().sample((self.many,))
        out = {"distance": float((drawn.norm(dim=-1) - 1).abs().mean())}
        learned = isinstance(flow, ManifoldFlow)
        truth = self.on if learned else self.distribution
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
                shown = ax.scatter(
                    *x.T.numpy(), c=value.numpy(), s=5, vmin=-6, vmax=0, cmap="viridis", zorder=2
                )
                label = "log density along the curve"
            else:
                value = flow.log_prob(grid).reshape(301, 301).mT
                extent = (-1.5, 1.5, -1.5, 1.5)
                shown = ax.imshow(
                    value.numpy(), origin="lower", extent=extent, vmin=-6, vmax=4, cmap="viridis"
                )
                label = "log density in the plane"
            figure.colorbar(shown, ax=ax, shrink=0.7, label=label)
            ax.scatter(*self.x[:60].T.numpy(), s=2, color="tab:red", zorder=3)
            ax.set(title=name, xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")
        figure.savefig(path, dpi=70)


# --- the attractor ------------------------------------------------------------------------------------------
class Lorenz:
    """Standardised units. Distances are to the nearest of 200 000 points of trajectories that training has
    not seen."""

    algorithms = ["M", "M_e", "PAE"]
    columns = ["distance", "coverage", "reco", "pca", "floor", "cpu_seconds"]

    def __init__(self, smoke: bool = False) -> None:
        size: dict[str, Any] = dict(trajectories=100, warm_up=5.0) if smoke else {}
        self.many = 300 if smoke else 10_000
        self.x, self.context = lorenz(500 if smoke else 100_000, seed=711, **size).float(), None
        self.held = lorenz(1000 if smoke else 200_000, seed=712, **size).float()
        self.test = lorenz(self.many, seed=713, **size).float()

    def build(self, name: str) -> tuple[Any, dict[str, Any]]:
        if name == "PAE":
            return ManifoldFlow.autoencoder(self.x, 2, latent_depth=4), {"share": 0.6, "lr": (3e-3, 3e-3)}
        flow = ManifoldFlow.from_data(
            self.x, 2, depth=5, kind="spline", mix=False, latent_depth=4, encoder=name == "M_e"
        )
        return flow, {"share": 0.6, "lr": (3e-3, 3e-3)}

    def evaluate(self, flow: Any) -> dict[str, float]:
        from scipy.spatial import cKDTree

        tree = cKDTree(self.held.numpy())
        drawn = flow.condition().sample((self.many,))
        start = ManifoldFlow.from_data(self.x, 2, depth=3, mix=False).requires_grad_(False)
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
            f"{name}: draws": flow.condition().sample((len(self.test),))
            for name, flow in list(flows.items())[:2]
        }
        for i, (title, x) in enumerate(pictures.items()):
            ax: Any = figure.add_subplot(1, len(pictures), i + 1, projection="3d")
            ax.scatter(*x.T.numpy(), s=0.3, c=x[:, 2].numpy(), cmap="viridis")
            ax.view_init(elev=12, azim=-60)
            ax.set(title=title, xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), zlim=(-2.5, 2.5))
        figure.savefig(path, dpi=80)


# --- images
#
# ------------------------------------------------------------------------------------------------
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
        pictures = {
            "held out": real,
            "on the learned manifold": project(flow, real),
            "drawn": flow.condition().sample((36,)),
        }
        for ax, (title, x) in zip(axes, pictures.items(), strict=True):
            image_grid(x.reshape(shape).clamp(0, 1), ax, title=title)
        figure.savefig(path, dpi=100)


class Digits(_Images):
    """Grey values of 1797 digits; 397 are held out. OOD: the same digits with rows and columns exchanged."""

    columns = ["reco", "pca", "auc", "nearest", "nearest_true", "cpu_seconds"]
    size, dim, levels = 8, 10, 1

    def __init__(self, smoke: bool = False) -> None:
        x = digits(binarize=False)[0].float()[
            torch.randperm(1797, generator=torch.Generator().manual_seed(0))
        ]
        self.x, self.test = x[:200] if smoke else x[:1400], x[1400:]

    def build(self, name: str) -> tuple[Any, dict[str, Any]]:
        flow, settings = super().build(name)
        # the coordinates spread beyond the range of the splines while g is trained: a linear layer brings
        # them back
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
        self.many = 40 if smoke else 2000
        train, held = (
            image_manifold(4, 32, n, seed=s) for n, s in ((150 if smoke else 10_000, 0), (self.many, 1))
        )
        self.x, self.test, self.factors = train.images.flatten(1), held.images.flatten(1), held.factors
        self.chart = Chart(lambda u: held.render(u).flatten(-3), lambda x: x[..., :4], 4, 1024)

    def evaluate(self, flow: Any) -> dict[str, float]:
        volume = torch.cat([self.chart.log_volume(u) for u in self.factors.split(100)])
        gap = torch.cat([-flow.log_prob(x) for x in self.test.split(100)]) - 4 * math.log(2) - volume
        out = {"reco": float(error(flow, self.test).mean()), "pca": self.pca(self.test)}
        return out | {"kl": float(gap.mean()), "kl_error": float(gap.std() / self.many**0.5)}
