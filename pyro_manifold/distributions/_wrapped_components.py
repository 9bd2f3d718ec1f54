r"""Wrapped normal components of mixtures on the torus, for an EM algorithm whose hidden variables are the
component and the windings.

.. math::
    x = \mathrm{wrap}(u), \quad u \sim \mathcal N(\mu_k, \Sigma_k), \qquad
    p(x\mid k) = \sum_{m\in\mathbb Z^d}\mathcal N(x + 2\pi m;\mu_k,\Sigma_k)

Given the windings m the maximum is that of a normal distribution, so every step is in closed form and the
likelihood never falls. Eigenvalues of the covariance keep to ``[1 / max_concentration, 4]``, which, done by
clipping them, is the constrained maximum; a standard deviation of 2 is wider than half the circle, and two
windings either way then hold all but 1e-14 of the mass.

References: Mardia & Jupp, Directional Statistics (2000), sec. 3.5.7; Coles, Stat. Comput. 8 (1998).
"""

import itertools
import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ..geometry import Torus
from ..ops.circular import wrap
from ._components import _TINY, Components, Parameters, with_points
from .wrapped_normal import WrappedNormal

__all__ = ["DiagonalWrappedComponents", "WrappedComponents"]

_WIDEST = 2.0  # standard deviation
_UNIFORM = 10.0  # a wrapped normal as wide as this is uniform but for 2 exp(-50)
_WINDINGS = 2
_LOG_TURN = math.log(2 * math.pi)


class DiagonalWrappedComponents(Components):
    """Independent angles: ``loc`` (K, d) and ``scale`` (K, d)."""

    manifold = Torus()
    concentrated = ()

    def free(self, coordinates: int) -> int:
        return 2 * coordinates

    def at(self, centre: Tensor) -> Parameters:
        return {"loc": centre, "scale": torch.full_like(centre, max(0.3, self.most**-0.5))}

    def uniform(self, x: Tensor) -> Parameters:
        return {"loc": torch.zeros_like(x[:1]), "scale": torch.full_like(x[:1], _UNIFORM)}

    def _unwrapped(self, p: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
        """Each angle about each centre with its windings, and log N: (n, K, d, windings)."""
        turns = 2 * math.pi * torch.arange(-_WINDINGS, _WINDINGS + 1, dtype=x.dtype, device=x.device)
        u = wrap(x.unsqueeze(-2) - p["loc"]).unsqueeze(-1) + turns
        scale = p["scale"].unsqueeze(-1)
        return u, -0.5 * (u / scale).square() - scale.log() - 0.5 * _LOG_TURN

    def log_density(self, p: Parameters, x: Tensor) -> Tensor:
        one = self._unwrapped(p, x)[1].logsumexp(-1)
        return torch.where(p["scale"] > 2 * _WIDEST, -_LOG_TURN, one).sum(-1)

    def statistics(self, p: Parameters, x: Tensor, r: Tensor) -> Parameters:
        u, log = self._unwrapped(p, x)
        winding = log.softmax(-1)
        first, second = (winding * u).sum(-1), (winding * u.square()).sum(-1)
        return {
            "n": r.sum(0),
            "u": torch.einsum("nk,nkd->kd", r, first),
            "uu": torch.einsum("nk,nkd->kd", r, second),
        }

    def maximum(self, p: Parameters, s: Parameters) -> Parameters:
        n = s["n"].clamp_min(_TINY).unsqueeze(-1)
        shift = s["u"] / n
        variance = (s["uu"] / n - shift.square()).clamp(1 / self.most, _WIDEST**2)
        return with_points(s, {"loc": wrap(p["loc"] + shift), "scale": variance.sqrt()}, p)

    def build(self, p: Parameters, dtype: torch.dtype) -> dist.TorchDistribution:
        return WrappedNormal(self.manifold, p["loc"].to(dtype), p["scale"].to(dtype))

    def values(self, d: Any) -> Parameters:
        return {"loc": d.loc, "scale": d.scale}


class WrappedComponents(Components):
    """Correlated angles: ``loc`` (K, d) and ``scale_tril`` (K, d, d), d <= 3."""

    manifold = Torus()
    concentrated = ()

    def prepare(self, name: str, x: Tensor) -> Tensor:
        if x.dim() == 2 and x.shape[-1] > 3:
            raise ValueError(
                f"{name}: got {x.shape[-1]} angles; a full covariance sums 5^d windings and takes at most 3. "
                "Use covariance='diagonal'."
            )
        return super().prepare(name, x)

    def free(self, coordinates: int) -> int:
        return coordinates * (coordinates + 3) // 2

    def at(self, centre: Tensor) -> Parameters:
        eye = torch.eye(centre.shape[-1], dtype=centre.dtype, device=centre.device)
        tril = max(0.3, self.most**-0.5) * eye
        return {"loc": centre, "scale_tril": tril.expand(len(centre), -1, -1)}

    def uniform(self, x: Tensor) -> Parameters:
        eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return {"loc": torch.zeros_like(x[:1]), "scale_tril": (_UNIFORM * eye).unsqueeze(0)}

    def _unwrapped(self, p: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
        """All angles about each centre with their windings (n, K, W, d), and log N (n, K, W)."""
        d = x.shape[-1]
        one = range(-_WINDINGS, _WINDINGS + 1)
        turns = 2 * math.pi * torch.tensor(list(itertools.product(one, repeat=d)), dtype=x.dtype)
        u = wrap(x.unsqueeze(-2) - p["loc"]).unsqueeze(-2) + turns.to(x.device)
        tril = p["scale_tril"]
        eye = torch.eye(d, dtype=x.dtype, device=x.device)
        white = torch.einsum("kij,nkwj->nkwi", torch.linalg.solve_triangular(tril, eye, upper=False), u)
        half_log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return u, -0.5 * white.square().sum(-1) - half_log_det.unsqueeze(-1) - 0.5 * d * _LOG_TURN

    def log_density(self, p: Parameters, x: Tensor) -> Tensor:
        out = self._unwrapped(p, x)[1].logsumexp(-1)
        uniform = p["scale_tril"].diagonal(dim1=-2, dim2=-1).amin(-1) > 2 * _WIDEST
        return torch.where(uniform, -x.shape[-1] * _LOG_TURN, out)

    def statistics(self, p: Parameters, x: Tensor, r: Tensor) -> Parameters:
        u, log = self._unwrapped(p, x)
        weight = r.unsqueeze(-1) * log.softmax(-1)
        return {
            "n": r.sum(0),
            "u": torch.einsum("nkw,nkwd->kd", weight, u),
            "uu": torch.einsum("nkw,nkwd,nkwe->kde", weight, u, u),
        }

    def maximum(self, p: Parameters, s: Parameters) -> Parameters:
        n = s["n"].clamp_min(_TINY).unsqueeze(-1)
        shift = s["u"] / n
        covariance = s["uu"] / n.unsqueeze(-1) - shift.unsqueeze(-1) * shift.unsqueeze(-2)
        values, axes = torch.linalg.eigh(covariance)
        clipped = (axes * values.clamp(1 / self.most, _WIDEST**2).unsqueeze(-2)) @ axes.mT
        tril = torch.linalg.cholesky(clipped)
        return with_points(s, {"loc": wrap(p["loc"] + shift), "scale_tril": tril}, p)

    def build(self, p: Parameters, dtype: torch.dtype) -> dist.TorchDistribution:
        return WrappedNormal(self.manifold, p["loc"].to(dtype), scale_tril=p["scale_tril"].to(dtype))

    def values(self, d: Any) -> Parameters:
        return {"loc": d.loc, "scale_tril": d.base_dist.scale_tril}
