"""A phase while it is trained: its optimiser, its schedule and the data of its loss."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .average import WeightAverage
from .phase import Phase, warmup_cosine

if TYPE_CHECKING:
    from .loop import Loop

__all__ = ["RunningPhase"]


class RunningPhase:
    """A phase with its optimiser and the data of its loss."""

    def __init__(self, phase: Phase, loop: "Loop") -> None:
        self.phase, self.loop = phase, loop
        self._check_parameters()
        optimizer = phase.make_optimizer()
        self.scheduler = None if phase.schedule is None else phase.schedule(optimizer)
        decay = phase.average
        self.average = None if decay is None else WeightAverage(list(phase.parameters), decay)
        self.stateful = [part for part in (optimizer, self.scheduler, self.average) if part is not None]
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.loss, self.optimizer = loop.engine.setup(phase, optimizer)
        self.settings = self._settings(optimizer)
        self.data: Sequence[Tensor | None] = loop.data

    def _check_parameters(self) -> None:
        """:raises ValueError: unless they are the model's, and one at least asks for a gradient."""
        parameters, own = self.phase.parameters, {id(p) for p in self.loop.model.parameters()}
        trained = sum(p.requires_grad for p in parameters)
        foreign = sum(id(p) not in own for p in parameters)
        if not trained or foreign:
            raise ValueError(
                f"parameters: phase {self.phase.name} has {len(parameters)}, of which {trained} ask for a gradient and "
                f"{foreign} are not the model's; expected parameters of model, which saves and restores them, and one "
                "at least that asks for a gradient. Make one module of all that is trained, such as nn.ModuleList."
            )

    def _settings(self, optimizer: Optimizer) -> dict[str, Any]:
        """What a checkpoint must agree in."""
        phase, left_out = self.phase, ("params", "fused", "foreach")
        groups = [{k: v for k, v in g.items() if k not in left_out} for g in optimizer.param_groups]
        values = {name: getattr(phase, name) for name in ("seconds", "clip", "lr", "warmup", "average")}
        values["optimizer"] = f"{type(optimizer).__name__} {groups}"
        values["schedule"] = None if self.scheduler is None else type(self.scheduler).__name__
        return {f"{name} of {phase.name}": value for name, value in values.items()}

    @torch.no_grad()
    def prepare(self) -> None:
        if self.phase.prepare is not None:
            with self.loop.evaluating():
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
            loss = self._number(self.loss(*self.loop.batch(self.data, own), **options)) * weight
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

    def _number(self, loss: Any) -> Tensor:
        """``loss``, which must be one number that depends on the parameters."""
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            seen = type(loss).__name__
            if isinstance(loss, Tensor):
                seen = f"a tensor of shape {tuple(loss.shape)}{'' if loss.requires_grad else ' without a gradient'}"
            raise ValueError(
                f"the loss is {seen}; expected one number, the mean over the rows of a batch, with a gradient in the "
                "parameters of the phase."
            )
        return loss.reshape(())

    @torch.no_grad()
    def evaluate(self) -> float:
        """The mean loss of the rows for validation, by the model in evaluation mode."""
        with self.loop.evaluating():
            return self._mean_loss()

    def _mean_loss(self) -> float:
        total, rows = 0.0, len(self.loop.val_index)
        for index in self.loop.val_index.split(4 * self.loop.batch_size):
            own, weight = self.loop.engine.share(index)
            loss = self.loss(*self.loop.batch(self.data, own)) * weight
            total += len(index) / rows * float(self.loop.engine.total(loss)) / self.loop.engine.processes
        return total
