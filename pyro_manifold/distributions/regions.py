r"""Where the charts of an atlas live: a region of space for each, and the coordinates it uses.

.. math:: U_k \subset \mathbb R^d, \quad D_k \subset \mathbb R^n, \qquad
    \text{chart k covers}\quad \{g_k(u) : u \in D_k,\ g_k(u) \in U_k\}
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn

__all__ = ["Regions"]


class Regions(nn.Module):
    """The base of regions. A subclass gives :meth:`forward`, and :meth:`domain` and :meth:`clip` where charts use
    only some of their coordinates.

    >>> class HalfPlanes(Regions):
    ...     def forward(self, x):
    ...         return torch.stack([x[..., 0] < 0, x[..., 0] >= 0], -1)
    >>> HalfPlanes()(torch.tensor([3.0, 1.0]))
    tensor([False,  True])
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Whether each region contains ``x``, shape ``batch + (K,)``."""

    def first(self, x: Tensor) -> Tensor:
        """The number of the one region that ``x`` is counted for, shape ``batch``: by default the first that
        contains it."""
        return self(x).to(torch.uint8).argmax(-1)

    def domain(self, u: Tensor, k: int) -> Tensor:
        """Whether chart k uses the coordinates ``u``, shape ``batch``; by default all."""
        return torch.ones(u.shape[:-1], dtype=torch.bool, device=u.device)

    def clip(self, u: Tensor, k: int) -> Tensor:
        """Coordinates that chart k uses, near ``u``."""
        return u
