"""Spline flows of angles and of vectors against Zuko's, in turn in one process.

    python tests/benchmarks/bench_flows.py        # needs: pip install -c constraints.txt zuko

Peer: Zuko's ``NCSF`` (circular rational-quadratic splines) and ``NSF``, coupling (``passes=2``) or autoregressive, with
as many layers, bins and hidden units as ours. log p, its gradient in all weights, and draws, of n points; float32,
one thread, least CPU time of several repetitions. Both densities are perturbed alike, and both are checked to
have mass 1 on the torus before they are timed.
"""

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from timing import least
from torch import Tensor, nn

import pyro_manifold.distributions as mdist
from pyro_manifold.flows import Coupling, TorusFlow
from pyro_manifold.geometry import Torus
from pyro_manifold.testing import manifold_rule

LAYERS, BINS, HIDDEN = 4, 16, (64, 64)


def perturbed(module: nn.Module) -> nn.Module:
    """So that no spline is the identity."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module


class Vectors(nn.Module):
    """Coupling layers of splines on R^d, alternating between even and odd coordinates."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        halves = [range(0, dim, 2), range(1, dim, 2)]
        self.layers = nn.ModuleList(
            Coupling(dim, halves[i % 2], bins=BINS, hidden=HIDDEN) for i in range(LAYERS)
        )


def ours(kind: str, dim: int) -> tuple[nn.Module, Any]:
    if kind == "vectors":
        flow = perturbed(Vectors(dim))
        base: Any = dist.Normal(torch.zeros(dim), 1.0).to_event(1)
        return flow, dist.TransformedDistribution(base, list(flow.layers))
    flow = perturbed(TorusFlow(dim, LAYERS, kind=kind, bins=BINS, hidden=HIDDEN))
    return flow, dist.TransformedDistribution(mdist.ManifoldUniform(Torus(), dim), [flow])


def theirs(kind: str, dim: int) -> tuple[nn.Module, Any]:
    import zuko  # switches the validation of arguments off for the whole process, ours too

    options = dict(transforms=LAYERS, bins=BINS, hidden_features=HIDDEN)
    if kind != "autoregressive":
        options["passes"] = 2
    flow = perturbed((zuko.flows.NSF if kind == "vectors" else zuko.flows.NCSF)(dim, **options))
    return flow, flow()


def mass(density: Callable[[Tensor], Tensor]) -> float:
    """Of a density of two angles."""
    rule = manifold_rule(Torus(), torch.zeros(2), 4.5, 128, 256)
    with torch.no_grad():
        return float(rule.integrate(density(rule.points).exp().double()))


def row(kind: str, dim: int, n: int, repeats: int) -> str:
    (mine, p), (other, q) = ours(kind, dim), theirs(kind, dim)
    x = torch.randn(n, dim) if kind == "vectors" else 2 * math.pi * torch.rand(n, dim) - math.pi

    def score(d: Any) -> Callable[[], object]:
        def run() -> object:
            with torch.no_grad():
                return d.log_prob(x)

        return run

    def learn(d: Any, module: nn.Module) -> Callable[[], object]:
        def run() -> object:
            return torch.autograd.grad(d.log_prob(x).sum(), list(module.parameters()), allow_unused=True)

        return run

    def draw(d: Any) -> Callable[[], object]:
        def run() -> object:
            with torch.no_grad():
                return d.sample((n,))

        return run

    runs = [score(q), score(p), learn(q, other), learn(p, mine), draw(q), draw(p)]
    times = least(runs, repeats)
    cells = []
    for a, b in zip(times[::2], times[1::2], strict=True):
        cells.append(f"{a:.2f} | {b:.2f} | {a / b:.1f}")
    space = f"R^{dim}, coupling" if kind == "vectors" else f"T^{dim}, {kind}"
    return f"| {space} | {n} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--n", type=int, nargs="+", default=[16, 256, 4096])
    args = parser.parse_args()
    torch.set_num_threads(1)
    for kind in ("coupling", "autoregressive"):
        found = [mass(density.log_prob) for _, density in (theirs(kind, 2), ours(kind, 2))]
        print(f"mass on T^2, {kind}: Zuko {found[0]:.4f}, ours {found[1]:.4f}")
    print(f"\n{time.strftime('%Y-%m-%d, %H:%M UTC', time.gmtime())}; CPU ms\n")
    print(
        "| flow | n | log p: Zuko | ours | ratio | log p and gradient: Zuko | ours | ratio | draws: Zuko | ours | ratio |"
    )
    print("|---" * 11 + "|")
    for kind, dim in (("coupling", 2), ("coupling", 7), ("autoregressive", 7), ("vectors", 6)):
        for n in args.n:
            print(row(kind, dim, n, args.repeats), flush=True)


if __name__ == "__main__":
    main()
