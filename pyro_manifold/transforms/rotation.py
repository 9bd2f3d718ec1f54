"""Isometries of one manifold onto itself."""

from typing import Any

import geoopt
import torch
from torch import Tensor

from ..constraints import on
from ..geometry import SpecialOrthogonal
from ..ops.arguments import checked
from ..ops.batched import apply_matrix
from ..ops.checks import as_tensors, check_all
from .base import SeparateVolume
from .exp_map import ManifoldTransform

__all__ = ["LeftMultiplication", "Rotation", "Translation"]


class Translation(ManifoldTransform):
    r"""The transvection that carries the origin to ``loc`` along the geodesic: left translation, Möbius
    addition, boost.

    .. math:: T_\mu = \exp_\mu \circ \exp_o^{-1} \quad\text{(in transported frames)}, \qquad \log|\det| = 0

    On the Poincaré ball it is :math:`x \mapsto \mu \oplus x`, on flat space addition, on the sphere the
    rotation from
    :math:`e_1` to :math:`\mu`. It preserves Riemannian volume.

    :param geoopt.Manifold manifold: a manifold of constant curvature, or a product of such.
    :param Tensor loc: the image of the origin, shape ``batch + event``.
    :raises ValueError: if ``loc`` is not on the manifold.

    Reference: Ungar, Analytic Hyperbolic Geometry (2005), left gyrotranslations.

    >>> import geoopt, torch
    >>> Translation(geoopt.PoincareBall(), torch.tensor([0.5, 0.0]))(torch.tensor([0.0, 0.0]))
    tensor([0.5000, 0.0000])
    """

    @property
    def domain(self) -> Any:  # type: ignore[override]
        return self.codomain

    def _frames(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        geo = self.geometry
        event = x.shape[x.dim() - geo.event_dim :]
        shape = self._broadcast(x.shape[: x.dim() - geo.event_dim]) + event
        d = geo.dim(event)
        o = geo.origin(d, dtype=x.dtype, device=x.device)
        return o.expand(shape), self._base_point(d, x).expand(shape), x.expand(shape)

    def _call(self, x: Tensor) -> Tensor:
        o, p, x = self._frames(x)
        return self.geometry.exp_frame(p, self.geometry.log_frame(o, x))

    def _inverse(self, y: Tensor) -> Tensor:
        o, p, y = self._frames(y)
        return self.geometry.exp_frame(o, self.geometry.log_frame(p, y))

    def log_volume(self, x: Tensor) -> Tensor:
        return x.new_zeros(self._broadcast(x.shape[: x.dim() - self.geometry.event_dim]))

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        cut = len(shape) - self.geometry.event_dim
        return self._broadcast(torch.Size(shape[:cut])) + torch.Size(shape[cut:])

    inverse_shape = forward_shape


class _OfMatrix(SeparateVolume):
    """An isometry given by an orthogonal matrix: checks, equality, and the volume change, which is 1."""

    event_dim: int

    @checked
    def __init__(self, matrix: Tensor, *, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        (matrix,) = as_tensors(matrix=matrix)
        if matrix.dim() < 2 or matrix.shape[-1] != matrix.shape[-2]:
            raise ValueError(
                f"matrix: got shape {tuple(matrix.shape)}, expected (..., n, n). Give square matrices."
            )
        gram = matrix.mT @ matrix - torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        ok = gram.abs().amax((-1, -2)) <= torch.finfo(matrix.dtype).eps ** 0.5
        remedy = "Orthogonalise it (also after a cast to a wider dtype), e.g. torch.linalg.qr(matrix).Q."
        check_all(ok, "matrix", matrix, "an orthogonal matrix", remedy)
        self.matrix = matrix

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and torch.equal(self.matrix, other.matrix)  # type: ignore[attr-defined]

    __hash__ = None  # type: ignore[assignment]

    def log_volume(self, x: Tensor) -> Tensor:
        batch = x.shape[: x.dim() - self.event_dim]
        return x.new_zeros(torch.broadcast_shapes(batch, self.matrix.shape[:-2]))

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        cut = len(shape) - self.event_dim
        event = torch.broadcast_shapes(shape[cut:], self.matrix.shape[-self.event_dim :])
        return torch.broadcast_shapes(shape[:cut], self.matrix.shape[:-2]) + event

    inverse_shape = forward_shape


class Rotation(_OfMatrix):
    r"""An orthogonal matrix acting on the unit sphere, :math:`x \mapsto Rx`; preserves surface area.

    :param Tensor matrix: :math:`R`, shape ``batch + (n, n)``.
    :raises ValueError: if ``matrix`` is not square or not orthogonal.

    >>> import torch
    >>> Rotation(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))(torch.tensor([1.0, 0.0]))
    tensor([0., 1.])
    """

    domain = on(geoopt.Sphere())
    codomain = domain
    event_dim = 1

    def _call(self, x: Tensor) -> Tensor:
        return apply_matrix(self.matrix, x)

    def _inverse(self, y: Tensor) -> Tensor:
        return apply_matrix(self.matrix.mT, y)


class LeftMultiplication(_OfMatrix):
    r"""A rotation acting on rotations, :math:`x \mapsto Rx` on SO(n); preserves the invariant measure.

    :param Tensor matrix: :math:`R`, shape ``batch + (n, n)``, of determinant 1.
    :raises ValueError: if ``matrix`` is not a rotation.

    >>> half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    >>> LeftMultiplication(half_turn)(half_turn).diagonal()
    tensor([1., 1., 1.])
    """

    event_dim = 2

    @checked
    def __init__(self, matrix: Tensor, *, cache_size: int = 0) -> None:
        super().__init__(matrix, cache_size=cache_size)
        remedy = "Change the sign of one column."
        check_all(torch.linalg.det(self.matrix.detach()) > 0, "matrix", matrix, "determinant 1", remedy)
        self.domain = self.codomain = on(SpecialOrthogonal(self.matrix.shape[-1]))

    def depends(self) -> list[Any] | None:
        return [self.matrix]

    def _call(self, x: Tensor) -> Tensor:
        return self.matrix @ x

    def _inverse(self, y: Tensor) -> Tensor:
        return self.matrix.mT @ y
