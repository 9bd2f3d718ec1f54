r"""Flows against targets whose density is known: by how many nats do they miss?

.. math:: \mathrm{KL}(p\,\|\,q) = \mathbb E_p[\log p(x) - \log q(x)]

estimated on fresh draws of the target p, point by point, so that its standard error is that of the difference. The
entropy of p, by the same draws, is the score of a perfect model.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import densities_models as rows
import geoopt
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_manifold.distributions as mdist
from pyro_manifold.flows import InChart, RotationFlow, TorusFlow
from pyro_manifold.flows.latent_flow import coupling_chain
from pyro_manifold.geometry import SpecialOrthogonal, Torus, geometry
from pyro_manifold.transforms.chain import Chain

ROTATIONS = SpecialOrthogonal(3)
Target = tuple[Any, Callable[[], Any], Any]  # the target, a flow, its base


def _mixture(components: Any) -> Any:
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(components.batch_shape[-1])), components)


def rotations() -> Target:
    """16 matrix Fisher distributions with concentrations from 5 to 30 about random rotations."""
    uniform = mdist.ManifoldUniform(ROTATIONS, (3, 3))
    s = 5 + 25 * torch.rand(16, 3)
    f = uniform.sample((16,)) @ torch.diag_embed(s) @ torch.eye(3)
    axes = uniform.sample((16,))
    return _mixture(mdist.MatrixFisher(f @ axes)), lambda: RotationFlow(8), uniform


def hyperbolic_plane() -> Target:
    """5 wrapped normals about points at distances up to 2."""
    ball = geoopt.PoincareBall()
    geo = geometry(ball)
    centre = geo.exp_frame(torch.zeros(5, 2), 1.2 * torch.randn(5, 2).clamp(-1.5, 1.5))
    scale = 0.15 + 0.5 * torch.rand(5, 2)
    return (
        _mixture(mdist.WrappedNormal(ball, centre, scale)),
        lambda: _in_chart(ball, 2),
        _normal(ball, torch.zeros(2)),
    )


def spd() -> Target:
    """4 wrapped normals of positive definite 3 x 3 matrices."""
    manifold = geoopt.SymmetricPositiveDefinite()
    geo = geometry(manifold)
    eye = torch.eye(3)
    centre = geo.exp_frame(eye.expand(4, 3, 3), 0.8 * torch.randn(4, 6))
    scale = 0.2 + 0.3 * torch.rand(4, 6)
    return (
        _mixture(mdist.WrappedNormal(manifold, centre, scale)),
        lambda: _in_chart(manifold, 6),
        _normal(manifold, eye),
    )


def torus() -> Target:
    """8 wrapped normals of 7 angles."""
    target = mdist.WrappedNormal(
        Torus(), 2 * math.pi * torch.rand(8, 7) - math.pi, 0.3 + 0.5 * torch.rand(8, 7)
    )
    flow = lambda: TorusFlow(7, 2, kind="autoregressive", bins=24, hidden=(192, 192))  # noqa: E731
    return _mixture(target), flow, mdist.ManifoldUniform(Torus(), 7)


def _normal(manifold: Any, loc: Tensor) -> Any:
    return mdist.WrappedNormal(manifold, loc.float(), 1.0)


def _in_chart(manifold: Any, dim: int) -> Any:
    return InChart(
        manifold, Chain(coupling_chain(dim, 8, kind="spline", hidden=(64, 64), bins=12, bound=5.0))
    )


TARGETS: dict[str, Callable[[], Target]] = {
    "SO(3), 16 matrix Fisher": rotations,
    "hyperbolic plane": hyperbolic_plane,
    "SPD(3)": spd,
    "T^7": torus,
}


def run(results: Any, args: Any, names: Sequence[str] = tuple(TARGETS), rows_of_data: int = 20_000) -> None:
    for seed in args.seeds:
        for name in args.names or names:
            if results.find(table="oracles", name=name, row="flow", seed=seed) is not None:
                continue
            torch.manual_seed(100 + seed)
            target, make, base = TARGETS[name]()
            pyro.set_rng_seed(seed)
            x, v, test = (target.sample((n,)) for n in (rows_of_data, rows_of_data // 10, rows_of_data))
            start = time.process_time()
            density = rows.fit_flow(make(), base, x, v, steps=args.steps, seed=seed)
            seconds = time.process_time() - start
            with torch.no_grad():
                log_p = target.log_prob(test)
                log_q = torch.cat([_log_prob(density, part) for part in test.split(4096)])
            loss = log_p - log_q
            row = dict(table="oracles", name=name, row="flow", seed=seed, seconds=seconds, n=len(x))
            row |= dict(kl=float(loss.mean()), kl_error=float(loss.std()) / math.sqrt(len(loss)))
            results.add(row | dict(entropy=-float(log_p.mean()), test=-float(log_q.mean())))


def _log_prob(density: Any, x: Tensor) -> Tensor:
    """float64 through the flow, whatever the base's dtype."""
    (flow,) = density.transforms
    z, log_volume = flow.inverse_and_log_volume(x)
    return density.base_dist.log_prob(z.to(_dtype(density.base_dist))).to(x.dtype) - log_volume


def _dtype(base: Any) -> torch.dtype:
    return getattr(base, "loc", torch.zeros((), dtype=torch.float64)).dtype


def table(found: Sequence[dict[str, Any]]) -> list[str]:
    mine = [r for r in found if r["table"] == "oracles"]
    if not mine:
        return []
    lines = [
        "\n## Known entropies\n",
        "| target | seed | entropy | flow's score | KL, nats | training, CPU s |",
        "|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {r['name']} | {r['seed']} | {r['entropy']:.3f} | {r['test']:.3f} | {r['kl']:.3f} ± {r['kl_error']:.3f} | "
        f"{r['seconds']:.0f} |"
        for r in sorted(mine, key=lambda r: (list(TARGETS).index(r["name"]), r["seed"]))
    ]
