r"""Flows on the sphere against von Mises-Fisher targets, whose entropy is known: the first experiment of Mathieu and
Nickel, *Riemannian continuous normalizing flows* (NeurIPS 2020).

Targets of concentration 10, 50 and 100 on S^2 are learned by maximum likelihood and by the reverse divergence. The
score is the divergence to the target itself, which is 0 for a perfect model,

.. math::
    \mathrm{KL}(p\,|\,q) = \mathbb E_p[\log p - \log q], \qquad
    \mathrm{KL}(q\,|\,p) = \mathbb E_q[\log q - \log p]

estimated from fresh draws, with standard errors; the first is the mean negative log density less the exact entropy
:math:`\log(4\pi\sinh\kappa/\kappa) - \kappa\coth\kappa + 1`. So that a density that does not integrate to one cannot
win, the mass is computed by quadrature. The mean of the target is at the point that the stereographic projection takes
to infinity, or a right angle away from it.

    python tutorials/experiments/vmf_targets.py --out rows.jsonl     # goes on where it was interrupted
    python tutorials/experiments/vmf_targets.py --quick              # seconds: that it runs
"""

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import geoopt
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_manifold.distributions as mdist
from pyro_manifold.flows import ContinuousFlow, SphereFlow
from pyro_manifold.flows.solvers import IntegrationError
from pyro_manifold.nn import KillingField, TangentField
from pyro_manifold.testing import manifold_rule
from pyro_manifold.training import TrainingWarning, fit_flow_matching, fit_likelihood, fit_reverse_kl
from pyro_manifold.transforms import StereographicChart

SPHERE, PLANE = geoopt.Sphere(), geoopt.Euclidean(ndim=1)
MEANS = {
    "infinity": [-1.0, 0.0, 0.0],
    "side": [0.0, 0.6, 0.8],
}  # of the target, for the projection from (-1, 0, 0)
UNIFORM = mdist.ManifoldUniform(SPHERE, 3)


@dataclass(frozen=True)
class Sizes:
    """Of a run: steps of training by model, draws, nodes of the quadrature."""

    ode_steps: int = 250
    spline_steps: int = 1500
    matching_steps: int = 4000
    batch: int = 256
    draws: int = 5_000
    nodes: int = 96
    hidden: tuple[int, ...] = (64, 64, 64)


QUICK = Sizes(4, 4, 5, 16, 50, 8, (8,))
PASSES = 4  # over the draws of the target that are trained on


@dataclass
class Row:
    """A line of the table."""

    model: str
    loss: str
    kappa: float
    mean: str
    seed: int
    seconds: float  # CPU, of training
    kl: float = math.nan  # NaN where the solver finds no solution
    kl_error: float = math.nan
    reverse_kl: float = math.nan
    reverse_kl_error: float = math.nan
    mass: float = math.nan
    evaluations: int = 0  # of the field for the log densities of the draws; 0 without a field
    milliseconds: float = math.nan  # CPU, of the log density of 1000 points
    fixed_milliseconds: float = math.nan  # the same by the steps of training
    fixed_gap: float = (
        math.nan
    )  # root mean square difference of those log densities from the ones that are judged


# --- models -----------------------------------------------------------------------------------------------------
def on_sphere(kind: type[TangentField], sizes: Sizes) -> tuple[list[Any], Any]:
    """A Riemannian flow of a uniform base."""
    return [ContinuousFlow(kind(SPHERE, 3, sizes.hidden), solver="rk4", steps=6)], UNIFORM


def in_plane(sizes: Sizes) -> tuple[list[Any], Any]:
    """A flow of a normal distribution of the plane, projected to the sphere."""
    flow = ContinuousFlow(TangentField(PLANE, 2, sizes.hidden), solver="rk4", steps=6)
    return [flow, StereographicChart(2)], dist.Normal(torch.zeros(2), 1.0).to_event(1)


MODELS: dict[str, Callable[[Sizes], tuple[list[Any], Any]]] = {
    "spline flow": lambda sizes: (
        [SphereFlow(2, depth=4, bins=12, number=3, hidden=sizes.hidden[:2])],
        UNIFORM,
    ),
    "Riemannian CNF": lambda sizes: on_sphere(TangentField, sizes),
    "flow matching": lambda sizes: on_sphere(TangentField, sizes),
    "stereographic CNF": in_plane,
    "Riemannian CNF, Killing": lambda sizes: on_sphere(KillingField, sizes),
}


def entropy(kappa: float) -> float:
    """Of a von Mises-Fisher distribution on S^2."""
    log_sinh = kappa + math.log1p(-math.exp(-2 * kappa)) - math.log(2)
    return math.log(4 * math.pi / kappa) + log_sinh - kappa / math.tanh(kappa) + 1


