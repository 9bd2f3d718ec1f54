"""Models that papers are about, as modules with ``model`` and, where inference is amortised, ``guide``."""

from .latent_vae import LatentVAE
from .manifold_flow import AmbientFlow, ManifoldFlow
from .manifold_glow import ManifoldGLOW, ManifoldToManifoldFlow
from .manifold_mixture import ManifoldMixture
from .manifold_vae import ManifoldVAE
from .poincare_vae import PoincareVAE

__all__ = [
    "AmbientFlow",
    "LatentVAE",
    "ManifoldFlow",
    "ManifoldGLOW",
    "ManifoldMixture",
    "ManifoldToManifoldFlow",
    "ManifoldVAE",
    "PoincareVAE",
]
