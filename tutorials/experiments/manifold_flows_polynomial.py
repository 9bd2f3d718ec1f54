r"""The M-flow paper's surface in ``manifold_flows.py``: its metrics; posteriors of theta, on a grid and by
its chain."""

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from manifold_flows_data import error
from torch import Tensor

from pyro_manifold.datasets import PolynomialSurface
from pyro_manifold.evaluation import grid_mmd2, mmd2, ood_auc
from pyro_manifold.flows import LatentFlow, coupling_chain
from pyro_manifold.models import AmbientFlow, ManifoldFlow

SURFACE = PolynomialSurface()
PUBLISHED = {  # distance, reconstruction, MMD, AUC: Brehmer and Cranmer 2020, medians of 5 runs
    "AF": (0.005, None, 0.071, 0.990),
    "PIE original": (0.035, 1.278, 0.131, 0.933),
    "PIE": (0.006, 1.253, 0.075, 0.972),
    "PAE": (0.002, 0.002, None, 0.990),
    "M": (0.009, 0.013, 0.017, 0.961),
    "M alternating": (0.002, 0.003, 0.020, 0.986),
    "M_e": (0.002, 0.002, 0.007, 0.987),
    "M_e alternating": (0.003, 0.003, 0.030, 0.985),
}


class Polynomial:
    """The paper's metrics with 10 000 test and noisy points in place of 1000, and 20 observed sets in place
    of one."""

    algorithms = list(PUBLISHED)
    columns = ["distance", "reco", "mmd2", "mmd2_chain", "auc", "kl", "kl_error", "cpu_seconds"]

    def __init__(self, smoke: bool = False) -> None:
        self.rows, self.many, self.sets, self.steps = (
            (500, 200, 2, 200) if smoke else (100_000, 10_000, 20, 5100)
        )
        theta = SURFACE.prior(self.rows, seed=1)
        self.x = SURFACE.sample(self.rows, theta, seed=2).float()
        self.context = theta.float().unsqueeze(-1)
        self.grid = torch.linspace(-1, 1, 401, dtype=torch.float64)

    def build(self, name: str) -> tuple[Any, dict[str, Any]]:
        x, kind = self.x, name.split()[0]
        settings: dict[str, Any] = {"schedule": "alternating"} if "alternating" in name else {}
        if kind in ("M", "M_e"):  # one coupling: the surface as a graph over a plane that is learned
            flow: Any = ManifoldFlow.from_data(x, 2, 1, depth=1, mix=False, encoder=kind == "M_e")
        elif kind == "PAE":
            flow, settings = ManifoldFlow.autoencoder(x, 2, 1), {"lr": (3e-3, 3e-3)}
        else:
            dim, outer = (3, False) if kind == "AF" else (2, "original" in name)
            return AmbientFlow.from_data(x, dim, 1, depth=5, latent_depth=3, outer=outer, eps=0.01), {}
        flow.latent = LatentFlow(2, coupling_chain(2, 3, 1, hidden=(64, 64), bins=12), 1)
        return flow, settings

    def log_likelihood(self, flow: Any, y: Tensor) -> Tensor:
        """log p(set | theta) for each set of y, (sets, n, 3), and theta of the grid, up to what theta does
        not change."""
        x, out = y.float().flatten(0, 1), []
        u = flow.transform.inv(x) if isinstance(flow, ManifoldFlow) else None
        for theta in self.grid.float().split(40):
            c = theta[:, None, None].expand(-1, len(x), -1)
            log_prob = (
                flow.log_prob(x.expand(len(theta), -1, -1), c)
                if u is None
                else flow.latent.condition(c).log_prob(u)
            )
            out.append(log_prob.double().unflatten(-1, y.shape[:2]).sum(-1))
        return torch.cat(out).mT

    @cached_property
    def truth(self) -> tuple[Tensor, Tensor, Tensor]:
        """Observed sets, their exact posteriors on the grid, draws of the exact posteriors by the paper's
        chain."""
        y = torch.stack([SURFACE.sample(20, 0.0, seed=1000 + s) for s in range(self.sets)])
        log_weight = torch.stack([SURFACE.log_likelihood(self.grid, each) for each in y])
        return y, log_weight.softmax(-1), self.chain(log_weight, seed=0)

    def chain(self, log_weight: Tensor, seed: int) -> Tensor:
        """The paper's sampler: Metropolis with step 0.15 from the true theta, 100 steps of burn-in; one row
        for each set."""
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
        """What the truth scores against itself: chains with other random numbers; orthogonal distances as the
        OOD score."""
        test, noisy = SURFACE.sample(self.many, 0.0, seed=3), SURFACE.out_of_distribution(self.many, seed=4)
        auc = ood_auc(SURFACE.distance(test), SURFACE.distance(noisy))
        return {"mmd2_chain": self.mmd_of_chains(self.truth[1].log()), "auc": auc}

    def evaluate(self, flow: Any) -> dict[str, float]:
        theta = torch.zeros(1)
        drawn = flow.condition(theta).sample((self.many,))
        test, noisy = (
            f(self.many, seed=s).float() for f, s in ((SURFACE.sample, 3), (SURFACE.out_of_distribution, 4))
        )
        out = {"distance": float(SURFACE.vertical_distance(drawn).clamp(max=10.0).mean())}
        out["orthogonal_distance"] = float(SURFACE.distance(drawn).clamp(max=10.0).mean())
        aucs = [ood_auc(flow.log_prob(test, theta), flow.log_prob(noisy, theta))]
        if not (isinstance(flow, AmbientFlow) and flow.latent.dim == 3):
            errors = error(flow, test, theta), error(flow, noisy, theta)
            out["reco"] = float(errors[0].mean())
            aucs.append(ood_auc(*errors))
        out["auc"] = max(aucs)
        if isinstance(flow, ManifoldFlow):
            out["kl"], out["kl_error"] = SURFACE.kl(
                lambda x: flow.log_prob(x.float(), theta), n=2 * self.many, seed=5
            )
        y, exact, _ = self.truth
        log_weight = self.log_likelihood(flow, y)
        each = grid_mmd2(log_weight.softmax(-1), exact, self.grid)
        out |= {
            "mmd2": float(each.mean()),
            "mmd2_median": float(each.median()),
            "mmd2_chain": self.mmd_of_chains(log_weight),
        }
        return out

    def draw(self, flows: dict[str, Any], path: Path) -> None:
        from matplotlib.figure import Figure

        flow = flows.get("M") or next(iter(flows.values()))
        many = min(6000, 5 * self.many)
        drawn = flow.condition(torch.zeros(1)).sample((many,)).double()
        true = SURFACE.sample(many, 0.0, seed=6)
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
        ax.set(
            title="distance of its draws from the true surface",
            xlabel="$z_0$",
            ylabel="$z_1$",
            xlim=(-6, 8),
            ylim=(-8, 6),
        )
        figure.colorbar(shown, ax=ax, label="log10")
        figure.savefig(path, dpi=90)
