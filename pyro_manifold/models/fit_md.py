r"""Training of manifold and density apart (M/D), so that neither can cheat the other.

.. math::
    \text{M:}\; \min_g \mathbb E\,|x - g(g^{-1}(x))|^2, \qquad
    \text{D:}\; \min_h -\mathbb E\log p_h(u \mid \theta) + \alpha\,(\text{error of the score}) + \beta\,(\text{error of ratios}),
    \quad u = g^{-1}(x)

The last two terms use the joint score and joint ratios of a simulator, if given; ``md_losses.py`` says how. The volume of g does
not depend on h or :math:`\theta` and is never needed. Reference: Brehmer and Cranmer, NeurIPS 2020, sec. 3.2.
"""

import copy
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..ops.arguments import checked
from .manifold_flow import AmbientFlow, ManifoldFlow
from .md_losses import check_rows, density_loss, log_density, ratio_rows, reconstruction_loss, whitener

__all__ = ["fit_md"]

_SCHEDULES = ("sequential", "alternating", "simultaneous")


@dataclass
class History:
    """Validation losses by phase ("M", "D", "MD"), one for each pass over the data, and the seconds they took in all.

    >>> History().losses
    {}
    """

    losses: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0


class _Phase:
    """A loss of rows and the optimiser of the parameters that it trains."""

    def __init__(
        self, name: str, loss: Callable[..., Tensor], parameters: Sequence[nn.Parameter], lr: float, warmup: float,
        whitening: float = 0.0,
    ) -> None:  # fmt: skip
        self.name, self.loss, self.lr, self.warmup, self.whitening = name, loss, lr, warmup, whitening
        self.parameters = [p for p in parameters if p.requires_grad]
        fused = all(p.device.type in ("cpu", "cuda") for p in self.parameters)  # a third off the step of a small network
        self.optimiser = torch.optim.AdamW(self.parameters, lr=lr, weight_decay=1e-5, fused=fused)

    def step(self, rows: Sequence[Tensor | None], number: int, progress: float) -> None:
        rise = min(1.0, progress / self.warmup) if self.warmup > 0 else 1.0
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr * rise * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        self.optimiser.zero_grad()
        power = {"power": 1 - progress / self.whitening} if progress < self.whitening else {}
        try:
            loss = self.loss(*rows, **power)
        except ValueError as error:  # a law that was asked about NaN
            raise ValueError(f"x: phase {self.name} stops in batch {number}: {error}") from error
        if not bool(loss.isfinite()):
            raise ValueError(
                f"x: the loss of phase {self.name} is {loss.item()} in batch {number}; look there for NaN, infinite or extreme "
                "rows, or lower lr."
            )
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 5.0)
        self.optimiser.step()


def _stages(
    flow: ManifoldFlow | AmbientFlow, x: Tensor, schedule: str, lr: tuple[float, float], warmup: float, whitening: float,
    weights: tuple[float, ...],
) -> list[list[_Phase]]:  # fmt: skip
    """Phases that take turns, pass by pass, stage after stage."""
    score, ratio, score_delta, reconstruction, delta = weights
    loss = density_loss(log_density(flow), score, ratio, score_delta)
    if isinstance(flow, AmbientFlow):
        return [[_Phase("D", loss, list(flow.parameters()), lr[1], warmup)]]
    bend = [p for p in flow.transform.parameters() if p.requires_grad]
    density = _Phase("D", loss, list(flow.latent.parameters()), lr[1], warmup)
    bending = reconstruction_loss(flow, reconstruction, delta, whitener(x) if whitening > 0 else None)
    if not bend:
        return [[density]]
    if schedule == "simultaneous":
        warnings.warn(
            "schedule='simultaneous' is ill-posed: the likelihood of the manifold itself grows without bound as the image turns "
            "away from the data and concentrates; only reconstruction_weight opposes it. Prefer 'sequential' or 'alternating'.",
            UserWarning,
            stacklevel=3,
        )
        nll = density_loss(flow.log_prob, score, ratio, score_delta)
        return [[_Phase("MD", lambda x, *rest: nll(x, *rest) + bending(x), list(flow.parameters()), lr[1], warmup)]]
    manifold = _Phase("M", bending, bend, lr[0], warmup, whitening)
    return [[manifold, density]] if schedule == "alternating" else [[manifold], [density]]


