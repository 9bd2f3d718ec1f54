"""Weak-boson-fusion Higgs production as an exactly tractable simulator. Formulas head each file, from the
inside out: ``matrix_element``, ``phase_space``, ``observables``, ``source`` (unweighted events),
``simulator`` (densities), ``posterior``."""

from .morphing import MorphingHead
from .observables import closure
from .original import load_original
from .posterior import Posterior, grid_posterior, importance_posterior
from .simulator import LHC
from .source import LHCEvents

__all__ = [
    "LHC",
    "LHCEvents",
    "MorphingHead",
    "Posterior",
    "closure",
    "grid_posterior",
    "importance_posterior",
    "load_original",
]
