"""Closed-form divergences, registered with torch's ``kl_divergence``.

Where no pair is registered, or a pair has no closed form for the parameters at hand, ``kl_divergence`` raises
``NotImplementedError``; ``TraceMeanField_ELBO`` then estimates that term by Monte Carlo from the guide's own
draw, as Pyro does everywhere. By hand: ``x = p.rsample((n,)); (p.log_prob(x) - q.log_prob(x)).mean(0)``; both
densities are with respect to Riemannian volume, so the difference is right.
"""

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence, register_kl

from ..geometry import geometry
from ..ops.batched import apply_matrix
from ..ops.precision import full_precision
from ..ops.special import bessel_divergence, bessel_ratio, log_bessel
from ..ops.spherical import log_sphere_area
from ._exp_map_distribution import ExpMapDistribution
from .angular_central_gaussian import AngularCentralGaussian
from .fisher_bingham import FisherBingham
from .matrix_fisher import MatrixFisher
from .power_spherical import PowerSpherical
from .pushforward import Pushforward
from .riemannian_normal import RiemannianNormal
from .rotationally_symmetric import RotationallySymmetric
from .uniform import ManifoldUniform
from .von_mises_fisher import VonMisesFisher
from .wrapped_normal import WrappedNormal

__all__ = ["share_centre"]


def share_manifold(p: TorchDistribution, q: TorchDistribution, like: Tensor) -> bool:
    """Are the two distributions on one manifold, hence of one measure?"""
    a, b = (d.support.geometry for d in (p, q))  # type: ignore[union-attr]
    return p.event_shape == q.event_shape and a.same_manifold(b, like)


def share_centre(p: WrappedNormal | RiemannianNormal, q: WrappedNormal | RiemannianNormal) -> bool:
    """Are the two distributions on one manifold with equal centres?"""
    return share_manifold(p, q, p.loc) and torch.equal(*torch.broadcast_tensors(p.loc, q.loc))


@register_kl(WrappedNormal, WrappedNormal)
@full_precision
def _kl_wrapped_wrapped(p: WrappedNormal, q: WrappedNormal) -> Tensor:
    r"""With one centre and an injective exp, the map is the same bijection on both sides: the divergence of
    the normals."""
    if not (p._injective and q._injective and share_centre(p, q)):
        raise NotImplementedError(
            "no closed form: the KL of wrapped normals is that of their tangent normals only if they share "
            "manifold and centre and exp is injective (not on spheres)."
        )
    if p._diagonal and q._diagonal:
        return kl_divergence(p.base_dist, q.base_dist)
    eye = p.covariance_matrix  # at least one is full: compare both as full
    p0, q0 = (
        torch.distributions.MultivariateNormal(eye.new_zeros(eye.shape[-1]), d.covariance_matrix)
        for d in (p, q)
    )
    return kl_divergence(p0, q0)


@register_kl(RiemannianNormal, RiemannianNormal)
@full_precision
def _kl_riemannian_riemannian(p: RiemannianNormal, q: RiemannianNormal) -> Tensor:
    r"""With one centre: :math:`\log(Z_q/Z_p) + \frac12 E_p[r^2/\sigma_p^2]\,(\sigma_p^2/\sigma_q^2 - 1)`, in
    float64."""
    if not share_centre(p, q):
        raise NotImplementedError(
            "the KL of Riemannian normals has a closed form only if they share manifold and centre."
        )
    log_z, square = p._exact_moments()
    ratio = p.scale.double() / q.scale.double()
    out = q._exact_moments()[0] - log_z + square * ((ratio - 1) * (ratio + 1)) / 2
    return out.to(p.scale.dtype)


@register_kl(RiemannianNormal, ManifoldUniform)
@full_precision
def _kl_riemannian_uniform(p: RiemannianNormal, q: ManifoldUniform) -> Tensor:
    if not share_manifold(p, q, p.loc):
        raise NotImplementedError("the two distributions live on different manifolds.")
    out = p._divergence_from_uniform(geometry(q.manifold).log_volume(q.event_shape))
    return out.to(p.scale.dtype).expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))