@checked(epochs=0, seconds=0, batch_size=1, lr=0, seed=0)
def fit_md(
    flow: ManifoldFlow | AmbientFlow,
    x: Tensor,
    context: Tensor | None = None,
    *,
    schedule: str = "sequential",
    epochs: int | tuple[int, int] = 25,
    seconds: float | tuple[float, float] = math.inf,
    clock: Callable[[], float] = time.monotonic,
    batch_size: int = 250,
    lr: float | tuple[float, float] = 1e-3,
    warmup: float = 0.0,
    whitening: float = 0.0,
    score: Tensor | None = None,
    score_weight: float = 2.0,
    score_delta: float = math.inf,
    ratio: tuple[Tensor, Tensor] | None = None,
    ratio_weight: float = 10.0,
    reconstruction_weight: float = 100.0,
    delta: float = math.inf,
    validation: float = 0.1,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    disable_progbar: bool = False,
) -> History:
    """Train ``flow`` in place, the manifold by reconstruction and the density by likelihood; the weights that did best on the
    validation rows are restored.

    :param flow: one in all of space, or on a prescribed chart, has the D phase only.
    :param Tensor x: rows, shape ``(rows, d)``; standardised data train best.
    :param Tensor context: a row for each, if the flow is conditional.
    :param str schedule: ``"sequential"``, M and then D on coordinates computed once; ``"alternating"``, a pass of each in
        turn; ``"simultaneous"``, one loss for both, with a warning.
    :param epochs: passes over the data, for both phases or for each.
    :param seconds: budget of time, likewise; what ends first ends the phase. (Alternating phases share the first.)
    :param clock: what tells the time; ``time.process_time`` makes the budget one of CPU seconds.
    :param lr: learning rate of AdamW, likewise, falling to zero along a cosine.
    :param float warmup: share of a phase in which it rises from zero first; with it a larger ``lr`` is stable.
    :param float whitening: share of the M phase in which its error is first that of whitened rows, then less and less so. A
        manifold may need narrow axes along which the rows vary independently of all else; without it the M phase gives them up
        for wide ones that others determine, and does not come back.
    :param Tensor score: joint scores :math:`t`, of the shape of ``context``.
    :param float score_weight: :math:`\\alpha`.
    :param float score_delta: :math:`\\delta_t`, the error of the score from which on it counts linearly, not as its square. Where
        amplitudes vanish joint scores are huge, and their squares hide all else for a long time; in return the score comes out as
        something between mean and median of the joint scores of a u.
    :param tuple ratio: m further contexts for each row, drawn independently of it from the law of ``context``, shape
        ``(rows, m, k)``, and :math:`\\log p(x, z \\mid \\theta_0) - \\log p(x, z \\mid \\theta_j)`, joint log ratios of a
        simulator, ``(rows, m)``; the axis of m may be left out for one.
    :param float ratio_weight: :math:`\\beta`.
    :param float reconstruction_weight: of the error of reconstructions.
    :param float delta: :math:`\\delta`, the distance from which on that error grows linearly: for data with heavy tails, of which
        squares would learn the few largest errors alone.
    :param float validation: share of the rows kept for validation.
    :param checkpoint: a file written after each pass; an interrupted call with the same arguments goes on from it.
    :raises ValueError: for rows that do not fit or are not finite, and where the loss is not finite (naming the batch).

    >>> from pyro_manifold.models import ManifoldFlow
    >>> x = torch.randn(200, 3)
    >>> history = fit_md(ManifoldFlow.from_data(x, 2, hidden=(8,)), x, epochs=1, disable_progbar=True)
    >>> sorted(history.losses)
    ['D', 'M']
    """
    if schedule not in _SCHEDULES:
        raise ValueError(f"schedule: got {schedule!r}; expected one of {', '.join(map(repr, _SCHEDULES))}.")
    if not 0 <= validation < 1:
        raise ValueError(f"validation: got {validation}; expected a share in [0, 1).")
    if not (0 <= warmup <= 1 and 0 <= whitening <= 1 and delta > 0 and score_delta > 0):
        raise ValueError(
            f"warmup, whitening, delta, score_delta: got {warmup}, {whitening}, {delta}, {score_delta}; expected shares in "
            "[0, 1] and positive distances."
        )
    other, log_ratio = ratio_rows(ratio, context)
    check_rows(x, context, score)
    given = (context, score, other, log_ratio)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
    held, kept = order.split([int(validation * len(x)), len(x) - int(validation * len(x))])
    judged = (held if len(held) else kept).split(4 * batch_size)
    weights = (score_weight, ratio_weight, score_delta, reconstruction_weight, delta)
    stages = _stages(flow, x[kept], schedule, _pair(lr), warmup, whitening, weights)
    of_stage = [1 if phases[0].name == "D" else 0 for phases in stages]  # which of a pair of settings is theirs
    plan = [(i, turn) for i, which in enumerate(of_stage) for turn in range(_pair(epochs)[which])]
    run = _Run()
    if checkpoint is not None and Path(checkpoint).exists():
        run = _resume(Path(checkpoint), flow, stages)
    data: Tensor | None = None
    bar = tqdm(plan, initial=run.done, disable=disable_progbar, desc="fit_md")
    for number, (stage, turn) in enumerate(plan[run.done :], start=run.done):
        if stage != run.stage:
            _restore(flow, run)
            run.stage, run.best, run.best_state, run.spent, data = stage, math.inf, None, 0.0, None
        budget, passes = _pair(seconds)[of_stage[stage]], _pair(epochs)[of_stage[stage]]
        if run.spent >= budget:
            continue
        began, criterion = clock(), 0.0
        for phase in stages[stage]:
            if data is None or len(stages[stage]) > 1:  # coordinates are computed once, unless the manifold moves
                data = _encode(flow, x, batch_size) if phase.name == "D" and isinstance(flow, ManifoldFlow) else x
            shuffle = torch.randperm(len(kept), generator=torch.Generator().manual_seed(1_000_003 * seed + number))
            batches = kept[shuffle.to(kept.device)].split(batch_size)
            for b, index in enumerate(batches):
                used = (run.spent + clock() - began) / budget
                if used >= 1:
                    break
                phase.step(_rows(index, data, *given), b, max(used, (turn + b / len(batches)) / passes))
            losses = [len(index) * float(phase.loss(*_rows(index, data, *given)).detach()) for index in judged]
            loss = sum(losses) / sum(map(len, judged))
            run.history.losses.setdefault(phase.name, []).append(loss)
            bar.set_postfix({phase.name: f"{loss:.4g}"}, refresh=False)
            criterion += loss
        bar.update()
        if criterion < run.best:
            run.best, run.best_state = criterion, copy.deepcopy(flow.state_dict())
        run.spent += clock() - began
        run.history.seconds += clock() - began
        run.done = number + 1
        if checkpoint is not None:
            optimisers = [[phase.optimiser.state_dict() for phase in phases] for phases in stages]
            begun = Path(f"{checkpoint}.part")  # in place of the last one when it is whole
            torch.save({"run": run, "flow": flow.state_dict(), "optimisers": optimisers}, begun)
            begun.replace(checkpoint)
    bar.close()
    _restore(flow, run)
    return run.history


@dataclass
class _Run:
    """How far training has come."""

    stage: int = -1
    done: int = 0
    spent: float = 0.0
    best: float = math.inf
    best_state: dict[str, Any] | None = None
    history: History = field(default_factory=History)


def _restore(flow: nn.Module, run: _Run) -> None:
    if run.best_state is not None:
        flow.load_state_dict(run.best_state)


def _resume(path: Path, flow: nn.Module, stages: list[list[_Phase]]) -> _Run:
    saved = torch.load(path, weights_only=False)
    flow.load_state_dict(saved["flow"])
    for phases, states in zip(stages, saved["optimisers"], strict=True):
        for phase, state in zip(phases, states, strict=True):
            phase.optimiser.load_state_dict(state)
    return saved["run"]


def _rows(index: Tensor, *tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t[index] for t in tensors]


def _pair(value: Any) -> tuple[Any, Any]:
    return value if isinstance(value, tuple) else (value, value)


@torch.no_grad()
def _encode(flow: ManifoldFlow, x: Tensor, batch_size: int) -> Tensor:
    return torch.cat([flow.transform.inv(rows) for rows in x.split(16 * batch_size)])
