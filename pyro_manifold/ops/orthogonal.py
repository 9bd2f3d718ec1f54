r"""Rotation and frame matrices: skew matrices and their coordinates, the nearest orthonormal matrix, uniform
draws, and the exponential and logarithm of SO(3).

.. math:: \mathrm{polar}(X) = X (X^\top X)^{-1/2}, \qquad \hat w x = w \times x

Gradients of ``polar`` are in closed form and bounded at repeated singular values, where the derivative of a
singular value decomposition is NaN. Rotations of any size: :mod:`pyro_manifold.ops.rotation_exp_log`."""

import math
from typing import Any

import torch
from torch import Tensor

from .autograd import BatchFunction, last_order_gradient, save_tensors
from .numerics import norm
from .signed_trig import arctanc_sqrt, sinc_sqrt

__all__ = [
    "haar",
    "hat",
    "polar",
    "quaternion",
    "reflected",
    "rotation_exp3",
    "rotation_log3",
    "size_of",
    "vee",
]


_SMALL = 16  # matrices up to this size are multiplied faster than several reflections are applied


def size_of(dim: int) -> int:
    """The size n of rotation matrices whose manifold has the dimension n(n-1)/2 = ``dim``.

    :raises ValueError: if there is no such n.
    """
    n = (1 + math.isqrt(1 + 8 * dim)) // 2
    if n * (n - 1) // 2 != dim:
        raise ValueError(
            f"dim: got {dim}, expected n(n-1)/2 for an integer n (1, 3, 6, 10, ...), the dimension of SO(n)."
        )
    return n


def hat(v: Tensor) -> Tensor:
    r"""The skew matrix with coordinates v, :math:`|\hat v|_F^2 = 2|v|^2`. The coordinates are the entries
    below the diagonal, row by row; for n = 3 they are the rotation axis instead,
    :math:`\hat w x = w \times x`."""
    n = size_of(v.shape[-1])
    if n == 3:
        a, b, c = v.unbind(-1)
        o = torch.zeros_like(a)
        return torch.stack([o, -c, b, c, o, -a, -b, a, o], -1).reshape(v.shape[:-1] + (3, 3))
    i, j = torch.tril_indices(n, n, -1, device=v.device)
    out = v.new_zeros(v.shape[:-1] + (n * n,)).index_copy(-1, i * n + j, v).reshape(v.shape[:-1] + (n, n))
    return out - out.mT


def vee(a: Tensor) -> Tensor:
    """The coordinates of the skew part of a matrix, the inverse of :func:`hat`."""
    a, n = (a - a.mT) / 2, a.shape[-1]
    if n == 3:
        return torch.stack([a[..., 2, 1], a[..., 0, 2], a[..., 1, 0]], -1)
    i, j = torch.tril_indices(n, n, -1, device=a.device)
    return a[..., i, j]


class _Polar(BatchFunction):
    ranks = (2,)

    @staticmethod
    def forward(x: Tensor, proper: bool) -> tuple[Tensor, ...]:
        u, s, vh = torch.linalg.svd(x, full_matrices=False)
        if proper:  # where the determinant would be -1, flip the direction of the smallest singular value
            flip = torch.linalg.det(u @ vh) < 0
            u, s = u.clone(), s.clone()
            u[..., -1] = torch.where(flip.unsqueeze(-1), -u[..., -1], u[..., -1])
            s[..., -1] = torch.where(flip, -s[..., -1], s[..., -1])
        return u @ vh, u, s, vh

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, bool], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        save_tensors(ctx, inputs[0], *output[1:])

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, u, s, vh = ctx.saved_tensors
        g = tangent @ vh.mT
        h = u.mT @ g
        total = s.unsqueeze(-1) + s.unsqueeze(-2)
        core = (h - h.mT) / torch.where(total == 0, torch.inf, total)
        outside = (g - u @ h) / torch.where(s == 0, torch.inf, s).unsqueeze(-2)
        return last_order_gradient((u @ core + outside) @ vh, x, tangent), None, None, None

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, None]:  # type: ignore[override]
        return _Polar.jvp(ctx, grad)[0], None  # the derivative is self-adjoint


