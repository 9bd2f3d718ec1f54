"""Geometric Monte Carlo: systems (what the dynamics are), integrators (how to step), transitions, kernels,
errors."""

from .driver import VectorizedMCMC
from .errors import ConvergenceError, InvalidStartError, NonReversibleStepError, StepSizeError
from .hmc import GeodesicHMC
from .nuts import GeodesicNUTS
from .parallel import ParallelMCMC

__all__ = [
    "ConvergenceError",
    "GeodesicHMC",
    "GeodesicNUTS",
    "InvalidStartError",
    "NonReversibleStepError",
    "ParallelMCMC",
    "StepSizeError",
    "VectorizedMCMC",
]
