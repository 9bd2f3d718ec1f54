r"""Functions of symmetric matrices with derivatives that are right at repeated eigenvalues.

.. math::
    f(A) = U f(\Lambda) U^T, \qquad
    Df(A)[H] = U\big(f[\lambda_i,\lambda_j] \circ U^T H U\big)U^T, \qquad
    f[a,b] = \frac{f(a)-f(b)}{a-b},\; f[a,a] = f'(a)

(Daleckii-Krein.) The divided differences (:mod:`pyro_manifold.ops.spectral`) have no singularity where
eigenvalues coincide, whereas the derivative of torch's ``eigh`` divides by the differences of eigenvalues and
is NaN at the identity. The second derivative, from second divided differences :math:`f[a,b,c]`, is right too;
a third raises. All functions use the symmetric part of their argument. A matrix with an entry that is not
finite gives NaN and does not affect the other matrices of its batch.

Coordinates of symmetric matrices are with respect to the orthonormal basis :math:`E_{ii}`, then
:math:`(E_{ij}+E_{ji})/\sqrt2`, i < j.

References: Bhatia, Matrix Analysis (1997), thm. V.3.3 (first derivative), ex. V.3.9 and sec. X.4 (second).
"""

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from .autograd import BatchFunction, last_order_gradient, plus, save_tensors
from .spectral import Spectral, divided_difference, second_divided_differences

__all__ = [
    "eigh",
    "sym",
    "sym_derivative",
    "sym_eigenvalues",
    "sym_function",
    "sym_to_vec",
    "vec_to_sym",
]

_MANY = {2: 300, 3: 2000}  # from this batch size on elementwise rotations are faster than LAPACK (measured)


def sym(a: Tensor) -> Tensor:
    """Symmetric part."""
    return (a + a.mT) / 2


def _jacobi(a: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (unordered) and eigenvectors of a large batch of 2 x 2 or 3 x 3 matrices by cyclic Jacobi
    rotations.

    One rotation is exact for n = 2; for n = 3 convergence is quadratic, and six sweeps are exact to rounding.
    Each step works on the whole batch, whereas LAPACK is called once for each matrix: for 10000 matrices this
    is about 20 times (n = 2) and twice (n = 3) as fast."""
    n = a.shape[-1]
    m = {(i, j): a[..., i, j] for i in range(n) for j in range(i, n)}
    one, zero = torch.ones_like(a[..., 0, 0]), torch.zeros_like(a[..., 0, 0])
    u = [[one if i == j else zero for j in range(n)] for i in range(n)]
    for _ in range(1 if n == 2 else 6):
        for p, q in itertools.combinations(range(n), 2):
            off, d = 2 * m[p, q], m[q, q] - m[p, p]
            size = d.abs() + torch.hypot(d, off)
            # the tangent of the smaller of the two rotation angles
            t = torch.where(d < 0, -off, off) / torch.where(size == 0, 1.0, size)
            c = (1 + t * t).rsqrt()
            s = t * c
            half = t * m[p, q]
            m[p, p], m[q, q], m[p, q] = m[p, p] - half, m[q, q] + half, zero
            for r in range(n):
                u[r][p], u[r][q] = c * u[r][p] - s * u[r][q], s * u[r][p] + c * u[r][q]
                if r not in (p, q):
                    i, j = (min(r, p), max(r, p)), (min(r, q), max(r, q))
                    m[i], m[j] = c * m[i] - s * m[j], s * m[i] + c * m[j]
    return torch.stack([m[i, i] for i in range(n)], -1), torch.stack([torch.stack(row, -1) for row in u], -2)


def eigh(a: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of the symmetric part; NaN for a matrix that is not finite. To be used only
    where autograd does not record."""
    a = sym(a)
    ok = a.isfinite().all(-1).all(-1)
    a = torch.where(ok[..., None, None], a, torch.zeros_like(a))
    many = math.prod(a.shape[:-2]) >= _MANY.get(a.shape[-1], math.inf)
    x, u = _jacobi(a) if many else torch.linalg.eigh(a)
    return torch.where(ok[..., None], x, math.nan), u


@torch.no_grad()
def _bilinear(spec: Spectral, x: Tensor, u: Tensor, h: Tensor, k: Tensor) -> Tensor:
    """D^2 f(A)[H, K], from the eigendecomposition of A. Its inner product with a third matrix is symmetric in
    all three matrices."""
    h, k = u.mT @ sym(h) @ u, u.mT @ sym(k) @ u
    half = torch.einsum("...ikj,...ik,...kj->...ij", second_divided_differences(spec, x), h, k)
    return u @ (half + half.mT) @ u.mT


class _Derivative(BatchFunction):
    """Df(A)[H], given the eigendecomposition of A. It is self-adjoint in H; its derivative in A is the second
    derivative of f."""

    ranks = (2, 2, 1, 2)

    @staticmethod
    def forward(a: Tensor, h: Tensor, x: Tensor, u: Tensor, spec: Spectral) -> Tensor:
        quotients = divided_difference(spec, x[..., :, None], x[..., None, :])
        return sym(u @ (quotients * (u.mT @ sym(h) @ u)) @ u.mT)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        a, h, x, u, ctx.spec = inputs
        save_tensors(ctx, a, h, x, u)

    @staticmethod
    def jvp(ctx: Any, a_tangent: Tensor | None, h_tangent: Tensor | None, *_: Any) -> Any:  # type: ignore[override]
        a, h, x, u = ctx.saved_tensors
        in_h = None if h_tangent is None else _Derivative.apply(a, h_tangent, x, u, ctx.spec)
        if a_tangent is None:
            return in_h
        return plus(in_h, last_order_gradient(_bilinear(ctx.spec, x, u, h, a_tangent), a, h, a_tangent))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        a, h, x, u = ctx.saved_tensors
        in_a = in_h = None
        if ctx.needs_input_grad[1]:
            in_h = _Derivative.apply(a, grad, x, u, ctx.spec)
        if ctx.needs_input_grad[0]:
            in_a = last_order_gradient(_bilinear(ctx.spec, x, u, grad, h), a, h, grad)
        return in_a, in_h, None, None, None


class _Function(BatchFunction):
    """f(A) for several f, from one eigendecomposition; eigenvalues and eigenvectors are the first outputs."""

    ranks = (2,)

    @staticmethod
    def forward(a: Tensor, *specs: Spectral) -> tuple[Tensor, ...]:
        x, u = eigh(a)
        return (x, u, *(sym((u * spec.f(x).unsqueeze(-2)) @ u.mT) for spec in specs))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, ...]) -> None:
        a, *ctx.specs = inputs
        x, u = output[:2]
        ctx.mark_non_differentiable(x, u)
        save_tensors(ctx, a, x, u)
        ctx.set_materialize_grads(False)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        a, x, u = ctx.saved_tensors
        return (None, None, *(_Derivative.apply(a, tangent, x, u, spec) for spec in ctx.specs))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:  # type: ignore[override]
        a, x, u = ctx.saved_tensors
        terms = [
            _Derivative.apply(a, g, x, u, s)
            for g, s in zip(grads[2:], ctx.specs, strict=True)
            if g is not None
        ]
        return (sum(terms[1:], start=terms[0]) if terms else None, *(None for _ in ctx.specs))


