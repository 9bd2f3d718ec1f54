"""The wrapped normal distribution: a normal distribution of tangent vectors, mapped by the exponential map."""

import math
from typing import Any

import geoopt
import pyro.distributions as dist
import torch
from torch import Tensor

from ..constraints import check_point
from ..geometry import Geometry, geometry
from ..geometry.windings import largest_sd, marginal_sd
from ..ops.arguments import checked
from ..ops.checks import as_tensors, common_shape, held
from ..ops.chi import chi_expectation
from ..ops.circular_cdf import WRAPPED_NORMAL
from ..ops.numpy_operator import by_numpy
from ..ops.signed_trig import cos_sqrt, log_sinc_sqrt
from ..ops.tracing import is_concrete
from ..transforms import ExpMap
from ._circle import angle_cdf, angle_icdf, check_probability, vector_cdf, vector_icdf
from ._exp_map_distribution import ExpMapDistribution, build, with_gradient_of
from ._repr import validates
from ._tangent_gaussian import tangent_normal, widened
from .estimation.normals import COVARIANCES, wrapped_normal
from .estimation.sample import gathered

__all__ = ["WrappedNormal"]


def _check_width(geo: Geometry, base: Any, limit: float) -> None:
    """Check that the geometry can sum the density over all windings.

    :raises ValueError: for a standard deviation above ``limit``.
    """
    if limit == math.inf:
        return
    spread = marginal_sd(base)
    if is_concrete(held(spread)) and largest_sd(base) > limit:
        raise ValueError(
            f"scale: got a standard deviation of {largest_sd(base):.3g} on {geo.manifold.name}, expected at "
            f"most {limit:.2g}: a wider normal wraps around, and the sum over its windings is not implemented "
            "there. Use truncated=True with an isotropic scale, or another family (ManifoldUniform)."
        )


