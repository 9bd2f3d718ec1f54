"""LHC parameter inference with a learned 14-dimensional manifold, against the exact posterior.

The story: events; manifold and theta-free density; densities given theta (the morphing head by joint score,
by joint ratios or by both, and a conditional spline flow with SCANDAL), each for one or more seeds of
training. Then, in ``lhc_compare.py``, posteriors of 24 sets of 20 events and calibration, in ``lhc_nuts.py``
the same density inside Pyro, and with --sbi, in ``lhc_sbi.py``, sbi's NPE, NRE and NLE. What is trained is
kept in --out and not trained again.
"""

import argparse
import copy
import math
import os
import time
from pathlib import Path
from typing import Any

import lhc_compare as compare
import lhc_nuts
import torch
from lhc_compare import report
from torch import Tensor

from pyro_manifold.contrib.lhc import LHC, MorphingHead, closure
from pyro_manifold.flows import LatentFlow, coupling_chain
from pyro_manifold.models import ManifoldFlow
from pyro_manifold.training import digest, fit_md, load_checkpoint, save_checkpoint

DENSITIES = ("head, joint score", "head, joint ratio", "spline, SCANDAL", "head, both")


def simulate(args: Any) -> dict[str, Tensor]:
    """Training events, one for each theta of the prior, with the joint score and joint ratios to
    ``args.ratios`` other theta."""
    path = args.out / "events.pt"
    made_of = {name: getattr(args, name) for name in ("theta", "seed", "events", "ratios")}
    if path.exists():
        return load_checkpoint(path, made_of)
    lhc = LHC(args.theta, seed=args.seed)
    theta = lhc.prior(args.events)
    events = lhc.simulate(theta, progress=args.progress)
    other = lhc.prior(args.events * args.ratios).reshape(args.events, args.ratios, args.theta)
    ratios = [lhc.joint_ratio(events, theta, t).log() for t in other.unbind(1)]
    out = {
        "theta": theta,
        "y": events.y,
        "swapped": events.swapped,
        "x": lhc.observables(events.y),
        "other": other,
        "score": lhc.joint_score(events, theta),
        "log_ratio": torch.stack(ratios, 1),
    }
    save_checkpoint(path, out, made_of)
    return out


def save(path: Path, flow: ManifoldFlow, history: Any, start: float, made_of: dict[str, Any]) -> None:
    """A trained flow, its losses and the CPU seconds since ``start``."""
    state = {"flow": flow.state_dict(), "losses": history.losses, "cpu_seconds": time.process_time() - start}
    save_checkpoint(path, state, made_of)


def manifold(args: Any, data: dict[str, Tensor]) -> ManifoldFlow:
    """The M-flow: g by reconstruction (or that of another run: theta move events about on the surface, not
    the surface); then, in coordinates of unit covariance, a density that knows nothing of theta."""
    x = data["x"].float()
    torch.manual_seed(args.seed)
    flow = ManifoldFlow.from_data(
        x, 14, depth=args.couplings, hidden=(args.width,) * 2, mix=False, latent_depth=4
    )
    common: dict[str, Any] = dict(
        batch_size=256, warmup=0.03, validation=0.05, seed=args.seed, disable_progbar=not args.progress
    )
    path, start = args.surface or args.out / "surface.pt", time.process_time()
    if not path.exists():
        history = fit_md(
            flow, x, epochs=(args.manifold_epochs, 0), lr=args.rate, huber_delta=0.03,
            whitening_fraction=args.whitening, reconstruction_weight=6700.0,
            checkpoint=args.out / "surface.checkpoint", **common,
        )  # fmt: skip
        save(path, flow, history, start, {})
    surface = load_checkpoint(path)  # perhaps of another run, on purpose
    flow.load_state_dict(surface["flow"])
    flow.transform.requires_grad_(False)
    flow = flow.whitened(x)
    path, start = args.out / "manifold.pt", time.process_time()
    made_of = {
        "surface": digest(surface["flow"]),
        "rows": digest(x),
        "seed": args.seed,
        "passes": args.latent_epochs,
    }
    if not path.exists():
        history = fit_md(
            flow, x, epochs=args.latent_epochs, lr=1e-3, checkpoint=args.out / "manifold.checkpoint", **common
        )
        save(path, flow, history, start, made_of)
    saved = load_checkpoint(path, made_of)
    flow.load_state_dict(saved["flow"])
    flow.requires_grad_(False).double()
    lhc = LHC(args.theta, seed=args.seed + 1000)
    fresh = lhc.observables(lhc.simulate(lhc.prior(min(10_000, args.events))).y)
    report(
        args,
        "manifold",
        reconstruction_error=float(flow.ood_score(fresh).mean()),
        passes=len(surface["losses"]["M"]),
        closure_of_reconstructions=float(closure(flow.denoise(fresh)).mean()),
        closure_of_events=float(closure(fresh).mean()),
        closure_of_draws=float(closure(flow.condition().sample((2000,))).mean()),
        log_density=float(flow.log_prob(fresh[:2000]).mean()),
        validation=saved["losses"]["D"],
        cpu_seconds=(surface["cpu_seconds"], saved["cpu_seconds"]),
    )
    return flow.float()


