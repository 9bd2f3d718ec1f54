r"""Draws of the radius of the distributions of :mod:`pyro_manifold.ops.radial`, and their implicit gradients.

Exact rejection from N(mode, w^2), whose acceptance is at least 0.65 for every dimension above 1, scale and
curvature. The derivative of a draw in a parameter is taken at a fixed value of its distribution function F:

.. math:: \frac{\partial r}{\partial\theta} = -\frac{\partial_\theta F(r)}{f(r)}

First order only: a second derivative raises.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .autograd import Function, last_order_gradient
from .chunks import slices
from .quadrature import legendre, unexpand
from .radial import RadialDensity, quadrature, radial_density, rule
from .tracing import not_compiled

__all__ = ["radius_gradients", "sample_radius"]

_MAX_ROUNDS = 200  # of rejection; at acceptance 0.65 the chance to need them all is 1e-91 per draw


def _propose(distribution: RadialDensity, tries: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Proposals (tries, lanes), with randomness of the resolution of ``dtype``, and whether each is
    accepted."""
    shape, device = (tries, *distribution.mode.shape), distribution.mode.device
    u = torch.rand(shape, dtype=dtype, device=device)
    if distribution.dim == 1:  # a half normal, cut at the antipode: by inversion
        c = torch.erf(distribution.end * (distribution.tau / 2).sqrt())
        y = torch.where(
            distribution.tau > 1e-12,
            torch.erfinv(u * c) * (2 / distribution.tau).sqrt(),
            u * distribution.end,
        )
        return y, (y > 0) & (y < distribution.end)
    delta = torch.randn(shape, dtype=dtype, device=device) * distribution.width
    y = delta + distribution.mode
    if not distribution.sphere:
        return y, distribution.rise(
            distribution.mode, delta
        ).exp_() > u  # NaN where y < 0, which is not above u
    inside = (y > 0) & (y < distribution.end)
    delta = torch.where(inside, delta, 0.0)
    log_ratio = distribution.rise(distribution.mode, delta).add_(
        delta.square_(), alpha=(distribution.dim - 1) / 2
    )
    return y, (log_ratio.exp_() > u).logical_and_(inside)


