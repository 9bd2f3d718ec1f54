"""Models ready for ``pyro.infer.SVI``: modules with ``model`` and ``guide``."""

from .poincare_vae import PoincareVAE

__all__ = ["PoincareVAE"]
