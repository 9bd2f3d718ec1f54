r"""Rotation and frame matrices: hat and vee, nearest orthonormal matrix, logarithm of a rotation in any
dimension.

.. math::
    \mathrm{polar}(X) = X (X^\top X)^{-1/2}, \qquad
    \frac{1 - e^{-\mathrm{ad}_L}}{\mathrm{ad}_L}(dL) = R^\top dR \quad\text{at } R = e^L

Values come from symmetric eigenproblems, gradients from these identities, whose coefficients stay bounded at
repeated singular values and equal rotation angles, where differentiating an eigendecomposition gives NaN.
"""

import math
from typing import Any

import torch
from torch import Tensor

from .autograd import BatchFunction, differentiated, last_order_gradient
from .numerics import norm
from .signed_trig import arctanc_sqrt, log_sinc_length, sinc_sqrt
from .tracing import is_concrete

__all__ = ["haar", "hat", "log_det_dexp", "polar", "reflected", "quaternion"]
__all__ += ["rotation_exp", "rotation_exp3", "rotation_log", "rotation_log3", "size_of", "vee"]


_SMALL = 16  # matrices of this size cost less than several reflections


def size_of(dim: int) -> int:
    """n of the rotations whose dimension n(n-1)/2 is ``dim``."""
    n = (1 + math.isqrt(1 + 8 * dim)) // 2
    if n * (n - 1) // 2 != dim:
        raise ValueError(
            f"dim: got {dim}, expected n(n-1)/2 for an integer n (1, 3, 6, 10, ...), the dimension of "
            f"rotations."
        )
    return n


def hat(v: Tensor) -> Tensor:
    r"""Coordinates to skew matrices, :math:`|\hat v|_F^2 = 2|v|^2`: entries below the diagonal, row by row.

    For n = 3 the customary axis vector instead, :math:`\hat w x = w \times x`.
    """
    n = size_of(v.shape[-1])
    if n == 3:
        a, b, c = v.unbind(-1)
        o = torch.zeros_like(a)
        return torch.stack([o, -c, b, c, o, -a, -b, a, o], -1).reshape(v.shape[:-1] + (3, 3))
    i, j = torch.tril_indices(n, n, -1, device=v.device)
    out = v.new_zeros(v.shape[:-1] + (n * n,)).index_copy(-1, i * n + j, v).reshape(v.shape[:-1] + (n, n))
    return out - out.mT


def vee(a: Tensor) -> Tensor:
    """Inverse of :func:`hat`, on the skew part of a matrix."""
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
        if proper:  # flip the direction of the smallest singular value where the determinant would be -1
            flip = torch.linalg.det(u @ vh) < 0
            u, s = u.clone(), s.clone()
            u[..., -1] = torch.where(flip.unsqueeze(-1), -u[..., -1], u[..., -1])
            s[..., -1] = torch.where(flip, -s[..., -1], s[..., -1])
        return u @ vh, u, s, vh

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, bool], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(inputs[0], *output[1:])
        ctx.save_for_forward(inputs[0], *output[1:])

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
    """Nearest matrix with orthonormal columns, or (``proper``) nearest rotation; first derivatives only."""
    return _Polar.apply(x, proper)[0]


# --- three dimensions, closed form --------------------------------------------------------------------------
def rotation_exp3(w: Tensor) -> Tensor:
    r"""Rodrigues: :math:`I + \frac{\sin r}{r}\hat w + \frac{1-\cos r}{r^2}\hat w^2`, smooth at r = 0."""
    s = w.square().sum(-1)[..., None, None]
    k = hat(w)
    eye = torch.eye(3, dtype=w.dtype, device=w.device)
    return eye + sinc_sqrt(s, 1) * k + 0.5 * sinc_sqrt(s / 4, 1) ** 2 * (k @ k)


