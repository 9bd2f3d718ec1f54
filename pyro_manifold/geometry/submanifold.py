r"""What manifolds embedded in :math:`\mathbb R^D` by formulas of the user's share: all geometry from one
projected step.

With :math:`N_p, T_p` orthonormal bases of the normal and the tangent space, one step of RATTLE for a free
particle is

.. math::
    q = p + t\,u + N_p\lambda \in M, \qquad v = T_qT_q^\top\,(q - p)/t,

symmetric, symplectic and of order 2 [1]. Its error expands in even powers of the step, so Richardson
extrapolation over numbers of steps gives the exact geodesic to rounding [2, sec. II.9].

References: [1] Andersen, J. Comput. Phys. 52 (1983); Hairer, Lubich & Wanner, *Geometric Numerical
Integration* (2006), sec. VII.1.4; [2] Hairer, Norsett & Wanner, *Solving ODEs I* (1993).
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..ops.newton import ConvergenceError
from ..ops.numerics import norm
from ..ops.tracing import is_concrete
from .base import Geometry
from .manifold import GeometricManifold
from .registry import geometry

__all__ = ["Submanifold", "SubmanifoldGeometry"]

NEWTON, _LEVELS = 12, 8  # bounds of iterations


class Submanifold(GeometricManifold):
    """A geoopt manifold embedded in an array space with the induced metric, found by iterative projection.

    :param point: one point of the manifold (its origin), in the event shape of all.
    :param int dim: dimension.
    :param str name: for messages.

    >>> from pyro_manifold.geometry import ImplicitManifold
    >>> circle = ImplicitManifold(lambda x: x.norm() - 1, near=torch.tensor([2.0, 0.0]))
    >>> isinstance(circle, Submanifold), circle.point
    (True, tensor([1., 0.]))
    """

    reversible = False
    point: Tensor

    def __init__(self, point: Tensor, dim: int, name: str) -> None:
        super().__init__(point.shape, name)
        self.register_buffer("point", point)
        self.dim = dim

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.proju(x, u)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        q, ok = SubmanifoldGeometry.of(self).retract(x, u)
        if not bool(ok.all()):
            raise ConvergenceError(
                f"retr: no point of {self.name} was found above the step; take a shorter one."
            )
        return q

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self.proju(y, v)


class SubmanifoldGeometry(Geometry):
    """Everything from two things a subclass gives for flat points ``(n, D)``: bases at a point, and a
    projected step.

    :meth:`exp` and :meth:`geodesic` are numerical, to about 1e-12 in float64, and slow; kernels take single
    steps (:meth:`step`) instead. What would need the inverse of exp raises, and says what to do.

    :raises ConvergenceError: where an iteration does not end within its bound.
    """

    is_symmetric = False
    has_log = False
    has_global_log = False
    constant_inner = True
    manifold: Submanifold

    def __init__(self, manifold: Submanifold) -> None:
        super().__init__(manifold)
        self.event_dim = manifold.ndim
        self.membership = f"of shape {tuple(manifold.event_shape)}"

    @staticmethod
    def of(manifold: Submanifold) -> "SubmanifoldGeometry":
        geo = geometry(manifold)
        assert isinstance(geo, SubmanifoldGeometry)
        return geo

    # --- what subclasses give, on flat points (n, D) --------------------------------------------------------
    @abstractmethod
    def _bases(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Orthonormal bases of the normal and the tangent space, ``(n, D, m)`` and ``(n, D, dim)``."""

    @abstractmethod
    def _retract(self, p: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The point of M in p + u + normal space at p, and whether it was found."""

    @abstractmethod
    def _distance(self, x: Tensor) -> Tensor:
        """Distance from M to first order, NaN where the formulas degenerate."""

    @abstractmethod
    def _project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A point near x, and whether it was found."""

    # --- shapes ---------------------------------------------------------------------------------------------
    def _flat(self, *xs: Tensor) -> tuple[torch.Size, list[Tensor]]:
        """The arrays, broadcast, as rows ``(n, D)``; and their batch shape."""
        xs = torch.broadcast_tensors(*xs)
        batch = xs[0].shape[: xs[0].dim() - self.event_dim]
        if xs[0].shape[len(batch) :] != self.manifold.event_shape:
            self.dim(xs[0].shape[len(batch) :])
        return batch, [x.reshape(batch.numel(), -1) for x in xs]

    def _shaped(self, batch: torch.Size, x: Tensor) -> Tensor:
        return x.reshape(batch + self.manifold.event_shape)

    def bases(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Orthonormal bases of normal and tangent space, ``batch + (D, m)`` and ``batch + (D, dim)``."""
        batch, (flat,) = self._flat(p)
        normal, tangent = self._bases(flat)
        return normal.reshape(batch + normal.shape[1:]), tangent.reshape(batch + tangent.shape[1:])

    def dim(self, event_shape: Sequence[int]) -> int:
        if tuple(event_shape) != tuple(self.manifold.event_shape):
            raise ValueError(
                f"points: got event shape {tuple(event_shape)}, expected {tuple(self.manifold.event_shape)}, "
                f"that of {self.manifold.name}'s own point; reshape them, or make the manifold with a point "
                "of that shape."
            )
        return self.manifold.dim

    def point_shape(self, dim: int) -> torch.Size:
        if dim != self.manifold.dim:
            raise ValueError(f"dim: {self.manifold.name} has dimension {self.manifold.dim}, got {dim}.")
        return self.manifold.event_shape

    def base_point(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> Tensor:
        self.dim(event_shape)
        point = self.manifold.point
        out = point.to(dtype=dtype or point.dtype, device=device or point.device)
        return out if out.dtype == point.dtype else self.project(out)  # exact in its own precision

    # --- membership and projection --------------------------------------------------------------------------
    def contains(self, x: Tensor, atol: float | None = None) -> Tensor:
        atol = torch.finfo(x.dtype).eps ** 0.5 if atol is None else atol
        batch, (flat,) = self._flat(x)
        return (self._distance(flat) <= atol * (1 + flat.norm(dim=-1))).reshape(batch)  # a NaN compares false

    def project(self, x: Tensor) -> Tensor:
        batch, (flat,) = self._flat(x)
        q, ok = self._project(flat)
        if is_concrete(ok) and not bool(ok.all()):
            seen = flat[~ok][0].detach().tolist()
            raise ConvergenceError(
                f"project: no point of {self.manifold.name} was found from {[round(s, 6) for s in seen]}; "
                "start nearer to it, for instance from manifold.point = "
                f"{[round(s, 6) for s in self.manifold.point.flatten().tolist()]}."
            )
        return self._shaped(batch, q)

    def project_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        tangent = self.bases(p)[1]
        u = (tangent @ (tangent.mT @ u.reshape(u.shape[: u.dim() - self.event_dim] + (-1, 1)))).squeeze(-1)
        return self._shaped(u.shape[:-1], u)

    def to_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        u = (self.bases(p)[1] @ v.unsqueeze(-1)).squeeze(-1)
        return self._shaped(u.shape[:-1], u)

    def from_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        u = u.reshape(u.shape[: u.dim() - self.event_dim] + (-1, 1))
        return (self.bases(p)[1].mT @ u).squeeze(-1)

    def embed_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        return self.to_tangent(p, v).flatten(-self.event_dim)

    def ambient_coordinates(self, x: Tensor) -> Tensor:
        return x.flatten(-self.event_dim)

    def inner(self, p: Tensor, u: Tensor, w: Tensor) -> Tensor:
        return (u * w).flatten(-self.event_dim).sum(-1)

    # --- steps ----------------------------------------------------------------------------------------------
    def retract(self, p: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        r"""The point of M in :math:`p + u + N_pM`, and for each whether Newton's method found it."""
        if p.shape != u.shape:
            p, u = torch.broadcast_tensors(p, u)
        batch = p.shape[: p.dim() - self.event_dim]
        q, ok = self._retract(p, u)
        return self._shaped(batch, q), ok.reshape(batch)

    def step(self, p: Tensor, u: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step of RATTLE for time ``t`` (batch shape): position, velocity, and whether it was found."""
        t = t.reshape(t.shape + (1,) * self.event_dim)
        q, ok = self.retract(p, t * u)
        pull = (q - p - t * u) / torch.where(t == 0, 1.0, t)
        return q, self.project_tangent(q, u + pull), ok

    @torch.no_grad()
    def wander(self, p: Tensor, steps: int = 30) -> Tensor:
        """Points scattered over the component of M that ``p`` is in, by a random walk of projected steps; not
        uniform."""
        size = 0.5 * (1 + self._size(p))
        for _ in range(steps):
            v = torch.randn(
                p.shape[: p.dim() - self.event_dim] + (self.manifold.dim,), dtype=p.dtype, device=p.device
            )
            q, ok = self.retract(p, self.to_tangent(p, size.unsqueeze(-1) * v))
            size = torch.where(ok, size, size / 2)
            p = torch.where(ok.reshape(ok.shape + (1,) * self.event_dim), q, p)
        return p

    # --- exponential map ------------------------------------------------------------------------------------
    def geodesic(self, p: Tensor, u: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=p.dtype, device=p.device)
        batch = torch.broadcast_shapes(
            p.shape[: p.dim() - self.event_dim], u.shape[: u.dim() - self.event_dim], t.shape
        )
        p, u, t = (
            p.expand(batch + self.manifold.event_shape),
            u.expand(batch + self.manifold.event_shape),
            t.expand(batch),
        )
        tol = torch.finfo(p.dtype).eps ** 0.75
        speed = self._size(u)
        rows: list[Tensor] = []  # the last row of the extrapolation table
        gap = torch.full(batch, torch.inf, dtype=p.dtype, device=p.device)
        for level in range(_LEVELS):
            n = 4 << level
            q, w, fine = p, u, torch.ones_like(t, dtype=torch.bool)
            for _ in range(n):
                q, w, ok = self.step(q, w, t / n)
                fine = fine & ok
            if is_concrete(fine) and not bool(fine.all()):
                rows = []
                continue
            new = [torch.stack([q, w])]
            for k, old in enumerate(rows, 1):
                new.append(new[-1] + (new[-1] - old) / (4.0**k - 1))
            if rows:
                gap = self._size((new[-1] - rows[-1])[0].detach()) / (1 + self._size(new[-1][0].detach()))
            rows = new
            if is_concrete(gap) and bool((gap <= tol).all()):
                break
        if is_concrete(gap) and not bool((gap <= 1e3 * tol).all()):
            raise ConvergenceError(
                f"geodesic: a geodesic of length {float((speed * t.abs()).max()):.3g} on "
                f"{self.manifold.name} needs more than {4 << (_LEVELS - 1)} steps; go in shorter pieces."
            )
        q, _ = self._project(rows[-1][0].reshape(batch.numel(), -1))
        q = self._shaped(batch, q)
        w = self.project_tangent(q, rows[-1][1])
        grow = speed / torch.where(speed == 0, 1.0, self._size(w))
        return q, w * grow.reshape(batch + (1,) * self.event_dim)

    def _size(self, u: Tensor) -> Tensor:
        return norm(u.flatten(-self.event_dim))

    def exp(self, p: Tensor, u: Tensor) -> Tensor:
        return self.geodesic(p, u, 1.0)[0]

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        raise NotImplementedError(self.unknown("logarithm"))

    def dist(self, p: Tensor, q: Tensor) -> Tensor:
        raise NotImplementedError(self.unknown("distance"))

    def log_det_exp(self, p: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError(self.unknown("volume change of exp"))

    # --- globals --------------------------------------------------------------------------------------------
    def injectivity_radius(self, event_shape: Sequence[int]) -> float | Tensor:
        raise NotImplementedError(self.unknown("injectivity radius"))

    def unknown(self, what: str) -> str:
        return (
            f"{self.manifold.name}: its {what} has no closed form, so distributions that need it do not work "
            "here; give the site the unnormalised distribution "
            "pyro.distributions.ImproperUniform(on(manifold), (), manifold.event_shape), add "
            "pyro.factor(name, log_density), and sample with GeodesicNUTS."
        )
