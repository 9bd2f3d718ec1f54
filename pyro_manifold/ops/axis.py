r"""Random unit vectors with a given inner product with an axis, and squared distances between unit vectors.

.. math:: x = (1-s)\,\mu + \sqrt{s(2-s)}\,v, \qquad v \perp \mu \text{ uniform}, \qquad s = |x-\mu|^2/2

v is the normalised projection of a normal vector, so no axis is special (for n = 3 it is a point of a circle,
in a frame that is orthonormal to rounding for every axis [1]). The gradient in the axis is that of the
*minimal rotation* that moves the draw with the axis; the gradient of the projection would have infinite
variance for n <= 3. Large batches are computed in chunks that stay in the cache, and sums over the short last
axis as matrix-vector products. [1] Duff et al., *Building an orthonormal basis, revisited*, Journal of
Computer Graphics Techniques 6(1), 2017."""

import math
from typing import Any

import torch
from torch import Tensor

from .autograd import BatchFunction, Function, last_order_gradient, minus, save_tensors
from .checks import common_shape
from .chunks import slices
from .components import squared_norm
from .tracing import is_traced

__all__ = ["tangent_normal_point", "squared_chord"]

_SMALL = 2048  # elements up to which plain torch operations are faster than an operator that works in chunks


def _rows(t: Tensor, shape: torch.Size) -> tuple[Tensor, bool]:
    """``t``, expanded to ``shape``, as a matrix of row vectors; if it is a single vector, as one row. And
    whether it is."""
    n = shape[-1]
    if t.numel() == n:
        return t.detach().reshape(1, n), True
    return t.detach().expand(shape).reshape(-1, n), False


