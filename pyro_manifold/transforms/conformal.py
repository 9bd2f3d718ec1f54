r"""Conformal embeddings: injective maps that scale all directions alike, so that their volume is a sum of
logarithms.

.. math::
    g = c_k \circ \dots \circ c_1 \circ \mathrm{pad}, \quad c(x) = I_b(\lambda Q x + t), \quad
    I_b(x) = \frac{x - |x|^2 b}{1 - 2\,b\cdot x + |b|^2|x|^2}, \qquad
    \tfrac12\log\det J^TJ = n\sum_k\big(\log\lambda_k - \log(1 - 2\,b_k\cdot x_k + |b_k|^2|x_k|^2)\big)

Reference: Ross and Cresswell, *Tractable density estimation on learned manifolds with conformal embedding
flows*, NeurIPS 2021, eq. 7 and table 1.
"""

import torch
from torch import Tensor, nn

from ..ops.arguments import checked
from ..ops.tracing import is_concrete
from .injective import InjectiveTransform, principal_axes

__all__ = ["ConformalEmbedding"]


def special_conformal(x: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The special conformal map :math:`I_b(x)` and its denominator. Far from 0 the denominator is computed as a square,
    which loses no digits near the pole.

    :raises ValueError: at the pole.
    """
    q, bb = x.square().sum(-1), b.square().sum(-1)
    far = q * bb > 0.25
    r = torch.where(far, q, 1.0).sqrt().unsqueeze(-1)
    w = x / r - r * b
    below = torch.where(far, w.square().sum(-1), 1 - 2 * (x * b).sum(-1) + q * bb)
    if is_concrete(below) and not bool((below > (8 * torch.finfo(x.dtype).eps) ** 2).all()):
        raise ValueError(
            "transform: a block of this conformal embedding has its pole at a value (or the value is "
            "NaN): it goes to infinity and has no density there. Remove that row, or start the "
            "embedding from other parameters."
        )
    return torch.where(far.unsqueeze(-1), r * w, x - q.unsqueeze(-1) * b) / below.unsqueeze(-1), below


class ConformalEmbedding(InjectiveTransform):
    r"""A learned n-plane or n-sphere (less a point) with its volume in closed form.

    .. math:: J^TJ = \Lambda(u)^2 I_n, \qquad \tfrac12\log\det J^TJ = n\log\Lambda(u)

    Each block is an orthogonal matrix Q (a product of n reflections, enough for every n-frame), a scale
    :math:`\lambda > 0`, a shift t and the special conformal map :math:`I_b`, an inversion between two others.
    By Liouville's theorem such maps, composed, are such maps again: for d > 2 there are no other smooth ones,
    and the image is a plane or a round sphere whatever the number of blocks (one gives all of them but those
    that take infinity to 0). For manifolds of other shapes put layers after it,
    :class:`~pyro_manifold.flows.InjectiveFlow`. The inverse is exact on the image.

    :param int dim: n.
    :param int codomain_dim: d, from n on.
    :param int blocks: k.
    :raises ValueError: for n > d or fewer than one block; at the pole :math:`b/|b|^2` of a block, a point
        that a plane of n < d dimensions meets for exceptional parameters only, and in the inverse at the
        image of infinity :math:`-b/|b|^2`.

    >>> g = ConformalEmbedding(2, 3)
    >>> u = torch.tensor([0.3, -0.2])
    >>> torch.allclose(g.inv(g(u)), u, atol=1e-5), g.log_volume(u).shape
    (True, torch.Size([]))
    """

    @checked(dim=1, codomain_dim=1, blocks=0)
    def __init__(self, dim: int, codomain_dim: int, *, blocks: int = 1, cache_size: int = 0) -> None:
        super().__init__(dim, codomain_dim, cache_size=cache_size)
        if not (isinstance(blocks, int) and blocks >= 1):
            raise ValueError(f"blocks: got {blocks!r}; expected a positive integer.")
        self.reflectors = nn.Parameter(torch.randn(blocks, dim, codomain_dim))
        self.log_scale = nn.Parameter(torch.zeros(blocks))
        self.shift = nn.Parameter(torch.zeros(blocks, codomain_dim))
        self.pull = nn.Parameter(0.1 * torch.randn(blocks, codomain_dim) / codomain_dim**0.5)

    @classmethod
    def from_pca(cls, x: Tensor, dim: int) -> "ConformalEmbedding":
        """One block that starts near the subspace through the mean of the rows ``x`` along their principal
        axes, at one scale for all of these."""
        loc, axes, scale = principal_axes(x)
        if not bool(scale[0] > 0):
            raise ValueError(f"x: got {len(x)} equal rows; expected rows that span at least one dimension.")
        new = cls(dim, x.shape[1]).to(x)
        reflectors = torch.geqrf(axes[:, :dim])[0].tril(-1).mT.clone()
        reflectors.diagonal().fill_(1.0)
        with torch.no_grad():
            new.reflectors[0] = reflectors
            new.log_scale.fill_(float(scale[:dim].square().mean().sqrt().log()))
            new.shift[0] = loc
            new.pull.div_(scale.square().sum().sqrt())
        return new

    def _turn(self, i: int, x: Tensor, back: bool = False) -> Tensor:
        """Qx, or its inverse: the product of reflections as I - V S^-1 V^T with a triangular S."""
        V = self.reflectors[i]
        gram = V @ V.mT
        S = gram.triu(1) + 0.5 * torch.diag_embed(gram.diagonal())
        W = torch.linalg.solve_triangular(S if back else S.mT, V, upper=back)
        return x - (x @ V.mT) @ W

    def _run(self, u: Tensor) -> tuple[Tensor, Tensor]:
        x = nn.functional.pad(u, (0, self.codomain_dim - self.dim))
        log_factor = self.log_scale.sum().expand(u.shape[:-1])
        for i, b in enumerate(self.pull):
            x, below = special_conformal(self.log_scale[i].exp() * self._turn(i, x) + self.shift[i], b)
            log_factor = log_factor - below.log()
        return x, self.dim * log_factor

    def _call(self, u: Tensor) -> Tensor:
        return self._run(u)[0]

    def _inverse(self, x: Tensor) -> Tensor:
        for i in reversed(range(len(self.pull))):
            x = self._turn(
                i,
                (special_conformal(x, -self.pull[i])[0] - self.shift[i]) * (-self.log_scale[i]).exp(),
                back=True,
            )
        return x[..., : self.dim]

    def forward_and_log_volume(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """g(u) and the log-volume there, without tangents."""
        self.check_input(u, self.forward_shape)
        return self._run(u)

    def jvp(self, u: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """The value at ``u`` and the derivative along ``tangents``, shape ``batch + (k, n)``."""
        x, t = (nn.functional.pad(v, (0, self.codomain_dim - self.dim)) for v in (u, tangents))
        for i, b in enumerate(self.pull):
            x = self.log_scale[i].exp() * self._turn(i, x) + self.shift[i]
            t = self.log_scale[i].exp() * self._turn(i, t)
            xt, bt = t @ x.unsqueeze(-1), (t @ b).unsqueeze(-1)
            x, below = special_conformal(x, b)
            t = (t - 2 * xt * b - 2 * x.unsqueeze(-2) * (xt * b.square().sum() - bt)) / below[..., None, None]
        return x, t
