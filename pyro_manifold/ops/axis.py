r"""Unit vectors at a given height about an axis, and heights from unit vectors.

.. math:: x = (1-s)\,\mu + \sqrt{s(2-s)}\,v, \qquad v \perp \mu \text{ uniform}, \qquad s = |x-\mu|^2/2

v is a projected normal vector, without reflections, so that no axis is special (for n = 3 a point of a
circle, in a frame that is orthonormal to rounding at every axis [1]). The axis has the gradient of the
*minimal rotation* of the draw; that of the projection has infinite variance for n <= 3. Large batches go
through in pieces that stay in the cache; sums over the short last axis are matrix-vector products. [1] Duff
et al., *Building an orthonormal basis, revisited*, Journal of Computer Graphics Techniques 6(1), 2017.
"""

import math
from typing import Any

import torch
from torch import Tensor

from .autograd import BatchFunction, Function, last_order_gradient, minus
from .checks import common_shape
from .chunks import slices
from .components import squared_norm

__all__ = ["tangent_normal_point", "squared_chord"]


def _rows(t: Tensor, shape: torch.Size) -> tuple[Tensor, bool]:
    """As a matrix of row vectors, of one row if all are equal; and whether they are."""
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
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

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
            g, height = x.new_empty(math.prod(shape[:-1]), shape[-1]), grad.reshape(-1, 1)
            for part in slices(len(g), shape[-1]):
                torch.sub(b if other else b[part], a if one else a[part], out=g[part]).mul_(2 * height[part])
            g = g.view(shape)
        return g.neg().sum_to_size(x.shape) if to_x else None, g.sum_to_size(y.shape) if to_y else None


def squared_chord(x: Tensor, y: Tensor) -> Tensor:
    """:math:`|x-y|^2` along the last axis, with broadcasting; differentiable to any order.

    >>> squared_chord(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    tensor(2.)
    """
    if torch.compiler.is_compiling() or x.dtype != y.dtype:
        return (x - y).square().sum(-1)
    return _SquaredChord.apply(x, y)


def _circle(p: Tensor, sin: Tensor) -> Tensor:
    """``sin`` times a uniform direction across each axis p of S^2, components first, in the frame of [1]."""
    a, b, c = p
    sign = torch.ones_like(c).copysign_(c)
    turn = torch.rand_like(sin).mul_(2 * math.pi)
    u, w = turn.cos().mul_(sin).mul_(sign), turn.sin().mul_(sin)
    e = (a * u).addcmul_(b, w)
    f = e / (-sign - c)
    return torch.stack([(sign * u).addcmul_(a, f), (sign * w).addcmul_(b, f), -e])


class _TangentNormalPoint(Function):
    @staticmethod
    def forward(ctx: Any, mu: Tensor, s: Tensor) -> Tensor:
        n = mu.shape[-1]
        x = torch.empty(s.shape + (n,), dtype=mu.dtype, device=mu.device)
        axis, shared = _rows(mu, x.shape)
        ones = torch.ones(n, 1, dtype=mu.dtype, device=mu.device)
        rows, heights = x.view(-1, n), s.detach().reshape(-1, 1)
        for part in slices(len(rows), n):
            p, h = axis if shared else axis[part], heights[part]
            sin = (2 - h).mul_(h).sqrt_()
            if n == 2:  # exactly: the projection of a vector almost along mu would not be orthogonal to it
                sign = torch.rand_like(h).sub_(0.5).sign_()
                v = torch.cat([-p[:, 1:], p[:, :1]], -1) * (sign * sin)
                rows[part] = torch.addcmul(v, p, 1 - h)
                continue
            if n == 3:  # components first; three axes in the copy, since torch's transposition is slower
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
        # with cos v = x - t mu over sin: grad mu = t g - sin (mu.g) v, grad s = (t/sin) g.v - g.mu
        x, mu, s = ctx.saved_tensors
        n, with_mu = mu.shape[-1], ctx.needs_input_grad[0]
        (axis, shared), (grads, constant) = _rows(mu, x.shape), _rows(g, x.shape)
        ones = torch.ones(n, 1, dtype=mu.dtype, device=mu.device)
        g_s, rows, heights = torch.empty_like(s).view(-1, 1), x.view(-1, n), s.reshape(-1, 1)
        g_mu = torch.empty_like(rows) if with_mu else None
        for part in slices(len(rows), n):
            p, q, h, y = (
                axis if shared else axis[part],
                grads if constant else grads[part],
                heights[part],
                rows[part],
            )
            t, sin2 = 1 - h, (2 - h).mul_(h)
            along = (p * q) @ ones
            up = ((y * q) @ ones).mul_(t).sub_(along)
            g_s[part] = torch.where(sin2 > 0, up / sin2, 0.0)  # at the poles ds/dk = 0
            if g_mu is not None:
                out = torch.mul(q, t, out=g_mu[part])
                out.addcmul_(y, along, value=-1)
                out.addcmul_(p, along.mul_(t))
        g_s = g_s.view(s.shape)
        if g_mu is None:
            return None, last_order_gradient(g_s, s, g)
        return last_order_gradient(g_mu.view(x.shape).sum_to_size(mu.shape), mu, s, g), last_order_gradient(
            g_s, mu, s, g
        )


def tangent_normal_point(mu: Tensor, s: Tensor) -> Tensor:
    r"""Uniform draws among the points of the unit sphere with :math:`1 - \mu\cdot x = s`, differentiable once
    in both.

    :param mu: unit vectors, shape ``(..., n)``, its batch broadcastable to the shape of s.
    :param s: heights in [0, 2], shape ``shape``; the result has shape ``shape + (n,)``.

    >>> tangent_normal_point(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(0.4))[2]
    tensor(0.6000)
    """
    return _TangentNormalPoint.apply(mu, s)
