"""Gauss-Legendre rules, and the lanes they are worth computing on."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

__all__ = ["unexpand", "legendre"]


@lru_cache
def legendre(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], columns ``(n, 1)`` in float64."""
    x, w = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy((x + 1) / 2)[:, None].to(device), torch.from_numpy(w / 2)[:, None].to(device)


def unexpand(t: Tensor, event_dim: int = 0) -> Tensor:
    """The tensor without the copies that ``expand`` made of its batch: equal parameters are integrated (equal
    matrices decomposed) once."""
    strides = t.stride()[: t.dim() - event_dim]
    return t[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in strides)]
