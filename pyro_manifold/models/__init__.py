"""Models that papers are about, as modules with ``model`` and, where inference is amortised, ``guide``."""

from .dimension import scan_dimension
from .fit_md import fit_md
from .manifold_flow import AmbientFlow, ManifoldFlow
from .manifold_mixture import ManifoldMixture, fit_charts
from .poincare_vae import PoincareVAE

__all__ = ["AmbientFlow", "ManifoldFlow", "ManifoldMixture", "PoincareVAE", "fit_charts", "fit_md", "scan_dimension"]
