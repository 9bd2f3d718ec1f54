r"""The leapfrog step of all chains as one compiled function.

Potential, gradient, kicks and geodesic flows are recorded once for a table of states of fixed shape, with the step and
the scales s as arguments,

.. math:: (z, w, \nabla U, U),\; \epsilon,\; s \;\mapsto\; (z', w', \nabla U', U'),

and run as a graph, or as what torch's compiler makes of it. Fewer rows (chains whose trees still grow) are padded.
Where the flow of a site cannot be recorded (projected steps on implicit manifolds), potential and gradient alone are.
"""

import copy
import warnings
from typing import Any

import pyro
import torch
from torch import Tensor

from ..recording import NotRecordableError, Recording
from .integrators import geodesic_leapfrog
from .systems import Positions, State, System

__all__ = ["CompiledStep"]

TRIALS = (0.0, 0.1, 0.5, 1.0)  # steps that are compared with the system's own


class CompiledStep:
    """Steps and gradients of a system; recorded, compiled and compared with the system's own at their first use.

    Where that fails, a warning says why, and the system goes on by itself.

    :param int rows: rows that are evaluated together; 1 for models that take one chain at a time.
    :param bool compiler: use torch's compiler; otherwise the recorded operators are run as they are.
    """

    def __init__(self, system: System, rows: int, compiler: bool) -> None:
        self.system, self.rows, self.compiler = system, rows, compiler
        self.forget()

    def forget(self) -> None:
        """Record anew at the next use: for a density that has changed."""
        self._recording: Recording | None = None
        self._whole = True  # a step, or only the potential and its gradient
        self._failed = self._dense = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_recording": None}  # compiled code does not pickle; it is made again

    # --- use ------------------------------------------------------------------------------------------------
    def leapfrog(self, state: State, step: Tensor) -> State | None:
        """One step; ``None`` if the system must take it by itself."""
        if not (self._ready(state.z) and self._whole):
            return None
        try:
            return State(self.system, self._rows(state.table, step))
        except (RuntimeError, ValueError):  # matrices that do not factorise: the system looks at each chain
            return None

    def evaluate(self, z: Positions) -> tuple[Tensor, Tensor]:
        """Potential and its gradient in momentum coordinates."""
        if not self._ready(z):
            return self.system._evaluate(z)
        n, like = self._size(z)
        zero = like.new_zeros(n, self.system.size)
        start = self.system.pack(z, zero, like.new_zeros(n), zero)
        out = State(self.system, self._rows(start.table, like.new_zeros(n, 1)))  # after a step of no time
        return out.potential, out.grad

    def _rows(self, table: Tensor, step: Tensor) -> Tensor:
        assert self._recording is not None
        more = self._scales(table) if self._whole else ()
        parts = []
        for i in range(0, len(table), self.rows):
            x, t = table[i : i + self.rows], step[i : i + self.rows]
            n = len(x)
            if n < self.rows:
                x = torch.cat([x, x[-1:].expand(self.rows - n, -1)])
                t = torch.cat([t, t[-1:].expand(self.rows - n, -1)])
            parts.append(self._recording(x, *((t, *more) if self._whole else ()))[:n])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _scales(self, like: Tensor) -> tuple[Tensor, ...]:
        """The scales of a system as tensors: a factor for each momentum, and the matrix of a dense block."""
        system = self.system
        system.scaled(like.new_zeros(1, system.size))
        assert system._factors is not None
        dense = system.flat_scale is not None and system.flat_scale.dim() == 2
        return (system._factors, system.flat_scale.to(like)) if dense else (system._factors,)  # type: ignore[union-attr]

    @staticmethod
    def _size(z: Positions) -> tuple[int, Tensor]:
        like = next(iter(z.values()))
        return len(like), like

    # --- making ---------------------------------------------------------------------------------------------
    def _ready(self, z: Positions) -> bool:
        if self._failed:
            return False
        dense = self.system.flat_scale is not None and self.system.flat_scale.dim() == 2
        if self._recording is None or (self._whole and dense != self._dense):
            self._dense = dense
            self._make({k: v.detach() for k, v in z.items()})
        return not self._failed

    def _make(self, z: Positions) -> None:
        cuda = [self._size(z)[1].device] if self._size(z)[1].device.type == "cuda" else []
        reason = ""
        with torch.random.fork_rng(cuda), pyro.validation_enabled(False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "a point of the ball lies beyond", RuntimeWarning)
            try:
                reason = self._record(z)
                self._compare(z)
            except NotRecordableError as error:
                self._failed, self._recording, reason = True, None, str(error)
        if reason:
            way = "evaluated as without compile" if self._failed else "recorded, but not compiled"
            warnings.warn(f"compile: the potential is {way}: {reason}", UserWarning, stacklevel=2)

    def _record(self, z: Positions) -> str:
        """Record and compile; why it could not be compiled."""
        n, like = self._size(z)
        rows = torch.arange(self.rows, device=like.device).clamp(max=n - 1)
        z = {k: v[rows] for k, v in z.items()}
        zero = like.new_zeros(self.rows, self.system.size)
        table = self.system.pack(z, zero, like.new_zeros(self.rows), zero).table
        inputs: tuple[Tensor, ...] = (table, like.new_zeros(self.rows, 1), *self._scales(table))
        try:
            self._recording, self._whole = Recording(self._step, inputs), True
        except NotRecordableError:
            inputs = inputs[:1]
            self._recording, self._whole = Recording(self._potential, inputs), False
        return self._recording.compile(inputs) if self.compiler else ""

    def _alone(self) -> System:
        """The system without its compiled step."""
        system = copy.copy(self.system)
        system.compiled = None
        return system

    def _step(self, table: Tensor, step: Tensor, factors: Tensor, *flat: Tensor) -> Tensor:
        system = self._alone()
        system.scale = {s.name: factors[s.start] if s.size else 1.0 for s in system.sites if s.geometry}  # type: ignore[misc]
        system._factors = factors
        system.flat_scale = flat[0] if flat else None
        return geodesic_leapfrog(system, State(system, table), step).table

    def _potential(self, table: Tensor) -> Tensor:
        system = self._alone()
        z = State(system, table).z
        u, grad = system._evaluate(z)
        return system.pack(z, torch.zeros_like(grad), u, grad).table

    def _compare(self, z: Positions) -> None:
        """:raises NotRecordableError: if steps from ``z`` differ from the system's own by more than rounding."""
        for size in TRIALS:
            try:
                start, own = self._own(z, size)
            except (RuntimeError, ValueError):
                if size == 0:
                    raise
                continue  # a model may refuse points far out
            found = State(
                self.system, self._rows(start.table, start.potential.new_full((len(start.w), 1), size))
            )
            for what in ("potential", "grad", "w"):
                a, b = (getattr(state, what).reshape(len(start.w), -1) for state in (own, found))
                gap = (a - b).abs().nan_to_num(0.0)
                gap = torch.where(a.isfinite() == b.isfinite(), gap, torch.inf).amax(-1)
                much = 1 + a.abs().nan_to_num(0.0, 0.0, 0.0).amax(-1)
                bad = gap > torch.finfo(a.dtype).eps ** 0.5 * much
                if bool(bad.any()):
                    raise NotRecordableError(
                        f"its {what} as a graph differs by {float(gap[bad].max()):.3g} from up to "
                        f"{float(much[bad].max()):.3g}, so the model does not compute the same at each call"
                    )

    def _own(self, z: Positions, size: float) -> tuple[State, State]:
        """A start with a random momentum and the state that the system itself has after a step; without steps, a random
        point, twice."""
        alone = self._alone()
        start = alone.state(z, alone.draw(z))
        step = start.potential.new_full((len(start.w), 1), size)
        if self._whole:
            return start, geodesic_leapfrog(alone, start, step)
        at = alone.drift(z, start.w, step)[0]
        point = alone.state({k: torch.where(v.isfinite(), v, z[k]) for k, v in at.items()})
        return point, point
