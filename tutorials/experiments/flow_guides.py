r"""Guides for posteriors with several modes, on the sphere and on rotations: what each loses, in nats.

**Sphere.** Two delays of a wave between receivers give two noisy inner products of its direction z with known
baselines, and the directions on either side of the baselines' plane fit equally well; a weak prior prefers one:

.. math:: z \sim \mathrm{vMF}(n, .35), \qquad y_i \sim \mathcal N(\langle z, b_i\rangle, .1^2), \quad i = 1, 2

**Rotations.** Of a body's attitude R the direction of one axis is seen, of another one only the line it lies on, and a
weak mark on it prefers one of its two ends:

.. math:: R \sim \text{uniform}, \qquad a \sim \mathrm{vMF}(Re_3, 20), \quad
    b \sim \mathcal N((Re_1\cdot c)^2, .2^2), \quad m \sim \mathcal N(Re_1\cdot c, 1.5^2)

The evidence p(y) is computed by quadrature. For each guide q: the ELBO, by fresh draws, and so
KL(q || posterior) = log p(y) - ELBO; KL(posterior || q), by long runs of GeodesicNUTS with independence proposals
from the flow; the weight of the likelier mode, by quadrature, NUTS without and with proposals, and each guide.

    python tutorials/experiments/flow_guides.py --out folder          # ten minutes on one core
    python tutorials/experiments/flow_guides.py --quick               # to see that it runs
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geoopt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.ops.stats import effective_sample_size
from torch import Tensor

import pyro_manifold.distributions as mdist
from pyro_manifold.flows import RotationFlow, SphereFlow
from pyro_manifold.geometry import SpecialOrthogonal
from pyro_manifold.infer import (
    AutoManifoldFlow,
    AutoManifoldMultivariateNormal,
    AutoManifoldNormal,
    GeodesicNUTS,
    VectorizedMCMC,
)
from pyro_manifold.testing import manifold_rule

SPHERE, ROTATIONS = geoopt.Sphere(), SpecialOrthogonal(3)
BASELINES = torch.tensor([[1.0, 0.0, 0.0], [0.3, 0.95394, 0.0]])
DELAYS = torch.tensor([0.45, 0.35])
NORTH, EAST = torch.eye(3)[2], torch.eye(3)[0]


def direction() -> None:
    z = pyro.sample("z", mdist.VonMisesFisher(NORTH, torch.tensor(0.35)))
    pyro.sample("y", dist.Normal(z @ BASELINES.mT, 0.1).to_event(1), obs=DELAYS)


def attitude() -> None:
    r = pyro.sample("z", mdist.ManifoldUniform(ROTATIONS, (3, 3)))
    along = r[..., :, 0] @ EAST
    pyro.sample("a", mdist.VonMisesFisher(r[..., :, 2], torch.tensor(20.0)), obs=NORTH)
    pyro.sample("b", dist.Normal(along.square(), 0.2), obs=torch.tensor(1.0))
    pyro.sample("m", dist.Normal(along, 1.5), obs=torch.tensor(0.8))


@dataclass(frozen=True)
class Target:
    """A model of one site ``z``, where its modes are, and what its flow is."""

    model: Callable[[], None]
    manifold: geoopt.Manifold
    event: tuple[int, ...]
    preferred: Callable[[Tensor], Tensor]
    flow: Callable[[], Any]


TARGETS = {
    "direction": Target(direction, SPHERE, (3,), lambda z: z[..., 2] > 0, lambda: SphereFlow(2, 4)),
    "attitude": Target(attitude, ROTATIONS, (3, 3), lambda z: z[..., 0, 0] > 0, lambda: RotationFlow(4)),
}


def log_joint(target: Target, z: Tensor) -> Tensor:
    """log p(z, y) of many z at once."""
    with pyro.plate("draws", len(z)):
        trace = pyro.poutine.trace(pyro.poutine.condition(target.model, {"z": z})).get_trace()
    trace.compute_log_prob()
    return sum(
        site["log_prob"] for site in trace.nodes.values() if site["type"] == "sample" and "log_prob" in site
    )


def by_quadrature(target: Target, fine: int) -> tuple[float, float]:
    """log p(y) and the weight of the preferred mode."""
    centre = torch.eye(3, dtype=torch.float64) if target.event == (3, 3) else NORTH.double()
    rule = manifold_rule(target.manifold, centre, math.pi, n_radial=fine, n_angular=fine)
    density = log_joint(target, rule.points.float()).double().exp()
    evidence = rule.integrate(density)
    preferred = rule.integrate(density * target.preferred(rule.points))
    return float(evidence.log()), float(preferred / evidence)


def guides(target: Target) -> dict[str, Any]:
    return {
        "AutoManifoldNormal": AutoManifoldNormal(target.model),
        "AutoManifoldMultivariateNormal": AutoManifoldMultivariateNormal(target.model),
        "AutoManifoldFlow": AutoManifoldFlow(target.model, {"z": target.flow()}),
    }


def fit(target: Target, guide: Any, steps: int, lr: float, particles: int = 128) -> float:
    """Fits the guide; CPU seconds."""
    pyro.clear_param_store()
    start = time.process_time()
    elbo = Trace_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=0)
    svi = SVI(
        target.model,
        guide,
        pyro.optim.ClippedAdam({"lr": lr, "lrd": 0.02 ** (1 / steps), "clip_norm": 2.0}),
        elbo,
    )
    for _ in range(steps):
        svi.step()
    return time.process_time() - start


@torch.no_grad()
def draws_of(guide: Any, n: int) -> tuple[Tensor, Tensor]:
    """Draws of a guide and their log densities (of the joint guide: what it gives to the ELBO)."""
    with pyro.plate("draws", n):
        trace = pyro.poutine.trace(guide).get_trace()
    trace.compute_log_prob()
    z = trace.nodes["z"]["value"]
    return z, sum(s["log_prob"] for s in trace.nodes.values() if s["type"] == "sample" and "log_prob" in s)


def nuts(target: Target, proposal: Any, draws: int, chains: int) -> Tensor:
    """Draws, shape ``(chains, draws) + event``; chains start at draws of the uniform distribution."""
    start = mdist.ManifoldUniform(target.manifold, target.event).sample((chains,))
    kernel = GeodesicNUTS(
        target.model, chains=chains, proposals={} if proposal is None else {"z": proposal}, max_tree_depth=5
    )
    mcmc = VectorizedMCMC(
        kernel, draws, warmup_steps=draws, initial_params={"z": start}, disable_progbar=True
    )
    mcmc.run()
    return mcmc.get_samples(group_by_chain=True)["z"]


def share(flags: Tensor) -> tuple[float, float]:
    """Mean of an indicator over chains, with its standard error."""
    x = flags.double()
    if bool((x == x[:, :1]).all()):  # no chain has left its mode
        return float(x.mean()), float("nan")
    ess = float(effective_sample_size(x, chain_dim=0, sample_dim=1))
    return float(x.mean()), float((x.var() / ess).sqrt())


def run(name: str, seed: int, steps: int, draws: int, chains: int, fine: int) -> dict[str, Any]:
    target = TARGETS[name]
    evidence, weight = by_quadrature(target, fine)
    out: dict[str, Any] = {
        "target": name,
        "seed": seed,
        "log_evidence": evidence,
        "weight": weight,
        "guides": {},
    }
    fitted = {}
    pyro.set_rng_seed(seed)
    for label, guide in guides(target).items():
        pyro.set_rng_seed(seed)
        seconds = fit(target, guide, steps, 3e-3 if label == "AutoManifoldFlow" else 1e-2)
        z, log_q = draws_of(guide, 20 * draws)
        gain = log_joint(target, z) - log_q
        own = float(target.preferred(z).float().mean())
        out["guides"][label] = {
            "seconds": seconds,
            "kl": evidence - float(gain.mean()),
            "kl_error": float(gain.std()) / len(z) ** 0.5,
            "weight": own,
        }
        fitted[label] = guide
    flow = fitted["AutoManifoldFlow"]
    for p in flow.parameters():
        p.requires_grad_(False)
    pyro.set_rng_seed(seed)
    out["nuts"] = share(target.preferred(nuts(target, None, draws, chains)))
    posterior = nuts(target, flow.distribution("z"), draws, chains)
    out["nuts_with_proposals"] = share(target.preferred(posterior))
    x = posterior.flatten(0, 1)
    with torch.no_grad():
        for label in ("AutoManifoldNormal", "AutoManifoldFlow"):
            forward = log_joint(target, x) - evidence - fitted[label].distribution("z").log_prob(x)
            out["guides"][label]["forward_kl"] = float(forward.mean())
    return out


def table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| target | seed | | KL(q, posterior) | KL(posterior, q) | weight of the likelier mode | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        head = f"| {r['target']} | {r['seed']} |"
        lines.append(f"{head} quadrature | | | {r['weight']:.3f} | |")
        for label, key in (
            ("GeodesicNUTS", "nuts"),
            ("GeodesicNUTS, proposals from the flow", "nuts_with_proposals"),
        ):
            mean, error = r[key]
            lines.append(f"{head} {label} | | | {mean:.3f} ± {error:.3f} | |")
        for label, g in r["guides"].items():
            forward = f"{g['forward_kl']:.3f}" if "forward_kl" in g else ""
            kl = f"{g['kl']:.3f} ± {g['kl_error']:.3f}"
            lines.append(f"{head} {label} | {kl} | {forward} | {g['weight']:.3f} | {g['seconds']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--out", type=Path, help="folder for flow_guides.json")
    args = parser.parse_args()
    sizes = (
        dict(steps=5, draws=10, chains=4, fine=16)
        if args.quick
        else dict(steps=1500, draws=300, chains=32, fine=80)
    )
    results = [
        run(name, seed, **sizes)
        for name in args.targets
        for seed in (args.seeds[:1] if args.quick else args.seeds)
    ]
    print(table(results))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "flow_guides.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