def _rejection(distribution: RadialDensity, n: int, dtype: torch.dtype) -> Tensor:
    """n draws of y: one per lane, or all of the one lane there is."""
    if distribution.mode.numel() == 1:  # draws are alike, so whichever proposals are accepted will do
        distribution = distribution.map(lambda t: t.reshape(1))
        y, ok = (t.squeeze(1) for t in _propose(distribution, n, dtype))
        todo = (~ok).nonzero().squeeze(1)
        for _ in range(_MAX_ROUNDS):
            if len(todo) == 0:
                return y
            fresh, ok = _propose(distribution, 16 + len(todo) * 8 // 5, dtype)
            fresh = fresh.masked_select(ok)[: len(todo)]
            y[todo[: len(fresh)]] = fresh
            todo = todo[len(fresh) :]
        raise _exhausted(distribution, len(todo), n)
    # only open lanes are redrawn, with several tries each once few are open
    y, ok = (t.squeeze(0) for t in _propose(distribution, 1, dtype))
    todo = (~ok).nonzero().squeeze(-1)
    for _ in range(_MAX_ROUNDS):
        if todo.numel() == 0:
            return y
        tries = max(1, min(16, 8192 // todo.numel()))
        fresh, ok = _propose(distribution.map(lambda t: t[todo]), tries, dtype)  # noqa: B023
        hit, first = ok.max(0)
        y[todo] = fresh.gather(0, first[None]).squeeze(0)
        todo = todo[~hit]
    raise _exhausted(distribution, todo.numel(), n)


def _exhausted(distribution: RadialDensity, left: int, n: int) -> RuntimeError:
    return RuntimeError(
        f"radius sampler: {left} of {n} draws not accepted in {_MAX_ROUNDS} rounds at dim "
        f"{distribution.dim}; expected finite positive scales. Check scale for NaN."
    )


class _Sample(Function):
    """Draws inside the node, so that a traced program draws anew at each call."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor, curvature: Tensor, dim: int, shape: tuple[int, ...]) -> Tensor:
        small = unexpand(scale)
        distribution = radial_density(small, curvature, dim)
        if small.numel() > 1:
            distribution = distribution.map(lambda t: t.expand(shape).reshape(-1))
        r = (_rejection(distribution, math.prod(shape), scale.dtype) * distribution.unit.reshape(-1)).reshape(
            shape
        )
        ctx.dim = dim
        ctx.save_for_backward(r, scale, curvature)
        return r.to(scale.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        r, scale, curvature = ctx.saved_tensors
        dr_ds, dr_dk = radius_gradients(r, scale, curvature, ctx.dim, with_curvature=ctx.needs_input_grad[1])
        depends = scale, curvature, grad
        g_k = (
            last_order_gradient((grad * dr_dk).sum().to(curvature.dtype), *depends)
            if dr_dk is not None
            else None
        )
        return (
            last_order_gradient((grad * dr_ds).sum_to_size(scale.shape).to(scale.dtype), *depends),
            g_k,
            None,
            None,
        )


@not_compiled
def sample_radius(scale: Tensor, curvature: Tensor, dim: int, shape: Sequence[int] | None = None) -> Tensor:
    r"""Exact draws of the radius, differentiable (first order) in ``scale`` and ``curvature``.

    :param scale: :math:`\sigma`, broadcastable to ``shape`` (its own shape if None).
    :raises RuntimeError: when a draw is not accepted in a bounded number of rounds (scale is NaN).

    >>> sample_radius(torch.ones(3), torch.tensor(-1.0), 2).shape
    torch.Size([3])
    """
    return _Sample.apply(
        scale, curvature, dim, tuple(int(n) for n in (scale.shape if shape is None else shape))
    )


@torch.no_grad()
def radius_gradients(
    r: Tensor, scale: Tensor, curvature: Tensor, dim: int, with_curvature: bool = True
) -> tuple[Tensor, Tensor | None]:
    r"""Implicit derivatives of a draw ``r`` in sigma and in K, at a fixed value of the distribution function
    F:

    .. math:: \frac{\partial r}{\partial\theta} =
        -\frac{1}{f(r)} \int_0^r \Big(\partial_\theta \log f - E[\partial_\theta \log f]\Big) f

    The integral is taken on the side of r where the integrand has one sign, over the window that holds all of
    it.
    """
    small = unexpand(scale)
    distribution = radial_density(small, curvature, dim)
    means = torch.zeros(
        2, small.numel(), dtype=torch.float64, device=r.device
    )  # E y^2 and E of the curvature score
    nodes, window, tail_nodes, drop = rule(scale.dtype)
    for part in slices(small.numel(), nodes):
        lanes = distribution.map(lambda t: t.reshape(-1)[part])  # noqa: B023
        y, p, _ = quadrature(lanes, nodes, window)
        means[0, part] = (p * y.square()).sum(0)
        if with_curvature:
            means[1, part] = (p * lanes.curvature_score(y)).sum(0)

    def per_draw(t: Tensor) -> Tensor:
        return t.reshape(small.shape).expand(r.shape).reshape(-1)

    distribution, sigma = distribution.map(per_draw), scale.detach().double().expand(r.shape).reshape(-1)
    mean_y2, mean_k = map(per_draw, means)
    y = r.double().reshape(-1) / distribution.unit
    out = torch.zeros(2, y.numel(), dtype=torch.float64, device=r.device)
    x, w = legendre(tail_nodes, y.device)
    for part in slices(y.numel(), tail_nodes):
        lanes, yc, m2 = distribution.map(lambda t: t[part]), y[part], mean_y2[part]  # noqa: B023
        right = (yc * yc > m2) & (dim > 1)
        reach = lanes.reach(yc, right, drop)
        side = torch.where(right, reach.minimum(lanes.end - yc), -reach.minimum(yc))
        e = x * side
        f = lanes.weight(yc, e).mul_(w).mul_(side)
        node = e.add_(yc)
        if with_curvature:
            out[1, part] = f.mul(lanes.curvature_score(node) - mean_k[part]).sum(0)
        out[0, part] = f.mul_(node.square_().sub_(m2)).sum(0)
    # the integral over [r, end] is minus the one over [0, r], where ``side`` is negative: no sign is left to
    # choose
    dr_ds, dr_dk = (out * distribution.unit).unbind()
    dr_ds = dr_ds * (distribution.unit / sigma).square() / sigma
    return dr_ds.reshape(r.shape), dr_dk.reshape(r.shape) if with_curvature else None
