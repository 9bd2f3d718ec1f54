"""Two auto-encoders for handwritten digits, one with its 2-D latent space flat, one hyperbolic: which fits
new digits better?

    python -m pyro_manifold.demo          (also installed as: pyro-manifold-demo)

Trains the usual VAE (N-VAE) and the Poincaré VAE (P-VAE) on several random splits of scikit-learn's 1797
digits, the same splits, minibatches and number of weights for both, prints their test log-likelihoods and the
paired difference, and writes pictures of the latent spaces, of samples and of an interpolation along a
geodesic. Interrupted, it resumes.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import geoopt
import pyro
import torch
from torch import Tensor

from ..datasets import digits, train_test_split
from ..models import PoincareVAE
from ..training import CheckpointError, Phase, digest, fit, load_checkpoint, save_checkpoint

__all__ = ["main", "parse_arguments"]

MODELS = ("N-VAE", "P-VAE")
BATCH, LEARNING_RATE, HIDDEN = 128, 5e-3, 200
CHECKPOINT, SECONDS_BETWEEN_CHECKPOINTS = "checkpoint.pt", 2.0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _count(least: int) -> Any:
    def parse(text: str) -> int:
        if not text.lstrip("+").isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of at least {least}")
        return int(text)

    return parse


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1e-3 <= value <= 1e3:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number from 0.001 to 1000")
    return value


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the demo, from ``argv`` or, if it is ``None``, from the command line."""
    parser = _Parser(prog="pyro-manifold-demo", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--seed", type=_count(0), default=0, help="seed of splits, weights and noise (default 0)"
    )
    parser.add_argument(
        "--epochs", type=_count(1), default=60, help="passes over the training digits (default 60)"
    )
    parser.add_argument(
        "--curvature", type=_positive, default=1.0, help="c > 0 of the Poincaré ball (default 1)"
    )
    parser.add_argument("--splits", type=_count(2), default=5, help="random splits, at least 2 (default 5)")
    parser.add_argument("--samples", type=_count(1), default=300, help="K of the IWAE bound (default 300)")
    parser.add_argument(
        "--out", type=Path, default=Path("demo_output"), help="folder to write to (default demo_output)"
    )
    parser.add_argument("--quiet", "--no-progress", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        if not os.access(args.out, os.W_OK):
            raise PermissionError("not writable")
    except OSError as error:
        parser.error(f"argument --out: cannot write to {str(args.out)!r} ({error.strerror or error})")
    return args


def build(name: str, curvature: float, x: Tensor) -> PoincareVAE:
    """An N-VAE or P-VAE with the same number of weights, its decoder starting from the mean image of
    ``x``."""
    if name == "N-VAE":
        vae = PoincareVAE(geoopt.Euclidean(1), 2, x.shape[1], hidden=HIDDEN, decoder="linear")
    else:
        vae = PoincareVAE(geoopt.PoincareBall(curvature), 2, x.shape[1], hidden=HIDDEN, decoder="gyroplane")
    vae.decoder.net[-1].bias.data = torch.logit(x.mean(0).clamp(0.01, 0.99))
    return vae


class Run:
    """The whole comparison, in pieces small enough to be saved and resumed: nothing depends on where it was
    interrupted. Finished models are in one checkpoint, the model in training in another."""

    def __init__(self, args: argparse.Namespace, clock: Callable[[], float] = time.monotonic) -> None:
        self.args, self.path, self.clock = args, args.out / CHECKPOINT, clock
        self.pixels, self.labels = digits()
        self.settings = {k: getattr(args, k) for k in ("seed", "epochs", "curvature", "splits", "samples")}
        self.scores: dict[str, list[float]] = {name: [] for name in MODELS}
        self.kept: dict[str, dict[str, Any]] = {}  # trained weights of the first split, for the pictures

    def load(self) -> None:
        if not self.path.exists():
            return
        try:
            self._take(load_checkpoint(self.path, self.fingerprint()))
        except CheckpointError as error:
            print(f"{error}\nStarting afresh.")
            return
        print(f"Resuming from {self.path}.")

    def fingerprint(self) -> dict[str, Any]:
        return {**self.settings, "digits": digest(self.pixels, self.labels)}

    def _take(self, state: Any) -> None:
        """The state of a checkpoint, once it is seen to be one that this run can go on from."""
        try:
            scores = {name: [float(s) for s in state["scores"][name]] for name in MODELS}
            kept = dict(state["kept"])
            for name, weights in kept.items():
                build(name, self.args.curvature, self.pixels).load_state_dict(weights)
            for name in MODELS:
                assert len(scores[name]) <= self.args.splits and (name in kept or not scores[name])
        except Exception as error:
            raise CheckpointError(
                f"checkpoint: {str(self.path)!r} does not hold what this run would have saved "
                f"({type(error).__name__}: {error})."
            ) from error
        self.scores, self.kept = scores, kept

    def save(self) -> None:
        save_checkpoint(self.path, {"scores": self.scores, "kept": self.kept}, self.fingerprint())

    def data(self, split: int) -> list[tuple[Tensor, Tensor]]:
        return train_test_split(self.pixels, self.labels, train=0.7, seed=1000 * self.args.seed + split)

    def file(self, split: int, name: str) -> Path:
        """The checkpoint of a model in training."""
        return self.path.with_name(f"{self.path.stem}-{name}-{split + 1}{self.path.suffix}")

    def train(self, split: int, name: str, x: Tensor) -> PoincareVAE:
        """A trained model. All models of a split see the same minibatches."""
        base, file = (1000 * self.args.seed + split) * 10_000, self.file(split, name)
        elbo = pyro.infer.Trace_ELBO()
        for attempt in range(2):
            pyro.set_rng_seed(base)
            pyro.clear_param_store()
            vae = build(name, self.args.curvature, x)
            phase = Phase(
                "-ELBO",
                lambda rows: elbo.differentiable_loss(vae.model, vae.guide, rows, size=len(x)),  # noqa: B023
                list(vae.parameters()),
                optimizer=partial(torch.optim.Adam, lr=LEARNING_RATE),
                schedule=partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0),
                clip=math.inf,
                epochs=self.args.epochs,
            )
            try:
                fit(
                    [phase], x, model=vae, batch_size=BATCH, validation=None, seed=base, clock=self.clock,
                    checkpoint=file, save_every=SECONDS_BETWEEN_CHECKPOINTS, settings=self.fingerprint(),
                    description=f"{name}, split {split + 1}", disable_progbar=self.args.quiet,
                )  # fmt: skip
                break
            except CheckpointError as error:
                if attempt or not file.exists():
                    raise
                print(f"{error}\nStarting this model afresh.")
                file.unlink()
        return vae

    def finish(self) -> None:
        """Trains and scores whatever is missing; on return every model has one score per split."""
        for split in range(self.args.splits):
            (train, test), _ = self.data(split)
            for name in MODELS:
                if len(self.scores[name]) > split:
                    continue
                vae = self.train(split, name, train)
                pyro.set_rng_seed(self.args.seed)
                self.scores[name].append(float(vae.iwae(test, self.args.samples).mean()))
                if split == 0:
                    self.kept[name] = vae.state_dict()
                self.save()
                self.file(split, name).unlink(missing_ok=True)

    def table(self) -> str:
        flat, hyperbolic = (self.scores[name] for name in MODELS)
        gain = [p - n for n, p in zip(flat, hyperbolic, strict=True)]
        means = [statistics.fmean(scores) for scores in (flat, hyperbolic, gain)]
        rows = [
            *zip(map(str, range(1, len(gain) + 1)), flat, hyperbolic, gain, strict=True),
            ("mean", *means),
        ]
        lines = ["| split |   N-VAE |   P-VAE | P - N |", "|-------|---------|---------|-------|"]
        lines += [f"| {a:>5} | {n:7.2f} | {p:7.2f} | {g:+5.2f} |" for a, n, p, g in rows]
        error = statistics.stdev(gain) / math.sqrt(len(gain))
        test = len(self.data(0)[0][1])
        return (
            f"Test log-likelihood of {test} digits, nats per image (IWAE, K = {self.args.samples}; higher is "
            f"better)\n"
            + "\n".join(lines)
            + f"\nP-VAE (c = {self.args.curvature:g}) minus N-VAE: {means[-1]:+.2f} +- {error:.2f} nats "
            f"(standard error over {len(gain)} paired splits)"
        )

    def models(self) -> dict[str, PoincareVAE]:
        out = {}
        for name in MODELS:
            out[name] = build(name, self.args.curvature, self.data(0)[0][0])
            out[name].load_state_dict(self.kept[name])
        return out


