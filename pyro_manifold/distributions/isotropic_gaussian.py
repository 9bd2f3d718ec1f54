"""The isotropic Gaussian distribution of rotations: the heat kernel of SO(3)."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from ..constraints import check_point
from ..geometry import SpecialOrthogonal, geometry
from ..ops.arguments import checked
from ..ops.batched import unexpand
from ..ops.checks import as_tensors, broadcast_shapes, check_all, common_shape
from ..ops.numerics import norm
from ..ops.numpy_heat_kernel import heat_kernel
from ..ops.numpy_operator import by_numpy, numpy_operator
from ..ops.rotation_heat_kernel import (
    angle_cdf,
    angle_entropy,
    log_heat_kernel,
    sample_angle,
    uniform_divergence,
)
from ..ops.signed_trig import log_sinc_length
from ..transforms import ExpMap
from ._exp_map_distribution import ExpMapDistribution, build
from ._repr import validates
from .estimation.normals import isotropic_gaussian
from .estimation.sample import gathered

__all__ = ["IsotropicGaussian"]

_SO3 = SpecialOrthogonal(3)


def _orthonormal(r: Tensor) -> Tensor:
    """The rotation in float64, after a Newton step to the nearest one: float32 is off by 1e-7."""
    r = r.double()
    return 1.5 * r - 0.5 * r @ (r.mT @ r)


def _composed(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    v = geometry(_SO3).log_frame(_orthonormal(loc), _orthonormal(value))
    return log_heat_kernel(v, scale).to(value.dtype)


_OPERATOR = numpy_operator(heat_kernel, _composed, (2, 2, 0))


class _RotationVector(dist.TorchDistribution):
    r"""Distribution of the rotation vector v, |v| < pi: the heat kernel times
    :math:`(\sin\frac{|v|}2 / \frac{|v|}2)^2`."""

    arg_constraints = {"scale": constraints.positive}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, scale: Tensor) -> None:
        self.scale = scale
        super().__init__(scale.shape, torch.Size([3]), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "_RotationVector":
        return _RotationVector(self.scale.expand(torch.Size(batch_shape)))

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        u = torch.randn(shape, dtype=self.scale.dtype, device=self.scale.device)
        u = u / norm(u, keepdim=True).clamp_min(torch.finfo(u.dtype).tiny)
        return sample_angle(self.scale, shape[:-1]).to(u.dtype).unsqueeze(-1) * u

    def log_prob(self, value: Tensor) -> Tensor:
        v = value.double()
        inside = v.square().sum(-1) <= torch.pi**2
        v = torch.where(inside.unsqueeze(-1), v, 0.0)
        out = log_heat_kernel(v, self.scale) + 2 * log_sinc_length(v, 0.25, 1)
        return torch.where(inside, out, -torch.inf).to(value.dtype)


class IsotropicGaussian(ExpMapDistribution):
    r"""The isotropic Gaussian distribution of rotations, IGSO(3): where Brownian motion on SO(3) that starts
    at ``loc`` is after the time :math:`\sigma^2`.

    .. math::
        p(R) = \frac1{8\pi^2}\sum_{l\ge0} (2l+1)\,e^{-l(l+1)\sigma^2/2}\,
            \frac{\sin(l+\frac12)\omega}{\sin\frac\omega2}, \qquad \omega = d(\mu, R)

    with :math:`\omega\in[0,\pi]` the angle of the relative rotation. It solves the heat equation
    :math:`\partial_t p = \frac12\Delta p` at :math:`t = \sigma^2`, so that for small :math:`\sigma` the
    rotation vector about :math:`\mu` is normal with standard deviation :math:`\sigma` (radians) along each
    axis; for large :math:`\sigma` the distribution is Haar's, and ``inf`` is allowed. (Papers on diffusion
    models write :math:`e^{-l(l+1)\epsilon^2}`: :math:`\sigma = \sqrt2\,\epsilon`.) The product of two
    independent draws, with scales :math:`\sigma_1, \sigma_2` and centres :math:`\mu` and I, has the scale
    :math:`\sqrt{\sigma_1^2+\sigma_2^2}`.

    The density is accurate to rounding at every scale: for narrow kernels by the sum over windings, which
    follows by Poisson summation. ``log_prob`` can be differentiated any number of times. Draws are exact and
    reparametrised; their derivative in ``scale`` is that of the angle, in closed form, and can be taken once.

    :param Tensor loc: the centre :math:`\mu`, rotations, shape ``batch + (3, 3)``.
    :param Tensor scale: :math:`\sigma > 0`, the square root of the diffusion time, in radians; a number or
        shape ``batch``.
    :raises ValueError: for a ``loc`` that is not a rotation, a ``scale`` that is not positive.

    Base measure: Riemannian volume of SO(3) with the rotation angle as distance; the total volume is
    :math:`8\pi^2`. (For the density with respect to normalised Haar measure add :math:`\log 8\pi^2`.) Batch
    shape: broadcast of the parameters'; event shape ``(3, 3)``.

    References: Nikolayev & Savyolov, Textures and Microstructures 29 (1997), eq. 2; Leach et al., Denoising
    diffusion probabilistic models on SO(3), ICLR workshop (2022), eq. 4; De Bortoli et al., NeurIPS 2022,
    prop. 3.

    >>> d = IsotropicGaussian(torch.eye(3), torch.tensor(0.1))
    >>> d.log_prob(torch.eye(3))  # that of a normal in three dimensions, and sigma^2 / 8
    tensor(4.1522)
    >>> d.mean[0, 0]  # exp(-sigma^2)
    tensor(0.9900)
    """

    _expand_attributes = ()
    arg_constraints: dict[str, Any] = {"scale": constraints.positive}  # __init__ also checks loc
    manifold = _SO3

    @checked
    def __init__(self, loc: Tensor, scale: Tensor | float, *, validate_args: bool | None = None) -> None:
        loc, scale = as_tensors(loc=loc, scale=scale)
        if loc.shape[-2:] != (3, 3):
            raise ValueError(
                f"loc: got shape {tuple(loc.shape)}, expected (..., 3, 3), rotation matrices. This "
                "distribution is implemented for SO(3) only; use WrappedNormal on other SO(n)."
            )
        if validates(validate_args):
            check_point(_SO3, "loc", loc)
            check_all(
                scale > 0, "scale", scale, "positive numbers", "Use a positive constraint such as softplus."
            )
        batch = broadcast_shapes(loc=loc.shape[:-2], scale=scale.shape)
        transform = ExpMap(_SO3, loc, cache_size=1, validate_args=False)
        build(self, _RotationVector(scale.expand(batch)), transform, torch.Size([3, 3]), validate_args)

    @staticmethod
    def infer_shapes(loc: Any, scale: Any = ()) -> tuple[torch.Size, torch.Size]:
        loc = torch.Size(loc)
        return torch.broadcast_shapes(loc[:-2], torch.Size(scale)), loc[-2:]

    @classmethod
    @checked
    def fit(cls, x: Tensor, weights: Tensor | None = None) -> "IsotropicGaussian":
        r"""The distribution of greatest likelihood, by Newton's method from the mean matrix.

        :param x: the rows of data, shape ``(n,) + batch + (3, 3)``: one distribution for each element of the batch.
        :param weights: how often each row was seen, shape ``(n,)`` or ``(n,) + batch``; ones by default.
        :raises ValueError: for rows that are no rotations, fewer than 2, or all equal; for weights that are
            negative, all zero, or of another shape.

        Computed in float64 without gradients; standard errors by :func:`standard_errors`.

        >>> x = IsotropicGaussian(torch.eye(3), 0.5).sample((2000,))
        >>> bool((IsotropicGaussian.fit(x).scale - 0.5).abs() < 0.05)
        True
        """
        s, _ = gathered(_SO3, x, weights)
        loc, scale = isotropic_gaussian(s, cls)
        return cls(geometry(_SO3).project(s.shaped(loc)), s.shaped(scale))

    @property
    def scale(self) -> Tensor:
        r""":math:`\sigma`, expanded to ``batch_shape``."""
        return self.base_dist.scale

    def log_prob(self, value: Tensor) -> Tensor:
        # Override: in float64, where the volume change of exp, which would cancel, is left out.
        if self._validate_args:
            self._validate_sample(value)
        xs = value, self.transforms[0].loc, unexpand(self.scale, 0)
        out = _OPERATOR(*xs) if by_numpy(*xs) else _composed(*xs)
        return out.expand(common_shape(value.shape[:-2], self.batch_shape))

    def angle_cdf(self, angle: Tensor) -> Tensor:
        r"""The probability that the angle :math:`d(\mu, R)` is smaller than ``angle`` (radians, in
        :math:`[0,\pi]`), ``angle.shape`` broadcast with ``batch_shape``; differentiable in both."""
        return angle_cdf(angle, self.scale).to(self.scale.dtype)

    @property
    def mean(self) -> Tensor:
        r"""Ambient expectation :math:`\mathrm E[R] = e^{-\sigma^2}\mu`; see :attr:`frechet_mean`."""
        return torch.exp(-self.scale.square())[..., None, None] * self.loc

    @property
    def variance(self) -> Tensor:
        r"""Variance of each entry, :math:`\frac13(1-m^2)(1-q^3) + \frac13m^2(1-q)^2(1+2q)` for an entry m of
        :math:`\mu` and :math:`q = e^{-\sigma^2}`."""
        t = self.scale.square()[..., None, None]
        square = self.loc.square()
        along = torch.expm1(-t).square() * (1 + 2 * torch.exp(-t))
        return ((1 - square).clamp_min(0) * -torch.expm1(-3 * t) + square * along) / 3

    def entropy(self) -> Tensor:
        """By quadrature over the angle, to rounding; differentiable."""
        return angle_entropy(self.scale).to(self.scale.dtype)

    def _divergence_from_uniform(self) -> Tensor:
        return uniform_divergence(self.scale).to(self.scale.dtype)

    @property
    def mode(self) -> Tensor:
        """``loc``."""
        return self.loc

    @property
    def frechet_mean(self) -> Tensor:
        """``loc`` (at ``scale=inf``, where every rotation is one, the limit)."""
        return self.loc