def quaternion(r: Tensor) -> Tensor:
    """Unit quaternion (real part first, not negative) of a rotation, from the largest of its four
    components."""
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
    """Axis times angle in [0, pi] of a 3x3 rotation; at angle pi one of the two axes, with the gradient on
    its side."""
    q = quaternion(r)
    c, v = q[..., :1], q[..., 1:]
    s = v.square().sum(-1, keepdim=True)
    far = c * c < s  # angle above pi/2
    cos, sin = torch.where(far, 1.0, c), torch.where(far, s, 1.0).sqrt()
    near_factor = arctanc_sqrt(torch.where(far, 0.0, s / (cos * cos)), 1) / cos
    far_factor = torch.atan2(sin, torch.where(far, c, 1.0)) / sin
    return 2 * v * torch.where(far, far_factor, near_factor)


# --- any dimension ------------------------------------------------------------------------------------------
def _planes(r: Tensor) -> tuple[Tensor, Tensor]:
    """Orthogonal W whose columns 2k, 2k+1 span the planes of a rotation, and the angles there (real Schur
    form)."""
    sym, skew, n = (r + r.mT) / 2, (r - r.mT) / 2, r.shape[-1]
    c, w = torch.linalg.eigh(sym)  # ascending cosines: they come in pairs, and a last 1 if n is odd
    eps = torch.finfo(r.dtype).eps
    together = (c.unsqueeze(-1) - c.unsqueeze(-2)).abs() < 10 * math.sqrt(eps)
    t = (w.mT @ skew @ w) * together  # symmetric and skew part commute: no entries between different cosines
    for k in range(0, n - 2, 2):  # Householder within equal cosines, until each plane is a pair of neighbours
        x = t[..., k + 1 :, k]
        length = x.norm(dim=-1, keepdim=True)
        e = torch.zeros_like(x)
        e[..., 0] = torch.where(x[..., 0] < 0, -1.0, 1.0)
        y = torch.where(length > 10 * n * eps, x, 0.0) + length * e
        y = y / torch.where(length > 10 * n * eps, y.norm(dim=-1, keepdim=True), torch.inf)
        y = torch.nn.functional.pad(y, (k + 1, 0)).unsqueeze(-1)
        t = t - 2 * y @ (y.mT @ t)
        t = t - 2 * (t @ y) @ y.mT
        w = w - 2 * (w @ y) @ y.mT
    first = slice(0, n - 1, 2)
    sin = t.diagonal(-1, -2, -1)[..., first]
    d = (w.mT @ sym @ w).diagonal(dim1=-2, dim2=-1)
    return w, torch.atan2(sin, (d[..., first] + d[..., 1::2]) / 2)


def _inverse_dexp(x: Tensor, w: Tensor, adjoint: bool = False) -> Tensor:
    """Solve (1 - e^{-ad_L})/ad_L (dL) = w at the skew L = x, in the unitary eigenbasis of L."""
    angle, v = torch.linalg.eigh(1j * x)  # x = -i angle
    mu = -1j * (angle.unsqueeze(-1) - angle.unsqueeze(-2))
    half = (mu.imag / 2)[..., None]
    phi = sinc_sqrt(half.squeeze(-1) ** 2, 1) * torch.exp(-mu / 2)
    conjugate = (angle.unsqueeze(-1) + angle.unsqueeze(-2)).abs() < 1e-8  # a skew w has no entries there
    singular = (phi.abs() < 1e-8) | (conjugate & (phi.abs() < 1e-3))
    phi = torch.where(singular, 1.0, phi.conj() if adjoint else phi)
    z = torch.where(singular, 0.0, v.mH @ w.to(v.dtype) @ v) / phi
    out = (v @ z @ v.mH).real
    return (out - out.mT) / 2


def _dexp(v: Tensor) -> Tensor:
    r"""The matrix of :math:`(1 - e^{-\mathrm{ad}})/\mathrm{ad}` of the skew matrix with coordinates v, in
    these coordinates.

    It is a block of :math:`\exp\begin{bmatrix} -\mathrm{ad} & I \\ 0 & 0\end{bmatrix}`, so smooth where
    angles meet."""
    m = v.shape[-1]
    eye = torch.eye(m, dtype=v.dtype, device=v.device)
    x, basis = hat(v).unsqueeze(-3), hat(eye)
    minus_ad = vee(basis @ x - x @ basis).mT
    top = torch.cat([minus_ad, eye.expand_as(minus_ad)], -1)
    return torch.linalg.matrix_exp(torch.cat([top, torch.zeros_like(top)], -2))[..., :m, m:]


