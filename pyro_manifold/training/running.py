"""A phase while it is trained: its optimiser, its schedule and the data of its loss."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .average import WeightAverage
from .phase import Phase, warmup_cosine

if TYPE_CHECKING:
    from .loop import Loop

__all__ = ["RunningPhase"]


class RunningPhase:
    """A phase with its optimiser and the data of its loss."""

    def __init__(self, phase: Phase, loop: "Loop") -> None:
        self.phase, self.loop = phase, loop
        optimizer = phase.make_optimizer()
        self.scheduler = None if phase.schedule is None else phase.schedule(optimizer)
        decay = phase.average
        self.average = None if decay is None else WeightAverage(list(phase.parameters), decay)
        self.stateful = [part for part in (optimizer, self.scheduler, self.average) if part is not None]
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.loss, self.optimizer = loop.engine.setup(phase, optimizer)
        self.data: Sequence[Tensor | None] = loop.data

    @torch.no_grad()
    def prepare(self) -> None:
        if self.phase.prepare is not None:
            self.data = self.phase.prepare(*self.loop.data)

    def step(self, index: Tensor, number: int, progress: float) -> float:
        """One batch, the ``number``-th of its pass, when the share ``progress`` of the phase is over."""
        phase, engine = self.phase, self.loop.engine
        if self.scheduler is None:
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * warmup_cosine(progress, phase.warmup)
        self.optimizer.zero_grad()
        own, weight = engine.share(index)
        options = {} if phase.anneal is None else phase.anneal(progress)
        try:
            loss = self.loss(*self.loop.batch(self.data, own), **options) * weight
        except ValueError as error:  # a distribution that was asked about NaN
            raise ValueError(f"data: phase {phase.name} stops in batch {number}: {error}") from error
        value = float(engine.total(loss.detach())) / engine.processes
        if not math.isfinite(value):
            raise ValueError(
                f"data: the loss of phase {phase.name} is {value} in batch {number}; look there for NaN, "
                "infinite or extreme rows, or lower lr."
            )
        engine.backward(loss)
        nn.utils.clip_grad_norm_(phase.parameters, phase.clip)
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        if self.average is not None:
            self.average.update()
        return value

    @torch.no_grad()
    def evaluate(self) -> float:
        """The mean loss of the rows for validation."""
        total, rows = 0.0, len(self.loop.val_index)
        for index in self.loop.val_index.split(4 * self.loop.batch_size):
            own, weight = self.loop.engine.share(index)
            loss = self.loss(*self.loop.batch(self.data, own)) * weight
            total += len(index) / rows * float(self.loop.engine.total(loss)) / self.loop.engine.processes
        return total
