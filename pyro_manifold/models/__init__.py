"""Models that papers are about, as modules with ``model`` and, where inference is amortised, ``guide``."""

from .ambient_flow import AmbientFlow
from .embedding_vae import EmbeddingVAE
from .latent_vae import LatentVAE
from .manifold_flow import ManifoldFlow
from .manifold_glow import ManifoldGLOW, ManifoldToManifoldFlow
from .manifold_mixture import ManifoldMixture
from .manifold_vae import ManifoldVAE
from .poincare_vae import PoincareVAE
from .vq_flow import VQFlow

__all__ = [
    "AmbientFlow",
    "EmbeddingVAE",
    "LatentVAE",
    "ManifoldFlow",
    "ManifoldGLOW",
    "ManifoldMixture",
    "ManifoldToManifoldFlow",
    "ManifoldVAE",
    "PoincareVAE",
    "VQFlow",
]
