r"""Manifolds in space with an exact density on them and exact distances from them: truths for learned manifolds.

.. math:: \log p(x) = \log p(t) - \tfrac12\log\det J_\gamma(t)^TJ_\gamma(t), \qquad x = \gamma(t)
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["KnownManifold", "check_points"]


def check_points(x: Tensor, size: int) -> None:
    """
    :raises ValueError: unless ``x`` are points of ``size`` coordinates, on the last axis.
    """
    if x.dim() < 1 or x.shape[-1] != size:
        raise ValueError(
            f"x: got shape {tuple(x.shape)}; expected points, {size} coordinates on the last axis."
        )


class KnownManifold(ABC):
    """A manifold in three dimensions and a density on it; float64 throughout.

    :ivar int dim: its dimension.
    :ivar int components: its number of connected components.
    """

    dim: int
    components: int = 1

    @abstractmethod
    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """n draws, shape ``(n, 3)``."""

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the manifold."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """The log density at the projection of ``x``, w.r.t. the Hausdorff measure of the manifold: length of
        curves, area of surfaces."""

    @staticmethod
    def points(x: Tensor) -> Tensor:
        """``x`` in float64.

        :raises ValueError: for another shape than ``(..., 3)``.
        """
        check_points(x, 3)
        return x.double()

    def distance(self, x: Tensor) -> Tensor:
        """How far ``x`` is from the manifold, shape ``x.shape[:-1]``."""
        return torch.linalg.vector_norm(self.points(x) - self.project(x), dim=-1)

    def component(self, x: Tensor) -> Tensor:
        """The number of the connected component that is nearest to ``x``."""
        return torch.zeros(self.points(x).shape[:-1], dtype=torch.long, device=x.device)


class CosineDensity:
    r"""A density of an angle over whole turns, :math:`p(t) = (1 + a\cos(t - t_0)) / T` on [0, T]."""

    def __init__(self, turns: int, amplitude: float, peak: float) -> None:
        self.length, self.amplitude, self.peak = 2 * math.pi * turns, amplitude, peak

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """By bisection of the distribution function, to 1e-15 of its range."""
        share = torch.rand(n, generator=generator, dtype=torch.float64)
        low, high = torch.zeros_like(share), torch.full_like(share, self.length)
        for _ in range(50):
            t = (low + high) / 2
            below = t + self.amplitude * ((t - self.peak).sin() + math.sin(self.peak)) < share * self.length
            low, high = torch.where(below, t, low), torch.where(below, high, t)
        return (low + high) / 2

    def log_prob(self, t: Tensor) -> Tensor:
        return (1 + self.amplitude * (t - self.peak).cos()).log() - math.log(self.length)
