r"""What every manifold must give: points, tangent vectors, geodesics.

Notation: ``p, q, x`` points (manifold coordinates), ``u`` an ambient tangent vector, ``v`` its coordinates in
the orthonormal frame of :math:`T_pM` (one trailing axis of size ``dim``, so :math:`|v|` is geodesic length).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import geoopt
import torch
from torch import Tensor

from ..ops.memo import module_tensors
from ..ops.precision import FullPrecision
from .shapes import check_shapes

__all__ = ["GeometryContract"]


class GeometryContract(FullPrecision, ABC):
    """The part of :class:`~pyro_manifold.geometry.Geometry` that each subclass must define."""

    event_dim = 1  # rank of a point: 1 for vectors, 2 for matrices
    membership = ""  # what makes a point, in words, for error messages

    def __init_subclass__(cls, **kwargs: Any) -> None:
        check_shapes(cls)
        super().__init_subclass__(**kwargs)

    def __init__(self, manifold: geoopt.Manifold) -> None:
        self.manifold = manifold

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.manifold})"

    def depends(self) -> list[Any] | None:
        """The tensors that the formulas read besides their arguments: parameters and buffers of the manifold.
        ``None`` if they cannot be known (functions of the user), so that no result may be remembered."""
        return module_tensors(self.manifold)

    # --- points ---------------------------------------------------------------------------------------------
    @abstractmethod
    def dim(self, event_shape: Sequence[int]) -> int:
        """Dimension of the manifold whose points have ``event_shape``."""

    def point_shape(self, dim: int) -> torch.Size:
        """Event shape of the points of the ``dim``-dimensional member, in families with one per dimension.

        :raises ValueError: for other families.
        """
        raise ValueError(
            f"dim: {self.manifold.name} has members of different shapes and dimension {dim}, which says too "
            "little; give a base point (loc), or fix the shape: geoopt.ProductManifold((manifold, shape))."
        )

    @abstractmethod
    def contains(self, x: Tensor, atol: float | None = None) -> Tensor:
        """For each point of the batch: is it finite and on the manifold, to ``atol`` (default sqrt(eps))?
        Bool, batch shape."""

    @abstractmethod
    def base_point(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> Tensor:
        """The origin of the member whose points have ``event_shape``, where the frame is the coordinate
        frame."""

    def origin(self, dim: int, *, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        """:meth:`base_point` of the ``dim``-dimensional member, see :meth:`point_shape`."""
        return self.base_point(self.point_shape(dim), dtype=dtype, device=device)

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """A point of the manifold near the ambient ``x``."""

    @abstractmethod
    def project_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        """Orthogonal projection of the ambient vector ``u`` on :math:`T_pM`."""

    def event_shape(self, x: Tensor) -> torch.Size:
        """Shape of one of the points ``x``."""
        return x.shape[x.dim() - self.event_dim :]

    # --- tangent vectors and geodesics ----------------------------------------------------------------------
    @abstractmethod
    def to_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        """Frame coordinates ``v`` -> ambient tangent vector at ``p``."""

    @abstractmethod
    def from_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        """Ambient tangent vector ``u`` at ``p`` -> coordinates in the orthonormal frame."""

    @abstractmethod
    def exp(self, p: Tensor, u: Tensor) -> Tensor:
        r"""Exponential map :math:`\exp_p(u)`."""

    @abstractmethod
    def log(self, p: Tensor, q: Tensor) -> Tensor:
        r"""Inverse of :meth:`exp` within the injectivity radius; at a cut point, one of the shortest
        vectors."""

    @abstractmethod
    def dist(self, p: Tensor, q: Tensor) -> Tensor:
        """Geodesic distance; its gradient at ``p = q``, which does not exist, is 0."""

    @abstractmethod
    def log_det_exp(self, p: Tensor, v: Tensor) -> Tensor:
        r"""Log volume change :math:`\log|\det d\exp_p(v)|`: Lebesgue measure of the frame coordinates to
        Riemannian volume."""

    @abstractmethod
    def geodesic(self, p: Tensor, u: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Position and velocity after time ``t`` of the geodesic that starts at ``p`` with velocity ``u``."""

    def exp_frame(self, p: Tensor, v: Tensor) -> Tensor:
        """:meth:`exp` of frame coordinates; overridden where going through ambient vectors would cost
        digits."""
        return self.exp(p, self.to_tangent(p, v))

    def log_frame(self, p: Tensor, q: Tensor) -> Tensor:
        """:meth:`log` in frame coordinates."""
        return self.from_tangent(p, self.log(p, q))
