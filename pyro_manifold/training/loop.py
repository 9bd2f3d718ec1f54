"""The loop on which everything trains: passes over batches, validation, the best weights, a budget,
checkpoints."""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..ops.arguments import checked
from ..ops.checkpoint import digest, structure
from .engine import Engine, FabricEngine
from .held_out import held_out, with_validation
from .phase import Phase
from .run import History, Run, RunFile
from .running import RunningPhase
from .verdict import verdict, warned

__all__ = ["Loop", "fit"]

STEPS, PASSES = 2000, 10  # by default a phase makes that many batches, and at least so many passes


def fit(
    phases: Sequence[Phase | Sequence[Phase]], data: Tensor | Sequence[Tensor | None], **options: Any
) -> History:
    """Train the parameters of phases on rows, in place; the weights with the lowest validation loss are
    restored, those at the start among them.

    :param phases: one after the other; phases that are listed together take turns pass by pass, for the
        passes and seconds of the first of them.
    :param data: a tensor or several, with as many rows each; None for one that is not there.
    :param nn.Module model: what the phases change; its state is saved and restored. It is trained in the mode that
        it is in (``model.train()``, unless it was changed), and validated in evaluation mode, without dropout.
    :param int batch_size: rows of a batch.
    :param validation: share of the rows kept for validation; or rows of their own, one tensor or several
        like ``data``; 0 to validate on the rows for training; None for no validation: the last weights are
        kept, and losses are means over the batches of a pass.
    :param int seed: of the rows for validation, and of the batches and random numbers of each pass. The
        global generator of the caller is left as it was.
    :param clock: what tells the time; ``time.process_time`` makes budgets those of CPU seconds.
    :param checkpoint: a file written before the first pass and after each; an interrupted call with the same
        model, data and settings goes on from it. An interruption leaves ``model`` as it is in the file.
    :param float save_every: least seconds between two writes of it.
    :param settings: numbers and strings that a checkpoint must agree in, besides model, data and phases.
    :param fabric: a launched ``lightning_fabric.Fabric``: its devices, precision and processes are used. Each
        process takes its share of every batch; the first writes the checkpoint.
    :param str description: of the progress bar, which ``disable_progbar`` switches off.
    :return: losses by phase, those before the first pass, and warnings.
    :raises ValueError: for settings out of range, tensors of different numbers of rows, gradients that are
        switched off; where a loss is not finite (naming phase and batch); for a checkpoint that cannot be
        written, is damaged, or is of another run.
    :warns TrainingWarning: where a phase did not improve on its start, or diverges or overfits.

    >>> net, x = nn.Linear(2, 1), torch.randn(50, 2)
    >>> phase = Phase("net", lambda x, y: (net(x) - y).square().mean(), list(net.parameters()), epochs=20)
    >>> history = fit([phase], (x, x.sum(-1, keepdim=True)), model=net, batch_size=10, disable_progbar=True)
    >>> history.losses["net"][-1] < history.start["net"]
    True
    """
    return warned(Loop(phases, data, **options).run(), stacklevel=2)


