"""What can go wrong in a geometric sampler, as types."""

from ...ops.newton import ConvergenceError

__all__ = ["ConvergenceError", "InvalidStartError", "NonReversibleStepError", "StepSizeError"]


class InvalidStartError(ValueError):
    """The chain cannot start: an initial value off the manifold, or a potential or gradient that is not
    finite there."""


class StepSizeError(RuntimeError):
    """No step size works: every trajectory diverges."""


class NonReversibleStepError(RuntimeError):
    """A projected step, taken backwards, does not return to its start."""
