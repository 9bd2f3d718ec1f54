"""The non-centred parametrisation of wrapped normals."""

import pyro.distributions as dist
from torch import Tensor

from ...distributions import WrappedNormal
from ...geometry import geometry
from ...ops.batched import apply_matrix, solve_lower
from ._base import LatentReparam, innermost, standard_normal

__all__ = ["WrappedNormalReparam"]


class WrappedNormalReparam(LatentReparam):
    r"""Makes a :class:`~pyro_manifold.distributions.WrappedNormal` site a function of standard normals,
    ``{name}_tangent``.

    .. math:: z \sim \mathcal N(0, I), \qquad x = \exp_\mu(L z), \qquad \Sigma = LL^\top

    This is the non-centred parametrisation: the prior of z does not depend on :math:`\mu` and :math:`\Sigma`,
    so a hierarchical model in which they are latent has no funnel. It is exact on every manifold. On compact
    ones, where the density of x is a sum over windings and has poles, each z belongs to one winding and its
    density has no poles. It is best where the data determine each x poorly; where they determine it well, use
    the centred parametrisation (no reparametriser, or :class:`AmbientReparam`).

    :raises ValueError: for a site with another distribution, or a truncated one.

    Reference: Papaspiliopoulos, Roberts & Sköld, Statist. Sci. 22 (2007), sec. 2.

    >>> import pyro_manifold.distributions as mdist
    >>> def model():
    ...     return pyro.sample("x", mdist.WrappedNormal(geoopt.PoincareBall(), torch.zeros(2), 0.5))
    >>> trace = pyro.poutine.trace(pyro.poutine.reparam(model, {"x": WrappedNormalReparam()})).get_trace()
    >>> trace.stochastic_nodes, tuple(trace.nodes["x_tangent"]["value"].shape)
    (['x_tangent'], (2,))
    """

    suffix = "tangent"

    def base(self, name: str, fn: dist.TorchDistribution) -> dist.TorchDistribution:
        inner = innermost(fn)
        if not isinstance(inner, WrappedNormal) or inner.truncated:
            kind = "a truncated WrappedNormal" if isinstance(inner, WrappedNormal) else type(inner).__name__
            raise ValueError(
                f"{name}: got {kind}, expected a WrappedNormal, not truncated. Use AmbientReparam there."
            )
        extra = fn.event_dim - geometry(inner.manifold).event_dim
        return standard_normal(inner.loc, inner.batch_shape + inner.base_dist.event_shape, extra + 1)

    def push(self, fn: dist.TorchDistribution, noise: Tensor) -> Tensor:
        inner = innermost(fn)
        tril = None if inner._diagonal else inner.base_dist.scale_tril
        v = inner.scale * noise if tril is None else apply_matrix(tril, noise)
        return inner.transforms[0](v)

    def lift(self, fn: dist.TorchDistribution, value: Tensor) -> Tensor:
        inner = innermost(fn)
        v = inner.transforms[0].inv(value)
        if inner._diagonal:
            return v / inner.scale
        return solve_lower(inner.base_dist.scale_tril, v)
