"""The phases of M/D training: a loss of rows, the parameters that it trains, and their optimiser."""

import math
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..models.manifold_flow import AmbientFlow, ManifoldFlow
from .md_losses import density_loss, log_density, reconstruction_loss, whitener

__all__ = ["SCHEDULES", "Phase", "spread", "stages"]

SCHEDULES = ("sequential", "alternating", "simultaneous")


class Phase:
    """A loss of rows and AdamW of the parameters that it trains, its rate rising linearly, then falling along
    a cosine."""

    def __init__(
        self,
        name: str,
        loss: Callable[..., Tensor],
        parameters: Sequence[nn.Parameter],
        lr: float,
        warmup: float,
        whitening: float = 0.0,
    ) -> None:
        self.name, self.loss, self.lr, self.warmup, self.whitening = name, loss, lr, warmup, whitening
        self.parameters = list(parameters)
        fused = all(
            p.device.type in ("cpu", "cuda") for p in self.parameters
        )  # a third off the step of a small network
        self.optimiser = torch.optim.AdamW(self.parameters, lr=lr, weight_decay=1e-5, fused=fused)

    def step(self, rows: Sequence[Tensor | None], number: int, progress: float) -> None:
        """One batch, the ``number``-th of its pass, when the share ``progress`` of the phase is over."""
        rise = min(1.0, progress / self.warmup) if self.warmup > 0 else 1.0
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr * rise * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        self.optimiser.zero_grad()
        power = {"power": 1 - progress / self.whitening} if progress < self.whitening else {}
        try:
            loss = self.loss(*rows, **power)
        except ValueError as error:  # a distribution that was asked about NaN
            raise ValueError(f"x: phase {self.name} stops in batch {number}: {error}") from error
        if not bool(loss.isfinite()):
            raise ValueError(
                f"x: the loss of phase {self.name} is {loss.item()} in batch {number}; look there for NaN, "
                "infinite or extreme rows, or lower lr."
            )
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 5.0)
        self.optimiser.step()

    @torch.no_grad()
    def evaluate(self, batches: Sequence[Sequence[Tensor | None]]) -> float:
        """The mean loss of rows."""
        total, rows = 0.0, 0
        for batch in batches:
            assert batch[0] is not None
            total += len(batch[0]) * float(self.loss(*batch))
            rows += len(batch[0])
        return total / rows


def stages(
    flow: ManifoldFlow | AmbientFlow,
    x: Tensor,
    schedule: str,
    lr: tuple[float, float],
    warmup: float,
    whitening: float,
    weights: tuple[float, ...],
) -> list[list[Phase]]:
    """Phases that take turns, pass by pass, stage after stage; those without a trainable parameter are left
    out.

    :param Tensor x: rows to learn from, whose spread is the unit of reconstruction errors.
    """
    score, ratio, score_delta, reconstruction, delta = weights
    loss = density_loss(log_density(flow), score, ratio, score_delta)
    if isinstance(flow, AmbientFlow):
        return [[Phase("D", loss, _trainable(flow), lr[1], warmup)]]
    bend, dense = _trainable(flow.transform), _trainable(flow.latent)
    bending = reconstruction_loss(
        flow, reconstruction, delta, whitener(x) if whitening > 0 else None, spread(x)
    )
    if schedule == "simultaneous" and bend:
        warnings.warn(
            "schedule='simultaneous' is ill-posed: the likelihood of the manifold itself grows without "
            "bound as the image turns away from the data and concentrates; only reconstruction_weight "
            "opposes it. Prefer 'sequential' or 'alternating'.",
            UserWarning,
            stacklevel=4,
        )
        nll = density_loss(flow.log_prob, score, ratio, score_delta)
        return [[Phase("MD", lambda x, *rest: nll(x, *rest) + bending(x), bend + dense, lr[1], warmup)]]
    manifold = [Phase("M", bending, bend, lr[0], warmup, whitening)] if bend else []
    density = [Phase("D", loss, dense, lr[1], warmup)] if dense else []
    both = [manifold + density] if schedule == "alternating" else [manifold, density]
    return [phases for phases in both if phases]


def spread(x: Tensor) -> float:
    """Root mean variance of the coordinates of the rows ``x``."""
    centred = (x - x.mean(0)).double()
    widest = centred.abs().amax()
    return float(widest * (centred / widest).square().mean().sqrt())  # nothing is squared before it is scaled


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]
