"""Models that papers are about, as modules with ``model`` and, where inference is amortised, ``guide``."""

from .fit_md import fit_md
from .manifold_flow import AmbientFlow, ManifoldFlow
from .poincare_vae import PoincareVAE

__all__ = ["AmbientFlow", "ManifoldFlow", "PoincareVAE", "fit_md"]
