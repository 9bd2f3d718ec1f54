"""What a law prints: its manifold, and its parameters as torch prints them (one number by value, more by shape)."""

import inspect
from typing import Any

import geoopt
from torch import Tensor

__all__ = ["Shown"]


class Shown:
    """Mixin: the arguments of ``__init__`` that the law can tell, also where torch looks in vain in ``__dict__``.

    >>> import torch
    >>> from pyro_manifold.distributions import VonMisesFisher
    >>> VonMisesFisher(torch.tensor([0.0, 1.0]), 3.0)
    VonMisesFisher(loc: torch.Size([2]), concentration: 3.0)
    """

    def __repr__(self) -> str:
        shown: dict[str, Any] = {}
        for name in inspect.signature(type(self)).parameters:
            value = getattr(self, name, None)
            if isinstance(value, geoopt.Manifold):
                shown[name] = value.name
            elif isinstance(value, Tensor):
                shown[name] = value.item() if value.numel() == 1 else value.shape
        return f"{type(self).__name__}({', '.join(f'{name}: {value}' for name, value in shown.items())})"
