"""Models that papers are about, as modules with ``model`` and, where inference is amortised, ``guide``."""

from .manifold_flow import AmbientFlow, ManifoldFlow
from .manifold_mixture import ManifoldMixture
from .poincare_vae import PoincareVAE

__all__ = ["AmbientFlow", "ManifoldFlow", "ManifoldMixture", "PoincareVAE"]
