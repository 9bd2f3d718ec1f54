"""A strategy that chooses a reparametriser for each site that needs one."""

from typing import Any

import pyro.distributions as dist
from pyro.infer.reparam.reparam import Reparam
from pyro.infer.reparam.strategies import MinimalReparam

from ...constraints import manifold_of
from ...distributions import AngularCentralGaussian, WrappedNormal
from ...geometry import geometry
from ...ops.arguments import checked
from ._base import innermost
from .ambient import AmbientReparam
from .circular import CircularReparam, is_angle
from .projected_normal import ProjectedNormalReparam
from .wrapped_normal import WrappedNormalReparam

__all__ = ["ManifoldReparam"]


class ManifoldReparam(MinimalReparam):
    """Reparametrises all manifold sites of a model, so that plain HMC, NUTS and Pyro's autoguides can be
    used: all latent sites become real vectors.

    ========================================================== ===================================
    latent site                                                reparametriser
    ========================================================== ===================================
    ``WrappedNormal`` (not truncated; with ``centered=False``) :class:`WrappedNormalReparam`
    ``ProjectedNormal``, ``AngularCentralGaussian``            :class:`ProjectedNormalReparam`
    angles, tori                                               :class:`CircularReparam`
    others on flat and hyperbolic space, SPD matrices          none: ``biject_to`` gives their chart
    others on spheres, frames, rotations, products with these  :class:`AmbientReparam`
    anything else                                              Pyro's ``MinimalReparam``
    ========================================================== ===================================

    Observed sites are unchanged. The choice is made anew in each run of the model. ``Predictive`` returns the
    values of the original sites.

    :param bool centered: use the centred parametrisation of wrapped normals (chart or :class:`AmbientReparam`),
        which is better for sites that the data determine well; default false.

    >>> import pyro_manifold.distributions as mdist
    >>> @ManifoldReparam()
    ... def model():
    ...     mu = pyro.sample("mu", mdist.ManifoldUniform(geoopt.Sphere(), 3))
    ...     return pyro.sample("x", mdist.WrappedNormal(geoopt.Sphere(), mu, 0.1))
    >>> pyro.poutine.trace(model).get_trace().stochastic_nodes
    ['mu_ambient', 'x_tangent']
    """

    @checked
    def __init__(self, *, centered: bool = False) -> None:
        super().__init__()
        self.centered = centered

    def __call__(self, msg_or_fn: Any) -> Any:
        """Decorate a model, or, when called by Pyro with a site, choose its reparametriser. Pyro's cached
        choice is dropped, since the site may be latent in one run and observed in the next, or change its
        distribution."""
        if isinstance(msg_or_fn, dict):
            self.config.pop(msg_or_fn["name"], None)
        return super().__call__(msg_or_fn)

    def configure(self, msg: dict) -> Reparam | None:
        inner = innermost(msg["fn"])
        if isinstance(inner, WrappedNormal) and not (inner.truncated or self.centered):
            return WrappedNormalReparam()
        if isinstance(inner, dist.ProjectedNormal | AngularCentralGaussian):
            return ProjectedNormalReparam()
        if is_angle(inner):
            return CircularReparam()
        manifold = manifold_of(inner.support)
        if manifold is None:
            return super().configure(msg)
        return None if geometry(manifold).has_chart else AmbientReparam()
