"""Directions of normal vectors as functions of standard normals."""

import pyro.distributions as dist
import torch
from torch import Tensor

from ...distributions import AngularCentralGaussian
from ...ops.numerics import norm
from ._base import LatentReparam, standard_normal, unwrapped

__all__ = ["ProjectedNormalReparam"]


class ProjectedNormalReparam(LatentReparam):
    r"""Makes the direction of a normal vector a function of standard normals, ``{name}_normal``, in any dimension.

    .. math:: z \sim \mathcal N(0, I_n), \qquad x = \frac{\mu + Lz}{|\mu + Lz|}

    For Pyro's and our :class:`~pyro_manifold.distributions.ProjectedNormal` (:math:`L = I`) and
    :class:`~pyro_manifold.distributions.AngularCentralGaussian` (:math:`\mu = 0`); no density is needed, so Pyro's own law
    works beyond n = 4 too. Pyro's reparametriser of this name knows the first of them, and refuses observed sites.

    :raises ValueError: for a site with another law.

    >>> def model():
    ...     return pyro.sample("x", pyro.distributions.ProjectedNormal(torch.ones(7)))
    >>> model = pyro.poutine.reparam(model, {"x": ProjectedNormalReparam()})
    >>> model().norm()
    tensor(1.)
    """

    suffix = "normal"

    def draw(self, name: str, fn: dist.TorchDistribution, value: Tensor | None) -> tuple[dist.TorchDistribution, Tensor | None]:
        law = unwrapped(fn)
        if not isinstance(law, dist.ProjectedNormal | AngularCentralGaussian):
            raise ValueError(
                f"{name}: got {type(law).__name__}, expected a ProjectedNormal or AngularCentralGaussian. "
                "Use AmbientReparam for other laws of directions."
            )
        like = law.scale_tril if isinstance(law, AngularCentralGaussian) else law.concentration
        normal = standard_normal(like, law.batch_shape + law.event_shape, fn.event_dim)
        if value is None:
            return normal, None
        if isinstance(law, AngularCentralGaussian):
            z = torch.linalg.solve_triangular(law.scale_tril, value[..., None], upper=False)[..., 0]
            return normal, z * (value.shape[-1] ** 0.5 / norm(z, keepdim=True))
        return normal, value * norm(law.concentration, keepdim=True).clamp_min(1.0) - law.concentration

    def push(self, fn: dist.TorchDistribution, noise: Tensor) -> Tensor:
        law = unwrapped(fn)
        if isinstance(law, AngularCentralGaussian):
            y = (law.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
        else:
            y = law.concentration + noise
        return y / norm(y, keepdim=True)
