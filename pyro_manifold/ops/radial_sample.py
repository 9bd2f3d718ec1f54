r"""Draws from the densities of :mod:`pyro_manifold.ops.radial_density`, and their implicit gradients.

Draws are exact, by rejection from N(mode, w^2) with an acceptance of at least 0.65 for every dimension above 1,
scale and curvature. The derivative of a draw in a parameter is taken at a fixed value of its cdf F:

.. math:: \frac{\partial r}{\partial\theta} = -\frac{\partial_\theta F(r)}{f(r)}

A second derivative raises.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .autograd import Function, last_order_gradient
from .batched import unexpand
from .chunks import slices
from .quadrature import legendre
from .radial_density import RadialDensity, first_moments, radial_density, rule
from .rejection import exhausted, redraw
from .tracing import not_compiled, operator

__all__ = ["radius_gradients", "sample_radius"]

_MAX_ROUNDS = 200  # of rejection; at acceptance 0.65 a draw needs them all with probability 1e-91
_HINT = "expected finite positive scales. Check scale for NaN."


def _propose(density: RadialDensity, tries: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Proposals (tries, scales), made from random numbers of ``dtype``, and whether each is accepted."""
    shape, device = (tries, *density.mode.shape), density.mode.device
    u = torch.rand(shape, dtype=dtype, device=device)
    if density.dim == 1:  # a half normal, truncated at the antipode: by inversion
        c = torch.erf(density.end * (density.tau / 2).sqrt())
        y = torch.where(
            density.tau > 1e-12,
            torch.erfinv(u * c) * (2 / density.tau).sqrt(),
            u * density.end,
        )
        return y, (y > 0) & (y < density.end)
    delta = torch.randn(shape, dtype=dtype, device=device) * density.width
    y = delta + density.mode
    if not density.sphere:
        return y, density.rise(density.mode, delta).exp_() > u  # NaN where y < 0, which is not above u
    inside = (y > 0) & (y < density.end)
    delta = torch.where(inside, delta, 0.0)
    log_ratio = density.rise(density.mode, delta).add_(delta.square_(), alpha=(density.dim - 1) / 2)
    return y, (log_ratio.exp_() > u).logical_and_(inside)


def _rejection(density: RadialDensity, n: int, dtype: torch.dtype) -> Tensor:
    """n draws of y: one for each scale, or n for a single scale."""
    if density.mode.numel() == 1:  # all draws have the same distribution: any accepted proposals will do
        density = density.map(lambda t: t.reshape(1))
        y, ok = (t.squeeze(1) for t in _propose(density, n, dtype))
        todo = (~ok).nonzero().squeeze(1)
        for _ in range(_MAX_ROUNDS):
            if not len(todo):
                return y
            fresh, ok = _propose(density, 16 + len(todo) * 8 // 5, dtype)
            fresh = fresh.masked_select(ok)[: len(todo)]
            y[todo[: len(fresh)]] = fresh
            todo = todo[len(fresh) :]
        raise exhausted(len(todo), n, _MAX_ROUNDS, _HINT)

    def propose(lanes: Tensor) -> tuple[Tensor, Tensor]:
        """Several tries for each draw where there are few."""
        return _propose(density.map(lambda t: t[lanes]), max(1, min(16, 1024 // lanes.numel())), dtype)

    y = torch.empty_like(density.mode)
    return redraw(y, torch.arange(n, device=y.device), propose, _MAX_ROUNDS, _HINT)


@operator(
    "radial_draw(Tensor scale, Tensor curvature, int dim, int[] shape) -> Tensor",
    lambda scale, curvature, dim, shape: scale.new_empty(shape, dtype=torch.float64),
    draws=True,
)
def _draw(scale: Tensor, curvature: Tensor, dim: int, shape: Sequence[int]) -> Tensor:
    """Radii of ``shape``, in float64."""
    density = radial_density(scale, curvature, dim)
    if scale.numel() > 1:
        density = density.map(lambda t: t.expand(shape).reshape(-1))
    return (_rejection(density, math.prod(shape), scale.dtype) * density.unit.reshape(-1)).reshape(shape)


class _Sample(Function):
    """The radius, differentiable once."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor, curvature: Tensor, dim: int, shape: tuple[int, ...]) -> Tensor:
        r = _draw(unexpand(scale), curvature, dim, shape)
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
    r"""Exact draws of the radius, differentiable once in ``scale`` and ``curvature``.

    :param scale: :math:`\sigma`, broadcastable to ``shape`` (by default its own shape).
    :raises RuntimeError: if a draw is not accepted in a bounded number of rounds (scale is NaN).

    >>> sample_radius(torch.ones(3), torch.tensor(-1.0), 2).shape
    torch.Size([3])
    """
    return _Sample.apply(
        scale, curvature, dim, tuple(int(n) for n in (scale.shape if shape is None else shape))
    )


def radius_gradients(
    r: Tensor, scale: Tensor, curvature: Tensor, dim: int, with_curvature: bool = True
) -> tuple[Tensor, Tensor | None]:
    r"""Implicit derivatives of a draw ``r`` in sigma and in K, at a fixed value of its cdf:

    .. math:: \frac{\partial r}{\partial\theta} =
        -\frac{1}{f(r)} \int_0^r \Big(\partial_\theta \log f - E[\partial_\theta \log f]\Big) f

    The integral is taken on the side of r where the integrand does not change sign, over the window outside
    which it is negligible."""
    out = _slopes(r.detach(), scale.detach(), curvature.detach(), dim, with_curvature)
    return out[0], out[1] if with_curvature else None


@operator(
    "radial_slopes(Tensor r, Tensor scale, Tensor curvature, int dim, bool curved) -> Tensor",
    lambda r, scale, curvature, dim, curved: r.new_empty((2, *r.shape), dtype=torch.float64),
)
def _slopes(r: Tensor, scale: Tensor, k: Tensor, dim: int, curved: bool) -> Tensor:
    """Those in sigma, and those in K if ``curved``, else zeros."""
    k, small = k.double(), unexpand(scale)
    sigma = small.double().reshape(-1)
    density = radial_density(sigma, k, dim)
    means = first_moments(sigma, k, dim, scale.dtype != torch.float64, curved)[1:]
    _, _, tail_nodes, drop = rule(scale.dtype)

    def per_draw(t: Tensor) -> Tensor:
        return t.reshape(small.shape).expand(r.shape).reshape(-1)

    density, sigma = density.map(per_draw), scale.double().expand(r.shape).reshape(-1)
    mean_y2, mean_k = map(per_draw, means)
    y = r.double().reshape(-1) / density.unit
    out = torch.zeros(2, y.numel(), dtype=torch.float64, device=r.device)
    x, w = legendre(tail_nodes, y.device)
    for part in slices(y.numel(), tail_nodes):
        lanes, yc, m2 = density.map(lambda t: t[part]), y[part], mean_y2[part]  # noqa: B023
        right = (yc * yc > m2) & (dim > 1)
        reach = lanes.reach(yc, right, drop)
        side = torch.where(right, reach.minimum(lanes.end - yc), -reach.minimum(yc))
        e = x * side
        f = lanes.weight(yc, e).mul_(w).mul_(side)
        node = e.add_(yc)
        if curved:
            out[1, part] = f.mul(lanes.curvature_score(node) - mean_k[part]).sum(0)
        out[0, part] = f.mul_(node.square_().sub_(m2)).sum(0)
    # the integral over [r, end] is minus the one over [0, r], where ``side`` is negative: no sign is left to
    # choose
    out *= density.unit
    out[0] *= (density.unit / sigma).square() / sigma
    return out.reshape((2, *r.shape))
