r"""Warm-up: step size and scales are learned in windows, three of them in the first 20 draws.

Windows of 5, 5, 10, 40, 120, ... transitions each end with new scales from their own draws, so that draws made
before the chains arrived do not count; the step size is found anew after each window. The last window of scales
takes the transitions that are left over, and a last third of warm-up (at most 50 transitions) adapts the step
size alone. In these last two windows the chains have arrived and need not come far with each draw: NUTS makes
paths of about a third of the length there.

Stan's schedule, which Pyro has, waits 100 of 150 transitions for its first scales. Where scales differ by a
factor of ten that costs ten times the gradients until then: in a hierarchy of 8 site means and concentrations
three quarters of all gradients.
"""

import math
import warnings

from .adapters import StepSizeAdapter
from .integrators import first_step_size
from .scales import ScaleEstimate
from .systems import State, System

__all__ = ["WarmUp", "windows"]

STEP_BOUNDS = 1e-10, 1e10


def windows(steps: int, first: int = 5, last: int = 50) -> list[int]:
    """Lengths of the windows in ``steps`` transitions; scales are learned at the end of all but the last."""
    rest = steps - min(last, max(1, steps // 3))
    sizes, size = [], first
    while rest >= first:
        if 4 * size > rest:
            size = rest
        sizes.append(size)
        rest -= size
        size = size if len(sizes) == 1 else sum(sizes) if len(sizes) == 2 else 2 * sum(sizes)
    return [*sizes, steps - sum(sizes)] if steps else []


class WarmUp:
    """What one run has learned.

    :ivar float step_size: of the next transition, before the cap of the system.
    :ivar float target: the acceptance probability aimed at.
    :ivar int trials: gradients of each chain spent on finding step sizes.
    """

    def __init__(
        self,
        system: System,
        steps: int,
        step_size: float,
        target: float,
        adapt_step_size: bool,
        adapt_scales: bool,
        dense: bool,
    ) -> None:
        self.system, self.step_size, self.target, self.trials = system, step_size, target, 0
        self._scales = ScaleEstimate(system, dense) if adapt_scales and steps else None
        self._adapts = adapt_step_size and steps > 0
        self._step: StepSizeAdapter | None = None
        self._sizes = windows(steps)  # those that are not over
        self._seen = self._total = 0  # transitions in the first of these, and in all

    def start(self, state: State, guess: bool) -> None:
        """Before the first transition; with ``guess`` the scales come from the gradients there."""
        if self._scales is not None and guess:
            self._scales.guess(state)
        self.restart(state, self.step_size)

    def restart(self, state: State, size: float) -> None:
        """Adapt the step size anew, from one near ``size`` that is accepted."""
        if self._adapts:
            with (
                warnings.catch_warnings()
            ):  # a trial step may go too far for the coordinates; none of its points is kept
                warnings.filterwarnings("ignore", "a point of the ball lies beyond", RuntimeWarning)
                self.step_size, trials = first_step_size(self.system, state, size, STEP_BOUNDS)
            self.trials += trials
            self._step = StepSizeAdapter(self.step_size, self.target)

    def set_step_size(self, size: float) -> None:
        """Go on from this size."""
        self.step_size = size
        if self._step is not None:
            self._step = StepSizeAdapter(size, self.target)

    @property
    def arrived(self) -> bool:
        """Have the chains had 20 transitions with learned scales, and are only the last two windows to come?"""
        return self._scales is not None and len(self._sizes) <= 2 and self._total >= 20

    @property
    def learns_scales(self) -> bool:
        """Are new scales still to come?"""
        return self._scales is not None and len(self._sizes) > 1

    def update(self, state: State, accept: float) -> tuple[float, bool] | None:
        """After each transition of warm-up.

        At the end of a window: new units of time for an old one, and whether the window has seen enough to
        learn more from it.
        """
        if self._step is not None:
            self._step.target = self.target
            self._step.update(accept)
            self.step_size = self._step.size
        if self.learns_scales:
            self._scales.add(state)  # type: ignore[union-attr]
        self._seen, self._total = self._seen + 1, self._total + 1
        if self._seen < self._sizes[0]:
            return None
        stretch, enough = 1.0, self._seen >= 20 or len(self._sizes) == 1
        if self.learns_scales and self.system.size:
            before = self.system.log_scales()
            self._scales.apply(early=len(self._sizes) > 2)  # type: ignore[union-attr]
            change = before - self.system.log_scales()
            stretch = math.exp(float(change.mean()))
            self.restart(
                state, self.step_size * math.exp(float(change.max()))
            )  # limited by the site that was the narrowest
        elif len(self._sizes) == 1 and self._step is not None:
            self.step_size = self._step.mean
        self._seen, self._sizes = 0, self._sizes[1:]
        return stretch, enough
