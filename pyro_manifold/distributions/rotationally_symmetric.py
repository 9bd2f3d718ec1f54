"""Base class of the distributions on the sphere that are rotationally symmetric about an axis."""

import math
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import geoopt
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from ..constraints import check_membership, on
from ..geometry import geometry
from ..ops.arguments import checked
from ..ops.axial_marginal import sample_one_minus_cosine
from ..ops.axial_profile import AxialProfile
from ..ops.axis import tangent_normal_point
from ..ops.checks import as_tensors, broadcast_shapes, check_all
from ..ops.circular_cdf import CircularFamily
from ..ops.numerics import norm
from ..ops.signed_trig import log_sinc_length
from ..transforms import ExpMap
from ._circle import check_probability, vector_cdf, vector_icdf
from ._exp_map_distribution import build
from ._repr import ReprMixin, validates

__all__ = ["RotationallySymmetric"]

_SPHERE = geoopt.Sphere()


class _Tangent(dist.TorchDistribution):
    r"""Distribution of the tangent vector :math:`v = \log_\mu x`: isotropic, with density
    :math:`p(x)\,(\sin|v|/|v|)^{n-2}`, and zero where :math:`|v| \ge \pi`."""

    arg_constraints = {"concentration": constraints.nonnegative}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, distribution: "type[RotationallySymmetric]", concentration: Tensor, dim: int) -> None:
        self.distribution, self.concentration = distribution, concentration
        super().__init__(concentration.shape, torch.Size([dim]), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "_Tangent":
        return _Tangent(
            self.distribution, self.concentration.expand(torch.Size(batch_shape)), self.event_shape[0]
        )

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        shape, k = self._extended_shape(torch.Size(sample_shape)), self.concentration
        s = sample_one_minus_cosine(k, shape[-1] + 1, self.distribution._profile, shape[:-1])
        r = 2 * torch.asin((s / 2).clamp(torch.finfo(s.dtype).tiny, 1 - torch.finfo(s.dtype).eps).sqrt())
        u = torch.randn(shape, dtype=k.dtype, device=k.device)
        return r.unsqueeze(-1) * (u / norm(u, keepdim=True))

    def log_prob(self, value: Tensor) -> Tensor:
        r = norm(value)
        # the density depends only on the chord from the pole, so a point of the circle is enough
        x = torch.stack([r.cos(), r.sin()], -1)
        pole = torch.nn.functional.pad(torch.ones_like(x[..., :1]), (0, 1))
        out = self.distribution._log_density(x, pole, self.concentration, value.shape[-1] + 1)
        out = out + (value.shape[-1] - 1) * log_sinc_length(value, 1.0)
        return torch.where(r < math.pi, out, -math.inf)


class RotationallySymmetric(ReprMixin, dist.TransformedDistribution):
    r"""Base class: a density :math:`p(x) = e^{g(1 - \mu\cdot x;\,\kappa)}/Z(\kappa)` on
    :math:`S^{n-1} \subset \mathbb R^n`.

    Subclasses define ``_profile`` (which draws :math:`1 - \mu\cdot x`), ``_log_density`` and ``_moments``.
    """

    arg_constraints: dict[str, Any] = {"loc": on(_SPHERE), "concentration": constraints.nonnegative}
    support = on(_SPHERE)
    has_rsample = True
    manifold = _SPHERE
    _profile: ClassVar[AxialProfile]
    _circular: ClassVar[CircularFamily]  # the same on the circle

    @checked
    def __init__(
        self, loc: Tensor, concentration: Tensor | float, *, validate_args: bool | None = None
    ) -> None:
        validate = validates(validate_args)
        loc, k = as_tensors(loc=loc, concentration=concentration)
        if loc.dim() < 1 or loc.shape[-1] < 2:
            raise ValueError(
                f"loc: got shape {tuple(loc.shape)}, expected batch + (n,) with n >= 2, points of the unit "
                "sphere in R^n. Add the coordinate axis."
            )
        if validate:
            remedy = "Normalise it: torch.nn.functional.normalize(loc, dim=-1)."
            check_membership(geometry(_SPHERE), "loc", loc, "unit vectors", remedy)
            check_all(
                (k >= 0) & (k < math.inf), "concentration", k, "finite numbers, zero or positive",
                "Use a positive constraint such as softplus; for the opposite direction negate loc.",
            )  # fmt: skip
            if loc.dim() == k.dim() > 1 and k.shape == loc.shape[:-1] + (1,) and k.shape[-2] > 1:
                warnings.warn(
                    f"concentration: got shape {tuple(k.shape)} for loc of shape {tuple(loc.shape)}; "
                    "expected the batch shape without a coordinate axis. These two shapes broadcast to a "
                    "larger batch. Use concentration.squeeze(-1).",
                    stacklevel=3,
                )
        batch = broadcast_shapes(loc=loc.shape[:-1], concentration=k.shape)
        base = _Tangent(type(self), k.expand(batch), loc.shape[-1] - 1)
        build(self, base, ExpMap(_SPHERE, loc, validate_args=False), loc.shape[-1:], validate_args)

    @staticmethod
    @abstractmethod
    def _log_density(x: Tensor, mu: Tensor, k: Tensor, n: int) -> Tensor:
        """log p(x) for the sphere in R^n; only the chords between x, ``mu`` and ``-mu`` are used, so both may
        be given in fewer coordinates than n."""

    @abstractmethod
    def _moments(self) -> tuple[Tensor, Tensor, Tensor]:
        r"""The mean and the variance of :math:`t = \mu\cdot x`, and :math:`(1 - \mathrm E t^2)/(n-1)`, the
        variance across the axis."""

    @staticmethod
    def infer_shapes(loc: Any, concentration: Any = ()) -> tuple[torch.Size, torch.Size]:
        loc = torch.Size(loc)
        return torch.broadcast_shapes(loc[:-1], torch.Size(concentration)), loc[-1:]

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        return super().expand(batch_shape, _instance=self._get_checked_instance(type(self), _instance))

    @property
    def loc(self) -> Tensor:
        r""":math:`\mu`, expanded to ``batch_shape + event_shape``."""
        return self.transforms[0].loc.expand(self.batch_shape + self.event_shape)

    @property
    def concentration(self) -> Tensor:
        r""":math:`\kappa`, expanded to ``batch_shape``."""
        return self.base_dist.concentration

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        # Override: through exp a draw would turn with the transported frame, which is singular at -e_1. The
        # minimal rotation of the axis has no singularity, and its gradients have a smaller variance.
        shape = self._extended_shape(torch.Size(sample_shape))
        s = sample_one_minus_cosine(self.concentration, shape[-1], self._profile, shape[:-1])
        return tangent_normal_point(self.transforms[0].loc, s)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        # Override: the Jacobian of exp cancels, and chords are accurate near the axis.
        if self._validate_args:
            self._validate_sample(value)
        return self._log_density(value, self.transforms[0].loc, self.concentration, self.event_shape[0])

    def cdf(self, value: Tensor) -> Tensor:
        r"""On :math:`S^1`: the probability of the arc that runs counterclockwise from ``-loc`` to ``value``
        (1/2 at ``loc``), exact to rounding and differentiable.

        :raises NotImplementedError: on other spheres.
        """
        if self.event_shape[0] != 2:
            return super().cdf(value)
        if self._validate_args:
            self._validate_sample(value)
        return vector_cdf(self._circular, value, self.transforms[0].loc, self.concentration)

    def icdf(self, value: Tensor) -> Tensor:
        """On :math:`S^1`: the point where :meth:`cdf` is ``value``, shape ``value.shape + (2,)``; differentiable
        once, also in the parameters.

        :raises NotImplementedError: on other spheres.
        """
        if self.event_shape[0] != 2:
            return super().icdf(value)
        if self._validate_args:
            check_probability(value)
        return vector_icdf(self._circular, value, self.transforms[0].loc, self.concentration)

    @property
    def mean(self) -> Tensor:
        r"""Ambient expectation :math:`\mathrm E[\mu\cdot x]\,\mu`, inside the ball; see
        :attr:`frechet_mean`."""
        return self._moments()[0].unsqueeze(-1) * self.loc

    @property
    def variance(self) -> Tensor:
        """Diagonal of :attr:`covariance_matrix`."""
        _, along, across = (m.unsqueeze(-1) for m in self._moments())
        square = self.loc**2  # a sum of positive terms: the variance along the axis may be far smaller
        return across * (1 - square) + along * square

    @property
    def covariance_matrix(self) -> Tensor:
        r"""Covariance :math:`\mathrm{Var}(t)\,\mu\mu^T + (I - \mu\mu^T)(1 - \mathrm E t^2)/(n-1)`,
        :math:`t=\mu\cdot x`."""
        _, along, across = (m[..., None, None] for m in self._moments())
        outer = self.loc.unsqueeze(-1) * self.loc.unsqueeze(-2)
        return (
            across * (torch.eye(self.event_shape[0], dtype=outer.dtype, device=outer.device) - outer)
            + along * outer
        )

    @property
    def mode(self) -> Tensor:
        """``loc`` (at concentration 0, where every point is one, the limit)."""
        return self.loc

    @property
    def frechet_mean(self) -> Tensor:
        """``loc`` (at concentration 0, where every point is one, the limit)."""
        return self.loc