@register_kl(VonMisesFisher, VonMisesFisher)
@full_precision
def _kl_vmf_vmf(p: VonMisesFisher, q: VonMisesFisher) -> Tensor:
    r""":math:`\kappa_q A_p |\mu_p-\mu_q|^2/2 + (\kappa_p-\kappa_q)A_p - G_p + G_q`, the last a Bregman
    divergence."""
    _same_sphere(p, q)
    kp, kq = p.concentration, q.concentration
    turn = kq * bessel_ratio(kp, p._order)[0] * ((p.loc - q.loc).square().sum(-1) / 2)
    return turn + bessel_divergence(kp, kq, p._order)


@register_kl(VonMisesFisher, ManifoldUniform)
@register_kl(PowerSpherical, ManifoldUniform)
@register_kl(FisherBingham, ManifoldUniform)
@register_kl(MatrixFisher, ManifoldUniform)
@full_precision
def _kl_directional_uniform(
    p: VonMisesFisher | PowerSpherical | FisherBingham | MatrixFisher, q: ManifoldUniform
) -> Tensor:
    r""":math:`\log\mathrm{vol}(M) - \mathrm H[p]`, in a form without cancellation."""
    _same_sphere(p, q)
    return p._divergence_from_uniform().expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))


def _same_sphere(p: TorchDistribution, q: TorchDistribution) -> None:
    a, b = (geometry(d.support.manifold) for d in (p, q))  # type: ignore[union-attr]
    if type(a) is not type(b) or p.event_shape != q.event_shape:
        raise NotImplementedError("the two distributions live on different manifolds.")


def _mean_exponent(form: Tensor, turn: Tensor, mean: Tensor, second: Tensor, apart: Tensor) -> Tensor:
    r""":math:`\mathrm E[y^\top Dy]` of q's form D, where :math:`y = Rz + a`, from the moments of z."""
    mean = apply_matrix(turn, mean).unsqueeze(-1)
    apart = apart.unsqueeze(-1)
    cross = mean @ apart.mT
    return (form * (turn @ second @ turn.mT + cross + cross.mT + apart @ apart.mT)).sum((-1, -2))


def _unit(p: VonMisesFisher) -> Tensor:
    """The axis in float64, of length 1 there too: rounded to float32 it is off by 1e-7."""
    mu = p.loc.double()
    return mu / mu.norm(dim=-1, keepdim=True)


def _between_modes(q: FisherBingham, axes: Tensor, x: Tensor, offset: float) -> Tensor:
    """q's coordinates of the point ``offset * x``, for a unit vector x."""
    if offset and q._offset:
        return q._coordinates(axes, x)
    return apply_matrix(axes.mT, offset * x - q._offset * axes[..., 0])


@register_kl(FisherBingham, FisherBingham)
@full_precision
def _kl_quadratic_quadratic(p: FisherBingham, q: FisherBingham) -> Tensor:
    r"""Bingham and Kent in any pairing:
    :math:`S_q - S_p + \mathrm E_p[y_q^\top D_qy_q - y_p^\top D_py_p]`."""
    _same_sphere(p, q)
    (axes_p, form_p), (axes_q, form_q) = p._form(), q._form()
    log, mean, second = p._moments(form_p)
    apart = _between_modes(q, axes_q, axes_p[..., 0], p._offset)
    other = _mean_exponent(form_q, axes_q.mT @ axes_p, mean, second, apart)
    out = q._normalizer(form_q) - log + other - (form_p * second).sum((-1, -2))
    return out.to(p._dtype).expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))