def polar(x: Tensor, proper: bool = False) -> Tensor:
    """The nearest matrix with orthonormal columns, or, if ``proper``, the nearest rotation; differentiable
    once."""
    return _Polar.apply(x, proper)[0]


def rotation_exp3(w: Tensor) -> Tensor:
    r"""Rodrigues' formula :math:`I + \frac{\sin r}{r}\hat w + \frac{1-\cos r}{r^2}\hat w^2`, smooth at
    r = :math:`|w|` = 0."""
    s = w.square().sum(-1)[..., None, None]
    k = hat(w)
    eye = torch.eye(3, dtype=w.dtype, device=w.device)
    return eye + sinc_sqrt(s, 1) * k + 0.5 * sinc_sqrt(s / 4, 1) ** 2 * (k @ k)


def quaternion(r: Tensor) -> Tensor:
    """The unit quaternion of a rotation, with the real part first and not negative. It is computed from the
    largest of its four components, without cancellation."""
    d = r.diagonal(dim1=-2, dim2=-1)
    tr = d.sum(-1, keepdim=True)
    real, twice = torch.cat([1 + tr, 1 - tr + 2 * d], -1), 2 * vee(r)
    x, y, z = twice.unbind(-1)
    xy, xz, yz = (r[..., i, j] + r[..., j, i] for i, j in ((0, 1), (0, 2), (1, 2)))
    a, b, c, e = real.unbind(-1)
    table = torch.stack([a, x, y, z, x, b, xy, xz, y, xy, c, yz, z, xz, yz, e], -1).reshape(
        r.shape[:-2] + (4, 4)
    )
    largest = real.argmax(-1)[..., None, None]
    row = table.gather(-2, largest.expand(largest.shape[:-1] + (4,))).squeeze(-2)
    q = row / norm(row, keepdim=True)
    return torch.where(q[..., :1] < 0, -q, q)


def rotation_log3(r: Tensor) -> Tensor:
    """The axis of a 3x3 rotation times its angle in [0, pi]. At the angle pi one of the two axes is returned,
    with its one-sided gradient."""
    q = quaternion(r)
    c, v = q[..., :1], q[..., 1:]
    s = v.square().sum(-1, keepdim=True)
    far = c * c < s  # angle above pi/2
    cos, sin = torch.where(far, 1.0, c), torch.where(far, s, 1.0).sqrt()
    near_factor = arctanc_sqrt(torch.where(far, 0.0, s / (cos * cos)), 1) / cos
    far_factor = torch.atan2(sin, torch.where(far, c, 1.0)) / sin
    return 2 * v * torch.where(far, far_factor, near_factor)


def haar(shape: torch.Size, *, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
    """Uniform matrices with orthonormal columns, shape ``batch + (n, p)``: the Q of a QR decomposition of
    normal matrices, where the diagonal of R is positive."""
    q, r = torch.linalg.qr(torch.randn(shape, dtype=dtype, device=device))
    return q * torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).unsqueeze(-2)


def reflected(x: Tensor, mirrors: Tensor, *, back: bool = False) -> Tensor:
    """``x`` (last axis n) reflected at the hyperplanes orthogonal to the rows of ``mirrors``, shape ``(m, n)``, one
    after the other; with ``back``, in reverse order, which is the inverse. Each reflection is normalised here, so
    the map is an isometry to rounding in any dtype.

    >>> reflected(torch.tensor([3.0, 1.0]), torch.tensor([[2.0, 0.0]]))
    tensor([-3.,  1.])
    """
    unit = mirrors / torch.linalg.vector_norm(mirrors, dim=-1, keepdim=True)
    n = mirrors.shape[-1]
    if n <= _SMALL:  # multiply all reflections into one matrix
        each = torch.eye(n, dtype=x.dtype, device=x.device) - 2 * unit.unsqueeze(-1) * unit.unsqueeze(-2)
        matrix = torch.linalg.multi_dot([*each.unbind(0)]) if len(each) > 1 else each[0]
        return x @ (matrix.mT if back else matrix)
    for v in reversed(unit.unbind(0)) if back else unit.unbind(0):
        x = x - (x @ v * 2).unsqueeze(-1) * v
    return x
