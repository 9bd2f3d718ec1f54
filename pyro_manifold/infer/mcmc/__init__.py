"""Geometric Monte Carlo: systems (what the dynamics are), integrators (how to step), transitions, kernels, errors."""

from .driver import VectorizedMCMC
from .errors import ConvergenceError, InvalidStartError, NonReversibleStepError
from .kernels import GeodesicHMC, GeodesicNUTS

__all__ = [
    "ConvergenceError",
    "GeodesicHMC",
    "GeodesicNUTS",
    "InvalidStartError",
    "NonReversibleStepError",
    "VectorizedMCMC",
]