@register_kl(FisherBingham, VonMisesFisher)
@full_precision
def _kl_quadratic_vmf(p: FisherBingham, q: VonMisesFisher) -> Tensor:
    r"""The same with :math:`\kappa(1 - \mu\cdot x)`, whose mean is
    :math:`\kappa[\rho + (1-\rho)\mathrm E(1-x_1)]`,
    :math:`\rho = |\gamma_1-\mu|^2/2`."""
    _same_sphere(p, q)
    axes, form = p._form()
    log, mean, second = p._moments(form)
    k = q.concentration.double()
    apart = (axes[..., 0] - _unit(q)).square().sum(-1) / 2
    fall = apart - (1 - apart) * mean[..., 0] if p._offset else torch.ones_like(apart)
    own = (form * second).sum((-1, -2))
    out = log_bessel(k, q._order, scaled=True) + log_sphere_area(q.event_shape[0] - 1) - log + k * fall - own
    return out.to(p._dtype).expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))


@register_kl(VonMisesFisher, FisherBingham)
@full_precision
def _kl_vmf_quadratic(p: VonMisesFisher, q: FisherBingham) -> Tensor:
    _same_sphere(p, q)
    axes, form = q._form()
    k, mu = p.concentration.double(), _unit(p)
    ratio, fall, slope = bessel_ratio(k, p._order)
    across = ((fall * (1 + ratio) - slope) / (p.event_shape[0] - 1))[..., None, None]
    outer = mu.unsqueeze(-1) * mu.unsqueeze(-2)
    eye = torch.eye(p.event_shape[0], dtype=mu.dtype, device=mu.device)
    second = across * (eye - outer) + (slope + fall.square())[..., None, None] * outer
    apart = _between_modes(q, axes, mu, 1.0)
    other = _mean_exponent(form, axes.mT, -fall.unsqueeze(-1) * mu, second, apart)
    log = log_bessel(k, p._order, scaled=True) + log_sphere_area(p.event_shape[0] - 1)
    out = q._normalizer(form) - log + other - k * fall
    return out.to(q._dtype).expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))


@register_kl(MatrixFisher, MatrixFisher)
@full_precision
def _kl_matrix_fisher(p: MatrixFisher, q: MatrixFisher) -> Tensor:
    r"""That of the distributions of the quaternions; the factor 4 of the volumes cancels."""
    out = kl_divergence(p._quaternion, q._quaternion)
    return out.to(p.matrix.dtype).expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))


@register_kl(AngularCentralGaussian, AngularCentralGaussian)
@full_precision
def _kl_angular(p: AngularCentralGaussian, q: AngularCentralGaussian) -> Tensor:
    r""":math:`\tfrac d2\,\mathrm E\log(w^\top Kw/w^\top w)` with K the first matrix seen from the second, of
    determinant 1."""
    _same_sphere(p, q)
    out = p._divergence(q._tril.double())
    return out.to(p._tril.dtype).expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))


@register_kl(AngularCentralGaussian, ManifoldUniform)
@full_precision
def _kl_angular_uniform(p: AngularCentralGaussian, q: ManifoldUniform) -> Tensor:
    _same_sphere(p, q)
    return p._divergence(None).to(p._tril.dtype).expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))


_PUSHED = (ExpMapDistribution, RotationallySymmetric, Pushforward)


def _kl_pushed(p: TorchDistribution, q: TorchDistribution) -> Tensor:
    """Images of two bases under one injective map; torch says nothing, in as many words, about any other
    pair."""
    if isinstance(p, Pushforward) and isinstance(q, Pushforward) and p.transforms == q.transforms:
        return kl_divergence(p.base_dist, q.base_dist)
    raise NotImplementedError(
        f"no closed form is known for the KL of {type(p).__name__} from {type(q).__name__}; estimate it by "
        "draws: x = p.sample((n,)); (p.log_prob(x) - q.log_prob(x)).mean(0)."
    )


for _a in (*_PUSHED, torch.distributions.TransformedDistribution):
    for _b in (*_PUSHED, torch.distributions.TransformedDistribution):
        if _a in _PUSHED or _b in _PUSHED:
            register_kl(_a, _b)(_kl_pushed)