def train(name: str, loss: str, layers: list[Any], base: Any, target: Any, sizes: Sizes, seed: int) -> None:
    flow = layers[0] if len(layers) == 1 else torch.distributions.ComposeTransform(layers)
    steps = sizes.matching_steps if name == "flow matching" else sizes.ode_steps
    steps = sizes.spline_steps if name == "spline flow" else steps
    lr = 3e-3 if name == "spline flow" else 1e-2
    common: dict[str, Any] = dict(lr=lr, seed=seed, batch_size=sizes.batch, disable_progbar=True)
    if loss == "reverse KL":
        fit_reverse_kl(flow, base, target.log_prob, steps, **common)
        return
    x = target.sample((steps * sizes.batch // PASSES,))
    common |= dict(epochs=PASSES, validation=0.02)
    if name == "flow matching":
        fit_flow_matching(flow, x, average=0.995, **common)
    else:
        fit_likelihood(flow, x, base=base, **common)


def estimate(values: Tensor) -> tuple[float, float]:
    """Mean and its standard error."""
    values = values.double()
    return float(values.mean()), float(values.std()) / len(values) ** 0.5


def measure(name: str, loss: str, kappa: float, mean: str, seed: int, sizes: Sizes) -> Row:
    torch.manual_seed(seed)
    target = mdist.VonMisesFisher(torch.tensor(MEANS[mean]), kappa)
    layers, base = MODELS[name](sizes)
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        try:
            train(name, loss, layers, base, target, sizes, seed)
        except (ValueError, IntegrationError) as error:
            print(f"{name}, {loss}, {kappa:g}, {mean}: not trained: {error}")
    seconds = time.process_time() - began
    trained = dist.TransformedDistribution(base, list(layers))
    if isinstance(layers[0], ContinuousFlow):  # trained by fixed steps, judged by adaptive ones
        layers[0] = layers[0].with_solver(rtol=1e-5, atol=1e-5, max_steps=100)
    model = dist.TransformedDistribution(base, layers)
    try:
        scores = judge(model, trained, target, sizes)
    except IntegrationError as error:
        print(f"{name}, {loss}, {kappa:g}, {mean}: {error}")
        scores = {}
    return Row(name, loss, kappa, mean, seed, seconds=seconds, **scores)


@torch.no_grad()
def judge(model: Any, trained: Any, target: Any, sizes: Sizes) -> dict[str, Any]:
    """All scores of a model; ``trained`` is the same, solved as in training."""
    x, y = target.sample((sizes.draws,)), model.sample((sizes.draws,))
    forward = estimate(target.log_prob(x) - model.log_prob(x))
    evaluations = getattr(model.transforms[0], "evaluations", 0)
    backward = estimate(model.log_prob(y) - target.log_prob(y))
    rule = manifold_rule(SPHERE, target.loc, 4.0, sizes.nodes, sizes.nodes // 2)
    mass = float(rule.integrate(model.log_prob(rule.points).exp().double()))
    (exact, slow), (fixed, fast) = (timed_log_prob(d, x[:1000]) for d in (model, trained))
    return dict(
        kl=forward[0],
        kl_error=forward[1],
        reverse_kl=backward[0],
        reverse_kl_error=backward[1],
        mass=mass,
        evaluations=evaluations,
        milliseconds=slow,
        fixed_milliseconds=fast,
        fixed_gap=float((exact - fixed).square().mean().sqrt()),
    )


def timed_log_prob(d: Any, x: Tensor) -> tuple[Tensor, float]:
    """And the milliseconds that it takes."""
    began = time.process_time()
    log_prob = d.log_prob(x)
    return log_prob, 1000 * (time.process_time() - began)


# --- the table --------------------------------------------------------------------------------------------------
def plan(args: argparse.Namespace) -> list[tuple[str, str, float, str, int]]:
    """What is run: the projection with the target's mean at both places, the others at infinity."""
    return [
        (name, loss, kappa, mean, seed)
        for seed in range(args.seeds)
        for name in args.models
        for kappa in args.kappas
        for loss in args.losses
        for mean in (MEANS if name == "stereographic CNF" else ["infinity"])
        if not (name == "flow matching" and loss == "reverse KL")
    ]


def table(rows: list[Row]) -> str:
    names = [
        "model",
        "loss",
        "kappa",
        "mean",
        "seed",
        "KL(p, q)",
        "KL(q, p)",
        "mass",
        "CPU s",
        "evaluations",
        "ms",
    ]
    names += ["ms by fixed steps", "off by"]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for r in rows:
        what = f"| {r.model} | {r.loss} | {r.kappa:g} | {r.mean} | {r.seed} |"
        if math.isnan(r.kl):  # the adaptive solver ran out of steps, see judge
            lines.append(f"{what} fails | fails | fails | {r.seconds:.0f} | | | | |")
            continue
        lines.append(
            f"{what} {r.kl:.4f} ± {r.kl_error:.4f} | {r.reverse_kl:.4f} ± {r.reverse_kl_error:.4f} | {r.mass:.4f} | "
            f"{r.seconds:.0f} | {r.evaluations or ''} | {r.milliseconds:.0f} | "
            + (f"{r.fixed_milliseconds:.0f} | {r.fixed_gap:.1g} |" if r.evaluations else " | |")
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--kappas", nargs="+", type=float, default=[10.0, 50.0, 100.0])
    parser.add_argument("--losses", nargs="+", default=["likelihood", "reverse KL"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, help="rows as they are measured; those that are there are not run again"
    )
    parser.add_argument("--quick", action="store_true", help="a few steps of small models")
    args = parser.parse_args()
    sizes = QUICK if args.quick else Sizes()
    done = args.out.read_text().splitlines() if args.out is not None and args.out.exists() else []
    rows = [Row(**json.loads(line)) for line in done]
    known = {(r.model, r.loss, r.kappa, r.mean, r.seed) for r in rows}
    for kappa in args.kappas:
        print(f"entropy at {kappa:g}: {entropy(kappa):.4f} nat")
    for what in plan(args):
        if what in known:
            continue
        row = measure(*what, sizes)
        rows.append(row)
        print(json.dumps(asdict(row)), flush=True)
        if args.out is not None:
            with args.out.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
