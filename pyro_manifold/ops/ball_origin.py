r"""exp at the origin of the Poincaré ball of curvature K < 0, and the distance from it, each as one operator with a
closed-form gradient: a quarter of the operators of the maps between any two points.

.. math:: \exp_o(v) = \frac{\tanh\rho}{2\rho}\,v,\ \rho = \tfrac12\sqrt{-K}|v|, \qquad
    d(o, x) = \frac{2\operatorname{artanh}\rho}{\sqrt{-K}},\ \rho = \sqrt{-K}|x|

.. math:: \partial\exp_o = \frac{\tanh\rho}{2\rho}\Big(I - \frac{vv^\top}{|v|^2}\Big)
    + \frac{1 - \tanh^2\rho}2\,\frac{vv^\top}{|v|^2}, \qquad \nabla_x d(o, x) = \frac2{1 - \rho^2}\frac x{|x|}

The operators are for ordinary calls. Where K is learned, in transforms of ``torch.func`` and for second derivatives
the same functions are composed of :mod:`pyro_manifold.ops.signed_trig`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .numerics import norm
from .signed_trig import arctanc_sqrt, tanc_sqrt
from .tracing import is_concrete

__all__ = ["ball_exp_origin", "ball_radius"]


def _composed_exp(K: Tensor, v: Tensor) -> Tensor:
    s = 0.25 * K * v.square().sum(-1, keepdim=True)
    return (0.5 * tanc_sqrt(s, -1)) * v


def _composed_radius(K: Tensor, x: Tensor) -> Tensor:
    return 2 * arctanc_sqrt(K * x.square().sum(-1), -1) * norm(x)


def _exp(K: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    tiny = torch.finfo(v.dtype).tiny
    square = v.square().sum(-1, keepdim=True)
    rho = (square * (-0.25 * K)).clamp_min_(tiny).sqrt_()
    tanh = rho.tanh()
    across = (tanh / rho).mul_(0.5)
    return across * v, square, tanh, across


def _exp_pull(g: Tensor, K: Tensor, v: Tensor, square: Tensor, tanh: Tensor, across: Tensor) -> Tensor:
    # relative to the sphere about the origin; the difference cancels at v = 0, where its factor is bounded
    along = torch.addcmul(tanh.new_full((), 0.5), tanh, tanh, value=-0.5) - across
    radial = (g * v).sum(-1, keepdim=True).div_(square.clamp_min(torch.finfo(v.dtype).tiny))
    return torch.addcmul(across * g, along.mul_(radial), v)


def _radius(K: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    root = (-K).sqrt()
    length = norm(x)
    rho = root * length
    return rho.atanh().mul_(2 / root), length, rho


def _radius_pull(g: Tensor, K: Tensor, x: Tensor, length: Tensor, rho: Tensor) -> Tensor:
    slope = torch.addcmul(torch.ones_like(K), rho, rho, value=-1)
    unit = x / length.clamp_min(torch.finfo(x.dtype).tiny).unsqueeze(-1)
    return (2 * g / slope).unsqueeze(-1) * unit


def _operator(
    composed: Callable[[Tensor, Tensor], Tensor],
    value: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
    pull: Callable[..., Tensor],
) -> Callable[[Tensor, Tensor], Tensor]:
    class Operator(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, K: Tensor, x: Tensor) -> Tensor:
            out, *kept = value(K, x)
            ctx.save_for_backward(K, x, *kept)
            return out

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
            K, x, *kept = ctx.saved_tensors
            if not torch.is_grad_enabled():
                return None, pull(grad, K, x, *kept)
            return None, torch.autograd.grad(composed(K, x), x, grad, create_graph=True)[0]

    def op(K: Tensor, x: Tensor) -> Tensor:
        mapped = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
        if mapped or K.requires_grad or not is_concrete(x):
            return composed(K, x)
        if torch.is_grad_enabled() and x.requires_grad:
            return Operator.apply(K, x)
        return value(K, x)[0]

    return op


_EXP = _operator(_composed_exp, _exp, _exp_pull)
_RADIUS = _operator(_composed_radius, _radius, _radius_pull)


def ball_exp_origin(K: Tensor, v: Tensor) -> Tensor:
    """exp at the origin of normal coordinates v, ``batch + (d,)``, which the caller knows not to reach the rim."""
    return _EXP(K, v)


def ball_radius(K: Tensor, x: Tensor) -> Tensor:
    """Distance of the points x, ``batch + (d,)``, from the origin; its gradient there, which does not exist, is 0."""
    return _RADIUS(K, x)