def density(args: Any, data: dict[str, Tensor], flow: ManifoldFlow, name: str, seed: int) -> ManifoldFlow:
    """A density of the coordinates given theta, on the manifold that is there."""
    x, theta, score, log_ratio, other = (
        data[k].float() for k in ("x", "theta", "score", "log_ratio", "other")
    )
    torch.manual_seed(seed + 1)
    if name.startswith("head"):
        latent: Any = MorphingHead(flow.latent, LHC(args.theta).S, theta, hidden=(args.head_width,) * 3)
        epochs, lr, warmup, delta = args.head_epochs, 4e-3 if name == "head, joint ratio" else 3e-3, 0.1, 1.0
    else:
        latent = LatentFlow(14, coupling_chain(14, 5, args.theta, hidden=(64, 64)), args.theta)
        epochs, lr, warmup, delta = args.spline_epochs, 1e-3, 0.0, math.inf
    part = ManifoldFlow(flow.transform, latent)
    given: dict[str, Any] = {} if "ratio" in name else {"score": score, "score_delta": delta}
    if "ratio" in name or "both" in name:
        given["ratio"] = (other, log_ratio)
    path = args.out / f"{name.replace(', ', '_').replace(' ', '_')}_{seed}.pt"
    made_of = {
        "manifold": digest(flow.transform.state_dict()),
        "rows": digest(x, theta),
        "seed": seed,
        "passes": epochs,
    }
    if not path.exists():
        start = time.process_time()
        history = fit_md(
            part, x, theta, epochs=epochs, batch_size=500, lr=lr, warmup=warmup, validation=0.05, seed=seed,
            checkpoint=path.with_suffix(".checkpoint"), disable_progbar=not args.progress, **given,
        )  # fmt: skip
        save(path, part, history, start, made_of)
    saved = load_checkpoint(path, made_of)
    part.load_state_dict(saved["flow"])
    report(
        args,
        "training",
        name=name,
        seed=seed,
        cpu_seconds=saved["cpu_seconds"],
        validation=saved["losses"]["D"],
    )
    return part.requires_grad_(False)


