r"""The one place that knows a manifold's formulas: :class:`Geometry`, one subclass per manifold, found by
:func:`geometry`.

geoopt's manifolds carry no dimension, nor do we: a geometry reads it off the shape of the points it is given.
Notation: ``p, q, x`` points (manifold coordinates), ``u`` an ambient tangent vector, ``v`` its coordinates in
the orthonormal frame of :math:`T_pM` (one trailing axis of size ``dim``, so :math:`|v|` is geodesic length).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import geoopt
import torch
from torch import Tensor

from ..ops.checks import common_shape
from ..ops.memo import module_tensors
from ..ops.precision import FullPrecision
from ..ops.tracing import is_concrete
from .windings import normal_radius

__all__ = ["Geometry", "geometry", "register_geometry"]

_REGISTRY: dict[type, Callable[[Any], "Geometry"]] = {}
_G = TypeVar("_G", bound=Callable[[Any], "Geometry"])


class Geometry(FullPrecision, ABC):
    """Exponential map, frames and volumes of one manifold, vectorised over leading batch axes.

    Subclasses must give the abstract methods; the others have a default that is right when those are.

    :param manifold: the geoopt manifold whose parameters (curvature, say) are read at each call, so they may
        be learned.
    """

    _exact = (
        "contains",
        "project",
        "project_tangent",
        "to_tangent",
        "from_tangent",
        "embed_tangent",
        "exp",
        "log",
        "dist",
        "exp_frame",
        "log_frame",
        "log_det_exp",
        "geodesic",
        "preimages",
        "log_wrapped",
        "chart",
        "chart_inv",
        "uniform_sample",
    )
    event_dim = 1  # rank of a point: 1 for vectors, 2 for matrices
    has_chart = False  # is ``chart`` (exp at the origin) a bijection R^dim -> M?
    membership = ""  # what makes a point, in words, for error messages
    in_linear_space = (
        False  # are geodesics cos(sqrt(K) r) p + ... in the ambient space, so that ambient means make sense?
    )

    def __init__(self, manifold: geoopt.Manifold) -> None:
        self.manifold = manifold

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.manifold})"

    def depends(self) -> list[Any] | None:
        """The tensors that the formulas read besides their arguments: parameters and buffers of the manifold.
        ``None`` if they cannot be known (functions of the user), so that no result may be remembered."""
        return module_tensors(self.manifold)

    # --- shapes and membership
    # ---------------------------------------------------------------------------------------
    @abstractmethod
    def dim(self, event_shape: Sequence[int]) -> int:
        """Dimension of the manifold whose points have ``event_shape``."""

    @abstractmethod
    def point_shape(self, dim: int) -> torch.Size:
        """Event shape of the points of the ``dim``-dimensional member of the family."""

    @abstractmethod
    def contains(self, x: Tensor, atol: float | None = None) -> Tensor:
        """For each point of the batch: is it finite and on the manifold, to ``atol`` (default sqrt(eps))?
        Bool, batch shape."""

    @abstractmethod
    def origin(self, dim: int, *, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        """The base point, where the frame is the coordinate frame."""

    def base_point(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> Tensor:
        """The origin of the member whose points have ``event_shape``."""
        return self.origin(self.dim(event_shape), dtype=dtype, device=device)

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """A point of the manifold near the ambient ``x``."""

    @abstractmethod
    def project_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        """Orthogonal projection of the ambient vector ``u`` on :math:`T_pM`."""

    def reach(self, event_shape: Sequence[int], like: Tensor) -> float:
        """Distance from the origin up to which points are held by coordinates in the dtype of ``like``;
        infinite by default.

        Draws that reach farther are looked at one by one: what the dtype cannot hold is an error where it is
        drawn.
        """
        return math.inf

    def farthest(self, x: Tensor) -> float:
        """Distance from the origin to the farthest of the points ``x``."""
        origin = self.base_point(x.shape[x.dim() - self.event_dim :], dtype=x.dtype, device=x.device)
        return float(self.dist(origin.expand_as(x), x).max())

    # --- metric
    # ------------------------------------------------------------------------------------------------
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

    def embed_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        """The tangent vector with frame coordinates ``v`` as an element of one inner product space for all p,
        isometrically.

        Samplers add and compare velocities at different points there, and end a path where it turns back.
        Default: the frame coordinates themselves, which never turn along a closed geodesic: where geodesics
        close, give a vector that does, such as the ambient one of an embedding in Euclidean space.
        """
        return v

    def exp_frame(self, p: Tensor, v: Tensor) -> Tensor:
        """:meth:`exp` of frame coordinates; overridden where going through ambient vectors would cost
        digits."""
        return self.exp(p, self.to_tangent(p, v))

    def log_frame(self, p: Tensor, q: Tensor) -> Tensor:
        """:meth:`log` in frame coordinates."""
        return self.from_tangent(p, self.log(p, q))

    def preimages(self, p: Tensor, v: Tensor, radius: float) -> Tensor:
        """All frame vectors with the same :meth:`exp` as ``v``: ``v`` itself first, then at least those no
        longer than ``radius``, each once; shape ``(k,) + v.shape``. Right as it is where exp is injective.

        The new axis is in front of the whole batch, so callers expand ``v`` to every batch axis that takes
        part.
        """
        return v.unsqueeze(0)

    def log_wrapped(self, p: Tensor, v: Tensor, base: Any) -> Tensor:
        r"""Log density at :math:`\exp_p(v)`, w.r.t. volume, of the centred normal ``base`` of frame
        coordinates wrapped by exp.

        A sum over :meth:`preimages`, as far as the normal reaches; overridden where the sum has a closed
        form, factorises or has a shorter dual. The batch shapes of p, v and ``base`` broadcast.

        :param base: ``Independent(Normal)`` or ``MultivariateNormal`` with mean 0 and event shape ``(dim,)``.
        """
        event = p.shape[p.dim() - self.event_dim :]
        batch = common_shape(p.shape[: p.dim() - self.event_dim], v.shape[:-1], base.batch_shape)
        p, v = p.expand(batch + event), v.expand(batch + v.shape[-1:])
        if v.numel() == 0:
            return v.sum(-1)
        longest = v.detach().abs().amax() * math.sqrt(v.shape[-1])
        reach = self.injectivity_radius(event)
        unbounded = not isinstance(reach, Tensor) and math.isinf(reach)
        if not unbounded and (
            not is_concrete(longest) or bool(longest > reach)
        ):  # a remembered draw may wind many times
            v = self.log_frame(p, self.exp_frame(p, v))
        vs = self.preimages(p, v, normal_radius(base))
        return torch.logsumexp(base.log_prob(vs) - self.log_det_exp(p, vs), 0)

    def curvature(self, like: Tensor) -> Tensor:
        """Sectional curvature K, where it is one number, as a scalar in the dtype and on the device of
        ``like``."""
        raise NotImplementedError(
            f"{self.manifold.name} has no constant curvature; distributions that depend on distance alone "
            "(RiemannianNormal) need it. Use WrappedNormal, or one site per factor of a product."
        )

    # --- globals
    # ------------------------------------------------------------------------------------------------
    def injectivity_radius(self, event_shape: Sequence[int]) -> float | Tensor:
        """Radius within which :meth:`exp` is a diffeomorphism (infinite by default)."""
        return math.inf

    def log_volume(self, event_shape: Sequence[int]) -> Tensor | float:
        """Log of the total Riemannian volume, where it is finite."""
        raise NotImplementedError(
            f"{self.manifold.name} has no finite volume; use WrappedNormal or RiemannianNormal instead of a "
            f"uniform distribution."
        )

    def uniform_sample(
        self,
        shape: Sequence[int],
        event_shape: Sequence[int],
        *,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> Tensor:
        """Draws from the normalised Riemannian volume, of shape ``shape + event_shape``, where it is
        finite."""
        raise NotImplementedError(
            f"{self.manifold.name} has no finite volume; use WrappedNormal or RiemannianNormal instead of a "
            f"uniform distribution."
        )

    def uniform_moments(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and variance of each coordinate of :meth:`uniform_sample`, both of shape ``event_shape``,
        where they are known."""
        raise NotImplementedError(
            f"{self.manifold.name}: mean and variance of the coordinates of a uniform draw are not known or "
            "do not exist; take them from draws."
        )

    def chart(self, v: Tensor) -> Tensor:
        """The global chart R^dim -> M: exp at the origin. Only where :attr:`has_chart`."""
        origin = self.origin(v.shape[-1], dtype=v.dtype, device=v.device)
        return self.exp_frame(origin.expand(v.shape[:-1] + origin.shape), v)

    def chart_inv(self, x: Tensor) -> Tensor:
        """Inverse of :meth:`chart`."""
        event_shape = x.shape[x.dim() - self.event_dim :]
        origin = self.origin(self.dim(event_shape), dtype=x.dtype, device=x.device)
        return self.log_frame(origin.expand_as(x), x)


