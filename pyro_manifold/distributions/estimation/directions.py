r"""Maximum likelihood for distributions of directions about an axis, and for projected normals.

.. math::
    \text{von Mises-Fisher: } \hat\mu = \bar x/|\bar x|, \quad A(\hat\kappa) = |\bar x|; \qquad
    \text{power spherical: } \hat\mu = \arg\max_\mu\sum_iw_i\log(1 + \mu\cdot x_i), \quad
    \psi(\hat\kappa+2\beta) - \psi(\hat\kappa+\beta) = -\sum_iw_i\log\tfrac{1+\hat\mu\cdot x_i}2
"""

import math
from typing import Any

import geoopt
import torch
from torch import Tensor

from ...geometry import geometry
from ...ops.inverse_ratio import inverse_bessel_ratio, inverse_digamma_difference
from ...ops.numerics import norm
from .likelihood import ascend
from .sample import Sample, gathered

__all__ = ["power_spherical", "projected_normal", "sphere_sample", "unit", "von_mises_fisher"]

_SPHERE = geoopt.Sphere()
_STEPS, _HALVINGS = 100, 40


def sphere_sample(x: Tensor, weights: Tensor | None, least: int = 2) -> Sample:
    """Rows on the sphere.

    :raises ValueError: also if all rows of a data set are equal, since its concentration is then infinite.
    """
    s, _ = gathered(_SPHERE, x, weights, least)
    centre = geometry(_SPHERE).project(s.mean(s.points))
    spread = s.mean((s.points - centre).square().sum(-1))
    if bool((spread <= (4 * s.rounding) ** 2).any()):
        raise ValueError(
            "x: all rows of positive weight are equal up to rounding, so the likelihood has no maximum: the "
            "concentration is infinite. Expected rows that differ; give more data, or use a prior."
        )
    return s


def unit(loc: Tensor) -> Tensor:
    """Unit vectors again after a cast."""
    return torch.nn.functional.normalize(loc, dim=-1)


def von_mises_fisher(s: Sample) -> tuple[Tensor, Tensor]:
    """``loc`` (B, d) and ``concentration`` (B,); 0, at any ``loc``, where the rows cancel."""
    loc = geometry(_SPHERE).project(s.mean(s.points))
    fall = 0.5 * s.mean((s.points - loc).square().sum(-1))  # 1 - |mean|, without cancellation
    return loc, inverse_bessel_ratio(fall, loc.shape[-1] / 2 - 1)


def _power_climb(s: Sample, loc: Tensor) -> tuple[Tensor, Tensor]:
    r"""A local maximum of :math:`\sum_iw_i\log(1+\mu\cdot x_i)` and its value, by Newton's method on the sphere
    with absolute eigenvalues."""
    x, geo = s.points, geometry(_SPHERE)

    def value(loc: Tensor) -> Tensor:
        return s.mean((0.5 * (x + loc).square().sum(-1)).clamp_min(1e-300).log())

    now = value(loc)
    for _ in range(_STEPS):
        inverse = 2 / (x + loc).square().sum(-1, keepdim=True).clamp_min(1e-300)
        slope = s.mean(x * inverse)
        along = (slope * loc).sum(-1, keepdim=True)
        gradient = slope - along * loc
        scaled = x * inverse * s.shares.sqrt().unsqueeze(-1)
        scaled = scaled - (scaled * loc).sum(-1, keepdim=True) * loc
        hessian = torch.einsum("nbi,nbj->bij", scaled, scaled) + torch.diag_embed(along.expand_as(loc))
        values, axes = torch.linalg.eigh(hessian)
        step = (axes.mT @ gradient.unsqueeze(-1)).squeeze(-1) / values.abs().clamp_min(1e-12)
        step = geo.project_tangent(loc, (axes @ step.unsqueeze(-1)).squeeze(-1))
        gain, length = (gradient * step).sum(-1), torch.ones_like(loc[..., :1])
        for _ in range(_HALVINGS):
            new = geo.project(loc + length * step)
            then = value(new)
            higher = then >= now - 1e-15
            if bool(higher.all()):
                break
            length = torch.where(higher.unsqueeze(-1), length, length / 2)
        loc = torch.where(higher.unsqueeze(-1), new, loc)
        now = torch.where(higher, then, now)
        if bool(((gain < 1e-20) | ~higher).all()):
            break
    return loc, now


def power_spherical(s: Sample) -> tuple[Tensor, Tensor]:
    """``loc`` (B, d) and ``concentration`` (B,). The best ``loc`` is the same for every concentration; for
    spread data there may be several maxima, so a few rows are starts besides the mean direction."""
    mean = s.mean(s.points)
    starts = [geometry(_SPHERE).project(mean)]
    if bool((norm(mean) < 0.5).any()):
        starts += [s.points[int(i)] for i in torch.linspace(0, len(s.points) - 1, 4)]
    runs = [_power_climb(s, start) for start in starts]
    best, highest = runs[0]
    for loc, value in runs[1:]:
        best = torch.where((value > highest).unsqueeze(-1), loc, best)
        highest = torch.maximum(highest, value)
    near = (s.points - best).square().sum(-1)
    far = (s.points + best).square().sum(-1)
    log = torch.where(near < far, torch.log1p(-near.clamp_max(2) / 4), far.clamp_min(1e-300).div(4).log())
    return best, inverse_digamma_difference(-s.mean(log), (best.shape[-1] - 1) / 2)


def projected_normal(s: Sample, family: Any) -> Tensor:
    r""":math:`\mu` (B, d), by Newton's method from the limits for long and for short vectors.

    :param family: the class ``ProjectedNormal``.
    """
    mean = s.mean(s.points)
    loc = geometry(_SPHERE).project(mean)
    n = mean.shape[-1]
    fall = 0.5 * s.mean((s.points - loc).square().sum(-1))  # 1 - |mean|
    short = (1 - fall) * math.sqrt(2) * math.exp(math.lgamma(n / 2 + 1) - math.lgamma((n + 1) / 2))
    long = ((n - 1) / (2 * fall)).sqrt()
    length = torch.where(fall < 0.5, torch.maximum(long, short), short)
    return ascend(family(length.unsqueeze(-1) * loc, validate_args=False), s).concentration
