"""Simulation-based calibration: does a sampler draw from the posterior of the model it is given?"""

from .calibration import SBCResult, sbc
from .test_quantities import LogLikelihood, Statistic, default_statistics

__all__ = ["LogLikelihood", "SBCResult", "Statistic", "default_statistics", "sbc"]
