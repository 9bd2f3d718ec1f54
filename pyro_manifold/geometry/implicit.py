r"""Level sets: the manifold of the points where given functions vanish.

.. math:: M = \{x \in \mathbb R^D : c(x) = 0\}, \qquad N_xM = \mathrm{range}\,J_c(x)^\top, \qquad \dim M = D - m
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..ops.components import concrete
from ..ops.newton import ConvergenceError, PointFunction, householder_basis, newton
from .base import register_geometry
from .submanifold import NEWTON, Submanifold, SubmanifoldGeometry

__all__ = ["ImplicitGeometry", "ImplicitManifold"]

_PROJECTION = 100


class ImplicitManifold(Submanifold):
    r"""The level set :math:`\{x : c(x) = 0\}` of a smooth map, as a geoopt manifold with the metric of the space around it.

    :math:`c:\mathbb R^D\to\mathbb R^m` has a Jacobian of full rank m on the manifold, whose dimension is :math:`D - m`.

    :param constraint: c, from one point to m numbers (any shape), differentiable by torch and mapped over batches by
        ``torch.func.vmap``; if it takes leading batch axes itself, it is called with them, which is faster.
    :param near: a point near the manifold, in the shape and dtype of its points; the nearest solution becomes ``point``.
    :param str name: for messages.
    :param bool pure: declares that c reads nothing besides x that may change. Tangent spaces are then
        remembered from one step of a kernel to the next.
    :raises ValueError: if c does not work at ``near``, is not finite there, or has dependent rows.
    :raises ConvergenceError: if no solution is found from ``near``.

    >>> ellipse = ImplicitManifold(lambda x: x[..., 0] ** 2 + x[..., 1] ** 2 / 4 - 1, near=torch.tensor([0.5, 0.0]))
    >>> ellipse.point, ellipse.dim
    (tensor([1., 0.]), 1)
    """

    def __init__(
        self, constraint: Callable[[Tensor], Tensor], near: Tensor, name: str = "ImplicitManifold", *, pure: bool = False
    ) -> None:
        if not torch.is_tensor(near) or not near.dtype.is_floating_point or near.dim() == 0:
            raise ValueError(f"near: got {near!r}, expected a floating tensor in the shape of one point.")
        super().__init__(near.detach().clone().as_subclass(Tensor), 0, name, pure=pure)
        self.constraint = constraint
        flat = self.point.reshape(-1)
        try:
            self._function = PointFunction(self._at, flat)
            value, jac = self._function.jacobian(flat.unsqueeze(0))
        except Exception as e:
            raise ValueError(
                f"constraint: it fails on a point of shape {tuple(near.shape)} ({type(e).__name__}: {e}); expected a map from "
                "one point to m numbers, written with torch operations that torch.func.vmap can batch."
            ) from e
        m, d = jac.shape[1:]
        if not bool(value.isfinite().all() and jac.isfinite().all()):
            raise ValueError(f"constraint: its value or Jacobian at near={flat.tolist()} is not finite; start elsewhere.")
        if m >= d:
            raise ValueError(f"constraint: got {m} equations for {d} coordinates, expected fewer; leave dependent ones out.")
        q, ok = ImplicitGeometry(self)._project(flat.unsqueeze(0))
        s = torch.linalg.svdvals(torch.stack([self._function.jacobian(q)[1][0], jac[0]]))
        rank = int((s[0] > 8 * torch.finfo(s.dtype).eps ** 0.5 * s.max()).sum())
        if rank < m:
            raise ValueError(
                f"constraint: its Jacobian has rank {rank} at {[round(x, 4) for x in q[0].tolist()]}, expected {m}, the number "
                "of equations; leave dependent equations out (of a symmetric matrix take the upper triangle), and write c so "
                "that its gradient does not vanish on the manifold (|x| - 1, not (|x| - 1)^2)."
            )
        if not bool(ok):
            raise ConvergenceError(f"near: no solution of the constraint was found from {flat.tolist()}; start nearer to one.")
        self.point = q[0].reshape(near.shape)
        self.dim = d - m

    def _at(self, x: Tensor) -> Tensor:
        return self.constraint(x.reshape(x.shape[:-1] + self.point.shape))


@register_geometry(ImplicitManifold)
class ImplicitGeometry(SubmanifoldGeometry):
    r"""Geometry of a level set: frames from a QR decomposition of :math:`J_c^\top`, steps by Newton's method on c.

    The projected step solves :math:`c(p + u + N_p\lambda) = 0` for :math:`\lambda\in\mathbb R^m`; :meth:`project` follows
    damped Gauss-Newton steps, orthogonal to the level sets.

    >>> sphere = ImplicitManifold(lambda x: x.square().sum(-1) - 1, near=torch.tensor([0.0, 0.0, 1.0]))
    >>> ImplicitGeometry(sphere).project(torch.tensor([3.0, 0.0, 4.0]))
    tensor([0.6000, 0.0000, 0.8000])
    """

    manifold: ImplicitManifold

    def _bases(self, p: Tensor) -> tuple[Tensor, Tensor]:
        _, jac = self.manifold._function.jacobian(p)
        basis = householder_basis(jac.mT)
        m = jac.shape[1]
        return basis[..., :m], basis[..., m:]

    def _retract(self, p: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        _, (flat, move) = self._flat(p, u)
        normal = self.bases(p)[0].reshape(len(flat), flat.shape[1], -1)

        def step(q: Tensor) -> Tensor:
            c, jac = self.manifold._function.jacobian(q)
            return (normal @ torch.linalg.solve_ex(jac @ normal, c.unsqueeze(-1)).result).squeeze(-1)

        return newton(step, flat + move, NEWTON)

    def _gauss_newton(self, x: Tensor) -> Tensor:
        """The shortest move that solves the linearised equations."""
        c, jac = self.manifold._function.jacobian(x)
        return (jac.mT @ torch.linalg.solve_ex(jac @ jac.mT, c.unsqueeze(-1)).result).squeeze(-1)

    def _distance(self, x: Tensor) -> Tensor:
        return self._gauss_newton(x).norm(dim=-1)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        def step(q: Tensor) -> Tensor:
            delta = self._gauss_newton(q)
            with torch.no_grad():  # halve until |c| falls
                size, share = self.manifold._function(q).norm(dim=-1, keepdim=True), torch.ones_like(q[:, :1])
                for _ in range(12):
                    new = self.manifold._function(q - share * delta).norm(dim=-1, keepdim=True)
                    worse = ~(new <= (1 - 1e-4 * share) * size)
                    if concrete(worse) and not bool(worse.any()):
                        break
                    share = torch.where(worse, share / 2, share)
            return delta * share

        q, done = newton(step, x, _PROJECTION)
        near = self._distance(q.detach()) <= torch.finfo(x.dtype).eps ** 0.5 * (1 + q.detach().norm(dim=-1))
        return q, done & near
