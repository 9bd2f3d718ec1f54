"""Reparametrisation of angles, so that autoguides and HMC move on the line and cross the seam of the circle."""

import math

import pyro.distributions as dist
from torch import Tensor

from ...constraints import circular, manifold_of
from ...geometry import Torus
from ...ops.circular import wrap
from ._base import LatentReparam, innermost, like_of

__all__ = ["CircularReparam", "is_angle", "is_unmarked_angle"]

_PYROS_OWN = (dist.VonMises, dist.SineBivariateVonMises, dist.SineSkewed)  # angles whose support says "real"


class CircularReparam(LatentReparam):
    r"""Replaces a site of angles by one on the line, ``{name}_unwrapped``, wrapped to :math:`[-\pi,\pi)`.

    .. math::
        y \sim \mathcal N(0, s^2), \qquad \theta = \mathrm{wrap}(y), \qquad
        \text{and the factor } 2\pi\,p(\theta)

    Wrapped, the normal is uniform (to :math:`2e^{-s^2/2} \approx 10^{-17}` at s = 9), so the joint law of the angle is p exactly,
    proper on the line (an autoguide's entropy cannot run away) and smooth across :math:`\pm\pi` (NUTS walks through).
    It repeats every turn with slowly falling weight: a unimodal guide covers one copy, and its ELBO is lower by about
    :math:`\log(s/\sqrt{2\pi})`; a larger ``scale`` flattens the envelope, whose slope at y is :math:`-y/s^2`.

    Works on Pyro's ``VonMises``, ``SineBivariateVonMises`` and ``SineSkewed``, on
    :class:`~pyro_manifold.distributions.WrappedCauchy` and on any law whose support is
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

    def __init__(self, scale: float = 9.0) -> None:
        if not scale >= 9:
            raise ValueError(f"scale: got {scale}, expected at least 9: a narrower normal does not wrap to the uniform law.")
        self.scale = float(scale)

    def draw(self, name: str, fn: dist.TorchDistribution, value: Tensor | None) -> tuple[dist.TorchDistribution, Tensor | None]:
        law = innermost(fn)
        if not is_angle(law):
            raise ValueError(
                f"{name}: got {type(law).__name__} with support {law.support}, expected a law of angles (VonMises, "
                "WrappedCauchy, support circular or on(Torus())). Take this site out of the config."
            )
        zero = like_of(law).new_zeros(fn.shape())
        return dist.Normal(zero, zero + self.scale).to_event(fn.event_dim), value

    def push(self, fn: dist.TorchDistribution, noise: Tensor) -> Tensor:
        return wrap(noise)

    def factor(self, fn: dist.TorchDistribution, noise: Tensor, value: Tensor) -> Tensor:
        return fn.log_prob(value) + math.log(2 * math.pi) * fn.event_shape.numel()


def is_angle(law: dist.TorchDistribution) -> bool:
    """Whether it is a law of angles, Pyro's own included."""
    circle = isinstance(law.support, type(circular)) or isinstance(manifold_of(law.support), Torus)
    return circle or is_unmarked_angle(law)


def is_unmarked_angle(law: dist.TorchDistribution) -> bool:
    """Whether it is one of Pyro's laws of angles, whose support is the line."""
    return isinstance(innermost(law), _PYROS_OWN)
