"""The Riemannian normal distribution, whose density depends on geodesic distance alone."""

import math
from collections.abc import Sequence
from typing import Any

import geoopt
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from ..constraints import check_point
from ..geometry import Geometry, SPDGeometry, geometry
from ..geometry.registry import ClassRegistry
from ..ops.arguments import checked
from ..ops.checks import as_tensors, broadcast_shapes, check_all, held
from ..ops.numerics import norm, scalar
from ..ops.quadrature import legendre
from ..ops.radial import log_normalizer, radius_moment
from ..ops.radial_sample import sample_radius
from ..ops.signed_trig import log_sinc_length
from ..transforms import ExpMap
from ._exp_map_distribution import ExpMapDistribution, with_gradient_of
from ._repr import validates
from .estimation.normals import riemannian_normal
from .estimation.sample import gathered
from .spd_tangent import SPDTangentNormal

__all__ = ["RiemannianNormal"]


class _RadialNormal(dist.TorchDistribution):
    r"""Distribution of the tangent vector :math:`v = \log_\mu x` on a manifold of constant curvature K. Its
    density with respect to Lebesgue measure is
    :math:`e^{-|v|^2/2\sigma^2}(\sin(\sqrt K|v|)/(\sqrt K|v|))^{d-1}/Z`, and zero where
    :math:`|v| \ge \pi/\sqrt K`."""

    arg_constraints = {"scale": constraints.positive}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, geo: Geometry, scale: Tensor, dim: int) -> None:
        self.geometry = geo
        self.scale = scale
        super().__init__(scale.shape, torch.Size([dim]), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "_RadialNormal":
        return _RadialNormal(self.geometry, self.scale.expand(torch.Size(batch_shape)), self.event_shape[0])

    def double(self) -> "_RadialNormal":
        """The same distribution in float64."""
        return _RadialNormal(self.geometry, self.scale.double(), self.event_shape[0])

    @property
    def curvature(self) -> Tensor:
        """K, read from the manifold at each call since it may be learned."""
        return self.geometry.curvature(self.scale).reshape(())

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        shape, dim = self._extended_shape(torch.Size(sample_shape)), self.event_shape[0]
        u = torch.randn(shape, dtype=self.scale.dtype, device=self.scale.device)
        u = u / norm(u, keepdim=True).clamp_min(torch.finfo(u.dtype).tiny)
        return sample_radius(self.scale, self.curvature, dim, shape[:-1]).unsqueeze(-1) * u

    def log_prob(self, value: Tensor) -> Tensor:
        k, dim = self.curvature, self.event_shape[0]
        s = value.square().sum(-1)
        out = -(norm(value) / self.scale).square() / 2 - log_normalizer(self.scale, k, dim)
        if dim > 1:
            out = out + (dim - 1) * log_sinc_length(value, k)
        return torch.where(k * s < math.pi**2, out, -math.inf)

    def log_z(self) -> Tensor:
        return log_normalizer(self.scale, self.curvature, self.event_shape[0])

    def log_z_and_square(self) -> tuple[Tensor, Tensor]:
        return radius_moment(self.scale, self.curvature, self.event_shape[0], "square")


# Tangent distributions on manifolds without constant curvature, by class of geometry: functions of the
# geometry, the scale (expanded to the batch shape) and the event shape.
_TANGENT_NORMALS: ClassRegistry[Any] = ClassRegistry()


@_TANGENT_NORMALS.register(SPDGeometry)
def _spd_tangent_normal(geo: Geometry, scale: Tensor, event_shape: torch.Size) -> SPDTangentNormal:
    return SPDTangentNormal(scale, event_shape[-1], geo.unit)


class RiemannianNormal(ExpMapDistribution):
    r"""Normal distribution in geodesic distance on hyperbolic space, the sphere, flat space or positive
    definite matrices.

    .. math::
        p(x) = \frac1{Z(\sigma)} e^{-d(x,\mu)^2/2\sigma^2}, \qquad
        Z(\sigma) = |S^{d-1}| \int_0 e^{-r^2/2\sigma^2} \Big(\frac{\sin(\sqrt K r)}{\sqrt K}\Big)^{d-1} dr

    with sinh for curvature :math:`K<0`, and the integral up to :math:`\pi/\sqrt K` for :math:`K>0`. It has
    maximum entropy given the Fréchet mean and the mean squared distance. On the sphere it is the recommended
    normal distribution: unlike the wrapped normal it has no pole, and it is uniform at ``scale=inf``. Draws
    are exact; draws and Z are differentiable in ``loc``, ``scale`` and a learned curvature
    (:mod:`pyro_manifold.ops.radial`), and nothing is clamped. ``log_prob`` can be differentiated any number of
    times in ``value``, once in ``scale`` and curvature (a second derivative raises).

    :math:`\sigma` is not the root mean squared distance: draws concentrate at distance :math:`\sigma\sqrt d`
    in flat space and near :math:`(d-1)\sigma^2\sqrt{-K}` in hyperbolic space at large sigma.

    On ``SymmetricPositiveDefinite`` Z is a Pfaffian (:mod:`pyro_manifold.ops.spd_normalizer`), for matrices
    up to 32 x 32, differentiable any number of times in ``scale``. Draws are exact up to 12 x 12, and for
    larger matrices at scales far from 1; at other scales the eigenvalues are the final states of Markov
    chains that are long enough to forget their start to rounding (:mod:`pyro_manifold.ops.spd_eigenvalue_hmc`
    gives the cost and the checks). Draws are differentiable in ``loc`` only: ``has_rsample`` is false while
    ``scale`` requires a gradient, and Pyro's ELBOs then use the score function. For reparametrised SVI use
    :class:`WrappedNormal` there.

    :param geoopt.Manifold manifold: ``Sphere``, ``PoincareBall``, ``Lorentz``, ``Stereographic``,
        ``Euclidean`` or ``SymmetricPositiveDefinite``, or ``Scaled`` of one of them.
    :param Tensor loc: centre :math:`\mu`, shape ``batch + event``.
    :param Tensor scale: :math:`\sigma > 0`, a number or shape ``batch`` (isotropic), geodesic length.
    :raises ValueError: for a manifold whose curvature is not constant (use :class:`WrappedNormal`, or one
        site for each factor of a product), a ``loc`` off the manifold, a ``scale`` not positive, or infinite
        without positive curvature.

    Base measure: Riemannian volume. Batch shape: broadcast of the parameters'; event shape: that of ``loc``.

    References: Pennec, J. Math. Imaging Vis. 25 (2006), sec. 4; Said et al., IEEE Trans. Inf. Theory 63
    (2017), eq. 6; Mathieu et al., NeurIPS 2019, eq. 5; implicit gradients: Figurnov et al., NeurIPS 2018, eq.
    5.

    >>> import geoopt
    >>> d = RiemannianNormal(geoopt.Sphere(), torch.tensor([1.0, 0.0, 0.0]), scale=float("inf"))
    >>> d.log_prob(torch.tensor([0.0, 0.0, 1.0]))  # -log 4 pi
    tensor(-2.5310)
    """

    _expand_attributes = ("manifold",)
    arg_constraints: dict[str, Any] = {
        "scale": constraints.positive
    }  # __init__ also checks that loc is on the manifold

    @checked
    def __init__(
        self,
        manifold: geoopt.Manifold,
        loc: Tensor,
        scale: Tensor | float,
        *,
        validate_args: bool | None = None,
    ) -> None:
        validate = validates(validate_args)
        loc, scale = as_tensors(loc=loc, scale=scale)
        transform = ExpMap(manifold, loc, cache_size=1, validate_args=False)
        geo = transform.geometry
        curvature = geo.constant_curvature(loc)
        make_base = _TANGENT_NORMALS.find(type(geo.unscaled)) if curvature is None else None
        if curvature is None and make_base is None:
            raise ValueError(
                f"manifold: got {geo.manifold.name}, expected one of constant curvature (Sphere, PoincareBall, "
                "Lorentz, Stereographic, Euclidean) or SymmetricPositiveDefinite. Use WrappedNormal, or for a "
                "product one RiemannianNormal site per factor."
            )
        curvature = scalar(0.0, loc) if curvature is None else curvature.reshape(())
        if validate:
            check_point(manifold, "loc", loc)
        event_shape = loc.shape[loc.dim() - geo.event_dim :]
        dim = geo.dim(event_shape)
        if validate:
            check_all(
                scale > 0, "scale", scale, "positive numbers", "Use a positive constraint such as softplus."
            )
            check_all(
                (scale < math.inf) | (curvature > 0), "scale", scale, f"finite numbers on {manifold.name}",
                "Only on the sphere is there a limit at infinity (the uniform distribution).",
            )  # fmt: skip
            if dim == 1 and curvature.requires_grad and bool(held(curvature) > 0):
                raise ValueError(
                    f"manifold: got {manifold.name} of dimension 1 with learned positive curvature, which "
                    "has no gradient here; expected dimension 2 or more. On a circle learn the scale "
                    "instead."
                )
        batch = broadcast_shapes(loc=loc.shape[: loc.dim() - geo.event_dim], scale=scale.shape)
        self.manifold = manifold
        base: Any
        if make_base is None:
            base = _RadialNormal(geo, scale.expand(batch), dim)
        else:
            base = make_base(geo, scale.expand(batch), event_shape)
        super().__init__(base, [transform], validate_args=validate_args)

    @classmethod
    @checked
    def fit(cls, manifold: geoopt.Manifold, x: Tensor, weights: Tensor | None = None) -> "RiemannianNormal":
        r"""The distribution of greatest likelihood: its ``loc`` is the Fréchet mean, and its mean squared distance
        from there is that of the rows.

        :param manifold: as in the constructor.
        :param x: the rows of data, shape ``(n,) + batch + event``: one distribution for each element of the batch.
        :param weights: how often each row was seen, shape ``(n,)`` or ``(n,) + batch``; ones by default.
        :raises ValueError: for a manifold without this distribution; rows off it, fewer than 2, all equal, or
            without a clear Fréchet mean; for weights that are negative, all zero, or of another shape.

        Computed in float64 without gradients; standard errors by :func:`standard_errors`. Reference: Said et
        al. (2017), prop. 7.

        >>> import geoopt
        >>> x = RiemannianNormal(geoopt.PoincareBall(), torch.tensor([0.3, 0.0]), 0.5).sample((2000,))
        >>> bool((RiemannianNormal.fit(geoopt.PoincareBall(), x).scale - 0.5).abs() < 0.05)
        True
        """
        if not cls.defined_on(geometry(manifold)):
            cls(manifold, x[0], 1.0)  # raises, and says why
        s, _ = gathered(manifold, x, weights)
        loc, scale = riemannian_normal(s, cls, manifold)
        return cls(manifold, geometry(manifold).project(s.shaped(loc)), s.shaped(scale))

    @staticmethod
    def defined_on(geo: Geometry) -> bool:
        """Is this distribution known on the manifold of that geometry?"""
        curvature = geo.constant_curvature(torch.zeros((), dtype=torch.float64))
        return curvature is not None or _TANGENT_NORMALS.find(type(geo.unscaled)) is not None

    @property
    def scale(self) -> Tensor:
        r""":math:`\sigma`, expanded to ``batch_shape``."""
        return self.base_dist.scale

    @staticmethod
    def infer_shapes(manifold: Any = (), loc: Any = (), scale: Any = ()) -> tuple[torch.Size, torch.Size]:
        """Shapes from shapes; pass the manifold itself where its points are matrices."""
        cut = len(loc) - (geometry(manifold).event_dim if isinstance(manifold, geoopt.Manifold) else 1)
        return torch.broadcast_shapes(torch.Size(loc[:cut]), torch.Size(scale)), torch.Size(loc[cut:])

    def log_prob(self, value: Tensor) -> Tensor:
        # Override: the base density contains the Jacobian of exp as a factor, which cancels exactly.
        if self._validate_args:
            self._validate_sample(value)
        v = self._remembered(value)
        with torch.set_grad_enabled(torch.is_grad_enabled() and v is None):
            r = self.geometry.dist(self.transforms[0].loc, value)
        if v is not None:
            r = with_gradient_of(r, norm(v))
        return -(r / self.scale).square() / 2 - self._log_z  # divided before it is squared

    @property
    def _dim(self) -> int:
        return self.base_dist.event_shape[0]

    @property
    def _log_z(self) -> Tensor:
        return self.base_dist.log_z()

    def _exact_moments(self) -> tuple[Tensor, Tensor]:
        r""":math:`\log Z` and :math:`E[r^2]/\sigma^2`, in float64: sums and differences of them must not
        cancel."""
        base = self.base_dist.double()
        log_z, square = base.log_z_and_square()
        return log_z, square / base.scale / base.scale

    def _divergence_from_uniform(self, log_volume: Tensor | float) -> Tensor:
        r""":math:`\log V - \log Z - E[r^2]/2\sigma^2`. For wide scales, where that difference loses all digits
        and could be negative, it is computed as
        :math:`\int_0^1 t\,\mathrm{Var}_{\sigma/\sqrt t}(r^2)\,dt/4\sigma^4`."""
        log_z, square = self._exact_moments()
        value = log_volume - log_z - square / 2
        scale, curvature = self.scale.detach().double(), self.base_dist.curvature.detach().double()
        t, weight = legendre(8, scale.device)
        with torch.enable_grad():
            s = (scale.reshape(1, -1) / t.sqrt()).requires_grad_()
            (slope,) = torch.autograd.grad(radius_moment(s, curvature, self._dim, "square")[1].sum(), s)
        s = s.detach()
        # the variance is s^3 times this slope; over 4 sigma^4, with sigma = s sqrt(t)
        wide = (weight * slope / (4 * t * s)).sum(0).reshape(scale.shape)
        right = torch.where(scale * curvature.sqrt() > 3, wide, value.detach())
        return right + (value - value.detach())  # the gradient of the difference is accurate at any scale

    @property
    def mode(self) -> Tensor:
        """``loc``."""
        return self.loc

    @property
    def frechet_mean(self) -> Tensor:
        """``loc`` (on the sphere at ``scale=inf`` every point is a Fréchet mean; ``loc`` is the limit)."""
        return self.loc

    @property
    def mean(self) -> Tensor:
        r"""Ambient expectation :math:`E[\cos(\sqrt K r)]\,\mu` in flat space, on sphere and hyperboloid
        (cosh).

        :raises NotImplementedError: in stereographic coordinates (the ball), where it has no closed form.
        """
        if not self.geometry.in_linear_space:
            raise NotImplementedError(
                f"the ambient mean has no closed form in the coordinates of {self.manifold.name}; use "
                "frechet_mean."
            )
        factor = radius_moment(self.scale, self.base_dist.curvature, self._dim, "cosine")[1]
        return factor.unsqueeze(-1) * self.loc

    def entropy(self) -> Tensor:
        r""":math:`\log Z + E[r^2]/2\sigma^2`, differentiable in scale and curvature."""
        log_z, square = self._exact_moments()
        return (log_z + square / 2).to(self.scale.dtype)
