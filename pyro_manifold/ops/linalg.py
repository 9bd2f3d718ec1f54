r"""Functions of symmetric matrices with derivatives that are right at repeated eigenvalues.

.. math::
    f(A) = U f(\Lambda) U^T, \qquad
    Df(A)[H] = U\big(f[\lambda_i,\lambda_j] \circ U^T H U\big)U^T, \qquad
    f[a,b] = \frac{f(a)-f(b)}{a-b},\; f[a,a] = f'(a)

(Daleckii-Krein.) The divided differences are evaluated without cancellation, so nothing happens where
eigenvalues meet; torch's ``eigh`` divides by their gaps, and gives NaN at the identity. The second
derivative, from second divided differences :math:`f[a,b,c]`, is right too; a third raises. Of an argument
that is not symmetric the symmetric part is meant. A matrix with an entry that is not finite gives NaN, and
does not stop the others of its batch.

Coordinates of symmetric matrices are in the orthonormal basis :math:`E_{ii}`, then
:math:`(E_{ij}+E_{ji})/\sqrt2`, i < j.

References: Bhatia, Matrix Analysis (1997), thm. V.3.3 (first derivative), ex. V.3.9 and sec. X.4 (second).
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .autograd import BatchFunction, last_order_gradient, plus
from .quadrature import legendre

__all__ = [
    "EXP",
    "INV_SQRT",
    "LOG",
    "LOG1P",
    "SQRT",
    "Spectral",
    "divided_difference",
    "eigh",
    "sym",
    "sym_derivative",
    "sym_eigenvalues",
    "sym_function",
    "sym_to_vec",
    "vec_to_sym",
]

_Scalar = Callable[[Tensor], Tensor]


class Spectral(NamedTuple):
    """A scalar function with what its matrix derivatives need.

    :param f: the function, elementwise.
    :param df: its derivative; ``None`` where ``quotient`` is given, which has it at a = b.
    :param d2f: its second derivative.
    :param scale: at each argument, a length over which f is well described by a few Taylor terms (its
        distance to a singularity, say); shorter gaps are integrated instead of divided.
    :param quotient: the divided difference f[a, b], if there is a closed form without cancellation.
    """

    f: _Scalar
    df: _Scalar | None
    d2f: _Scalar
    scale: _Scalar
    quotient: Callable[[Tensor, Tensor], Tensor] | None = None


def _unit_rate(g: _Scalar, x: Tensor) -> Tensor:
    """g(x)/x for x >= 0, where g(x) ~ x at 0."""
    zero = x == 0
    return torch.where(zero, 1.0, g(x) / torch.where(zero, 1.0, x))


def _exp_quotient(a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(a, b).exp() * _unit_rate(lambda x: -torch.expm1(-x), (a - b).abs())


def _log_quotient(a: Tensor, b: Tensor) -> Tensor:
    low = torch.minimum(a, b)
    return _unit_rate(torch.log1p, (a - b).abs() / low) / low


def _inv_sqrt_quotient(a: Tensor, b: Tensor) -> Tensor:
    ra, rb = a.sqrt(), b.sqrt()
    return -1 / (ra * rb * (ra + rb))


EXP = Spectral(torch.exp, None, torch.exp, lambda x: torch.full_like(x, 4.0), _exp_quotient)
LOG = Spectral(torch.log, None, lambda x: -1 / x**2, torch.abs, _log_quotient)
LOG1P = Spectral(
    torch.log1p,
    None,
    lambda x: -1 / (1 + x) ** 2,
    lambda x: 1 + x,
    lambda a, b: (
        _unit_rate(torch.log1p, (a - b).abs() / (1 + torch.minimum(a, b))) / (1 + torch.minimum(a, b))
    ),
)
SQRT = Spectral(
    torch.sqrt,
    None,
    lambda x: -0.25 * x**-1.5,
    torch.abs,
    lambda a, b: 1 / (a.sqrt() + b.sqrt()),
)
INV_SQRT = Spectral(torch.rsqrt, None, lambda x: 0.75 * x**-2.5, torch.abs, _inv_sqrt_quotient)

_NODES = tuple(zip(*(t.flatten().tolist() for t in legendre(6, torch.device("cpu"))), strict=True))
_MANY = {2: 300, 3: 2000}  # from this batch size elementwise rotations beat a loop over LAPACK (measured)
# gaps below this many scales are integrated: 6 nodes are then good to 1e-15, and division loses one digit
_NEAR = 0.25


def divided_difference(spec: Spectral, a: Tensor, b: Tensor) -> Tensor:
    """f[a, b]."""
    if spec.quotient is not None:
        return spec.quotient(a, b)
    assert spec.df is not None
    gap = a - b
    near = gap.abs() < _NEAR * torch.minimum(spec.scale(a), spec.scale(b))
    mean = sum(w * spec.df(b + t * gap) for t, w in _NODES)
    return torch.where(near, mean, (spec.f(a) - spec.f(b)) / torch.where(near, 1.0, gap))


def _second(spec: Spectral, x: Tensor) -> Tensor:
    """f[x_i, x_k, x_j] for all i, k, j of the last axis: by division across the widest gap, or by integration
    (Genocchi)."""
    n = x.shape[-1]
    shape = x.shape[:-1] + (n, n, n)
    i, k, j = x[..., :, None, None], x[..., None, :, None], x[..., None, None, :]
    a, b, c = torch.stack([y.expand(shape) for y in (i, k, j)]).sort(0).values
    gap = c - a
    near = gap < _NEAR * torch.minimum(spec.scale(a), spec.scale(c))
    far = (divided_difference(spec, c, b) - divided_difference(spec, b, a)) / torch.where(near, 1.0, gap)
    mean = sum(w * t * v * spec.d2f(a + t * (b - a) + t * s * (c - b)) for t, w in _NODES for s, v in _NODES)
    return torch.where(near, mean, far)


def sym(a: Tensor) -> Tensor:
    """Symmetric part."""
    return (a + a.mT) / 2


def _jacobi(a: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (in no order) and vectors of a large batch of 2 x 2 or 3 x 3 matrices by cyclic Jacobi
    rotations.

    One rotation is exact for n = 2; for n = 3 convergence is quadratic and six sweeps leave nothing above
    rounding. Each step works on the whole batch, where LAPACK is called once for each matrix: at 10000
    matrices about 20 times (n = 2) and twice (n = 3) as fast.
    """
    n = a.shape[-1]
    m = {(i, j): a[..., i, j] for i in range(n) for j in range(i, n)}
    one, zero = torch.ones_like(a[..., 0, 0]), torch.zeros_like(a[..., 0, 0])
    u = [[one if i == j else zero for j in range(n)] for i in range(n)]
    for _ in range(1 if n == 2 else 6):
        for p, q in itertools.combinations(range(n), 2):
            off, d = 2 * m[p, q], m[q, q] - m[p, p]
            size = d.abs() + torch.hypot(d, off)
            t = torch.where(d < 0, -off, off) / torch.where(
                size == 0, 1.0, size
            )  # tangent of the smaller angle
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
    """Eigenvalues and vectors of the symmetric part, to be differentiated by nobody; NaN for a matrix that is
    not finite."""
    a = sym(a)
    ok = a.isfinite().all(-1).all(-1)
    a = torch.where(ok[..., None, None], a, torch.zeros_like(a))
    many = math.prod(a.shape[:-2]) >= _MANY.get(a.shape[-1], math.inf)
    x, u = _jacobi(a) if many else torch.linalg.eigh(a)
    return torch.where(ok[..., None], x, math.nan), u


