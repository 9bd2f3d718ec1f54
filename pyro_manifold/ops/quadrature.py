"""Gauss-Legendre rules."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

__all__ = ["legendre"]


@lru_cache
def legendre(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the rule with n nodes on [0, 1], as float64 columns ``(n, 1)``."""
    x, w = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy((x + 1) / 2)[:, None].to(device), torch.from_numpy(w / 2)[:, None].to(device)
