r"""Regions around codes: each point belongs to the charts of its nearest codes.

.. math:: U_k = \big\{x :\ d_k(x) \le (1 + \epsilon)\, d_{(m)}(x)\big\}, \qquad d_k(x) = |E(x) - v_k|
"""

import torch
from torch import Tensor, nn

from ..distributions.regions import Regions
from ..ops.arguments import checked
from ..ops.tracing import is_traced
from .quantizer import VectorQuantizer

__all__ = ["NeighbourRegions"]


class NeighbourRegions(Regions):
    r"""Regions by the m-th neighbour rule, where :math:`d_{(m)}` is the m-th smallest distance of the features
    E(x) from the codes.

    .. math:: U_k = \big\{x :\ d_k(x) \le (1 + \epsilon)\, d_{(m)}(x)\big\}, \qquad
        D_k = \big\{u :\ \nu_j \cdot u \le r_{kj} \text{ for all } j\big\}

    Every point is in at least m regions, and in exactly m for :math:`\epsilon = 0`: with m = 1 the regions are the
    cells of the codes, which share no interior point. The coordinates of chart k may be limited to a polytope
    :math:`D_k`, so that its image ends where its data end.

    :param encoder: E, a module.
    :param VectorQuantizer quantizer: the codes :math:`v_k`; retired ones have empty regions.
    :param int neighbours: m.
    :param float eps: :math:`\epsilon`.
    :param Tensor normals: :math:`\nu_j`, shape ``(J, n)``; none for no limits.
    :param Tensor reach: :math:`r_{kj}`, shape ``(K, J)``; infinite where there is no limit.
    :param Tensor centres: a point inside of each polytope, shape ``(K, n)``, towards which :meth:`clip` moves
        coordinates beyond one of its corners.
    :raises ValueError: for m above the number of codes in use, a negative :math:`\epsilon`, shapes that do not fit,
        centres that are outside.

    Reference: Sidheekh, Dock, Jain, Balan and Singh, *VQ-flows: vector quantized local normalizing flows*, UAI
    2022, sec. 3.

    >>> codes = VectorQuantizer(torch.tensor([[0.0], [2.0]]))
    >>> x = torch.tensor([[0.5], [0.9]])
    >>> NeighbourRegions(nn.Identity(), codes)(x), NeighbourRegions(nn.Identity(), codes, eps=0.5)(x)
    (tensor([[ True, False],
            [ True, False]]), tensor([[ True, False],
            [ True,  True]]))
    """

    normals: Tensor | None
    reach: Tensor | None
    centres: Tensor | None

    @checked(neighbours=1, eps=0)
    def __init__(
        self,
        encoder: nn.Module,
        quantizer: VectorQuantizer,
        neighbours: int = 1,
        eps: float = 0.0,
        *,
        normals: Tensor | None = None,
        reach: Tensor | None = None,
        centres: Tensor | None = None,
    ) -> None:
        super().__init__()
        K = len(quantizer.codes)
        if neighbours > 1 and not is_traced() and neighbours > (used := int(quantizer.active.sum())):
            raise ValueError(f"neighbours: got {neighbours}; expected at most {used}, the codes in use.")
        limits = (normals, reach, centres)
        if any(t is None for t in limits):
            if any(t is not None for t in limits):
                raise ValueError("normals, reach, centres: got some of them; expected all three, or none.")
        elif normals is not None and reach is not None and centres is not None:
            if (
                normals.dim() != 2
                or reach.shape != (K, len(normals))
                or centres.shape != (K, normals.shape[1])
            ):
                raise ValueError(
                    f"normals, reach, centres: got shapes {tuple(normals.shape)}, {tuple(reach.shape)} and "
                    f"{tuple(centres.shape)}; expected (J, n), ({K}, J) and ({K}, n)."
                )
            if not bool((centres @ normals.mT <= reach).all()):
                raise ValueError("centres: got a point outside of its polytope; expected one inside of each.")
        self.encoder, self.quantizer = encoder, quantizer
        self.neighbours, self.eps = neighbours, float(eps)
        for name, t in (("normals", normals), ("reach", reach), ("centres", centres)):
            self.register_buffer(name, t)

    def distances(self, x: Tensor) -> Tensor:
        """The :math:`d_k(x)`, shape ``batch + (K,)``."""
        return self.quantizer.distances(self.encoder(x))

    def forward(self, x: Tensor) -> Tensor:
        d = self.distances(x)
        if self.neighbours == 1 and self.eps == 0:  # ties go to one of the codes
            return d.argmin(-1, keepdim=True) == torch.arange(d.shape[-1], device=d.device)
        most = d.kthvalue(self.neighbours, dim=-1, keepdim=True).values if d.numel() else d[..., :1]
        return d <= (1 + self.eps) * most

    def first(self, x: Tensor) -> Tensor:
        """The chart of the nearest code."""
        return self.distances(x).argmin(-1)

    def domain(self, u: Tensor, k: int) -> Tensor:
        if self.normals is None or self.reach is None:
            return super().domain(u, k)
        return (u @ self.normals.mT <= self.reach[k]).all(-1)

    def clip(self, u: Tensor, k: int) -> Tensor:
        """``u`` if it is in :math:`D_k`; else its nearest point of the half-space that it violates most, if that is in
        :math:`D_k` (and so the nearest there); else the point where the way from ``u`` to the centre enters
        :math:`D_k`."""
        if self.normals is None or self.reach is None or self.centres is None:
            return u
        c, normals, reach = self.centres[k], self.normals, self.reach[k]
        along = (u - c) @ normals.mT
        room = reach - c @ normals.mT
        beyond = along > room  # and no derivative of the other quotients, of which some are infinite
        share = torch.where(
            beyond, torch.where(beyond, room, 1.0) / torch.where(beyond, along, 1.0), 1.0
        ).amin(-1)
        over, j = (along - room).max(-1, keepdim=True)
        near = u - over.clamp_min(0.0) * normals[j.squeeze(-1)]
        slack = 8 * torch.finfo(u.dtype).eps * (1 + u.abs().amax(-1, keepdim=True))
        fits = (near @ normals.mT <= reach + slack).all(-1, keepdim=True)
        return torch.where(fits, near, c + share.unsqueeze(-1) * (u - c))
