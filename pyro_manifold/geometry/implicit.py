r"""Level sets: the manifold of the points where given functions vanish.

.. math:: M = \{x \in \mathbb R^D : c(x) = 0\}, \qquad N_xM = \mathrm{range}\,J_c(x)^\top, \qquad \dim M = D -
    m
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..ops.arguments import checked
from ..ops.newton import ConvergenceError, PointFunction, householder_basis, newton
from ..ops.tracing import is_concrete
from .registry import register_geometry
from .submanifold import NEWTON, Submanifold, SubmanifoldGeometry

__all__ = ["ImplicitGeometry", "ImplicitManifold"]

_PROJECTION, _DESCENT = 100, 200


class ImplicitManifold(Submanifold):
    r"""The level set :math:`\{x : c(x) = 0\}` of a smooth map, as a geoopt manifold with the metric of the
    space around it.

    :math:`c:\mathbb R^D\to\mathbb R^m` has a Jacobian of full rank m on the manifold, whose dimension is
    :math:`D - m`.

    :param constraint: c, from one point to m numbers (any shape), differentiable by torch and mapped over
        batches by ``torch.func.vmap``; if it takes leading batch axes itself, it is called with them, which
        is faster.
    :param near: a point near the manifold, in the shape and dtype of its points. A solution is found from
        there, and moved along the manifold for as long as it comes nearer: ``point`` is one whose distance
        from ``near`` is (locally) least.
    :param str name: for messages.
    :raises ValueError: if c does not work at ``near``, is not finite there, has dependent equations, or a
        gradient that vanishes on the manifold.
    :raises ConvergenceError: if no solution is found from ``near``.

    >>> ellipse = ImplicitManifold(lambda x: x[..., 0] ** 2 + x[..., 1] ** 2 / 4 - 1, near=torch.tensor([0.5, 0.0]))
    >>> ellipse.point, ellipse.dim
    (tensor([1., 0.]), 1)
    """

    @checked
    def __init__(
        self, constraint: Callable[[Tensor], Tensor], near: Tensor, name: str = "ImplicitManifold"
    ) -> None:
        if not torch.is_tensor(near) or not near.dtype.is_floating_point or near.dim() == 0:
            raise ValueError(f"near: got {near!r}, expected a floating tensor in the shape of one point.")
        super().__init__(near.detach().clone().as_subclass(Tensor), 0, name)
        self.constraint = constraint
        flat = self.point.reshape(-1)
        try:
            self._function = PointFunction(self._at, flat)
            value, jac = self._function.jacobian(flat.unsqueeze(0))
        except Exception as e:
            raise ValueError(
                f"constraint: it fails on a point of shape {tuple(near.shape)} ({type(e).__name__}: {e}); "
                "expected a map from one point to m numbers, written with torch operations that "
                "torch.func.vmap can batch."
            ) from e
        m, d = jac.shape[1:]
        if not bool(value.isfinite().all() and jac.isfinite().all()):
            raise ValueError(
                f"constraint: its value or Jacobian at near={flat.tolist()} is not finite; start elsewhere."
            )
        if m >= d:
            raise ValueError(
                f"constraint: got {m} equations for {d} coordinates, expected fewer; leave dependent ones "
                f"out."
            )
        q, ok = ImplicitGeometry(self)._project(flat.unsqueeze(0))
        rank = self._rank(q)
        if rank < m:
            raise ValueError(self._no_rank(rank, m, q))
        if not bool(ok):
            raise ConvergenceError(
                f"near: no solution of the constraint was found from {flat.tolist()}; start nearer to one."
            )
        self.dim = d - m
        q = self._nearest(q, flat.unsqueeze(0))
        rank = self._rank(q)
        if rank < m:
            raise ValueError(self._no_rank(rank, m, q))
        self.point = q[0].reshape(near.shape)

    @staticmethod
    def _no_rank(rank: int, m: int, q: Tensor) -> str:
        return (
            f"constraint: its Jacobian has rank {rank} at {[round(x, 4) for x in q[0].tolist()]}, expected "
            f"{m}, the number of equations; leave dependent equations out (of a symmetric matrix take the "
            "upper triangle), and write c so that its gradient does not vanish on the manifold (|x| - 1, "
            "not (|x| - 1)^2)."
        )

    def _rank(self, q: Tensor) -> int:
        r"""Rank of the Jacobian on the manifold, in whatever units the equations are.

        Its rows are divided by their lengths a little off the manifold, at :math:`q \pm h v` with v the right
        singular vectors and :math:`h = \epsilon^{1/4}(1 + |q|)`. A singular value that is tiny at q, or grows
        more than tenfold from q to there, belongs to an equation that vanishes to higher order: the root of
        :math:`f^2` is found to
        :math:`\sqrt\epsilon` only, and its gradient grows by :math:`h/\sqrt\epsilon`.
        """
        eps = torch.finfo(q.dtype).eps
        jac = self._function.jacobian(q)[1][0]
        if not bool(jac.any()):
            return 0
        v = torch.linalg.svd(jac, full_matrices=False).Vh
        h = eps**0.25 * (1 + float(q.norm()))
        around = self._function.jacobian(q + h * torch.cat([v, -v]))[1]
        around = around[around.isfinite().all(-1).all(-1)]  # c need not be defined off the manifold
        lengths = torch.cat([around, jac.unsqueeze(0)]).norm(dim=-1).amax(0).unsqueeze(-1)
        lengths = torch.where(lengths > 0, lengths, 1.0)
        here = torch.linalg.svdvals(jac / lengths)
        there = torch.linalg.svdvals(around / lengths).amax(0) if len(around) else here
        return int(((here > 8 * eps**0.5) & (here > 0.1 * there)).sum())

    def _nearest(self, q: Tensor, near: Tensor) -> Tensor:
        """From the solution ``q`` down the distance to ``near``, by projected steps along the tangential part
        of near - q, halved until they come nearer."""
        geo = ImplicitGeometry(self)
        tolerance = torch.finfo(q.dtype).eps ** 0.75 * (1 + float(near.norm()))
        share = 1.0
        for _ in range(_DESCENT):
            tangent = geo._bases(q)[1]
            u = (tangent @ (tangent.mT @ (near - q).unsqueeze(-1))).squeeze(-1)
            if not float(u.norm()) > tolerance:
                break
            share = min(1.0, 2 * share)
            while share > 1e-6:
                new, ok = geo._retract(q, share * u)
                # Armijo's rule for the squared distance, whose slope along u is -2 |u|^2
                least = float((q - near).square().sum()) - 0.5 * share * float(u.square().sum())
                if bool(ok) and float((new - near).square().sum()) <= least:
                    break
                share = share / 2
            else:
                break
            q = new
        return q

    def _at(self, x: Tensor) -> Tensor:
        return self.constraint(x.reshape(x.shape[:-1] + self.point.shape))


@register_geometry(ImplicitManifold)
class ImplicitGeometry(SubmanifoldGeometry):
    r"""Geometry of a level set: frames from a QR decomposition of :math:`J_c^\top`, steps by Newton's method
    on c.

    The projected step solves :math:`c(p + u + N_p\lambda) = 0` for :math:`\lambda\in\mathbb R^m`;
    :meth:`project` follows damped Gauss-Newton steps, orthogonal to the level sets.

    >>> sphere = ImplicitManifold(lambda x: x.square().sum(-1) - 1, near=torch.tensor([0.0, 0.0, 1.0]))
    >>> ImplicitGeometry(sphere).project(torch.tensor([3.0, 0.0, 4.0]))
    tensor([0.6000, 0.0000, 0.8000])
    """

    manifold: ImplicitManifold

    def depends(self) -> list[Any] | None:
        return None  # what the constraint reads is not known

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
                    if is_concrete(worse) and not bool(worse.any()):
                        break
                    share = torch.where(worse, share / 2, share)
            return delta * share

        q, done = newton(step, x, _PROJECTION)
        near = self._distance(q.detach()) <= torch.finfo(x.dtype).eps ** 0.5 * (1 + q.detach().norm(dim=-1))
        return q, done & near