def moments_of_unit_columns(
    event_shape: Sequence[int], dtype: torch.dtype | None, device: Any
) -> tuple[Tensor, Tensor]:
    """Mean 0 and variance 1/n of uniform unit vectors of R^n, or of the entries of a matrix that has them as
    columns."""
    mean = torch.zeros(torch.Size(event_shape), dtype=dtype, device=device)
    return mean, torch.full_like(mean, 1 / event_shape[0])


def register_geometry(manifold_type: type) -> Callable[[_G], _G]:
    """Class decorator: make :func:`geometry` answer instances of ``manifold_type`` (and subclasses) with this
    class.

    A factory may be registered as well as a class: anything that maps a manifold to its :class:`Geometry`.
    """

    def register(factory: _G) -> _G:
        _REGISTRY[manifold_type] = factory
        return factory

    return register


def geometry(manifold: geoopt.Manifold) -> Geometry:
    """The :class:`Geometry` of a geoopt manifold.

    :raises ValueError: for a manifold (or anything else) without a registered geometry.

    >>> import geoopt
    >>> geometry(geoopt.Sphere()).dim((3,))
    2
    """
    for cls in type(manifold).__mro__:
        if cls in _REGISTRY:
            return _REGISTRY[cls](manifold)
    known = ", ".join(sorted(cls.__name__ for cls in _REGISTRY))
    seen = (
        manifold.__name__ + " (the class itself)" if isinstance(manifold, type) else type(manifold).__name__
    )
    raise ValueError(
        f"manifold: no geometry is registered for {seen}; expected an instance of one of {known}. "
        "Pass e.g. geoopt.Sphere(), or register your own with pyro_manifold.geometry.register_geometry."
    )
