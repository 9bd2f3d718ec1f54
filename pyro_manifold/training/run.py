"""How far training has come, in memory and in a checkpoint."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..ops.checkpoint import CheckpointError, digest, load_checkpoint, save_checkpoint

__all__ = ["History", "Run", "RunFile"]


@dataclass
class History:
    """What training did.

    :ivar losses: validation losses by phase, one for each pass over the data.
    :ivar start: those before the first pass.
    :ivar seconds: the time that the phases took in all.
    :ivar warnings: sentences about phases that went wrong.

    >>> History(losses={"M": [3.0, 1.0, 2.0, 2.0]}).passes_since_best("M")
    2
    """

    losses: dict[str, list[float]] = field(default_factory=dict)
    start: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)

    def passes_since_best(self, phase: str) -> int:
        """How many passes of a phase came after that with the lowest loss."""
        losses = self.losses[phase]
        return len(losses) - 1 - losses.index(min(losses))


@dataclass
class Run:
    """How far training has come, in plain numbers and tensors: the stage, the passes done in all, the time
    spent in this stage, its lowest loss and the weights that had it."""

    stage: int = -1
    done: int = 0
    spent: float = 0.0
    best: float = math.inf
    best_state: dict[str, Any] | None = None
    history: History = field(default_factory=History)


class RunFile:
    """The checkpoint of a run: the run, the weights of ``model``, and all that ``stateful`` (optimisers and
    schedulers) remember."""

    def __init__(
        self, path: Path, model: nn.Module, stateful: list[Any], fingerprint: dict[str, Any]
    ) -> None:
        self.path, self.model, self.stateful, self.fingerprint = path, model, stateful, fingerprint
        self.start = self._weights(model.state_dict())

    def _weights(self, state: dict[str, Any] | None) -> str:
        """Digest of the parameters in a state; buffers follow from the data."""
        return digest({name: state[name] for name, _ in self.model.named_parameters()}) if state else ""

    def resume(self) -> Run:
        """The run in the file; its weights are loaded into the model.

        :raises CheckpointError: for a file of another run, or of a model that started from other weights.
        """
        saved = load_checkpoint(self.path, self.fingerprint)
        try:
            history = History(**saved["run"]["history"])
            run = Run(**{**saved["run"], "history": history})
            known = [saved["start"], *(self._weights(s) for s in (saved["model"], run.best_state))]
            if self.start in known:
                self.start = saved["start"]
                self.model.load_state_dict(saved["model"])
                for part, state in zip(self.stateful, saved["stateful"], strict=True):
                    part.load_state_dict(state)
                return run
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"checkpoint: {str(self.path)!r} does not hold what this run would have saved "
                f"({type(error).__name__}: {error}). Remove the file or give another path."
            ) from error
        raise CheckpointError(
            f"checkpoint: {str(self.path)!r} is of a model that started from other weights; make the model "
            "under the same seed, remove the file, or give another path."
        )

    def save(self, run: Run) -> None:
        state = {
            "start": self.start,
            "run": {**vars(run), "history": asdict(run.history)},
            "model": self.model.state_dict(),
            "stateful": [part.state_dict() for part in self.stateful],
        }
        save_checkpoint(self.path, state, self.fingerprint)

    @contextlib.contextmanager
    def restored_on_error(self) -> Iterator[None]:
        """After an interruption the model is what it is in the file, from which the same call goes on."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(CheckpointError, OSError):
                self.model.load_state_dict(load_checkpoint(self.path, self.fingerprint)["model"])
            raise
