"""What can go wrong in a geometric sampler, as types."""

__all__ = ["ConvergenceError", "InvalidStartError", "NonReversibleStepError"]


class InvalidStartError(ValueError):
    """The chain cannot start: an initial value off the manifold, or a potential or gradient that is not finite there."""


class ConvergenceError(RuntimeError):
    """An iterative projection on the manifold did not converge within its bound."""


class NonReversibleStepError(RuntimeError):
    """A projected step, taken backwards, does not return to its start."""