def densities(args: Any, data: dict[str, Tensor], flow: ManifoldFlow) -> dict[str, ManifoldFlow]:
    """By name; those of further seeds with the seed behind it."""
    out = {}
    for name in args.densities:
        for seed in range(args.seed, args.seed + (args.seeds if name.startswith("head") else 1)):
            part = copy.deepcopy(density(args, data, flow, name, seed)).double()
            out[name if seed == args.seed else f"{name}, seed {seed}"] = part
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("lhc"), help="folder for everything that is made (default lhc)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--theta", type=int, choices=(2, 3), default=2, help="2: f_W, f_Wt; 3: f_WW too (default 2)"
    )
    parser.add_argument("--events", type=int, default=140_000, help="training events (default 140000)")
    parser.add_argument(
        "--ratios", type=int, default=16, help="other theta for each event's joint ratios (default 16)"
    )
    parser.add_argument("--surface", type=Path, help="surface.pt of another run, whose g is taken as it is")
    parser.add_argument("--couplings", type=int, default=4, help="layers of g (default 4)")
    parser.add_argument("--width", type=int, default=192, help="hidden units of each (default 192)")
    parser.add_argument(
        "--rate", type=float, default=1e-2, help="learning rate of the M phase (default 0.01)"
    )
    parser.add_argument("--manifold-epochs", type=int, default=14, help="passes of the M phase (default 14)")
    parser.add_argument(
        "--whitening", type=float, default=0.4, help="share of the M phase that whitens errors (default 0.4)"
    )
    parser.add_argument(
        "--latent-epochs", type=int, default=4, help="passes of the theta-free density (default 4)"
    )
    parser.add_argument(
        "--densities", nargs="+", choices=DENSITIES, default=DENSITIES[:3], help="default: all but both"
    )
    parser.add_argument("--seeds", type=int, default=1, help="of a head's training (default 1)")
    parser.add_argument("--head-width", type=int, default=256, help="hidden units of the head (default 256)")
    parser.add_argument("--head-epochs", type=int, default=30, help="passes of the head (default 30)")
    parser.add_argument(
        "--spline-epochs", type=int, default=5, help="passes of the conditional splines (default 5)"
    )
    parser.add_argument(
        "--sets", type=int, default=8, help="sets of events at each of the 3 true points (default 8)"
    )
    parser.add_argument(
        "--head-sets", type=int, default=0, help="as many of them for the heads alone (default 0)"
    )
    parser.add_argument(
        "--grid", type=int, default=61, help="points of the grid of 2 theta along each axis (default 61)"
    )
    parser.add_argument(
        "--draws", type=int, default=1000, help="draws of a chain, after half as many (default 1000)"
    )
    parser.add_argument(
        "--prior-draws", type=int, default=200_000, help="for importance sampling (default 200000)"
    )
    parser.add_argument("--simulations", type=int, default=300, help="of the calibration (default 300)")
    parser.add_argument(
        "--sbi", action="store_true", help="also sbi's NPE, NRE, NLE on as many events (pip install sbi)"
    )
    parser.add_argument(
        "--sbi-epochs", type=int, nargs=3, default=[40, 6, 6], help="caps for NPE, NRE, NLE (default 40 6 6)"
    )
    parser.add_argument("--smoke", action="store_true", help="few events, one pass of everything")
    parser.add_argument("--no-progress", dest="progress", action="store_false")
    args = parser.parse_args()
    if args.smoke:
        args.events, args.width, args.head_width, args.sets, args.draws, args.prior_draws = (
            1000,
            16,
            16,
            1,
            8,
            2000,
        )
        args.manifold_epochs, args.latent_epochs, args.head_epochs, args.spline_epochs, args.simulations = (
            1,
            1,
            1,
            1,
            6,
        )
        args.sbi_epochs, args.grid = [1, 1, 1], 21
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.jsonl").write_text("")
    data = simulate(args)
    flows = densities(args, data, manifold(args, data))
    lhc = LHC(args.theta, seed=args.seed + 2000)
    truths, y = compare.observed_sets(args, lhc, args.sets)
    exact = [compare.posterior(args, lhc.likelihood(events)) for events in y]
    posteriors = {"exact": exact}
    compare.score_sets(args, "exact", truths, exact, exact)
    for name, part in flows.items():
        start = time.process_time()
        posteriors[name] = [
            compare.posterior(args, compare.log_likelihood(part, lhc.observables(events))) for events in y
        ]
        seconds = time.process_time() - start
        compare.score_sets(args, name, truths, exact, posteriors[name], cpu_seconds=seconds)
        if isinstance(part.latent, MorphingHead):
            compare.score_head(args, name, part, lhc)
    heads = {name: part for name, part in flows.items() if isinstance(part.latent, MorphingHead)}
    if args.head_sets:
        compare.score_heads(args, LHC(args.theta, seed=args.seed + 5000), heads)
    best = "head, joint ratio" if "head, joint ratio" in flows else next(iter(flows))
    if args.theta == 2:
        drawn = lhc_nuts.sample_sets(args, lhc, flows[best], y, exact, posteriors[best])
        compare.corner(args, truths, posteriors, drawn, best)
    else:
        lhc_nuts.sample_one(args, lhc, flows[best], y[0], posteriors[best][0])
    firsts = {name: part for name, part in heads.items() if "seed" not in name}
    compare.calibrate(args, LHC(args.theta, seed=args.seed + 3000), firsts)
    if args.sbi:
        import lhc_sbi

        args.out = args.out.resolve()
        os.chdir(args.out)  # sbi writes its logs to where it runs
        for name, ps, told in lhc_sbi.posteriors(args, data, [lhc.observables(events) for events in y]):
            compare.score_sets(args, name, truths, exact, ps)
            report(args, "sbi", name=name, **told)


if __name__ == "__main__":
    main()
