"""Closed-form KL divergences, registered with torch's ``kl_divergence``.

For a pair that is not registered, or has no closed form for the given parameters, ``kl_divergence`` raises
``NotImplementedError``; ``TraceMeanField_ELBO`` then estimates that term by Monte Carlo from the guide's draw,
as it does for every such pair. To estimate one by hand:
``x = p.rsample((n,)); (p.log_prob(x) - q.log_prob(x)).mean(0)``. Both densities are with respect to Riemannian
volume, so their ratio does not depend on coordinates.
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
from ..ops.tracing import is_concrete
from ._exp_map_distribution import ExpMapDistribution
from ._quadratic_exponential import QuadraticExponential
from .angular_central_gaussian import AngularCentralGaussian
from .isotropic_gaussian import IsotropicGaussian
from .matrix_fisher import MatrixFisher
from .power_spherical import PowerSpherical
from .product import ProductDistribution
from .pushforward import Pushforward
from .riemannian_normal import RiemannianNormal
from .rotationally_symmetric import RotationallySymmetric
from .uniform import ManifoldUniform
from .von_mises_fisher import VonMisesFisher
from .wrapped_normal import WrappedNormal

__all__ = ["share_centre"]


def share_manifold(p: TorchDistribution, q: TorchDistribution, like: Tensor) -> bool:
    """Whether the two distributions are on the same manifold and so have the same base measure."""
    a, b = (d.support.geometry for d in (p, q))  # type: ignore[union-attr]
    return p.event_shape == q.event_shape and a.same_manifold(b, like)


def share_centre(p: WrappedNormal | RiemannianNormal, q: WrappedNormal | RiemannianNormal) -> bool:
    """Whether the two distributions are on the same manifold and have equal centres; false where the values are
    traced, so that the answer could change, unless they have one tensor in common."""
    if p.loc is q.loc or not is_concrete(p.loc):
        return p.loc is q.loc and share_manifold(p, q, p.loc)
    return share_manifold(p, q, p.loc) and torch.equal(*torch.broadcast_tensors(p.loc, q.loc))


@register_kl(WrappedNormal, WrappedNormal)
@full_precision
def _kl_wrapped_wrapped(p: WrappedNormal, q: WrappedNormal) -> Tensor:
    r"""If both have the same centre and exp is injective, both are images under the same bijection, so the
    divergence is that of the tangent normals; in flat space, of normals whose means differ by
    :math:`\log_{\mu_p}\mu_q`."""
    injective = p._injective and q._injective
    flat = injective and p.geometry.is_flat and share_manifold(p, q, p.loc)
    if not (flat or injective and share_centre(p, q)):
        raise NotImplementedError(
            "no closed form: the KL of wrapped normals is that of their tangent normals only if exp is "
            "injective (not on spheres) and they have the same manifold and centre, or the manifold is flat."
        )
    zero = p.loc.new_zeros(p.base_dist.event_shape)
    shift = p.geometry.log_frame(*torch.broadcast_tensors(p.loc, q.loc)) if flat else zero
    if p._diagonal and q._diagonal:
        normals = [torch.distributions.Normal(m, d.scale) for m, d in ((zero, p), (shift, q))]
        return kl_divergence(*normals).sum(-1)
    full = [
        torch.distributions.MultivariateNormal(m, d.covariance_matrix) for m, d in ((zero, p), (shift, q))
    ]
    return kl_divergence(*full)


@register_kl(RiemannianNormal, RiemannianNormal)
@full_precision
def _kl_riemannian_riemannian(p: RiemannianNormal, q: RiemannianNormal) -> Tensor:
    r"""For a common centre: :math:`\log(Z_q/Z_p) + \frac12 E_p[r^2/\sigma_p^2]\,(\sigma_p^2/\sigma_q^2 - 1)`,
    in float64. In flat space :math:`|\mu_p - \mu_q|^2/2\sigma_q^2` is added for other centres."""
    flat = p.geometry.is_flat and share_manifold(p, q, p.loc)
    if not (flat or share_centre(p, q)):
        raise NotImplementedError(
            "the KL of Riemannian normals has a closed form only if they have the same manifold and centre, or "
            "the manifold is flat."
        )
    log_z, square = p._exact_moments()
    ratio = p.scale.double() / q.scale.double()
    out = q._exact_moments()[0] - log_z + square * ((ratio - 1) * (ratio + 1)) / 2
    if flat:
        out = out + (p.geometry.dist(*torch.broadcast_tensors(p.loc, q.loc)) / q.scale).double().square() / 2
    return out.to(p.scale.dtype)


@register_kl(RiemannianNormal, ManifoldUniform)
@full_precision
def _kl_riemannian_uniform(p: RiemannianNormal, q: ManifoldUniform) -> Tensor:
    if not share_manifold(p, q, p.loc):
        raise _different_manifolds()
    out = p._divergence_from_uniform(geometry(q.manifold).log_volume(q.event_shape))
    return _result(out, p, q, p.scale.dtype)


@register_kl(VonMisesFisher, VonMisesFisher)
@full_precision
def _kl_vmf_vmf(p: VonMisesFisher, q: VonMisesFisher) -> Tensor:
    r""":math:`\kappa_q A_p |\mu_p-\mu_q|^2/2 + [(\kappa_p-\kappa_q)A_p - G_p + G_q]`; the bracket is a Bregman
    divergence of G."""
    _same_sphere(p, q)
    kp, kq = p.concentration, q.concentration
    turn = kq * bessel_ratio(kp, p._order)[0] * ((p.loc - q.loc).square().sum(-1) / 2)
    return turn + bessel_divergence(kp, kq, p._order)


@register_kl(VonMisesFisher, ManifoldUniform)
@register_kl(PowerSpherical, ManifoldUniform)
@register_kl(QuadraticExponential, ManifoldUniform)
@register_kl(MatrixFisher, ManifoldUniform)
@register_kl(IsotropicGaussian, ManifoldUniform)
@full_precision
def _kl_directional_uniform(
    p: VonMisesFisher | PowerSpherical | QuadraticExponential | MatrixFisher | IsotropicGaussian,
    q: ManifoldUniform,
) -> Tensor:
    r""":math:`\log\mathrm{vol}(M) - \mathrm H[p]`, in a form without cancellation."""
    _same_sphere(p, q)
    return _result(p._divergence_from_uniform(), p, q)


def _different_manifolds() -> NotImplementedError:
    return NotImplementedError("the two distributions are on different manifolds.")


def _same_sphere(p: TorchDistribution, q: TorchDistribution) -> None:
    """
    :raises NotImplementedError: unless both are on the same sphere (or both on SO(3)).
    """
    a, b = (geometry(d.support.manifold) for d in (p, q))  # type: ignore[union-attr]
    if type(a) is not type(b) or p.event_shape != q.event_shape:
        raise _different_manifolds()


def _result(
    out: Tensor, p: TorchDistribution, q: TorchDistribution, dtype: torch.dtype | None = None
) -> Tensor:
    """``out`` in ``dtype``, expanded to the common batch shape of p and q."""
    return out.to(dtype or out.dtype).expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))


def _mean_exponent(form: Tensor, rotation: Tensor, mean: Tensor, second: Tensor, shift: Tensor) -> Tensor:
    r""":math:`\mathrm E[y^\top Dy]` for D = ``form`` and :math:`y = Rz + a`, from the mean and the second
    moment of z; R = ``rotation``, a = ``shift``."""
    mean = apply_matrix(rotation, mean).unsqueeze(-1)
    shift = shift.unsqueeze(-1)
    cross = mean @ shift.mT
    return (form * (rotation @ second @ rotation.mT + cross + cross.mT + shift @ shift.mT)).sum((-1, -2))


def _unit_axis(p: VonMisesFisher) -> Tensor:
    """The mean direction in float64, normalised there since a float32 vector is off by 1e-7."""
    mu = p.loc.double()
    return mu / mu.norm(dim=-1, keepdim=True)


def _coordinates_of(q: QuadraticExponential, axes: Tensor, x: Tensor, offset: float) -> Tensor:
    """The coordinates y (see :class:`QuadraticExponential`) that q gives to the point ``offset * x``, for a
    unit vector x."""
    if offset and q._offset:
        return q._coordinates(axes, x)
    return apply_matrix(axes.mT, offset * x - q._offset * axes[..., 0])


@register_kl(QuadraticExponential, QuadraticExponential)
@full_precision
def _kl_quadratic_quadratic(p: QuadraticExponential, q: QuadraticExponential) -> Tensor:
    r"""For Bingham and Kent distributions in any combination:
    :math:`S_q - S_p + \mathrm E_p[y_q^\top D_qy_q - y_p^\top D_py_p]`."""
    _same_sphere(p, q)
    (axes_p, form_p), (axes_q, form_q) = p._form(), q._form()
    log, mean, second = p._moments(form_p)
    shift = _coordinates_of(q, axes_q, axes_p[..., 0], p._offset)
    other = _mean_exponent(form_q, axes_q.mT @ axes_p, mean, second, shift)
    out = q._normalizer(form_q) - log + other - (form_p * second).sum((-1, -2))
    out = out + p._tilt(mean) - q._tilt(apply_matrix(axes_q.mT @ axes_p, mean) + shift)
    return _result(out, p, q, p._dtype)


@register_kl(QuadraticExponential, VonMisesFisher)
@full_precision
def _kl_quadratic_vmf(p: QuadraticExponential, q: VonMisesFisher) -> Tensor:
    r"""As above with q's exponent :math:`\kappa(1 - \mu\cdot x)`, whose mean under p is
    :math:`\kappa[\rho + (1-\rho)\mathrm E(1-x_1) - \sum_{j\ge2}(\gamma_j\cdot\mu)\mathrm E x_j]` with
    :math:`\rho = |\gamma_1-\mu|^2/2`."""
    _same_sphere(p, q)
    axes, form = p._form()
    log, mean, second = p._moments(form)
    k = q.concentration.double()
    rho = (axes[..., 0] - _unit_axis(q)).square().sum(-1) / 2
    one_minus_cosine = torch.ones_like(rho)
    if p._offset:
        across = (apply_matrix(axes.mT, _unit_axis(q)) * mean)[..., 1:].sum(-1)
        one_minus_cosine = rho - (1 - rho) * mean[..., 0] - across
    own = (form * second).sum((-1, -2)) - p._tilt(mean)
    log_q = log_bessel(k, q._order, scaled=True) + log_sphere_area(q.event_shape[0] - 1)
    return _result(log_q - log + k * one_minus_cosine - own, p, q, p._dtype)


@register_kl(VonMisesFisher, QuadraticExponential)
@full_precision
def _kl_vmf_quadratic(p: VonMisesFisher, q: QuadraticExponential) -> Tensor:
    _same_sphere(p, q)
    axes, form = q._form()
    k, mu = p.concentration.double(), _unit_axis(p)
    ratio, fall, slope = bessel_ratio(k, p._order)
    across = ((fall * (1 + ratio) - slope) / (p.event_shape[0] - 1))[..., None, None]
    outer = mu.unsqueeze(-1) * mu.unsqueeze(-2)
    eye = torch.eye(p.event_shape[0], dtype=mu.dtype, device=mu.device)
    second = across * (eye - outer) + (slope + fall.square())[..., None, None] * outer
    shift = _coordinates_of(q, axes, mu, 1.0)
    other = _mean_exponent(form, axes.mT, -fall.unsqueeze(-1) * mu, second, shift)
    log = log_bessel(k, p._order, scaled=True) + log_sphere_area(p.event_shape[0] - 1)
    tilt = q._tilt(apply_matrix(axes.mT, -fall.unsqueeze(-1) * mu) + shift)
    out = q._normalizer(form) - log + other - k * fall - tilt
    return _result(out, p, q, q._dtype)


@register_kl(MatrixFisher, MatrixFisher)
@full_precision
def _kl_matrix_fisher(p: MatrixFisher, q: MatrixFisher) -> Tensor:
    r"""The divergence of the distributions of the quaternions: the densities differ from theirs by the same
    constant factor, which cancels."""
    return _result(kl_divergence(p._quaternion, q._quaternion), p, q, p.matrix.dtype)


@register_kl(AngularCentralGaussian, AngularCentralGaussian)
@full_precision
def _kl_angular(p: AngularCentralGaussian, q: AngularCentralGaussian) -> Tensor:
    r""":math:`\tfrac d2\,\mathrm E\log(w^\top Kw/w^\top w)` with
    :math:`K = L_p^\top\Sigma_q^{-1}L_p`, scaled to determinant 1."""
    _same_sphere(p, q)
    return _result(p._divergence(q._tril.double()), p, q, p._tril.dtype)


@register_kl(AngularCentralGaussian, ManifoldUniform)
@full_precision
def _kl_angular_uniform(p: AngularCentralGaussian, q: ManifoldUniform) -> Tensor:
    _same_sphere(p, q)
    return _result(p._divergence(None), p, q, p._tril.dtype)


@register_kl(ProductDistribution, ProductDistribution)
def _kl_product_product(p: ProductDistribution, q: ProductDistribution) -> Tensor:
    """The sum over the factors, where each has a closed form."""
    if not share_manifold(p, q, torch.zeros((), dtype=torch.float64)):
        raise _different_manifolds()
    return torch.stack([kl_divergence(a, b) for a, b in zip(p.parts, q.parts, strict=True)]).sum(0)


_PUSHED = (ExpMapDistribution, RotationallySymmetric, Pushforward)


def _kl_pushed(p: TorchDistribution, q: TorchDistribution) -> Tensor:
    """If both are pushforwards by the same injective map, the divergence is that of the bases. For any other
    pair this raises an error with a remedy, where torch's has no message."""
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
