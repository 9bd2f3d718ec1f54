r"""Newton's method for a batch of small systems, Jacobians of functions of one point, and orthonormal bases."""

from collections.abc import Callable

import torch
from torch import Tensor

from .tracing import is_concrete

__all__ = ["ConvergenceError", "PointFunction", "householder_basis", "newton"]


class ConvergenceError(RuntimeError):
    """An iterative projection on the manifold did not converge within its bound."""


class PointFunction:
    r"""A function of one point, :math:`f:\mathbb R^d\to\mathbb R^m`, with its Jacobian, applied to batches of
    points.

    If f also accepts leading batch axes it is called directly, otherwise through ``torch.func.vmap``, which
    is four times as slow. To find out, the constructor compares the result for a batch of points near
    ``point`` with the results for each of them.

    :param f: function from one point to a tensor, which ``torch.func.vmap`` can map over.
    :param point: a flat point, ``(d,)``, where ``f`` is defined.
    :raises Exception: any exception that ``f`` raises.

    >>> f = PointFunction(lambda x: (x * x).sum(-1, keepdim=True), torch.ones(2))
    >>> f.jacobian(torch.tensor([[1.0, 2.0]]))
    (tensor([[5.]]), tensor([[[2., 4.]]]))
    """

    def __init__(self, f: Callable[[Tensor], Tensor], point: Tensor) -> None:
        self._f = f
        out = f(point)
        self.shape, self.size = out.shape, out.numel()
        n = 7
        x = point + torch.linspace(
            -1e-3, 1e-3, n * len(point), dtype=point.dtype, device=point.device
        ).reshape(n, -1)
        self.direct = False
        try:
            seen = f(x)
            expected = torch.stack([f(row) for row in x])
            tol = 64 * torch.finfo(x.dtype).eps
            self.direct = seen.shape == expected.shape and torch.allclose(
                seen, expected, rtol=tol, atol=tol, equal_nan=True
            )
        except (
            Exception
        ):  # code for one point may do anything with a batch; vmap is right for it, or raises when called
            pass

    def __call__(self, x: Tensor) -> Tensor:
        """Values ``(n, m)`` at points ``(n, d)``."""
        return (self._f(x) if self.direct else torch.func.vmap(self._f)(x)).reshape(len(x), self.size)

    def jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values ``(n, m)`` and Jacobians ``(n, m, d)`` at points ``(n, d)``, by one backward pass over m
        copies of the batch."""
        n, m = len(x), self.size
        if not is_concrete(x):  # inside a torch.func transform
            value, jac = torch.func.vmap(torch.func.jacrev(self._twice, has_aux=True))(x)[::-1]
            return value, jac
        keep = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            y = (x if keep else x.detach()).repeat(m, 1)
            y = y if keep else y.requires_grad_()
            value = self(y)
            pick = torch.eye(m, dtype=x.dtype, device=x.device).repeat_interleave(n, 0)
            (rows,) = torch.autograd.grad(value, y, pick, create_graph=keep)
        return (value if keep else value.detach())[:n], rows.reshape(m, n, -1).transpose(0, 1)

    def _twice(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self._f(x).reshape(-1)
        return out, out


def newton(step: Callable[[Tensor], Tensor], start: Tensor, bound: int) -> tuple[Tensor, Tensor]:
    r"""Iterate :math:`q \leftarrow q - \delta(q)` on every row until
    :math:`|\delta| \le \sqrt{\epsilon}\,(1 + |q|)`.

    Convergence is quadratic, so the error after the last step is about the rounding error :math:`\epsilon`.
    Rows that have converged do not change any more, so no row depends on the others.

    :param step: function from iterates ``(n, d)`` to the Newton step of each row.
    :param start: first iterates, ``(n, d)``.
    :param bound: the largest number of steps.
    :returns: the last iterates, and which of them have converged.
    """
    root = torch.finfo(start.dtype).eps ** 0.5
    q = start
    done = torch.zeros(start.shape[:1], dtype=torch.bool, device=start.device)
    for _ in range(bound):
        delta = step(q)
        size = delta.detach().norm(dim=-1)
        lost = ~size.isfinite()
        q = torch.where((done | lost).unsqueeze(-1), q, q - delta)
        done = done | (size <= root * (1 + q.detach().norm(dim=-1)))
        if is_concrete(done) and bool((done | lost).all()):
            break
    return q, done


def householder_basis(a: Tensor) -> Tensor:
    r"""An orthonormal basis of :math:`\mathbb R^d`, ``(..., d, d)``, whose first m columns span those of ``a``,
    ``(..., d, m)``; the other columns are a basis of the complement.

    It is the Q of a complete QR decomposition. If a gradient is needed it is computed by explicit Householder
    reflections, since torch's complete decomposition is not differentiable.

    >>> householder_basis(torch.tensor([[0.0], [-2.0]])).abs()
    tensor([[0., 1.],
            [1., 0.]])
    """
    if not (torch.is_grad_enabled() and a.requires_grad) and is_concrete(a):
        return torch.linalg.qr(a, mode="complete").Q
    d, m = a.shape[-2:]
    q = torch.eye(d, dtype=a.dtype, device=a.device).expand(a.shape[:-2] + (d, d))
    for i in range(min(m, d - 1)):
        x = a[..., i:, i]
        trivial = (x[..., 1:] == 0).all(-1, keepdim=True)  # LAPACK's convention: no reflection
        x = torch.where(trivial, torch.ones_like(x), x)
        sign = torch.where(x[..., :1] < 0, -1.0, 1.0).to(x.dtype)
        v = torch.cat([x[..., :1] + sign * torch.linalg.vector_norm(x, dim=-1, keepdim=True), x[..., 1:]], -1)
        v = v * (2.0**0.5 / torch.linalg.vector_norm(v, dim=-1, keepdim=True))
        v = torch.where(trivial, torch.zeros_like(v), v)
        v = torch.cat([v.new_zeros(v.shape[:-1] + (i,)), v], -1).unsqueeze(-1)
        a = a - v @ (v.mT @ a)
        q = q - (q @ v) @ v.mT
    return q