def _apply_dexp(x: Tensor, w: Tensor, adjoint: bool = False) -> Tensor:
    """(1 - e^{-ad_L})/ad_L (w) at the skew L = x of any length, in its unitary eigenbasis; where derivatives of it
    may be asked for, by :func:`_dexp`, which has them but overflows for long L."""
    if differentiated(x, w):
        a = _dexp(vee(x))
        return hat(((a.mT if adjoint else a) @ vee(w).unsqueeze(-1)).squeeze(-1))
    angle, v = torch.linalg.eigh(1j * x.double())  # x = -i angle
    angle = (angle - angle.flip(-1)) / 2
    half = (angle.unsqueeze(-2) - angle.unsqueeze(-1)) / 2
    turn = torch.polar(torch.ones_like(half), half if adjoint else -half)
    phi = turn * torch.where(half == 0, 1.0, half.sin() / torch.where(half == 0, 1.0, half))
    out = (v @ (phi * (v.mH @ w.to(v.dtype) @ v)) @ v.mH).real.to(w.dtype)
    return (out - out.mT) / 2


class _Exp(BatchFunction):
    """exp of long skew matrices: whole turns of their angles drop out, and the result is as orthogonal as for
    short ones."""

    ranks = (2,)

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        angle, v = torch.linalg.eigh(1j * x.double())  # x = -i angle
        angle = (angle - angle.flip(-1)) / 2  # they come in opposite pairs, of angles beyond 1/eps too
        turns = torch.polar(torch.ones_like(angle), -angle).unsqueeze(-2)
        return ((v * turns) @ v.mH).real.to(x.dtype).contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)
        ctx.save_for_forward(*inputs, output)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # type: ignore[override]
        x, r = ctx.saved_tensors
        return r @ _apply_dexp(x, (tangent - tangent.mT) / 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        x, r = ctx.saved_tensors
        g = r.mT @ grad
        return _apply_dexp(x, (g - g.mT) / 2, adjoint=True)


_LONG = 12.0  # of the coordinates: torch's matrix exponential is orthogonal to rounding up to about there


def rotation_exp(v: Tensor) -> Tensor:
    """exp of the skew matrix with coordinates ``v``, of any size, orthogonal to rounding however many turns
    that are.

    >>> rotation_exp(torch.zeros(1))
    tensor([[1., 0.],
            [0., 1.]])
    """
    x = hat(v)
    if is_concrete(v) and (v.numel() == 0 or bool(v.detach().abs().amax() <= _LONG)):
        return torch.linalg.matrix_exp(x)
    return _Exp.apply(x)


def _solve_dexp(x: Tensor, w: Tensor, adjoint: bool = False) -> Tensor:
    """:func:`_inverse_dexp`, or where derivatives of it may be asked for, dense linear algebra that has
    them."""
    if not differentiated(x, w):
        return _inverse_dexp(x, w, adjoint)
    a = _dexp(vee(x))
    return hat(torch.linalg.solve_ex(a.mT if adjoint else a, vee(w).unsqueeze(-1)).result.squeeze(-1))


class _RotationLog(BatchFunction):
    ranks = (2,)

    @staticmethod
    def forward(r: Tensor) -> Tensor:
        w, angle = _planes(r)
        n = r.shape[-1]
        block = torch.nn.functional.pad(
            torch.stack([angle, torch.zeros_like(angle)], -1).flatten(-2), (0, n % 2)
        )
        a = torch.diag_embed(block[..., : n - 1], -1)
        out = w @ (a - a.mT) @ w.mT
        for _ in range(2):  # Newton steps: polish what near-equal angles cost
            rest = torch.linalg.matrix_exp(-out) @ r
            step = _inverse_dexp(out, (rest - rest.mT) / 2)
            size = torch.linalg.matrix_norm(step)[..., None, None]
            out = out + torch.where(size < 1e-2, step, 0.0)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)
        ctx.save_for_forward(*inputs, output)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # type: ignore[override]
        r, out = ctx.saved_tensors
        turn = r.mT @ tangent
        return _solve_dexp(out, (turn - turn.mT) / 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        r, out = ctx.saved_tensors
        return r @ _solve_dexp(out, (grad - grad.mT) / 2, adjoint=True)


def _orthonormalized(r: Tensor) -> Tensor:
    r"""The nearest rotation by Newton and Schulz, :math:`R \mapsto R\,(3I - R^\top R)/2`, which squares the
    error each time; plain products, so it has derivatives of every order."""
    eye = torch.eye(r.shape[-1], dtype=r.dtype, device=r.device)
    for _ in range(3):
        r = r @ (1.5 * eye - 0.5 * r.mT @ r)
    return r


def rotation_log(r: Tensor) -> Tensor:
    r"""Principal logarithm (skew, angles in [-pi, pi]) of rotations of any size.

    Beside the rotations (to 0.1 or so) it is that of the nearest one, :math:`\log\mathrm{polar}(R)`, and so
    are its derivatives: the angle of a plane is that of a pair of equal eigenvalues, and there the pairs come
    apart.

    >>> rotation_log(torch.tensor([[0.0, -1.0], [1.0, 0.001]]))
    tensor([[ 0.0000, -1.5703],
            [ 1.5703,  0.0000]])
    """
    return _RotationLog.apply(_orthonormalized(r))


def _by_angles(v: Tensor) -> Tensor:
    angle = torch.linalg.eigvalsh(1j * hat(v))
    angle = (angle - angle.flip(-1)) / 2  # in opposite pairs, whose sums are 0 for long v too
    i, j = torch.tril_indices(angle.shape[-1], angle.shape[-1], -1, device=v.device)
    return log_sinc_length((angle[..., i] + angle[..., j]).unsqueeze(-1), 0.25, 1).sum(-1)


class _LogDetDexp(BatchFunction):
    ranks = (1,)

    @staticmethod
    def forward(v: Tensor) -> Tensor:
        return _by_angles(v)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def _smooth(v: Tensor) -> Tensor:
        return torch.linalg.slogdet(_dexp(v)).logabsdet

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # type: ignore[override]
        return torch.func.jvp(_LogDetDexp._smooth, (ctx.saved_tensors[0],), (tangent,))[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (v,) = ctx.saved_tensors
        return torch.func.vjp(_LogDetDexp._smooth if differentiated(v, grad) else _by_angles, v)[1](grad)[0]


def log_det_dexp(v: Tensor) -> Tensor:
    r"""Log volume change of the exponential map of rotations, with :math:`\pm i\lambda` the eigenvalues of
    the skew matrix of v:

    .. math:: \sum_{i<j}\log\Big|\mathrm{sinc}\,\frac{\lambda_i+\lambda_j}{2}\Big|

    >>> log_det_dexp(torch.zeros(6))
    tensor(0.)
    """
    return _LogDetDexp.apply(v)


def haar(shape: torch.Size, *, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
    """Uniform matrices with orthonormal columns, shape ``batch + (n, p)``: QR of normals, with the diagonal
    of R positive."""
    q, r = torch.linalg.qr(torch.randn(shape, dtype=dtype, device=device))
    return q * torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).unsqueeze(-2)


def reflected(x: Tensor, mirrors: Tensor, *, back: bool = False) -> Tensor:
    """``x`` (last axis n) reflected at the hyperplanes orthogonal to the rows of ``mirrors``, shape ``(m, n)``, one
    after the other, or in the opposite order: an isometry to the last digit, in any dtype that the rows have been
    converted to.

    >>> reflected(torch.tensor([3.0, 1.0]), torch.tensor([[2.0, 0.0]]))
    tensor([-3.,  1.])
    """
    unit = mirrors / torch.linalg.vector_norm(mirrors, dim=-1, keepdim=True)
    n = mirrors.shape[-1]
    if n <= _SMALL:  # as one matrix
        each = torch.eye(n, dtype=x.dtype, device=x.device) - 2 * unit.unsqueeze(-1) * unit.unsqueeze(-2)
        matrix = torch.linalg.multi_dot([*each.unbind(0)]) if len(each) > 1 else each[0]
        return x @ (matrix.mT if back else matrix)
    for v in reversed(unit.unbind(0)) if back else unit.unbind(0):
        x = x - (x @ v * 2).unsqueeze(-1) * v
    return x
