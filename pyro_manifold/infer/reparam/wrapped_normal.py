"""Non-centred wrapped normals."""

import pyro.distributions as dist
import torch
from torch import Tensor

from ...distributions import WrappedNormal
from ...geometry import geometry
from ._base import LatentReparam, standard_normal, unwrapped

__all__ = ["WrappedNormalReparam"]


class WrappedNormalReparam(LatentReparam):
    r"""Makes a :class:`~pyro_manifold.distributions.WrappedNormal` site a function of standard normals, ``{name}_tangent``.

    .. math:: z \sim \mathcal N(0, I), \qquad x = \exp_\mu(L z), \qquad \Sigma = LL^\top

    The non-centred parametrisation: z does not know :math:`\mu` and :math:`\Sigma`, so that a hierarchy in which they are
    latent has no funnel. Exact on every manifold, compact ones included: where the density is a sum over the windings (and
    has poles), z takes them one at a time. Best where the data say little of each x; where they say much, centre it instead
    (leave the site alone, or :class:`AmbientReparam`).

    :raises ValueError: for a site with another law, or a truncated one.

    Reference: Papaspiliopoulos, Roberts & Sköld, Statist. Sci. 22 (2007), sec. 2.

    >>> import pyro_manifold.distributions as mdist
    >>> def model():
    ...     return pyro.sample("x", mdist.WrappedNormal(geoopt.PoincareBall(), torch.zeros(2), 0.5))
    >>> trace = pyro.poutine.trace(pyro.poutine.reparam(model, {"x": WrappedNormalReparam()})).get_trace()
    >>> trace.stochastic_nodes, tuple(trace.nodes["x_tangent"]["value"].shape)
    (['x_tangent'], (2,))
    """

    suffix = "tangent"

    def draw(self, name: str, fn: dist.TorchDistribution, value: Tensor | None) -> tuple[dist.TorchDistribution, Tensor | None]:
        law = unwrapped(fn)
        if not isinstance(law, WrappedNormal) or law.truncated:
            kind = "a truncated WrappedNormal" if isinstance(law, WrappedNormal) else type(law).__name__
            raise ValueError(f"{name}: got {kind}, expected a WrappedNormal, not truncated. Use AmbientReparam there.")
        extra = fn.event_dim - geometry(law.manifold).event_dim
        normal = standard_normal(law.loc, law.batch_shape + law.base_dist.event_shape, extra + 1)
        if value is None:
            return normal, None
        v = law.transforms[0].inv(value)
        if law._diagonal:
            return normal, v / law.scale
        return normal, torch.linalg.solve_triangular(law.base_dist.scale_tril, v[..., None], upper=False)[..., 0]

    def push(self, fn: dist.TorchDistribution, noise: Tensor) -> Tensor:
        law = unwrapped(fn)
        v = law.scale * noise if law._diagonal else (law.base_dist.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
        return law.transforms[0](v)
