"""Reparametrisation of angles, so that autoguides and HMC move on the line and cross the seam of the circle."""

import math

import pyro
import pyro.distributions as dist
from pyro.infer.reparam.reparam import Reparam, ReparamMessage, ReparamResult
from torch import Tensor

from ..constraints import circular, manifold_of
from ..geometry import Torus
from ..ops.circular import wrap

__all__ = ["CircularReparam"]

_PYROS_OWN = (dist.VonMises, dist.SineBivariateVonMises, dist.SineSkewed)  # angles whose support says "real"


class CircularReparam(Reparam):
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

    def __init__(self, scale: float = 9.0) -> None:
        if not scale >= 9:
            raise ValueError(f"scale: got {scale}, expected at least 9: a narrower normal does not wrap to the uniform law.")
        self.scale = float(scale)

    def apply(self, msg: ReparamMessage) -> ReparamResult:
        fn, value, name = msg["fn"], msg["value"], msg["name"]
        base, _ = self._unwrap(fn)
        manifold = manifold_of(base.support)
        if not (isinstance(base, _PYROS_OWN) or isinstance(base.support, type(circular)) or isinstance(manifold, Torus)):
            raise ValueError(
                f"{name}: got {type(base).__name__} with support {base.support}, expected a law of angles (VonMises, "
                "WrappedCauchy, support circular or on(Torus())). Take this site out of the config."
            )
        if msg["is_observed"]:
            return {"fn": fn, "value": value, "is_observed": True}
        zero = _parameter(base).new_zeros(fn.shape())
        unwrapped = dist.Normal(zero, zero + self.scale).to_event(fn.event_dim)
        y = pyro.sample(f"{name}_unwrapped", unwrapped, obs=value, infer={"is_observed": False})
        angle = wrap(y) if value is None else value
        density = fn.log_prob(angle) + math.log(2 * math.pi) * fn.event_shape.numel()
        return {"fn": dist.Delta(angle, density, event_dim=fn.event_dim), "value": angle, "is_observed": True}


def _parameter(law: dist.TorchDistribution) -> Tensor:
    """Some tensor of the law, for its dtype and device."""
    return next(x for x in (getattr(law, "loc", None), *vars(law).values()) if isinstance(x, Tensor))
