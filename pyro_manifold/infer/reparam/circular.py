r"""Reparametrises angles by real numbers, so that autoguides and HMC can cross the discontinuity at
:math:`\pm\pi`."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor

from ...constraints import circular, manifold_of, point_constraint
from ...geometry import Torus
from ...geometry.noise import draw_turns
from ...ops.arguments import checked
from ...ops.circular import wrap
from ._base import LatentReparam, innermost, like_of

__all__ = ["CircularReparam", "is_angle", "is_unmarked_angle"]

_PYROS_OWN = (dist.VonMises, dist.SineBivariateVonMises, dist.SineSkewed)  # angles whose support is "real"


class CircularReparam(LatentReparam):
    r"""Replaces a site of angles by one on the line, ``{name}_unwrapped``, wrapped to :math:`[-\pi,\pi)`.

    .. math::
        y \sim \mathcal N(y; 0, s^2)\; 2\pi\,p(\theta), \qquad \theta = \mathrm{wrap}(y)

    The wrapped normal is uniform (to :math:`2e^{-s^2/2} \approx 10^{-17}` at s = 9), so :math:`\theta` has
    exactly the distribution p. The density of y is proper on the line (so an autoguide's entropy is bounded)
    and smooth at :math:`\pm\pi` (so NUTS can cross). y is drawn as a draw of the angle plus a random number of
    turns, so prior and posterior predictive draws are exact too. The density of y repeats p in every turn, with
    weights that decrease slowly: a unimodal guide covers one copy, and its ELBO is lower by about
    :math:`\log(s/\sqrt{2\pi})`. A larger ``scale`` makes the weights, whose log has the slope :math:`-y/s^2`,
    more equal.

    Works on Pyro's ``VonMises``, ``SineBivariateVonMises`` and ``SineSkewed``, on
    :class:`~pyro_manifold.distributions.WrappedCauchy` and on any distribution whose support is
    ``circular`` or a :class:`~pyro_manifold.geometry.Torus`. Observed sites are left alone.

    :param float scale: s, in radians, at least 9.
    :raises ValueError: for a smaller scale, or a site that is not an angle.

    >>> import pyro.distributions as dist
    >>> def model():
    ...     return pyro.sample("angle", dist.VonMises(3.0, 4.0))
    >>> model = pyro.poutine.reparam(model, config={"angle": CircularReparam()})
    >>> sorted(pyro.poutine.trace(model).get_trace().stochastic_nodes)
    ['angle_unwrapped']
    """

    suffix = "unwrapped"
    exact = False

    @checked
    def __init__(self, scale: float = 9.0) -> None:
        if not scale >= 9:
            raise ValueError(
                f"scale: got {scale}, expected at least 9: a narrower normal, wrapped, is not a uniform angle."
            )
        self.scale = float(scale)

    def base(self, name: str, fn: dist.TorchDistribution) -> dist.TorchDistribution:
        inner = innermost(fn)
        if not is_angle(inner):
            raise ValueError(
                f"{name}: got {type(inner).__name__} with support {inner.support}, expected a distribution "
                "of angles (VonMises, WrappedCauchy, support circular or on(Torus())). Remove this site from "
                "the config."
            )
        zero = like_of(inner).new_zeros(fn.shape())
        return dist.Normal(zero, zero + self.scale).to_event(fn.event_dim)

    def push(self, fn: dist.TorchDistribution, noise: Tensor) -> Tensor:
        return wrap(noise)

    def lift(self, fn: dist.TorchDistribution, value: Tensor) -> Tensor:
        return value

    def sample_noise(
        self, fn: dist.TorchDistribution, base: dist.TorchDistribution, shape: torch.Size
    ) -> Tensor:
        return draw_turns(fn.sample(shape), self.scale)

    def log_weight(self, fn: dist.TorchDistribution, noise: Tensor, value: Tensor) -> Tensor:
        return fn.log_prob(value) + math.log(2 * math.pi) * fn.event_shape.numel()


def is_angle(fn: dist.TorchDistribution) -> bool:
    """Whether ``fn`` is a distribution of angles, including Pyro's own."""
    circle = isinstance(point_constraint(fn.support), type(circular)) or isinstance(
        manifold_of(fn.support), Torus
    )
    return circle or is_unmarked_angle(fn)


def is_unmarked_angle(fn: dist.TorchDistribution) -> bool:
    """Whether ``fn`` is one of Pyro's distributions of angles, whose ``support`` is the real line."""
    return isinstance(innermost(fn), _PYROS_OWN)
