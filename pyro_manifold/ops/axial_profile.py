r"""The two families of rotationally symmetric densities on the sphere, as functions of
:math:`s = 1 - \mu\cdot x`.

.. math:: g(s) = -\kappa s \;\text{(von Mises-Fisher)}, \qquad g(s) = \kappa\log(1 - s/2) \;\text{(power spherical)}

An :class:`AxialProfile` provides what :mod:`pyro_manifold.ops.axial_marginal` needs of g for draws and
gradients."""

import math
from typing import Protocol

import torch
from torch import Tensor

from .gamma_ratio import digamma_difference
from .special import ratio_complement
from .tracing import is_concrete

__all__ = ["EXPONENTIAL", "POWER", "PROFILES", "AxialProfile"]


class AxialProfile(Protocol):
    """A family of functions g; ``k`` is the concentration, ``c = 2 - s``, n the ambient dimension.

    :ivar str name: in ``PROFILES``.
    """

    name: str

    def fixed_point(self, k: Tensor, n: int) -> Tensor:
        """s0, where the ratio of the densities of target and proposal is largest."""

    def score(self, s: Tensor) -> Tensor:
        """dg/dk = g/k."""

    def rate(self, k: Tensor, c: Tensor) -> Tensor:
        """-g'(s)."""

    def mean_score(self, k: Tensor, n: int) -> Tensor:
        """The expectation of dg/dk."""

    def invert(self, u: Tensor, k: Tensor) -> Tensor:
        """On S^2: the s at which the cdf (or 1 minus the cdf) is u."""

    def invert_gradient(self, s: Tensor, k: Tensor) -> Tensor:
        """On S^2: ds/dk at a fixed value of the cdf."""


class _Exponential:
    name = "exponential"

    def fixed_point(self, k: Tensor, n: int) -> Tensor:
        w = k * (2 / (n - 1))
        # sqrt(1 + w^2); for larger w this is w, whose square may overflow
        root = w.clamp_max(1e8).square_().add_(1).sqrt_()
        b = root.maximum(w).add_(w).reciprocal_()
        return 2 * b / (1 + b)

    def score(self, s: Tensor) -> Tensor:
        return -s

    def rate(self, k: Tensor, c: Tensor) -> Tensor:
        return k

    def mean_score(self, k: Tensor, n: int) -> Tensor:
        return -ratio_complement(k, n / 2 - 1)

    def invert(self, u: Tensor, k: Tensor) -> Tensor:
        k = k.clamp_min(1e-30)  # gives the limit 2u at k = 0, to rounding
        return (-torch.log1p(u * torch.expm1(-2 * k)) / k).clamp_max(2.0)

    def invert_gradient(self, s: Tensor, k: Tensor) -> Tensor:
        # closed form (2u exp(k(s - 2)) - s) / k with u = expm1(-ks)/expm1(-2k)
        t = k * s
        out = torch.expm1(-t).mul_(2).div_(torch.expm1(-2 * k)).mul_((t - 2 * k).exp_()).sub_(s).div_(k)
        small = k < 0.25  # where its terms cancel
        if not is_concrete(k):
            return torch.where(small, self._invert_gradient_near_uniform(s, k), out)
        lanes = small.nonzero(as_tuple=True)
        out[lanes] = self._invert_gradient_near_uniform(s[lanes], k[lanes])
        return out

    def _invert_gradient_near_uniform(self, s: Tensor, k: Tensor) -> Tensor:
        """By the series of s exp(-2k) (phi(ks) - phi(2k)) / (k phi(-2k)), phi(x) = (e^x - 1)/x."""
        x = torch.stack([2 * k, s * k])
        phi = torch.zeros_like(x)  # (phi(x) - 1) / x
        for m in range(14, 0, -1):
            phi.mul_(x).add_(1 / math.factorial(m + 1))
        total = 2 * phi[0] - s * phi[1]  # (phi(2k) - phi(ks)) / k
        h = torch.where(k > 0, torch.expm1(-2 * k) / torch.where(k > 0, -2 * k, 1.0), 1.0)
        return -s * torch.exp(-2 * k) * total / h


class _Power:
    name = "power"

    def fixed_point(self, k: Tensor, n: int) -> Tensor:
        return (n - 1) / (k + (n - 1))

    def score(self, s: Tensor) -> Tensor:
        return (s / -2).log1p_()

    def rate(self, k: Tensor, c: Tensor) -> Tensor:
        return k / c

    def mean_score(self, k: Tensor, n: int) -> Tensor:
        # E log(1 - s/2) = psi(k + b) - psi(k + 2b)
        b = (n - 1) / 2
        return -digamma_difference(k + b, b)

    def invert(self, u: Tensor, k: Tensor) -> Tensor:
        return -2 * torch.expm1(torch.log1p(-u) / (k + 1))

    def invert_gradient(self, s: Tensor, k: Tensor) -> Tensor:
        z = 1 - s / 2
        return 2 * z * torch.log1p(-s / 2) / (k + 1)


EXPONENTIAL, POWER = _Exponential(), _Power()
PROFILES: dict[str, AxialProfile] = {p.name: p for p in (EXPONENTIAL, POWER)}
