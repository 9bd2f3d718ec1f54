r"""Exponential, logarithm and volume change of rotations in any dimension.

.. math:: \frac{1 - e^{-\mathrm{ad}_L}}{\mathrm{ad}_L}(dL) = R^\top dR \quad\text{at } R = e^L

Values come from eigenvalue problems of symmetric and skew matrices, gradients from this identity. Its
coefficients are bounded where rotation angles coincide, where differentiating an eigendecomposition gives
NaN."""

import math
from typing import Any

import torch
from torch import Tensor

from .autograd import BatchFunction, differentiated, save_tensors
from .matrix_exp import matrix_exp
from .orthogonal import hat, vee
from .signed_trig import log_sinc_length, sinc_sqrt
from .tracing import is_concrete

__all__ = ["log_det_dexp", "rotation_exp", "rotation_log"]


def _planes(r: Tensor) -> tuple[Tensor, Tensor]:
    """The real Schur form of a rotation: an orthogonal W whose columns 2k, 2k+1 span its planes, and the
    angles in these planes."""
    sym, skew, n = (r + r.mT) / 2, (r - r.mT) / 2, r.shape[-1]
    c, w = torch.linalg.eigh(sym)  # cosines, ascending, in pairs; if n is odd, the last is 1
    eps = torch.finfo(r.dtype).eps
    together = (c.unsqueeze(-1) - c.unsqueeze(-2)).abs() < 10 * math.sqrt(eps)
    t = (w.mT @ skew @ w) * together  # sym and skew commute, so entries between different cosines are zero
    for k in range(0, n - 2, 2):  # Householder reflections within equal cosines, until each plane is a pair
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
    """The solution dL of (1 - e^{-ad_L})/ad_L (dL) = w at the skew L = x, in the unitary eigenbasis of L; not
    differentiable."""
    angle, v = torch.linalg.eigh(1j * x)  # x = -i angle
    mu = -1j * (angle.unsqueeze(-1) - angle.unsqueeze(-2))
    half = (mu.imag / 2)[..., None]
    phi = sinc_sqrt(half.squeeze(-1) ** 2, 1) * torch.exp(-mu / 2)
    conjugate = (angle.unsqueeze(-1) + angle.unsqueeze(-2)).abs() < 1e-8  # entries that are zero for skew w
    singular = (phi.abs() < 1e-8) | (conjugate & (phi.abs() < 1e-3))
    phi = torch.where(singular, 1.0, phi.conj() if adjoint else phi)
    z = torch.where(singular, 0.0, v.mH @ w.to(v.dtype) @ v) / phi
    out = (v @ z @ v.mH).real
    return (out - out.mT) / 2


def _dexp(v: Tensor) -> Tensor:
    r"""The matrix of :math:`(1 - e^{-\mathrm{ad}_L})/\mathrm{ad}_L` in the coordinates of :func:`hat`, where
    v are the coordinates of L.

    It is a block of :math:`\exp\begin{bmatrix} -\mathrm{ad} & I \\ 0 & 0\end{bmatrix}`, so it is smooth where
    angles coincide."""
    m = v.shape[-1]
    eye = torch.eye(m, dtype=v.dtype, device=v.device)
    x, basis = hat(v).unsqueeze(-3), hat(eye)
    minus_ad = vee(basis @ x - x @ basis).mT
    top = torch.cat([minus_ad, eye.expand_as(minus_ad)], -1)
    return matrix_exp(torch.cat([top, torch.zeros_like(top)], -2))[..., :m, m:]