SHOWS = {  # by file
    "latent": "codes of the test digits, in the plane and in the Poincaré disk",
    "samples": "digits drawn from the two models",
    "interpolation": "digits along the geodesic between two codes",
}
READ_ON = """
What was compared: two VAEs that differ in their latent space alone, the Euclidean (N) or the hyperbolic plane (P).
Read on: docs/tutorials/quickstart.md, a first model; docs/tutorials/vae_on_a_sphere.md, a VAE of your own;
docs/experiments/mnist.md, the same comparison on MNIST."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (2 for bad arguments, 130 when interrupted)."""
    args = parse_arguments(argv)
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # hyperbolic coordinates need the digits
    start = time.monotonic()
    try:
        from . import pictures  # needs matplotlib: say so before the training, not after

        run = Run(args)
        run.load()
        with pyro.validation_enabled(False):  # a sixth of the time, and the tests run it validated
            run.finish()
        print(run.table())
        (args.out / "results.json").write_text(
            json.dumps({**run.settings, "scores": run.scores}, indent=1) + "\n"
        )
        (_, x), (_, label) = run.data(0)
        for path in pictures.draw(run.models(), x, label, args.out, args.curvature, args.seed):
            print(f"wrote {path}: {SHOWS[path.stem]}")
        print(READ_ON)
        run.path.unlink()
        print(f"{time.monotonic() - start:.0f} s")
    except (ImportError, CheckpointError) as error:
        print(f"pyro-manifold-demo: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ninterrupted; the same command resumes from {args.out / CHECKPOINT}", file=sys.stderr)
        return 130
    finally:
        torch.set_default_dtype(dtype)
    return 0
