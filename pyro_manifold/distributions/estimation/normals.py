r"""Maximum likelihood for the normal distributions of a manifold.

.. math::
    \text{Riemannian: } \hat\mu = \text{Fréchet mean}, \quad \mathrm E_{\hat\sigma}\,d(x,\mu)^2 =
    \sum_iw_i\,d(x_i,\hat\mu)^2; \qquad
    \text{wrapped, to start: } \hat\Sigma = \sum_iw_i\,v_iv_i^\top, \quad v_i = \log_{\hat\mu}x_i
"""

import math
from typing import Any

import geoopt
import torch
from torch import Tensor

from ...geometry import Geometry, geometry
from ...geometry.frechet import mean_and_variance
from ...ops.newton import ConvergenceError
from .likelihood import ascend
from .sample import Sample

__all__ = ["isotropic_gaussian", "riemannian_normal", "wrapped_normal"]

COVARIANCES = ("full", "diagonal", "isotropic")
_STEPS = 200


def _centre(geo: Geometry, s: Sample) -> tuple[Tensor, Tensor]:
    """Fréchet mean and variance.

    :raises ValueError: where there is no clear one, or all rows are equal.
    """
    try:
        try:
            mean, variance = mean_and_variance(geo, s.points, s.shares, 2000, 1e-10)
        except ConvergenceError:  # where the rounding of the points does not allow as much
            mean, variance = mean_and_variance(geo, s.points, s.shares, 2000, 1e-5)
    except ConvergenceError as error:
        raise ValueError(
            f"x: the rows have no clear Fréchet mean on {geo.manifold.name} ({error}). Expected rows about one "
            "centre; fit a mixture, or a distribution of axes."
        ) from None
    extent = geo.dist(geo.base_point(geo.event_shape(mean), dtype=mean.dtype, device=mean.device), mean)
    if bool((variance <= (4 * s.rounding * (1 + extent)) ** 2).any()):
        raise ValueError(
            "x: all rows of positive weight are equal up to rounding, so the likelihood has no maximum: the scale "
            "is 0. Expected rows that differ; give more data, or use a prior."
        )
    return mean, variance


def riemannian_normal(s: Sample, family: Any, manifold: geoopt.Manifold) -> tuple[Tensor, Tensor]:
    """``loc`` (B,) + event and ``scale`` (B,); infinite for rows of a sphere that spread as uniform ones do.

    :param family: the class ``RiemannianNormal``.
    """
    geo = geometry(manifold)
    loc, variance = _centre(geo, s)
    scale = (variance / geo.dim(geo.event_shape(loc))).sqrt()
    curvature = geo.constant_curvature(loc)
    inside = torch.ones_like(scale, dtype=torch.bool)
    if curvature is not None and bool(curvature > 0):
        widest = family(manifold, loc, math.inf, validate_args=False).base_dist.log_z_and_square()[1]
        inside = variance < widest * (1 - 1e-9)
    target = torch.where(inside, variance, scale.square())
    for _ in range(_STEPS):  # Newton's method in log scale; from below it does not overshoot
        with torch.enable_grad():
            leaf = scale.clone().requires_grad_()
            square = family(manifold, loc, leaf, validate_args=False)._exact_moments()[1] * leaf.square()
            (slope,) = torch.autograd.grad(square.sum(), leaf)
        gap = (target / square.detach()).log()
        step = gap * square.detach() / (slope * scale).clamp_min(1e-300)
        scale = torch.where(inside, scale * step.clamp(-1.0, 1.0).exp(), scale)
        if bool(((step.abs() < 1e-13) | ~inside).all()):
            break
    return loc, torch.where(inside, scale, math.inf)


def wrapped_normal(
    s: Sample, family: Any, manifold: geoopt.Manifold, covariance: str, truncated: bool
) -> dict[str, Tensor]:
    """``loc`` (B,) + event, and ``scale`` (B, dim or 1) or ``scale_tril`` (B, dim, dim).

    :param family: the class ``WrappedNormal``.
    """
    geo = geometry(manifold)
    loc, _ = _centre(geo, s)
    v = geo.log_frame(loc.expand_as(s.points), s.points)
    dim = v.shape[-1]
    spread = _spread(s, v, covariance)
    d = family(manifold, loc, **spread, truncated=truncated, validate_args=False)
    infinite = geo.injectivity_radius(geo.event_shape(loc)) == math.inf
    smooth = (geo.is_flat or infinite or dim == 1) and not truncated
    if not (geo.is_flat and infinite):  # in flat space this is the maximum
        d = ascend(d, s, only=None if smooth else list(spread))
    return {"loc": d.loc} | ({"scale_tril": d.base_dist.scale_tril} if covariance == "full" else
                             {"scale": d.scale[..., :1] if covariance == "isotropic" else d.scale})  # fmt: skip


def _spread(s: Sample, v: Tensor, covariance: str) -> dict[str, Tensor]:
    """Of tangent vectors ``v``, ``(n, B, dim)``.

    :raises ValueError: if it is singular.
    """
    variance = s.mean(v.square())
    if covariance == "isotropic":
        return {"scale": variance.mean(-1, keepdim=True).sqrt()}
    least = variance.amin(-1)
    if covariance == "full":
        values, axes = torch.linalg.eigh(torch.einsum("nb,nbi,nbj->bij", s.shares, v, v))
        least = s.mean(torch.einsum("nbi,bij->nbj", v, axes).square()).amin(-1)
    if bool((least <= (4 * s.rounding * (1 + variance.amax(-1).sqrt())) ** 2).any()):
        other = "'diagonal' or 'isotropic'" if covariance == "full" else "'isotropic'"
        raise ValueError(
            "x: the rows have no spread in some direction of the tangent space, so the likelihood has no maximum. "
            f"Expected more than {v.shape[-1]} rows that spread in all directions; give more, or "
            f"covariance={other}."
        )
    if covariance == "diagonal":
        return {"scale": variance.sqrt()}
    return {"scale_tril": torch.linalg.cholesky(torch.einsum("nb,nbi,nbj->bij", s.shares, v, v))}


def isotropic_gaussian(s: Sample, family: Any) -> tuple[Tensor, Tensor]:
    """``loc`` (B, 3, 3) and ``scale`` (B,), by Newton's method from the mean matrix.

    :param family: the class ``IsotropicGaussian``.
    """
    mean = s.mean(s.points)
    loc = geometry(family.manifold).project(mean)
    fall = s.mean((s.points - loc).square().sum((-1, -2))) / 6  # 1 - tr(loc^T R) / 3
    scale = (-torch.log1p(-fall.clamp_max(0.999))).sqrt()
    if bool((fall <= (4 * s.rounding) ** 2).any()):
        raise ValueError(
            "x: all rows of positive weight are equal up to rounding, so the likelihood has no maximum: the scale "
            "is 0. Expected rows that differ; give more data, or use a prior."
        )
    d = ascend(family(loc, scale, validate_args=False), s)
    return d.loc, d.scale
