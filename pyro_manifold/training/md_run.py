"""How far M/D training has come, in memory and in a checkpoint."""

import contextlib
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..models.manifold_flow import AmbientFlow, ManifoldFlow
from .checkpoint import CheckpointError, digest, load_checkpoint, save_checkpoint
from .md_phases import Phase

__all__ = ["History", "Run", "RunFile"]


@dataclass
class History:
    """Validation losses by phase ("M", "D", "MD"), one for each pass over the data, those before the first
    pass, the seconds they took in all, and what was wrong.

    >>> History().losses
    {}
    """

    losses: dict[str, list[float]] = field(default_factory=dict)
    start: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)


@dataclass
class Run:
    """How far training has come, in plain numbers and tensors."""

    stage: int = -1
    done: int = 0
    spent: float = 0.0
    best: float = math.inf
    best_state: dict[str, Any] | None = None
    history: History = field(default_factory=History)


class RunFile:
    """A checkpoint of a run."""

    def __init__(
        self,
        path: Path,
        flow: ManifoldFlow | AmbientFlow,
        plans: list[list[Phase]],
        fingerprint: dict[str, Any],
    ) -> None:
        self.path, self.flow, self.plans, self.fingerprint = path, flow, plans, fingerprint
        self.start = self._weights(flow.state_dict())

    def _weights(self, state: dict[str, Any] | None) -> str:
        """Digest of the parameters in a state; buffers follow from the data."""
        return digest({name: state[name] for name, _ in self.flow.named_parameters()}) if state else ""

    def resume(self) -> Run:
        """The run in the file, its weights in the flow; a new run where there is no file, which is made, so
        that a folder that is missing is known before anything is trained."""
        if not self.path.exists():
            run = Run()
            self.save(run)
            return run
        saved = load_checkpoint(self.path, self.fingerprint)
        known = [saved["start"], *(self._weights(s) for s in (saved["flow"], saved["run"]["best_state"]))]
        if self.start not in known:
            raise CheckpointError(
                f"checkpoint: {str(self.path)!r} is of a model that started from other weights; make the "
                "model under the same seed, remove the file, or give another path."
            )
        self.start = saved["start"]
        self.flow.load_state_dict(saved["flow"])
        for phases, states in zip(self.plans, saved["optimisers"], strict=True):
            for phase, state in zip(phases, states, strict=True):
                phase.optimiser.load_state_dict(state)
        return Run(**{**saved["run"], "history": History(**saved["run"]["history"])})

    def save(self, run: Run) -> None:
        optimisers = [[phase.optimiser.state_dict() for phase in phases] for phases in self.plans]
        plain = {**vars(run), "history": asdict(run.history)}
        state = {"start": self.start, "run": plain, "flow": self.flow.state_dict(), "optimisers": optimisers}
        save_checkpoint(self.path, state, self.fingerprint)

    @contextlib.contextmanager
    def kept(self) -> Any:
        """Interrupted, the flow is what it is in the file: the same call goes on from there."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(CheckpointError, OSError):
                self.flow.load_state_dict(load_checkpoint(self.path, self.fingerprint)["flow"])
            raise
