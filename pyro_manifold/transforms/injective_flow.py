r"""A chain of learned bijections after an embedding: the manifold of an M-flow.

.. math:: g = f_k \circ \dots \circ f_1 \circ e, \qquad J_g(u) = J_{f_k} \cdots J_{f_1} J_e

Reference: Brehmer and Cranmer, *Flows for simultaneous manifold learning and density estimation*, NeurIPS
2020, eq. 6.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..ops.arguments import checked
from .cache import dependencies
from .injective import InjectiveTransform
from .layers import HoldsLayers, check_layers

__all__ = ["InjectiveFlow"]


class InjectiveFlow(HoldsLayers, InjectiveTransform):
    r"""An embedding of :math:`\mathbb R^n` followed by bijections of :math:`\mathbb R^d`.

    The n columns of :math:`J_g` are pushed through the layers one after the other, never a d x d matrix.

    :param InjectiveTransform embedding: e, such as :class:`~pyro_manifold.transforms.Pad`.
    :param layers: the :math:`f_i`: transforms of vectors of size d, ours or any of torch and Pyro.
    :raises ValueError: if a layer does not fit; where the derivative loses rank (by ``log_volume``).

    >>> from pyro_manifold.flows import Coupling
    >>> from pyro_manifold.transforms import Pad
    >>> g = InjectiveFlow(Pad(1, 2), [Coupling(2, [1])])
    >>> x = g(torch.tensor([0.5]))
    >>> g.reconstruction_error(x).item(), g.log_volume(g.inv(x)).item()
    (0.0, 0.0)
    """

    @checked
    def __init__(self, embedding: InjectiveTransform, layers: Sequence[Any], *, cache_size: int = 0) -> None:
        super().__init__(embedding.dim, embedding.codomain_dim, cache_size=cache_size)
        check_layers(layers, self.codomain_dim, injective=True)
        self.embedding = embedding
        self.hold(layers)

    def depends(self) -> list[Any] | None:
        return dependencies([self.embedding, *self.layers])

    def _call(self, u: Tensor) -> Tensor:
        return self.chain._call(self.embedding._call(u))

    def _inverse(self, x: Tensor) -> Tensor:
        return self.embedding._inverse(self.chain._inverse(x))

    def preimage_error(self, x: Tensor, u: Tensor) -> Tensor:
        """In all coordinates before the layers, those across the manifold too."""
        return self.chain._inverse(x) - self.embedding._call(u)

    def jvp(self, u: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        return self.chain.jvp(*self.embedding.jvp(u, tangents))