@torch.no_grad()
def _bilinear(spec: Spectral, x: Tensor, u: Tensor, h: Tensor, k: Tensor) -> Tensor:
    """D^2 f(A)[H, K], from the eigen-decomposition of A; its inner product with a third matrix is symmetric
    in all three."""
    h, k = u.mT @ sym(h) @ u, u.mT @ sym(k) @ u
    half = torch.einsum("...ikj,...ik,...kj->...ij", _second(spec, x), h, k)
    return u @ (half + half.mT) @ u.mT


class _Derivative(BatchFunction):
    """Df(A)[H], given the eigen-decomposition of A. Self-adjoint in H; its derivative in A is the second one
    of f."""

    ranks = (2, 2, 1, 2)

    @staticmethod
    def forward(a: Tensor, h: Tensor, x: Tensor, u: Tensor, spec: Spectral) -> Tensor:
        return sym(
            u @ (divided_difference(spec, x[..., :, None], x[..., None, :]) * (u.mT @ sym(h) @ u)) @ u.mT
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        a, h, x, u, ctx.spec = inputs
        ctx.save_for_backward(a, h, x, u)
        ctx.save_for_forward(a, h, x, u)

    @staticmethod
    def jvp(ctx: Any, a_tangent: Tensor | None, h_tangent: Tensor | None, *_: Any) -> Any:  # type: ignore[override]
        a, h, x, u = ctx.saved_tensors
        in_h = None if h_tangent is None else _Derivative.apply(a, h_tangent, x, u, ctx.spec)
        in_a = (
            None
            if a_tangent is None
            else last_order_gradient(_bilinear(ctx.spec, x, u, h, a_tangent), a, h, a_tangent)
        )
        return plus(in_h, in_a)

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
    """f(A) for several f, from one eigen-decomposition."""

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
        ctx.save_for_backward(a, x, u)
        ctx.save_for_forward(a, x, u)
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
    r"""f(A) of (the symmetric part of) ``a``, shape ``(..., n, n)``; a tuple for several f, which share the
    eigenvectors.

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
        ctx.save_for_backward(inputs[0], output[1])
        ctx.save_for_forward(inputs[0], output[1])

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        a, u = ctx.saved_tensors
        return last_order_gradient((u.mT @ sym(tangent) @ u).diagonal(dim1=-2, dim2=-1), a, tangent), None

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> Tensor:  # type: ignore[override]
        a, u = ctx.saved_tensors
        return last_order_gradient((u * grad.unsqueeze(-2)) @ u.mT, a, grad)


def sym_eigenvalues(a: Tensor) -> Tensor:
    """Eigenvalues in ascending order. Gradients, of first order, are right where eigenvalues repeat if what
    is made of them is symmetric in them."""
    return _Eigenvalues.apply(a)[0].sort(-1).values


def sym_derivative(a: Tensor, h: Tensor, spec: Spectral) -> Tensor:
    r"""Directional derivative :math:`Df(A)[H]`, differentiable once in both arguments.

    >>> a, h = torch.eye(2), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> torch.equal(sym_derivative(a, h, LOG), h)  # d log at the identity
    True
    """
    a, h = torch.broadcast_tensors(a, h)
    x, u = eigh(a.detach())
    return _Derivative.apply(a, h, x, u, spec)


def _position(n: int) -> list[list[int]]:
    """Place of entry (i, j) among the coordinates."""
    upper = {(i, j): n + k for k, (i, j) in enumerate((i, j) for i in range(n) for j in range(i + 1, n))}
    return [[i if i == j else upper[min(i, j), max(i, j)] for j in range(n)] for i in range(n)]


def vec_to_sym(v: Tensor, n: int) -> Tensor:
    """The symmetric matrix, ``(..., n, n)``, with coordinates ``v``, ``(..., n(n+1)/2)``.

    >>> vec_to_sym(torch.tensor([1.0, 2.0, 0.0]), 2)
    tensor([[1., 0.],
            [0., 2.]])
    """
    place = torch.tensor(_position(n), device=v.device)
    scaled = torch.cat([v[..., :n], v[..., n:] * math.sqrt(0.5)], -1)
    return scaled[..., place]


def sym_to_vec(a: Tensor) -> Tensor:
    """Coordinates of the symmetric part of ``a``: inverse of :func:`vec_to_sym`, and an isometry
    (Frobenius)."""
    n = a.shape[-1]
    i, j = torch.triu_indices(n, n, 1, device=a.device)
    off = (a[..., i, j] + a[..., j, i]) * math.sqrt(0.5)
    return torch.cat([a.diagonal(dim1=-2, dim2=-1), off], -1)
