r"""What a transition does at each step, for all chains, as one compiled function.

Potential, gradient, kicks and geodesic flows are recorded once for a table of states of fixed shape, with the step and
the scales s as arguments,

.. math:: (z, w, \nabla U, U),\; \epsilon,\; s \;\mapsto\; (z', w', \nabla U', U'),

together with what the transition makes of the new states (:func:`.trees.leaf`), and run as a graph, or as what torch's
compiler makes of it; so are its functions between steps. Fewer rows (where the transition is not compiled, chains whose
trees still grow) are padded. Where the flow of a site cannot be recorded (projected steps on implicit manifolds),
potential and gradient alone are.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor

from ..recording import NotRecordableError, Recording
from .integrators import geodesic_leapfrog
from .systems import Positions, State, System

__all__ = ["CompiledStep"]

TRIALS = (0.0, 0.1, 0.5, 1.0)  # steps that are compared with the system's own


def _leapfrog(system: System, table: Tensor, step: Tensor) -> tuple[Tensor, ...]:
    return (geodesic_leapfrog(system, State(system, table), step).table,)


def _no_inputs(system: System, table: Tensor, depth: int) -> tuple[Tensor, ...]:
    return ()


class CompiledStep:
    """Steps and gradients of a system; recorded, compiled and compared with the system's own at their first use.

    Where that fails, a warning says why, and the system goes on by itself.

    :param int rows: rows that are evaluated together; 1 for models that take one chain at a time.
    :param bool compiler: use torch's compiler; otherwise the recorded operators are run as they are.
    :param step: ``step(system, table, size, *others)``, what a transition does at each step; the first of its results
        are the new states.
    :param others: ``others(system, table, depth)`` with which to call it to take a step alone.
    :param int depth: of the trees that there is room for.
    """

    def __init__(
        self,
        system: System,
        rows: int,
        compiler: bool,
        step: Callable[..., tuple[Tensor, ...]] = _leapfrog,
        others: Callable[[System, Tensor, int], tuple[Tensor, ...]] = _no_inputs,
        depth: int = 0,
    ) -> None:
        self.system, self.rows, self.compiler = system, rows, compiler
        self.step, self.others, self.depth = step, others, depth
        self.forget()

    def forget(self) -> None:
        """Record anew at the next use: for a density that has changed."""
        self._recording: Recording | None = None
        self._between: dict[Callable[..., Any], Recording | None] = {}  # None: not to be recorded
        self._whole = True  # a step, or only the potential and its gradient
        self._failed = self._dense = False

    def __getstate__(self) -> dict[str, Any]:
        # compiled code does not pickle; it is made again
        return {**self.__dict__, "_recording": None, "_between": {}}

    # --- use ------------------------------------------------------------------------------------------------
    def serves(self, step: Callable[..., Any], state: State, depth: int = 0) -> bool:
        """Is this the step that is compiled, for states like these and trees of this depth?"""
        if step is not self.step or len(state.table) != self.rows:
            return False
        if depth > self.depth:
            self.depth = depth
            self.forget()
        return self._ready(state) and self._whole

    def run(self, f: Callable[..., Any], *inputs: Any) -> Any:
        """``f(system, *inputs)``: the step, or another function of the transition, which the model has no part in."""
        recording = self._recording if f is self.step else self._between.get(f)
        if f is not self.step and f not in self._between:
            recording = self._between[f] = self._record_between(f, inputs)
        if recording is None:
            return f(self.system, *inputs)
        try:
            return recording(*inputs, *(self._scales(inputs[0]) if f is self.step else ()))
        except (RuntimeError, ValueError):  # matrices that do not factorise: the system looks at each chain
            return f(self.system, *inputs)

    def leapfrog(self, state: State, step: Tensor) -> State | None:
        """One step; ``None`` if the system must take it by itself."""
        if not (self._ready(state) and self._whole):
            return None
        try:
            return State(self.system, self._rows(state.table, step))
        except (RuntimeError, ValueError):
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
        more = (*self._others, *self._scales(table)) if self._whole else ()
        parts = []
        for i in range(0, len(table), self.rows):
            x, t = table[i : i + self.rows], step[i : i + self.rows]
            n = len(x)
            if n < self.rows:
                x = torch.cat([x, x[-1:].expand(self.rows - n, -1)])
                t = torch.cat([t, t[-1:].expand(self.rows - n, -1)])
            parts.append(self._recording(x, *((t, *more) if self._whole else ()))[0][:n])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _scales(self, like: Tensor) -> tuple[Tensor, ...]:
        """The scales of a system as tensors: a factor for each momentum, and the matrix of a dense block."""
        factors, flat = self.system.factors(like), self.system.flat_scale
        return (factors,) if flat is None or flat.dim() < 2 else (factors, flat.to(like))

    @staticmethod
    def _size(z: Positions) -> tuple[int, Tensor]:
        like = next(iter(z.values()))
        return len(like), like

    # --- making ---------------------------------------------------------------------------------------------
    def _ready(self, at: State | Positions) -> bool:
        if self._failed:
            return False
        dense = self.system.flat_scale is not None and self.system.flat_scale.dim() == 2
        if self._recording is None or (self._whole and dense != self._dense):
            self._dense = dense
            self._make({k: v.detach() for k, v in (at.z if isinstance(at, State) else at).items()})
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
        try:
            self._others = self.others(self._alone(), table, self.depth)
            inputs = (table, like.new_zeros(self.rows, 1), *self._others, *self._scales(table))
            self._recording, self._whole = Recording(self._step, inputs), True
        except NotRecordableError:
            inputs = (table,)
            self._recording, self._whole = Recording(self._potential, inputs), False
        return self._recording.compile(inputs) if self.compiler else ""

    def _record_between(self, f: Callable[..., Any], inputs: tuple[Any, ...]) -> Recording | None:
        try:
            recording = Recording(lambda *inputs: f(self._alone(), *inputs), inputs)
        except NotRecordableError:
            return None
        if self.compiler:
            recording.compile(inputs)
        return recording

    def _alone(self) -> System:
        """The system without its compiled step."""
        system = copy.copy(self.system)
        system.compiled = None
        return system

    def _step(self, table: Tensor, size: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        system, n = self._alone(), len(self._others)
        factors, *flat = others[n:]
        system.scale = {s.name: factors[s.start] if s.size else 1.0 for s in system.sites if s.geometry}  # type: ignore[misc]
        system._factors = factors
        system.flat_scale = flat[0] if flat else None
        return self.step(system, table, size, *others[:n])

    def _potential(self, table: Tensor) -> tuple[Tensor, ...]:
        system = self._alone()
        z = State(system, table).z
        u, grad = system._evaluate(z)
        return (system.pack(z, torch.zeros_like(grad), u, grad).table,)

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
