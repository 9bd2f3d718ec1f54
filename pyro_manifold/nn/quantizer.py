r"""A codebook that is learned by moving averages.

.. math::
    k(z) = \arg\min_k |z - v_k|, \qquad
    N_k \leftarrow \gamma N_k + (1-\gamma)\,\tfrac{n_k}{n}, \quad
    S_k \leftarrow \gamma S_k + (1-\gamma)\,\tfrac1n\sum_{i:\,k(z_i) = k} z_i, \quad v_k = S_k / N_k

Reference: van den Oord, Vinyals and Kavukcuoglu, *Neural discrete representation learning*, NeurIPS 2017, eqs. 1-3
and appendix A.1.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..ops.arguments import checked
from ..ops.clusters import k_means
from ..ops.pairwise import pairwise_distances
from .sizes import check_last

__all__ = ["CodeUsage", "VectorQuantizer"]


class CodeUsage(NamedTuple):
    r"""How often each code is the nearest one.

    :ivar counts: rows of each code, shape ``(K,)``.
    :ivar perplexity: :math:`\exp(-\sum_k f_k\log f_k)` of the shares :math:`f_k` of the rows; K where all
        codes are used equally, 1 where one code takes all rows.

    >>> CodeUsage.of(torch.tensor([5, 5, 0])).perplexity
    2.0
    """

    counts: Tensor
    perplexity: float

    @classmethod
    def of(cls, counts: Tensor) -> "CodeUsage":
        """The usage with these counts."""
        share = counts.double() / counts.sum().clamp_min(1)
        return cls(counts, math.exp(float(torch.special.entr(share).sum())))


class VectorQuantizer(nn.Module):
    r"""A codebook of K vectors, which :meth:`update` moves to the mean of the features that are nearest to them.

    .. math:: z \mapsto v_{k(z)}, \qquad k(z) = \arg\min_k |z - v_k|

    The codes are buffers: no gradient trains them. The derivative of the output with respect to z is taken to
    be the identity (straight-through). A code whose moving share of the features falls below ``restart / K`` is
    dead: it is set to a random feature of the batch.

    :param Tensor codes: the codes :math:`v_k` at the start, shape ``(K, c)``.
    :param float decay: :math:`\gamma`.
    :param float restart: share of features, as a fraction of the share 1/K, under which a code is dead; 0 to
        restart none.
    :raises ValueError: for codes of another shape, a decay outside [0, 1), a negative ``restart``, features of
        another size.

    >>> quantizer = VectorQuantizer(torch.tensor([[0.0], [10.0]]))
    >>> quantizer(torch.tensor([[1.0], [9.0]])), quantizer.assign(torch.tensor([[1.0], [9.0]]))
    (tensor([[ 0.],
            [10.]]), tensor([0, 1]))
    """

    codes: Tensor
    shares: Tensor
    sums: Tensor
    active: Tensor

    @checked(decay=0, restart=0)
    def __init__(self, codes: Tensor, *, decay: float = 0.99, restart: float = 0.1) -> None:
        super().__init__()
        if codes.dim() != 2 or not codes.numel():
            raise ValueError(f"codes: got shape {tuple(codes.shape)}; expected (K, c), one code in each row.")
        if not decay < 1:
            raise ValueError(f"decay: got {decay}; expected a number in [0, 1), such as 0.99.")
        self.decay, self.restart = float(decay), float(restart)
        shares = codes.new_full((len(codes),), 1 / len(codes))
        self.register_buffer("codes", codes.detach().clone())
        self.register_buffer("shares", shares)
        self.register_buffer("sums", shares.unsqueeze(-1) * codes.detach())
        self.register_buffer("active", torch.ones(len(codes), dtype=torch.bool, device=codes.device))

    @classmethod
    @checked(codes=1)
    def from_data(cls, z: Tensor, codes: int, *, seed: int = 0, **kwargs: float) -> "VectorQuantizer":
        """A codebook that starts as the ``codes`` centres of k-means of the rows ``z``.

        :raises ValueError: for more codes than distinct rows.
        """
        distinct = len(z.unique(dim=0)) if z.dim() == 2 else 0
        if not codes <= distinct:
            raise ValueError(
                f"codes: got {codes} for rows of shape {tuple(z.shape)}, of which {distinct} are distinct; expected "
                "at most as many codes as distinct rows. Use fewer codes, or more data."
            )
        return cls(k_means(z, codes, seed)[0], **kwargs)

    @property
    def dim(self) -> int:
        """c."""
        return self.codes.shape[-1]

    def distances(self, z: Tensor) -> Tensor:
        """Distances :math:`|z - v_k|` from all codes, shape ``batch + (K,)``; infinite for retired codes."""
        check_last("z", z, self.dim)
        d = pairwise_distances(z.reshape(-1, self.dim), self.codes)
        return torch.where(self.active, d, math.inf).reshape(z.shape[:-1] + (len(self.codes),))

    def assign(self, z: Tensor) -> Tensor:
        """The number of the nearest code, shape ``batch``."""
        return self.distances(z.detach()).argmin(-1)

    def forward(self, z: Tensor) -> Tensor:
        return z + (self.codes[self.assign(z)] - z).detach()

    def usage(self, z: Tensor) -> CodeUsage:
        """How many of the features ``z`` each code is nearest to."""
        return CodeUsage.of(self.assign(z).reshape(-1).bincount(minlength=len(self.codes)))

    @torch.no_grad()
    def update(self, z: Tensor) -> int:
        """Move the codes by one step of the averages over the features ``z``, shape ``(rows, c)``, and restart
        dead ones. Returns how many were restarted.

        :raises ValueError: for features that are not finite.
        """
        check_last("z", z, self.dim)
        if not bool(z.isfinite().all()):
            raise ValueError("z: got features that are not finite; expected finite ones. Lower lr.")
        if not len(z):
            return 0
        one = nn.functional.one_hot(self.assign(z), len(self.codes)).to(z) / len(z)
        self.shares.lerp_(one.sum(0), 1 - self.decay)
        self.sums.lerp_(one.mT @ z, 1 - self.decay)
        least = torch.finfo(z.dtype).tiny
        used = (self.shares > least) & self.active
        self.codes.copy_(
            torch.where(used[:, None], self.sums / self.shares.clamp_min(least)[:, None], self.codes)
        )
        dead = (self.shares < self.restart / len(self.codes)) & self.active
        many = int(dead.sum())
        if many:
            self.codes[dead] = z[torch.randint(len(z), (many,), device=z.device)]
            self.shares[dead] = 1 / len(self.codes)
            self.sums[dead] = self.codes[dead] / len(self.codes)
        return many

    @torch.no_grad()
    def retire(self, z: Tensor, rows: int) -> int:
        """Give up codes that are nearest to fewer than ``rows`` of the features ``z``, one after the other, the
        least used first; their features go to the next code. Returns how many were given up.

        :raises ValueError: if no code has so many.
        """
        before = int(self.active.sum())
        while True:
            counts = self.usage(z).counts
            least = torch.where(self.active, counts, counts.sum() + 1).argmin()
            if int(counts[least]) >= rows:
                return before - int(self.active.sum())
            if int(self.active.sum()) == 1:
                raise ValueError(
                    f"z: got {len(z)} rows; expected at least {rows}, as many as one chart needs. Give more data."
                )
            self.active[least] = False
