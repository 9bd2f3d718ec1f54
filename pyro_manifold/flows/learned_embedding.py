r"""A map from the cube onto a manifold that is learned from points of the manifold, by an auto-encoder.

.. math::
    \phi: [0, 1]^d \to M, \quad \phi(t) = \pi\big(g(t)\big), \qquad \psi: M \to [0, 1]^d, \quad \psi(x) = \sigma(h(x)),
    \qquad \psi \approx \phi^{-1}

g and h are perceptrons, sigma the logistic function, pi the projection to the nearest point of M.
"""

from typing import Any

import geoopt
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ..constraints import on
from ..geometry import geometry
from ..nn.mlp import MLP
from ..nn.sizes import check_size
from ..ops.arguments import checked
from ..transforms.jvp import half_log_det_gram
from ..transforms.module import ModuleTransform

__all__ = ["LearnedEmbedding"]


class LearnedEmbedding(ModuleTransform):
    r"""Decoder :math:`\phi` and encoder :math:`\psi` of an auto-encoder whose codes are points of the cube.

    .. math:: t \mapsto \phi(t) = \pi\big(g(t)\big), \qquad \phi^{-1}(x) :\approx \psi(x) = \sigma(h(x))

    :func:`~pyro_manifold.training.fit_embedding` trains both on points of M so that uniform points have uniform codes.
    The map is continuous, which no bijection from the cube to a compact manifold without boundary can be: it leaves a
    gap, or covers some points twice, and what it makes of the uniform distribution is only nearly uniform.
    :func:`~pyro_manifold.evaluation.embedding_report` measures by how much. So it is no bijection
    (``bijective = False``), ``inv`` is :math:`\psi`, an inverse as far as training made it one, and the image of a
    distribution has no density that could be evaluated.

    :param geoopt.Manifold manifold: M, such as ``geoopt.Sphere()``.
    :param int dim: its dimension d, the number of coordinates of the cube.
    :param tuple hidden: units of the hidden layers of either perceptron.
    :param bool project: with False pi is left out, as in the paper; images are then only near M, vectors of its
        ambient space.
    :raises ValueError: for sizes that are not positive, and for a manifold without ambient coordinates.

    The log volume is with respect to the Riemannian volume of M (with ``project=False``, to that of the image).

    Reference: Golikov and Kretov, *Embedding-reparameterization procedure for manifold-valued latent variables in
    generative models*, 2018, sec. 3.

    >>> phi = LearnedEmbedding(geoopt.Sphere(), 1)
    >>> x = phi(torch.rand(5, 1))
    >>> x.shape, phi.inv(x).shape
    (torch.Size([5, 2]), torch.Size([5, 1]))
    """

    domain = constraints.independent(constraints.unit_interval, 1)
    bijective = False
    separate_volume = True

    @checked(dim=1)
    def __init__(
        self, manifold: geoopt.Manifold, dim: int, hidden: tuple[int, ...] = (64, 64), *, project: bool = True
    ) -> None:
        super().__init__()
        geo = geometry(manifold)
        self.manifold, self.dim, self.projected = manifold, check_size("dim", dim), project
        self.point_shape = geo.point_shape(dim)
        self.codomain = on(manifold) if project else constraints.independent(constraints.real, geo.event_dim)
        ambient = geo.ambient_coordinates(geo.base_point(self.point_shape))
        if ambient is None:
            raise ValueError(
                f"manifold: got {manifold.name}, which has no ambient coordinates for the encoder to read; expected "
                "a sphere, a torus, rotations or another embedded manifold."
            )
        self.encoder = MLP(ambient.shape[-1], dim, hidden)
        self.decoder = MLP(dim, self.point_shape.numel(), hidden)
        for net in (self.encoder, self.decoder):  # zero, their start, is a constant map
            nn.init.xavier_uniform_(net.last.weight)

    def extra_repr(self) -> str:
        return f"{self.manifold.name}, dim={self.dim}, project={self.projected}"

    def ambient(self, x: Tensor) -> Tensor:
        """The coordinates of points in the space around M, a vector for each."""
        coordinates = geometry(self.manifold).ambient_coordinates(x)
        assert coordinates is not None
        return coordinates

    def _call(self, x: Tensor) -> Tensor:
        y = self.decoder(2 * x - 1)
        y = y.reshape(y.shape[:-1] + self.point_shape)
        return geometry(self.manifold).project(y) if self.projected else y

    def _inverse(self, y: Tensor) -> Tensor:
        return self.encoder(self.ambient(y)).sigmoid()

    def log_volume(self, x: Tensor) -> Tensor:
        """:raises ValueError: without projection, where the derivative has no full rank."""
        y, columns = self.jvp(x, torch.eye(self.dim, dtype=x.dtype, device=x.device))
        if not self.projected:
            return half_log_det_gram(columns.flatten(x.dim()))
        geo = geometry(self.manifold)
        moved = [geo.from_tangent(y, u) for u in columns.unbind(x.dim() - 1)]
        return torch.linalg.slogdet(torch.stack(moved, -2)).logabsdet

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._call(x), self.log_volume(x)

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x = self._inverse(y)
        return x, self.log_volume(x)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return self._resize(shape, self.dim, 0)[:-1] + self.point_shape

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        cut = len(shape) - len(self.point_shape)
        if cut < 0 or shape[cut:] != self.point_shape:
            raise ValueError(
                f"value: got shape {tuple(shape)}; expected points of {self.manifold.name}, the last axes of which "
                f"are {tuple(self.point_shape)}."
            )
        return torch.Size(shape[:cut]) + torch.Size([self.dim])

    def freeze(self) -> "LearnedEmbedding":
        """Switch gradients of all parameters off, and return this map."""
        self.requires_grad_(False)
        return self

    def depends(self) -> list[Any] | None:
        return None  # encoder and decoder do not undo each other exactly: no pair may be remembered
