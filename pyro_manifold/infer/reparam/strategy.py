"""One reparametriser for each site that needs one."""

import pyro.distributions as dist
from pyro.infer.reparam.reparam import Reparam
from pyro.infer.reparam.strategies import MinimalReparam

from ...constraints import manifold_of
from ...distributions import AngularCentralGaussian, WrappedNormal
from ...geometry import geometry
from ._base import innermost, unwrapped
from .ambient import AmbientReparam
from .circular import CircularReparam, is_angle
from .projected_normal import ProjectedNormalReparam
from .wrapped_normal import WrappedNormalReparam

__all__ = ["ManifoldReparam"]


class ManifoldReparam(MinimalReparam):
    """Makes a model with manifold sites fit for plain HMC, NUTS and Pyro's autoguides: all latents become real vectors.

    ============================================================== ================================================
    latent site                                                    reparametriser
    ============================================================== ================================================
    ``WrappedNormal`` (not truncated; with ``centered=False``)     :class:`WrappedNormalReparam`
    ``ProjectedNormal``, ``AngularCentralGaussian``                :class:`ProjectedNormalReparam`
    angles, tori                                                   :class:`CircularReparam`
    other laws on flat and hyperbolic space, SPD matrices          none: ``biject_to`` has their chart
    other laws on spheres, frames, rotations, products with these  :class:`AmbientReparam`
    anything else                                                  Pyro's ``MinimalReparam``
    ============================================================== ================================================

    Observed sites are left alone. ``Predictive`` gives the values of the original sites back.

    :param bool centered: leave wrapped normals centred (chart or :class:`AmbientReparam`), for sites about which the data
        say much; default false.

    >>> import pyro_manifold.distributions as mdist
    >>> @ManifoldReparam()
    ... def model():
    ...     mu = pyro.sample("mu", mdist.ManifoldUniform(geoopt.Sphere(), 3))
    ...     return pyro.sample("x", mdist.WrappedNormal(geoopt.Sphere(), mu, 0.1))
    >>> pyro.poutine.trace(model).get_trace().stochastic_nodes
    ['mu_ambient', 'x_tangent']
    """

    def __init__(self, *, centered: bool = False) -> None:
        super().__init__()
        self.centered = centered

    def configure(self, msg: dict) -> Reparam | None:
        law, observed = unwrapped(msg["fn"]), msg["is_observed"]
        if isinstance(law, WrappedNormal) and not (law.truncated or self.centered or observed):
            return WrappedNormalReparam()
        if isinstance(law, dist.ProjectedNormal | AngularCentralGaussian):
            return None if observed else ProjectedNormalReparam()
        law = innermost(law)
        if is_angle(law):
            return None if observed else CircularReparam()
        manifold = manifold_of(law.support)
        if manifold is None:
            return super().configure(msg)
        return None if observed or geometry(manifold).has_chart else AmbientReparam()