class Loop:
    """A call of :func:`fit` as the functions ``start`` and ``review`` of a phase see it.

    :ivar data: the tensors; ``train_index`` and ``val_index`` are the rows to train and to validate on.
    :ivar stages: lists of phases that take turns.
    """

    @checked(batch_size=1, seed=0, save_every=0)
    def __init__(
        self,
        phases: Sequence[Phase | Sequence[Phase]],
        data: Tensor | Sequence[Tensor | None],
        *,
        model: nn.Module,
        batch_size: int = 100,
        validation: float | Tensor | Sequence[Tensor | None] | None = 0.1,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
        checkpoint: str | Path | None = None,
        save_every: float = 0.0,
        settings: Mapping[str, Any] | None = None,
        fabric: Any = None,
        description: str = "fit",
        disable_progbar: bool = False,
    ) -> None:
        data = [data] if isinstance(data, Tensor) else list(data)
        data, share, last = with_validation(data, validation)
        if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            raise ValueError(
                f"{description}: gradients are switched off; call it outside of torch.no_grad() and "
                "torch.inference_mode()."
            )
        self.model, self.batch_size, self.validation, self.seed = model, batch_size, share, seed
        self.clock, self.checkpoint, self.save_every = clock, checkpoint, save_every
        self.description, self.disable_progbar = description, disable_progbar
        self.engine = Engine() if fabric is None else FabricEngine(fabric)
        self.data = self.engine.place(model, data)
        sizes = {len(t) for t in self.data if t is not None}
        if len(sizes) != 1 or sizes == {0}:
            raise ValueError(f"data: got tensors of {sorted(sizes)} rows; expected one number of at least 1.")
        self.device = next(t.device for t in self.data if t is not None)
        parts = held_out(sizes.pop(), share, last, seed)
        self.train_index, self.val_index = (part.to(self.device) for part in parts)
        self.batches = math.ceil(len(self.train_index) / batch_size)  # of a pass
        usual = max(PASSES, math.ceil(STEPS / self.batches))
        stages = [[p] if isinstance(p, Phase) else list(p) for p in phases]
        _check_stages(stages)
        self.stages = [[RunningPhase(phase, self) for phase in stage] for stage in stages]
        self.passes = [usual if stage[0].epochs is None else stage[0].epochs for stage in stages]
        self.settings = dict(settings or {})

    def rows(self, index: Tensor) -> Tensor:
        """These rows of the first tensor of the data."""
        assert self.data[0] is not None
        return self.data[0][index]

    def batch(self, data: Sequence[Tensor | None], index: Tensor) -> list[Tensor | None]:
        return [None if t is None else t[index] for t in data]

    def fingerprint(self) -> dict[str, Any]:
        phases = [tuple(r.phase.name for r in stage) for stage in self.stages]
        each = {k: v for stage in self.stages for r in stage for k, v in r.settings.items()}
        own = {"batch_size": self.batch_size, "validation": self.validation, "seed": self.seed}
        contents = {"model": structure(self.model), "data": digest(*self.data)}
        return {**contents, "phases": phases, "epochs": tuple(self.passes), **each, **own, **self.settings}

    def run(self) -> History:
        """Train; see :func:`fit`."""
        plan = [(i, turn) for i, passes in enumerate(self.passes) for turn in range(passes)]
        run, file = Run(), None
        if self.checkpoint is not None:
            stateful = [part for stage in self.stages for r in stage for part in r.stateful]
            file = RunFile(Path(self.checkpoint), self.model, stateful, self.fingerprint())
            if self.engine.same(file.path.exists()):
                run = file.resume()
            else:  # that a folder is missing is known before anything is trained
                self._save(file, run)
        saved = self.clock()
        quiet = self.disable_progbar or self.engine.rank > 0
        with file.restored_on_error() if file else contextlib.nullcontext():
            with tqdm(plan, initial=run.done, disable=quiet, desc=self.description) as bar:
                for number, (stage, turn) in enumerate(plan[run.done :], start=run.done):
                    if stage != run.stage:
                        self._finish(run)
                        self._begin(run, stage)
                    if self.engine.same(run.spent) < self.stages[stage][0].phase.seconds:
                        self._pass(run, number, turn, bar)
                    run.done = number + 1
                    bar.update()
                    if file is not None and self.engine.same(self.clock() - saved >= self.save_every):
                        self._save(file, run)
                        saved = self.clock()
            self._finish(run)
            if file is not None:
                self._save(file, run)
        return run.history

    def _save(self, file: RunFile, run: Run) -> None:
        if self.engine.rank == 0:
            file.save(run)

    def _begin(self, run: Run, stage: int) -> None:
        """The weights before the first pass are the first candidate for the best; starts make others."""
        run.stage, run.spent, began = stage, 0.0, self.clock()
        losses = self._losses(stage)
        run.best, run.best_state = sum(losses), copy.deepcopy(self.model.state_dict())
        for start in [r.phase.start for r in self.stages[stage] if r.phase.start is not None]:
            go_on = start(self)
            if self.engine.processes > 1:
                self.model.load_state_dict(self.engine.same(self.model.state_dict()))
            now = self._losses(stage)
            if sum(now) < run.best:
                losses, run.best, run.best_state = now, sum(now), copy.deepcopy(self.model.state_dict())
            elif not go_on:
                self.model.load_state_dict(run.best_state)
                self._losses(stage)
        if self.validation is None:
            run.best_state = None
        run.history.start.update({r.phase.name: v for r, v in zip(self.stages[stage], losses, strict=True)})
        run.spent = self.clock() - began
        run.history.seconds += run.spent

    def _losses(self, stage: int) -> list[float]:
        """Validation losses of the phases of a stage, their data made anew; infinite for those that are not
        numbers, so that any finite loss is lower."""
        losses = []
        with self._random(-1):
            for running in self.stages[stage]:
                running.prepare()
                try:
                    loss = running.evaluate()
                except ValueError:  # the first batch of training says of what
                    loss = math.inf
                losses.append(loss if math.isfinite(loss) else math.inf)
        return losses

    def _pass(self, run: Run, number: int, turn: int, bar: Any) -> None:
        stage, began, criterion = self.stages[run.stage], self.clock(), 0.0
        budget, passes = stage[0].phase.seconds, self.passes[run.stage]
        for running in stage:
            if len(stage) > 1:
                running.prepare()
            with self._random(number):
                order = torch.randperm(len(self.train_index)).to(self.device)
                if self.engine.rank > 0:  # their rows are others, and so shall their noise be
                    torch.manual_seed(torch.initial_seed() + 7_919 * self.engine.rank)
                mean, made = 0.0, 0
                for b, index in enumerate(self.train_index[order].split(self.batch_size)):
                    used = 0.0
                    if budget < math.inf:
                        used = self.engine.same((run.spent + self.clock() - began) / budget)
                    if used >= 1:
                        break
                    loss = running.step(index, b, max(used, (turn + b / self.batches) / passes))
                    made = b + 1
                    mean += (loss - mean) / made
                with self._averaged(stage):
                    loss = mean if self.validation is None else running.evaluate()
            losses = run.history.losses.setdefault(running.phase.name, [])
            if self.validation is None and not made:  # the budget is spent: there is no loss to tell
                continue
            losses.append(loss)
            bar.set_postfix({running.phase.name: f"{loss:.4g}"}, refresh=False)
            criterion += loss
        if self.validation is not None and criterion < run.best:
            with self._averaged(stage):
                run.best, run.best_state = criterion, copy.deepcopy(self.model.state_dict())
        run.spent += self.clock() - began
        run.history.seconds += self.clock() - began

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """The model in evaluation mode inside of this, each of its parts in its own mode behind."""
        training = [part for part in self.model.modules() if part.training]
        self.model.eval()
        try:
            yield
        finally:
            for part in training:
                part.training = True

    @contextlib.contextmanager
    def _averaged(self, stage: Sequence[RunningPhase]) -> Iterator[None]:
        """The weights that are judged and kept: those of phases that average, averaged."""
        with contextlib.ExitStack() as stack:
            for running in stage:
                if running.average is not None:
                    stack.enter_context(running.average.applied())
            yield

    @contextlib.contextmanager
    def _random(self, number: int) -> Iterator[None]:
        """The random numbers of pass ``number``: those of a resumed run are those of one in one piece."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.seed + 1 + number)
            yield

    @torch.no_grad()
    def _finish(self, run: Run) -> None:
        """Restore the best weights of the stage and say what is wrong with them."""
        if run.stage >= 0 and self.validation is None:  # there is no best: the last weights, or their average
            for running in self.stages[run.stage]:
                if running.average is not None:
                    running.average.apply()
        if run.stage < 0 or run.best_state is None:
            return
        self.model.load_state_dict(run.best_state)
        run.best_state = None
        for running in self.stages[run.stage]:
            phase = running.phase
            start, losses = run.history.start[phase.name], run.history.losses.get(phase.name, [])
            if phase.review is None:
                run.history.warnings += verdict(phase.name, start, losses)
            else:
                with self.evaluating():
                    run.history.warnings += phase.review(self, start, losses)


def _check_stages(stages: Sequence[Sequence[Phase]]) -> None:
    """:raises ValueError: without phases, or for two of one name."""
    names = [phase.name for stage in stages for phase in stage]
    if not stages or not all(stages) or len(set(names)) < len(names):
        raise ValueError(
            f"phases: got {names}; expected at least one, and names that differ, by which their losses are kept."
        )
