r"""Learned manifolds whose truth is known: densities on a circle, a bumpy surface, the Lorenz attractor, and
images.

Six ways to put a density on data x that fill a manifold of dimension n in :math:`\mathbb R^d`:

    AF      a flow of all of the space                               dx = volume of the space
    PIE     the same, with d - n latent coordinates squeezed          dx = volume of the space
    FOM     the manifold is given, its density is learned             dx = volume of the manifold
    M       the manifold is the image of an injective flow            dx = volume of the learned manifold
    M_e     as M, with a network in place of the inverse              dx = volume of the learned manifold
    PAE     networks both ways                                        density of the latent coordinates only

M, M_e and PAE learn the manifold by reconstruction, then its density by likelihood, one after the other
("sequential") or pass by pass ("alternating"). Log densities with different dx cannot be compared with each
other; distances, samples and posteriors can.

    polynomial   the M-flow paper's surface and metrics; posterior of theta on a grid, and by the paper's
    Metropolis chain circle       a Gaussian wrapped around a circle
    lorenz       two dimensions for an attractor of dimension 2.06
    digits       scikit-learn's digits by a flow of several scales
    images       spots whose four factors of variation, and density, are known

Budgets are CPU seconds of one process, as upper bounds: a pass over a few rows is timed cold and as many are
made as would fit at that speed; what a run really took is in its row. Finished runs are kept in ``--out`` and
not repeated. Data sets, flows and metrics are in ``manifold_flows_polynomial.py`` and
``manifold_flows_data.py``.

    python tutorials/experiments/manifold_flows.py --data polynomial --algorithms M --seeds 5 --budget 150
    python tutorials/experiments/manifold_flows.py --smoke
"""

import argparse
import copy
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from manifold_flows_data import Circle, Digits, Images, Lorenz
from manifold_flows_polynomial import PUBLISHED, Polynomial
from torch import Tensor

from pyro_manifold.models import ManifoldFlow
from pyro_manifold.training import TrainingWarning, fit_md, load_checkpoint, save_checkpoint

EXPERIMENTS: dict[str, Callable[..., Any]] = {
    "polynomial": Polynomial,
    "circle": Circle,
    "lorenz": Lorenz,
    "digits": Digits,
    "images": Images,
}


def fit(
    flow: Any,
    x: Tensor,
    context: Tensor | None,
    *,
    budget: float,
    share: float = 0.5,
    schedule: str = "sequential",
    lr: tuple[float, float] = (1e-2, 3e-3),
    batch: int = 250,
    validation: float = 0.25,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """:func:`fit_md` with as many passes as ``budget`` CPU seconds allow, by a pass timed on a few batches of
    a copy.

    :param share: of the budget, for the manifold; the rest is for the density.
    """
    began, few = time.process_time(), min(len(x), 25 * batch)
    common: dict[str, Any] = dict(batch_size=batch, disable_progbar=not progress, seed=seed)

    def seconds(epochs: tuple[int, int]) -> float:
        start = time.process_time()
        part = None if context is None else context[:few]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TrainingWarning)  # a single pass, to time it
            fit_md(
                copy.deepcopy(flow), x[:few], part, epochs=epochs, schedule=schedule, validation=0.0, **common
            )
        return (time.process_time() - start) * len(x) / few

    moves = isinstance(flow, ManifoldFlow) and any(p.requires_grad for p in flow.transform.parameters())
    if not moves or schedule == "alternating":
        each = (1, 1) if moves else (0, 1)
        passes = (max(1, int(budget / seconds(each))),) * 2
    else:
        times = seconds((1, 0)), seconds((0, 1))
        passes = max(1, int(share * budget / times[0])), max(1, int((1 - share) * budget / times[1]))
    history = fit_md(
        flow, x, context, epochs=passes, schedule=schedule, validation=validation, lr=lr, **common
    )
    losses = {phase: min(loss) for phase, loss in history.losses.items()}
    return {"cpu_seconds": time.process_time() - began, "passes": passes, "validation": losses}


def run(
    experiment: Any, data: str, name: str, seed: int, args: argparse.Namespace
) -> tuple[dict[str, Any], Any]:
    """A row and its trained flow; what ``--out`` holds of them is read, not made again."""
    key = {"data": data, "algorithm": name, "seed": seed, "budget": args.budget}
    path = args.out / f"{data}-{name.replace(' ', '-')}-{seed}-{args.budget:g}"
    pyro.set_rng_seed(seed)
    flow, settings = experiment.build(name)
    if path.with_suffix(".json").exists():
        flow.load_state_dict(load_checkpoint(path.with_suffix(".pt"), key))
        return json.loads(path.with_suffix(".json").read_text()), flow.requires_grad_(False)
    row = key | fit(
        flow,
        experiment.x,
        experiment.context,
        budget=args.budget,
        seed=seed,
        progress=args.progress,
        **settings,
    )
    flow.requires_grad_(False)
    pyro.set_rng_seed(1_000 + seed)
    row |= experiment.evaluate(flow)
    save_checkpoint(path.with_suffix(".pt"), flow.state_dict(), key)
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
    parser.add_argument(
        "--algorithms", nargs="+", help="some of AF, PIE, FOM, M, M_e, PAE, ... (default: all of the data's)"
    )
    parser.add_argument("--seeds", type=int, default=1, help="runs of each, 0, 1, ... (default 1)")
    parser.add_argument(
        "--budget", type=float, default=150.0, help="CPU seconds of training a run (default 150)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("manifold_flows"), help="folder for results and pictures"
    )
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