class _SquaredChord(BatchFunction):
    ranks = (1, 1)

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> Tensor:
        shape = common_shape(x.shape, y.shape)
        (a, one), (b, other) = _rows(x, shape), _rows(y, shape)
        ones = torch.ones(shape[-1], dtype=x.dtype, device=x.device)
        out = torch.empty(math.prod(shape[:-1]), dtype=x.dtype, device=x.device)
        for part in slices(len(out), shape[-1]):
            d = (a if one else a[part]) - (b if other else b[part])
            out[part] = d.square_() @ ones
        return out.view(shape[:-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        save_tensors(ctx, *inputs)

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor | None, y_tangent: Tensor | None) -> Tensor:  # type: ignore[override]
        x, y = ctx.saved_tensors
        return 2 * ((x - y) * minus(x_tangent, y_tangent)).sum(-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        to_x, to_y = ctx.needs_input_grad
        if torch.is_grad_enabled():
            g = (y - x) * (2 * grad.unsqueeze(-1))
        else:
            shape = common_shape(x.shape, y.shape)
            (a, one), (b, other) = _rows(x, shape), _rows(y, shape)
            g = x.new_empty(math.prod(shape[:-1]), shape[-1])
            factor = grad.reshape(-1, 1)
            for part in slices(len(g), shape[-1]):
                torch.sub(b if other else b[part], a if one else a[part], out=g[part]).mul_(2 * factor[part])
            g = g.view(shape)
        return g.neg().sum_to_size(x.shape) if to_x else None, g.sum_to_size(y.shape) if to_y else None


def squared_chord(x: Tensor, y: Tensor) -> Tensor:
    """:math:`|x-y|^2` along the last axis, with broadcasting; differentiable to any order.

    >>> squared_chord(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    tensor(2.)
    """
    if x.numel() < _SMALL or is_traced() or x.dtype != y.dtype:
        return (x - y).square().sum(-1)
    return _SquaredChord.apply(x, y)


def _circle(p: Tensor, sin: Tensor) -> Tensor:
    """``sin`` times a uniform unit vector orthogonal to each axis p of S^2, in the frame of [1]; component axis
    first."""
    a, b, c = p
    sign = torch.ones_like(c).copysign_(c)
    turn = torch.rand_like(sin).mul_(2 * math.pi)
    u, w = turn.cos().mul_(sin).mul_(sign), turn.sin().mul_(sin)
    e = (a * u).addcmul_(b, w)
    f = e / (-sign - c)
    return torch.stack([(sign * u).addcmul_(a, f), (sign * w).addcmul_(b, f), -e])


class _TangentNormalPoint(Function):
    """x as an operator that draws v in ``forward``."""

    @staticmethod
    def forward(ctx: Any, mu: Tensor, s: Tensor) -> Tensor:
        n = mu.shape[-1]
        x = torch.empty(s.shape + (n,), dtype=mu.dtype, device=mu.device)
        axis, shared = _rows(mu, x.shape)
        ones = torch.ones(n, 1, dtype=mu.dtype, device=mu.device)
        rows, column = x.view(-1, n), s.detach().reshape(-1, 1)
        for part in slices(len(rows), n):
            p = axis if shared else axis[part]
            h = column[part]
            sin = (2 - h).mul_(h).sqrt_()
            if (
                n == 2
            ):  # v is +- mu turned by 90 degrees; projection would lose digits for vectors almost along mu
                sign = torch.rand_like(h).sub_(0.5).sign_()
                v = torch.cat([-p[:, 1:], p[:, :1]], -1) * (sign * sin)
                rows[part] = torch.addcmul(v, p, 1 - h)
                continue
            if n == 3:  # component axis first; the copy has three axes since torch is slower for two
                q = torch.stack(p.unbind(-1))
                v = _circle(q, sin.squeeze(-1)).addcmul_(q, 1 - h.squeeze(-1))
                v.mul_(squared_norm(v).rsqrt_())
                rows[part].unsqueeze(0).copy_(v.t().unsqueeze(0))
                continue
            v = rows[part].normal_()
            v.addcmul_(p, (v * p) @ ones, value=-1)
            v.mul_(sin.div_((v.square() @ ones).sqrt_()))
            v.addcmul_(p, 1 - h)
            v.mul_((v.square() @ ones).rsqrt_())
        ctx.save_for_backward(x, mu, s)
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor]:
        # with t = 1 - s and sin v = x - t mu: grad mu = t g - sin (mu.g) v, grad s = (t/sin) g.v - g.mu
        x, mu, s = ctx.saved_tensors
        n, with_mu = mu.shape[-1], ctx.needs_input_grad[0]
        axis, shared = _rows(mu, x.shape)
        grads, constant = _rows(g, x.shape)
        ones = torch.ones(n, 1, dtype=mu.dtype, device=mu.device)
        g_s = torch.empty_like(s).view(-1, 1)
        rows, column = x.view(-1, n), s.reshape(-1, 1)
        g_mu = torch.empty_like(rows) if with_mu else None
        for part in slices(len(rows), n):
            p = axis if shared else axis[part]
            q = grads if constant else grads[part]
            h, y = column[part], rows[part]
            t, sin2 = 1 - h, (2 - h).mul_(h)
            along = (p * q) @ ones
            up = ((y * q) @ ones).mul_(t).sub_(along)
            g_s[part] = torch.where(
                sin2 > 0, up / sin2, 0.0
            )  # at the poles s does not depend on its parameters
            if g_mu is not None:
                out = torch.mul(q, t, out=g_mu[part])
                out.addcmul_(y, along, value=-1)
                out.addcmul_(p, along.mul_(t))
        g_s = g_s.view(s.shape)
        if g_mu is None:
            return None, last_order_gradient(g_s, s, g)
        g_mu = g_mu.view(x.shape).sum_to_size(mu.shape)
        return last_order_gradient(g_mu, mu, s, g), last_order_gradient(g_s, mu, s, g)


def tangent_normal_point(mu: Tensor, s: Tensor) -> Tensor:
    r"""Uniform draws from the points x of the unit sphere with :math:`1 - \mu\cdot x = s`, differentiable
    once in both arguments.

    :param mu: unit vectors, shape ``(..., n)``, whose batch shape broadcasts to the shape of s.
    :param s: in [0, 2], shape ``shape``; the result has shape ``shape + (n,)``.

    >>> tangent_normal_point(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(0.4))[2]
    tensor(0.6000)
    """
    return _TangentNormalPoint.apply(mu, s)
