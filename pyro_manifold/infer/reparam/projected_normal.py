"""Reparametrises directions of normal vectors as functions of standard normals."""

import pyro.distributions as dist
from torch import Tensor

from ...distributions import AngularCentralGaussian
from ...ops.batched import apply_matrix, solve_lower
from ...ops.numerics import norm
from ._base import LatentReparam, innermost, standard_normal

__all__ = ["ProjectedNormalReparam"]


class ProjectedNormalReparam(LatentReparam):
    r"""Makes the direction of a normal vector a function of standard normals, ``{name}_normal``, in any
    dimension.

    .. math:: z \sim \mathcal N(0, I_n), \qquad x = \frac{\mu + Lz}{|\mu + Lz|}

    It applies to Pyro's and our :class:`~pyro_manifold.distributions.ProjectedNormal` (:math:`L = I`) and to
    :class:`~pyro_manifold.distributions.AngularCentralGaussian` (:math:`\mu = 0`). No density of x is needed
    (unless the site is masked), so Pyro's ``ProjectedNormal`` works for n > 4 too. Pyro's reparametriser of the
    same name supports only Pyro's distribution and raises for observed sites.

    :raises ValueError: for a site with another distribution.

    >>> def model():
    ...     return pyro.sample("x", pyro.distributions.ProjectedNormal(torch.ones(7)))
    >>> model = pyro.poutine.reparam(model, {"x": ProjectedNormalReparam()})
    >>> model().norm()
    tensor(1.)
    """

    suffix = "normal"

    def base(self, name: str, fn: dist.TorchDistribution) -> dist.TorchDistribution:
        inner = innermost(fn)
        if not isinstance(inner, dist.ProjectedNormal | AngularCentralGaussian):
            raise ValueError(
                f"{name}: got {type(inner).__name__}, expected a ProjectedNormal or AngularCentralGaussian. "
                "Use AmbientReparam for other distributions of directions."
            )
        return standard_normal(_parameter(inner), fn.shape(), fn.event_dim)

    def push(self, fn: dist.TorchDistribution, noise: Tensor) -> Tensor:
        inner = innermost(fn)
        if isinstance(inner, AngularCentralGaussian):
            y = apply_matrix(inner.scale_tril, noise)
        else:
            y = inner.concentration + noise
        return y / norm(y, keepdim=True)

    def lift(self, fn: dist.TorchDistribution, value: Tensor) -> Tensor:
        inner = innermost(fn)
        if isinstance(inner, AngularCentralGaussian):
            z = solve_lower(inner.scale_tril, value)
            return z * (value.shape[-1] ** 0.5 / norm(z, keepdim=True))
        return value * norm(inner.concentration, keepdim=True).clamp_min(1.0) - inner.concentration


def _parameter(fn: dist.TorchDistribution) -> Tensor:
    return fn.scale_tril if isinstance(fn, AngularCentralGaussian) else fn.concentration
