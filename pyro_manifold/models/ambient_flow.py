r"""Densities in the whole space, with which those on a learned manifold are compared.

.. math::
    \text{PIE:}\quad x = f(u, v),\; u \sim h(\cdot \mid \theta),\; v \sim N(0, \epsilon^2), \qquad
    \log p(x \mid \theta) = \log p_h(u \mid \theta) + \log p(v) - \log|\det J_f|

Reference: Brehmer and Cranmer, *Flows for simultaneous manifold learning and density estimation*, NeurIPS
2020, sec. 2.
"""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Transform

from ..flows import Affine, LatentFlow, LULinear, coupling_chain
from ..ops.arguments import checked
from ..transforms.module import submodules
from .flow_model import FlowModel, latent_flow

__all__ = ["AmbientFlow"]


class AmbientFlow(FlowModel):
    r"""A density in all of :math:`\mathbb R^d`: an affine or spline flow (AF), or pseudo-invertible encoder
    (PIE).

    ============ ==================================================================================
    AF           ``dim`` = d
    PIE          ``dim`` < d: the other d - n coordinates are normal with the small scale ``eps``
    ============ ==================================================================================

    Base measure: Lebesgue measure, so its values are not comparable with those of a :class:`ManifoldFlow`.
    Data that lie exactly on a manifold have no finite optimum.

    :param layers: bijections of vectors of size d, from latent to data; conditional ones make the outer map
        depend on the context too (the original PIE).
    :param LatentFlow latent: h, of n coordinates.
    :param int codomain_dim: d.
    :param float eps: :math:`\epsilon`.
    :raises ValueError: for n > d, or a scale that is not positive.

    >>> x = torch.randn(50, 3)
    >>> pie = AmbientFlow.from_data(x, dim=2, hidden=(8,))
    >>> pie.log_prob(x).shape
    torch.Size([50])
    """

    @checked(codomain_dim=1)
    def __init__(
        self,
        layers: Sequence[Transform | nn.Module],
        latent: LatentFlow,
        codomain_dim: int,
        *,
        eps: float = 0.01,
    ) -> None:
        super().__init__()
        if not latent.dim <= codomain_dim or not eps > 0:
            raise ValueError(
                f"latent, eps: got dimension {latent.dim} in {codomain_dim} and {eps}; expected n <= d and "
                f"eps > 0."
            )
        self.latent, self.codomain_dim, self.eps = latent, codomain_dim, float(eps)
        self.layers = list(layers)
        self._submodules = submodules(layers)

    @classmethod
    @checked(dim=1, context_dim=0, depth=0, latent_depth=0)
    def from_data(
        cls,
        x: Tensor,
        dim: int,
        context_dim: int = 0,
        *,
        depth: int = 6,
        hidden: tuple[int, ...] = (64, 64),
        eps: float = 0.01,
        outer: bool = False,
        latent_depth: int = 5,
    ) -> "AmbientFlow":
        """Spline couplings and the principal axes of the rows ``x``; ``outer`` makes the couplings depend on
        the context."""
        d = x.shape[-1]
        bends = coupling_chain(d, depth, context_dim if outer else 0, hidden=hidden)
        layers = [*bends, LULinear(d), Affine.from_pca(x)]
        return cls(layers, latent_flow(dim, context_dim, latent_depth, hidden), d, eps=eps).to(x)

    @property
    def context_dim(self) -> int:
        return max([self.latent.context_dim, *(getattr(layer, "context_dim", 0) for layer in self.layers)])

    def condition(self, context: Tensor | None = None) -> Any:
        r""":math:`p(\cdot \mid \theta)`, a distribution in :math:`\mathbb R^d`."""
        u = self.latent.condition(context)
        base = _Beside(u, self.latent.zero.new_full((self.codomain_dim - self.latent.dim,), self.eps))
        return dist.ConditionalTransformedDistribution(base, self.layers).condition(context)


class _Beside(dist.TorchDistribution):
    """u of some distribution followed by independent normal v with scales ``eps``."""

    arg_constraints: dict[str, Any] = {}
    support = dist.constraints.real_vector
    has_rsample = True

    def __init__(self, u: Any, eps: Tensor) -> None:
        self.u, self.v = u, dist.Normal(torch.zeros_like(eps), eps).to_event(1) if len(eps) else None
        super().__init__(u.batch_shape, torch.Size([u.event_shape[0] + len(eps)]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "_Beside":
        eps = self.v.base_dist.scale if self.v is not None else torch.empty(0)
        return _Beside(self.u.expand(batch_shape), eps)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        u = self.u.rsample(torch.Size(sample_shape))
        return u if self.v is None else torch.cat([u, self.v.rsample(u.shape[:-1]).to(u)], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        n = self.u.event_shape[0]
        return self.u.log_prob(value[..., :n]) + (0.0 if self.v is None else self.v.log_prob(value[..., n:]))