def _apply_dexp(x: Tensor, w: Tensor, adjoint: bool = False) -> Tensor:
    """(1 - e^{-ad_L})/ad_L (w) at the skew L = x of any length, in its unitary eigenbasis. If derivatives of
    it may be asked for, it is computed by :func:`_dexp`, which is differentiable but overflows for long L."""
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
    """exp of long skew matrices. The sines and cosines of their angles are computed directly, so the result
    is as orthogonal as for short ones."""

    ranks = (2,)

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        angle, v = torch.linalg.eigh(1j * x.double())  # x = -i angle
        angle = (angle - angle.flip(-1)) / 2  # make them exactly opposite pairs, also for angles beyond 1/eps
        turns = torch.polar(torch.ones_like(angle), -angle).unsqueeze(-2)
        return ((v * turns) @ v.mH).real.to(x.dtype).contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        save_tensors(ctx, *inputs, output)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # type: ignore[override]
        x, r = ctx.saved_tensors
        return r @ _apply_dexp(x, (tangent - tangent.mT) / 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        x, r = ctx.saved_tensors
        g = r.mT @ grad
        return _apply_dexp(x, (g - g.mT) / 2, adjoint=True)


_LONG = 12.0  # up to coordinates of about this size torch's matrix exponential is orthogonal to rounding


def rotation_exp(v: Tensor) -> Tensor:
    """exp of the skew matrix with coordinates ``v`` of any length; orthogonal to rounding.

    >>> rotation_exp(torch.zeros(1))
    tensor([[1., 0.],
            [0., 1.]])
    """
    x = hat(v)
    if is_concrete(v) and (v.numel() == 0 or bool(v.detach().abs().amax() <= _LONG)):
        return matrix_exp(x)
    return _Exp.apply(x)


def _solve_dexp(x: Tensor, w: Tensor, adjoint: bool = False) -> Tensor:
    """:func:`_inverse_dexp`; if derivatives of it may be asked for, by a differentiable linear solve."""
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
        for _ in range(2):  # Newton steps restore the digits that nearly equal angles have cost
            rest = matrix_exp(-out) @ r
            step = _inverse_dexp(out, (rest - rest.mT) / 2)
            size = torch.linalg.matrix_norm(step)[..., None, None]
            out = out + torch.where(size < 1e-2, step, 0.0)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        save_tensors(ctx, *inputs, output)

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
    r"""The nearest rotation by the Newton-Schulz iteration :math:`R \mapsto R\,(3I - R^\top R)/2`, whose
    error is squared in each step. It consists of matrix products, so it has derivatives of every order."""
    eye = torch.eye(r.shape[-1], dtype=r.dtype, device=r.device)
    for _ in range(3):
        r = r @ (1.5 * eye - 0.5 * r.mT @ r)
    return r


def rotation_log(r: Tensor) -> Tensor:
    r"""The principal logarithm (skew, with angles in [-pi, pi]) of rotations of any size.

    For a matrix near a rotation (up to a distance of about 0.1) it is the logarithm of the nearest rotation,
    :math:`\log\mathrm{polar}(R)`, and so are its derivatives.

    >>> rotation_log(torch.tensor([[0.0, -1.0], [1.0, 0.001]]))
    tensor([[ 0.0000, -1.5703],
            [ 1.5703,  0.0000]])
    """
    return _RotationLog.apply(_orthonormalized(r))


def _by_angles(v: Tensor) -> Tensor:
    """The log volume change, from the rotation angles; its gradient is right only where they are distinct."""
    angle = torch.linalg.eigvalsh(1j * hat(v))
    angle = (angle - angle.flip(-1)) / 2  # make them exactly opposite pairs, also for long v
    i, j = torch.tril_indices(angle.shape[-1], angle.shape[-1], -1, device=v.device)
    return log_sinc_length((angle[..., i] + angle[..., j]).unsqueeze(-1), 0.25, 1).sum(-1)


class _LogDetDexp(BatchFunction):
    ranks = (1,)

    @staticmethod
    def forward(v: Tensor) -> Tensor:
        return _by_angles(v)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        save_tensors(ctx, *inputs)

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
    r"""The log volume change of the exponential map of rotations at v, where :math:`i\lambda_i` are the
    eigenvalues of the skew matrix with coordinates v:

    .. math:: \sum_{i<j}\log\Big|\mathrm{sinc}\,\frac{\lambda_i+\lambda_j}{2}\Big|

    >>> log_det_dexp(torch.zeros(6))
    tensor(0.)
    """
    return _LogDetDexp.apply(v)
