r"""Constrained dynamics: on a manifold without closed-form geodesics points move by projected steps, each
checked backwards.

On :math:`M=\{x: c(x)=0\}` or the image of an injective map, the free flow :math:`\Phi_2` of a
:class:`~pyro_manifold.infer.mcmc.systems.System` becomes one RATTLE step [1],

.. math:: q = p + t\,u + N_p\lambda \in M, \qquad u' = T_qT_q^\top (q - p)/t,

so that kick, step, kick is symmetric, symplectic and of order 2 with respect to the Hausdorff measure of M
[2]. A projection may fail, or land on another sheet of M than its reverse does; both would break detailed
balance. So every step is taken backwards too, and one that does not return is refused [3]: the chain stays,
or its trajectory ends there.

[1] Andersen 1983. [2] Brubaker, Salzmann & Urtasun 2012; Lelievre, Rousset & Stoltz 2019. [3] Zappa,
Holmes-Cerfon & Goodman 2018; Graham, Thiery & Beskos 2022, alg. 2 (Mici).
"""

from collections import Counter

import torch
from torch import Tensor

from ...geometry import SubmanifoldGeometry
from .errors import ConvergenceError, NonReversibleStepError
from .momentum import AmbientMomentum, register_momentum

__all__ = ["ProjectedMotion"]


@register_momentum(SubmanifoldGeometry)
class ProjectedMotion(AmbientMomentum):
    """Tangent vectors in the ambient space, carried along by RATTLE steps that are checked to be reversible.

    A refused step leaves the point where it is with a momentum of NaN, hence an infinite energy.

    :ivar dict refused: for ``not converged`` and ``not reversible``, the number of such steps of each chain.
    :ivar bool strict: raise :class:`~.errors.ConvergenceError` or :class:`~.errors.NonReversibleStepError`
        instead.
    """

    geometry: SubmanifoldGeometry
    strict = False
    may_refuse = True

    def __init__(self, geometry: SubmanifoldGeometry) -> None:
        super().__init__(geometry)
        self.refused: dict[str, Counter[int]] = {"not converged": Counter(), "not reversible": Counter()}

    def radius(self, shape: torch.Size) -> float:
        """No cap on the step: one that is too long for a projection is refused."""
        return torch.inf

    def flow(self, x: Tensor, c: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        geo, time = self.geometry, t.squeeze(-1).expand(c.shape[:-1])
        q, v, found = geo.step(x, c.reshape(x.shape), time)
        back, found_back = geo.retract(q, -time.reshape(time.shape + (1,) * geo.event_dim) * v)
        gap, size = ((y.flatten(time.dim())).norm(dim=-1) for y in (back - x, x))
        good = found & found_back & (gap <= 2 * torch.finfo(x.dtype).eps ** 0.5 * (1 + size))
        v = v.reshape(c.shape)
        if not bool(good.all()):
            self._refuse(found, good, time)
            q = torch.where(good.reshape(good.shape + (1,) * geo.event_dim), q, x)
            v = torch.where(good.unsqueeze(-1), v, torch.nan)
        return q, v

    def _refuse(self, found: Tensor, good: Tensor, time: Tensor) -> None:
        n = len(found)
        lost = (~found).reshape(n, -1).any(-1)
        astray = (~good).reshape(n, -1).any(-1) & ~lost
        size = f"{float(time.abs().max()):.3g}"
        if self.strict and bool(lost.any()):
            raise ConvergenceError(
                f"a projected step for time {size} found no point of {self.geometry.manifold.name} in "
                f"{int(lost.sum())} of {n} chains; take a smaller step_size."
            )
        if self.strict:
            raise NonReversibleStepError(
                f"a projected step for time {size} on {self.geometry.manifold.name} does not return to its "
                f"start in {int(astray.sum())} of {n} chains; take a smaller step_size."
            )
        for reason, rows in (("not converged", lost), ("not reversible", astray)):
            who = rows.nonzero().squeeze(-1)
            self.refused[reason].update((who if self.chains is None else self.chains[who]).tolist())

    def forget_refused(self) -> None:
        """Count from 0."""
        for counts in self.refused.values():
            counts.clear()