class WrappedNormal(ExpMapDistribution):
    r"""Normal distribution in the tangent space at ``loc``, mapped to the manifold by the exponential map.

    .. math::
        v \sim \mathcal N(0, \Sigma), \quad x = \exp_\mu(v), \qquad
        \log p(x) = \log\!\!\sum_{v:\,\exp_\mu v = x}\!\! \mathcal N(v; 0, \Sigma) \,|\det d\exp_\mu(v)|^{-1}

    v are coordinates in the orthonormal frame at :math:`\mu`, so ``scale`` is geodesic length on every
    manifold. On flat and hyperbolic space the sum has one term. On spheres it is over all windings (without
    them, 29% of the mass would be missing at :math:`\Sigma = 4I`). For d >= 2 the density on spheres has
    integrable **poles** at :math:`\pm\mu`, to which exp maps whole spheres of tangent vectors; maximum
    likelihood and HMC can diverge towards them. There use :class:`RiemannianNormal`, which has no poles, or
    ``truncated=True``, an isotropic normal restricted to the injectivity radius, whose only pole is the
    antipode. A point closer to a pole than one rounding error is scored as if it were one rounding error away.

    :param geoopt.Manifold manifold: any manifold with a registered geometry, products included.
    :param Tensor loc: centre :math:`\mu`, shape ``batch + event``.
    :param Tensor scale: standard deviations, a number or shape ``batch + (dim,)`` or ``batch + (1,)``;
        geodesic length.
    :param Tensor scale_tril: Cholesky factor of :math:`\Sigma`, shape ``batch + (dim, dim)``.
    :param Tensor covariance_matrix: :math:`\Sigma`, shape ``batch + (dim, dim)``. Give exactly one of the
        three.
    :param bool truncated: condition on :math:`|v| <` injectivity radius; needs an isotropic ``scale``.
    :raises ValueError: for a ``loc`` off the manifold, a non-positive ``scale``, shapes that do not fit,
        mixed dtypes, and a ``scale`` so wide that windings matter where their sum is not implemented (SO(n)
        with n > 3, Stiefel and Grassmann manifolds).

    Base measure: Riemannian volume. Batch shape: the parameters' broadcast; event shape: that of ``loc``.

    References: Nagano et al., ICML 2019, eq. 14-16 (hyperboloid); Mathieu et al., NeurIPS 2019, eq. 6 (ball);
    Mardia & Jupp, Directional Statistics (2000), sec. 3.5.7 (the circle).

    >>> import geoopt
    >>> d = WrappedNormal(geoopt.PoincareBall(), torch.zeros(2), scale=1.0)
    >>> d.log_prob(torch.zeros(2))  # -log 2 pi
    tensor(-1.8379)
    """

    _expand_attributes = ("manifold", "truncated", "_injective", "_isotropic")
    arg_constraints: dict[str, Any] = {}  # they depend on the manifold, so __init__ checks the arguments

    @checked
    def __init__(
        self,
        manifold: geoopt.Manifold,
        loc: Tensor,
        scale: Tensor | float | None = None,
        *,
        scale_tril: Tensor | None = None,
        covariance_matrix: Tensor | None = None,
        truncated: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        validate = validates(validate_args)
        loc, scale, scale_tril, covariance_matrix = as_tensors(
            loc=loc, scale=scale, scale_tril=scale_tril, covariance_matrix=covariance_matrix
        )
        transform = ExpMap(manifold, loc, cache_size=1, validate_args=False)
        geo = transform.geometry
        if validate:
            check_point(manifold, "loc", loc)
        cut = loc.dim() - geo.event_dim
        base = tangent_normal(
            geo,
            loc.shape[cut:],
            loc.shape[:cut],
            scale,
            scale_tril,
            covariance_matrix,
            truncated=truncated,
            validate=validate,
        )
        self.manifold = manifold
        self.truncated = truncated
        radius = geo.injectivity_radius(loc.shape[cut:])
        self._injective = not isinstance(radius, Tensor) and radius == math.inf  # a tensor is a finite radius
        if not truncated:
            _check_width(geo, base, geo.wrapped_limit(loc.shape[cut:]))
        self._isotropic = base.event_shape[0] == 1 or (scale is not None and scale.shape[-1:] in ((), (1,)))
        build(self, base, transform, loc.shape[cut:], validate_args)

    @classmethod
    @checked
    def fit(
        cls,
        manifold: geoopt.Manifold,
        x: Tensor,
        weights: Tensor | None = None,
        *,
        covariance: str = "full",
        truncated: bool = False,
    ) -> "WrappedNormal":
        r"""The distribution of greatest likelihood on flat and hyperbolic space, positive definite matrices, tori
        and circles, by Newton's method from the Fréchet mean and the covariance of tangent coordinates there.

        On spheres from dimension 2 on, rotations and other compact curved manifolds the likelihood has no
        maximum, since the density has poles: there ``loc`` is the Fréchet mean, and the covariance a local
        maximum of the likelihood with this ``loc``, windings included, near that of the tangent coordinates. On
        tori all of it is the local maximum near these.

        :param manifold: as in the constructor.
        :param x: the rows of data, shape ``(n,) + batch + event``: one distribution for each element of the batch.
        :param weights: how often each row was seen, shape ``(n,)`` or ``(n,) + batch``; ones by default.
        :param covariance: "full" (a ``scale_tril``), "diagonal" or "isotropic" (a ``scale``).
        :param truncated: as in the constructor; then ``covariance`` must be "isotropic", and ``loc`` is the
            Fréchet mean.
        :raises ValueError: for rows off the manifold, all equal, without a clear Fréchet mean, or without spread
            in some direction; for weights that are negative, all zero, or of another shape.

        Computed in float64 without gradients; standard errors by :func:`standard_errors`.

        >>> import geoopt
        >>> x = WrappedNormal(geoopt.PoincareBall(), torch.tensor([0.3, 0.0]), torch.tensor([0.5, 0.2])).sample((2000,))
        >>> fit = WrappedNormal.fit(geoopt.PoincareBall(), x, covariance="diagonal")
        >>> bool((fit.scale - torch.tensor([0.5, 0.2])).norm() < 0.05)
        True
        """
        if covariance not in COVARIANCES:
            raise ValueError(f"covariance: got {covariance!r}, expected one of {', '.join(COVARIANCES)}.")
        if truncated and covariance != "isotropic":
            raise ValueError(f"covariance: got {covariance!r} with truncated=True, expected 'isotropic'.")
        s, _ = gathered(manifold, x, weights)
        found = wrapped_normal(s, cls, manifold, covariance, truncated)
        loc = geometry(manifold).project(s.shaped(found.pop("loc")))
        spread: dict[str, Any] = {name: s.shaped(value) for name, value in found.items()}
        return cls(manifold, loc, **spread, truncated=truncated)

    @property
    def scale(self) -> Tensor:
        """Standard deviations along the frame axes, ``batch_shape + (dim,)``; for a full covariance, the
        marginal ones."""
        return self.base_dist.stddev if self.truncated else marginal_sd(self.base_dist)

    @property
    def covariance_matrix(self) -> Tensor:
        """Tangent covariance, ``batch_shape + (dim, dim)``."""
        return torch.diag_embed(self.scale**2) if self._diagonal else self.base_dist.covariance_matrix

    @property
    def _diagonal(self) -> bool:
        return not isinstance(self.base_dist, dist.MultivariateNormal)

    @staticmethod
    def infer_shapes(
        manifold: Any = (),
        loc: Any = (),
        scale: Any = (),
        scale_tril: Any = None,
        covariance_matrix: Any = None,
    ) -> tuple[torch.Size, torch.Size]:
        """Shapes from shapes; pass the manifold itself where its points are matrices."""
        cut = len(loc) - (geometry(manifold).event_dim if isinstance(manifold, geoopt.Manifold) else 1)
        matrix = scale_tril if scale_tril is not None else covariance_matrix
        spread = torch.Size(matrix)[:-2] if matrix is not None else torch.Size(scale)[:-1]
        return torch.broadcast_shapes(torch.Size(loc[:cut]), spread), torch.Size(loc[cut:])

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        v = self._remembered(value)
        if v is None:
            return self._log_density(value)
        if self._injective and not self._isotropic:  # one evaluation, at log x, with the gradient to v
            with torch.no_grad():
                loc = self.transforms[0].loc
                shape = common_shape(loc.shape, value.shape)
                stored = self.geometry.log_frame(loc.expand(shape), value.expand(shape))
            return self._log_pushed(loc, with_gradient_of(stored, v), self.base_dist)
        with torch.no_grad():
            out = self._log_density(value)
        return with_gradient_of(out, self._log_pushed(self.transforms[0].loc, v, self.base_dist))

    def _log_density(self, value: Tensor) -> Tensor:
        """The log density, in float64 where there are poles: float32 cannot resolve the distance to a pole."""
        geo = self.geometry
        loc = self.transforms[0].loc
        base = self.base_dist
        out = None if self.truncated else self._log_density_by_numpy(loc, value)
        if out is not None:
            return out
        dtype = torch.promote_types(value.dtype, loc.dtype)
        in_double = not self._injective and not geo.is_flat
        if in_double:
            loc, value = geo.in_double(loc), geo.in_double(value)
        if self._isotropic and self._diagonal and not self.truncated:
            out = geo.log_isotropic(loc, value, base.base_dist.scale[..., 0].to(loc))
            if out is not None:
                return out.to(dtype)
        if in_double:
            base = widened(base, torch.float64)
        shape = common_shape(loc.shape, value.shape)
        return self._log_pushed(loc, geo.log_frame(loc.expand(shape), value.expand(shape)), base).to(dtype)

    def _log_density_by_numpy(self, loc: Tensor, value: Tensor) -> Tensor | None:
        full = not self._diagonal
        spread = self.base_dist._unbroadcasted_scale_tril if full else self.base_dist.base_dist.scale
        if not by_numpy(value, loc, spread):
            return None
        out = self.geometry.log_normal_by_numpy(loc, value, spread, full)
        return out if out is None or not full else out.expand(common_shape(self.batch_shape, out.shape))

    def _log_pushed(self, loc: Tensor, v: Tensor, base: Any) -> Tensor:
        """The log density at exp(v); where exp is not injective, summed over all tangent vectors with the same
        image."""
        geo = self.geometry
        if self._injective or self.truncated:
            return base.log_prob(v) - geo.log_det_exp(loc, v)
        return geo.log_wrapped(loc, v, base)

    @property
    def mode(self) -> Tensor:
        """``loc``, on manifolds where the density has no poles: on flat and hyperbolic space the density
        decreases along every ray from ``loc``; on the torus it is a sum of cosines that is largest there.

        :raises NotImplementedError: on other manifolds.
        """
        if not self._injective and not self.geometry.is_flat:
            raise NotImplementedError(
                "on spheres and rotations a wrapped normal has poles and no mode; use RiemannianNormal."
            )
        return self.loc

    @property
    def frechet_mean(self) -> Tensor:
        """``loc`` on flat and hyperbolic space, where the distribution is symmetric about it and the Fréchet
        mean is unique.

        :raises NotImplementedError: on compact manifolds.
        """
        if not self._injective:
            raise NotImplementedError(
                "on a compact manifold the Fréchet mean need not be unique; use RiemannianNormal."
            )
        return self.loc

    @property
    def mean(self) -> Tensor:
        r"""Ambient expectation :math:`\mathrm E[x] = \mathrm E[\cos(\sqrt K|v|)]\,\mu` on flat space, spheres
        and the hyperboloid (cosh there). It does not lie on a curved manifold; see :attr:`frechet_mean`.

        :raises NotImplementedError: on other manifolds, and for an anisotropic scale on a curved one.
        """
        geo = self.geometry
        if not geo.in_linear_space or self.truncated:
            raise NotImplementedError(
                "the ambient mean is known on flat space, spheres and the hyperboloid; use frechet_mean."
            )
        k = geo.curvature(self.loc)
        if self._flat:
            return self.loc
        growth = float((-k.detach()).clamp_min(0).sqrt())
        factor = chi_expectation(
            lambda r: cos_sqrt(k * r * r), self._dim, self._isotropic_scale("mean"), growth
        )
        return factor.unsqueeze(-1) * self.loc

    def entropy(self) -> Tensor:
        r""":math:`\mathrm H[\mathcal N(0,\Sigma)] + \mathrm E\log|\det d\exp_\mu(v)|`, by one-dimensional
        quadrature.

        :raises NotImplementedError: on spheres (the windings overlap) and for an anisotropic scale on a
            curved manifold; estimate it there by ``-d.log_prob(d.rsample((n,))).mean(0)``.
        """
        if not self._injective:
            raise NotImplementedError(
                "no closed form on spheres; estimate it by -d.log_prob(d.rsample((n,))).mean(0)."
            )
        normal = self.base_dist.entropy()
        if self._flat:
            return normal
        k = self.geometry.curvature(self.loc)
        scale = self._isotropic_scale("entropy")
        return normal + (self._dim - 1) * chi_expectation(
            lambda r: log_sinc_sqrt(k * r * r), self._dim, scale
        )

    @property
    def _on_unit_circle(self) -> bool:
        if self.event_shape not in ((1,), (2,)) or self._dim != 1 or self._injective or self.truncated:
            return False
        return abs(float(self.geometry.injectivity_radius(self.event_shape)) / math.pi - 1) < 1e-6

    def cdf(self, value: Tensor) -> Tensor:
        r"""On the circle, as angles (``Torus``, event shape ``(1,)``) or unit vectors: the probability of the arc that
        runs counterclockwise from the point opposite to ``loc`` to ``value`` (1/2 at ``loc``), of shape
        ``batch``; differentiable.

        :raises NotImplementedError: elsewhere.
        """
        if not self._on_unit_circle:
            return super().cdf(value)
        if self._validate_args:
            self._validate_sample(value)
        loc, scale = self.transforms[0].loc, self.scale[..., 0]
        if self.event_shape[0] == 1:
            return angle_cdf(WRAPPED_NORMAL, value[..., 0], loc[..., 0], scale)
        return vector_cdf(WRAPPED_NORMAL, value, loc, scale)

    def icdf(self, value: Tensor) -> Tensor:
        """On the circle: the point where :meth:`cdf` is ``value``, shape ``value.shape + event_shape``;
        differentiable once, also in the parameters.

        :raises NotImplementedError: elsewhere.
        """
        if not self._on_unit_circle:
            return super().icdf(value)
        if self._validate_args:
            check_probability(value)
        loc, scale = self.transforms[0].loc, self.scale[..., 0]
        if self.event_shape[0] == 1:
            return angle_icdf(WRAPPED_NORMAL, value, loc[..., 0], scale).unsqueeze(-1)
        return vector_icdf(WRAPPED_NORMAL, value, loc, scale)

    @property
    def _dim(self) -> int:
        return self.base_dist.event_shape[0]

    @property
    def _flat(self) -> bool:
        return self.geometry.is_flat

    def _isotropic_scale(self, what: str) -> Tensor:
        if not self._isotropic:
            raise NotImplementedError(
                f"{what}: closed form for an isotropic scale only (a number or a last axis of size 1); "
                "average over draws of rsample instead."
            )
        return self.scale[..., 0]