def sym_function(a: Tensor, *specs: Spectral) -> Any:
    r"""f(A) for the symmetric part A of ``a``, shape ``(..., n, n)``. For several functions, a tuple; the
    eigendecomposition is then computed once.

    >>> from pyro_manifold.ops.spectral import SQRT
    >>> sym_function(torch.diag(torch.tensor([4.0, 9.0])), SQRT)
    tensor([[2., 0.],
            [0., 3.]])
    """
    out = _Function.apply(a, *specs)[2:]
    return out[0] if len(specs) == 1 else out


class _Eigenvalues(BatchFunction):
    ranks = (2,)

    @staticmethod
    def forward(a: Tensor) -> tuple[Tensor, Tensor]:
        return eigh(a)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        save_tensors(ctx, inputs[0], output[1])

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        a, u = ctx.saved_tensors
        return last_order_gradient((u.mT @ sym(tangent) @ u).diagonal(dim1=-2, dim2=-1), a, tangent), None

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> Tensor:  # type: ignore[override]
        a, u = ctx.saved_tensors
        return last_order_gradient((u * grad.unsqueeze(-2)) @ u.mT, a, grad)


def sym_eigenvalues(a: Tensor) -> Tensor:
    """Eigenvalues in ascending order, differentiable once. At repeated eigenvalues the gradient of a function
    of them is right if the function is symmetric in its arguments."""
    return _Eigenvalues.apply(a)[0].sort(-1).values


def sym_derivative(a: Tensor, h: Tensor, spec: Spectral) -> Tensor:
    r"""Directional derivative :math:`Df(A)[H]`, differentiable once in both arguments.

    >>> from pyro_manifold.ops.spectral import LOG
    >>> a, h = torch.eye(2), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> torch.equal(sym_derivative(a, h, LOG), h)  # d log at the identity
    True
    """
    a, h = torch.broadcast_tensors(a, h)
    x, u = eigh(a.detach())
    return _Derivative.apply(a, h, x, u, spec)


def _position(n: int) -> list[list[int]]:
    """The index of entry (i, j) among the coordinates."""
    upper = {(i, j): n + k for k, (i, j) in enumerate((i, j) for i in range(n) for j in range(i + 1, n))}
    return [[i if i == j else upper[min(i, j), max(i, j)] for j in range(n)] for i in range(n)]


def vec_to_sym(v: Tensor, n: int) -> Tensor:
    """The symmetric matrix ``(..., n, n)`` with coordinates ``v`` of shape ``(..., n(n+1)/2)``.

    >>> vec_to_sym(torch.tensor([1.0, 2.0, 0.0]), 2)
    tensor([[1., 0.],
            [0., 2.]])
    """
    place = torch.tensor(_position(n), device=v.device)
    scaled = torch.cat([v[..., :n], v[..., n:] * math.sqrt(0.5)], -1)
    return scaled[..., place]


def sym_to_vec(a: Tensor) -> Tensor:
    """Coordinates of the symmetric part of ``a``, the inverse of :func:`vec_to_sym`; an isometry for the
    Frobenius norm."""
    n = a.shape[-1]
    i, j = torch.triu_indices(n, n, 1, device=a.device)
    off = (a[..., i, j] + a[..., j, i]) * math.sqrt(0.5)
    return torch.cat([a.diagonal(dim1=-2, dim2=-1), off], -1)
