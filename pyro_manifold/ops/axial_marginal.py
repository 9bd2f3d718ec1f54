r"""Exact draws of :math:`s = 1 - \mu\cdot x` for rotationally symmetric distributions on :math:`S^{n-1}`, with
unbiased pathwise gradients.

The density with respect to surface area is :math:`e^{g(s)}/Z`, where
:math:`s = 1 - \mu\cdot x = |x-\mu|^2/2 \in [0, 2]`. (s is used instead of :math:`\mu\cdot x`, which would
lose all digits at large concentration.) The density of s is

.. math:: f(s) \propto e^{g(s)} [s(2-s)]^{(n-3)/2}

with g from :mod:`pyro_manifold.ops.axial_profile`.

* Draws: by rejection. A proposal is a Möbius transformation of the s of a uniform point, with the fixed point
  s0 where the ratio of the densities is largest (Wood 1994 for von Mises-Fisher; the same argument gives
  :math:`s_0 = (n-1)/(\kappa+n-1)` for power spherical). The acceptance is above 0.6 for every n and
  concentration. The s of a uniform point needs no gamma variables (Ulrich 1984). On :math:`S^2`: by
  inversion.
* Gradient in the concentration:
  :math:`ds/d\kappa = -\frac{1}{f(s)}\int_0^s (\partial_\kappa g - \mathrm E\,\partial_\kappa g) f`. The
  integral is taken on the side of s where its integrand does not change sign, with Gauss-Legendre nodes in w,
  where :math:`s = 2w^2(3-2w)`, a variable in which f is smooth at both poles for even and odd n. A second
  derivative raises.

:mod:`pyro_manifold.ops.axis` draws a point x with a given s.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .autograd import Function, last_order_gradient
from .axial_profile import PROFILES, AxialProfile
from .batched import unexpand
from .chunks import slices
from .quadrature import legendre
from .rejection import redraw
from .tracing import operator

__all__ = ["one_minus_cosine_gradient", "sample_one_minus_cosine"]

_MAX_ROUNDS = 200  # of rejection; at acceptance 0.6 a draw needs them all with probability 1e-79
# for the tail integral: number of Gauss-Legendre nodes, and the decrease of the log density at which it is cut
_RULE = {torch.float64: (24, 36.0)}
_RULE_SINGLE = (12, 18.0)
_NEWTON = 3


def _propose(k: Tensor, n: int, profile: AxialProfile) -> tuple[Tensor, Tensor]:
    """One proposal of s for each concentration, and whether it is accepted."""
    # 1 + y for the first coordinate y of a uniform point, computed without cancellation near y = -1
    above = torch.rand_like(k).mul_(math.pi).cos_().square_().mul_(2)
    if n > 2:
        radius = torch.rand_like(k).log_().mul_(2 / (n - 2))
        rest = radius.exp()
        radius = radius.expm1_().neg_().sqrt_()
        rest.div_(radius + 1)  # 1 - radius
        above.mul_(radius).add_(rest)
    s0 = profile.fixed_point(k, n)
    width = torch.addcmul(s0, 1 - s0, above)  # 1 + (1 - s0) y
    s = (2 - above).mul_(s0).div_(width).clamp_max_(2)  # it may round up
    if n > 64:  # here the rounding error of the width, multiplied by n - 1, would matter in float32
        log_width = torch.where(above > 0.5, (1 - s0).mul_(above - 1).log1p_(), width.log_())
    else:
        log_width = width.log_()
    # the log of the ratio of target to proposal, minus that at s0
    log_ratio = profile.score(s).sub_(profile.score(s0)).mul_(k).sub_(log_width, alpha=n - 1)
    return s, torch.rand_like(k).log_() <= log_ratio


@operator(
    "axial_draw(Tensor k, int n, str profile) -> Tensor",
    lambda k, n, profile: torch.empty_like(k),
    draws=True,
)
def _draw(k: Tensor, n: int, name: str) -> Tensor:
    """Draws of s for a flat tensor of concentrations."""
    s, profile = torch.empty_like(k), PROFILES[name]
    todo = []
    for part in slices(len(k), 4):
        if n == 3:
            s[part] = profile.invert(torch.rand_like(k[part]), k[part])
            continue
        s[part], ok = _propose(k[part], n, profile)
        todo.append((~ok).nonzero().squeeze(-1) + part.start)
    left = torch.cat(todo) if todo else k.new_empty(0, dtype=torch.long)

    def propose(lanes: Tensor) -> tuple[Tensor, Tensor]:
        fresh, ok = _propose(k[lanes], n, profile)
        return fresh.unsqueeze(0), ok.unsqueeze(0)

    hint = f"expected finite concentrations >= 0 on S^{n - 1}. Check concentration for NaN."
    return redraw(s, left, propose, _MAX_ROUNDS, hint)


class _OneMinusCosine(Function):
    """s, differentiable once."""

    @staticmethod
    def forward(ctx: Any, k: Tensor, n: int, profile: AxialProfile, shape: torch.Size) -> Tensor:
        s = _draw(k.detach().expand(shape).reshape(-1), n, profile.name).reshape(shape)
        ctx.n, ctx.profile = n, profile
        ctx.save_for_backward(s, k)
        return s

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        s, k = ctx.saved_tensors
        g = (grad * one_minus_cosine_gradient(s, k, ctx.n, ctx.profile).to(s.dtype)).sum_to_size(k.shape)
        return last_order_gradient(g, k, grad), None, None, None


def sample_one_minus_cosine(
    k: Tensor, n: int, profile: AxialProfile, shape: Sequence[int] | None = None
) -> Tensor:
    r"""Exact draws of s, differentiable once in the concentration.

    :param k: :math:`\kappa \ge 0`, broadcastable to ``shape`` (by default its own shape).
    :param n: ambient dimension, at least 2.
    :raises RuntimeError: if a draw is not accepted in a bounded number of rounds (NaN concentration).

    >>> from pyro_manifold.ops.axial_profile import EXPONENTIAL
    >>> sample_one_minus_cosine(torch.ones(4), 5, EXPONENTIAL).shape
    torch.Size([4])
    """
    return _OneMinusCosine.apply(
        k, n, profile, torch.Size([int(size) for size in (k.shape if shape is None else shape)])
    )


def _warp(s: Tensor) -> Tensor:
    """The w in [0, 1] with s = 2 w^2 (3 - 2w)."""
    third = torch.asin((s / 2).clamp(0, 1).sqrt()) * (2 / 3)
    return (third / 2).sin().square() + math.sqrt(0.75) * third.sin()


@torch.no_grad()
def one_minus_cosine_gradient(s: Tensor, k: Tensor, n: int, profile: AxialProfile) -> Tensor:
    r"""The derivative :math:`ds/d\kappa` of a draw at a fixed value of its cdf, in float64."""
    out = torch.empty(s.numel(), dtype=torch.float64, device=s.device)
    small = unexpand(k).double()
    if n == 3:
        ss, kk = s.reshape(-1), small.expand(s.shape).reshape(-1)
        for part in slices(len(out), 1):
            out[part] = profile.invert_gradient(ss[part].double(), kk[part])
        return out.reshape(s.shape)
    flat = [t.expand(s.shape).reshape(-1) for t in (s, small, profile.mean_score(small, n))]
    nodes, drop = _RULE.get(s.dtype, _RULE_SINGLE)
    x, weight = legendre(nodes, s.device)
    for part in slices(len(out), nodes):
        ss, kk, mean = (t[part].double() for t in flat)
        out[part] = _tail(ss, kk, mean, n, profile, x, weight, drop)
    return out.reshape(s.shape)


def _tail(
    s: Tensor, k: Tensor, mean: Tensor, n: int, profile: AxialProfile, x: Tensor, weight: Tensor, drop: float
) -> Tensor:
    """The derivative for float64 vectors of draws: the integral over one side of s, divided by f(s)."""
    s = s.clamp(torch.finfo(s.dtype).tiny, 2 - 1e-15)  # at the poles the derivative is 0
    c, m, half = 2 - s, (n - 3) / 2, (n - 2) / 2
    rate = profile.rate(k, c)
    # distances to where the integral is cut, from bounds on the log density with respect to the angle,
    # -int(rate) + half log(s c): log1p(e) <= e - e^2/(2 + 2e) to the right, -log(1 - e) >= e + e^2/2 to the
    # left
    a = (s * (rate + half / c) - half).clamp_min(0)
    b = drop - a
    right = s * (b + (b * b + 2 * drop * (2 * a + half)).sqrt()) / (2 * a + half)
    a = half - s * (rate + half / c)
    left = 2 * drop * s / (a + (a * a + 2 * half * drop).sqrt())
    # integrate away from the mean, except to the right where the integral would end at the pole of a nearly
    # uniform distribution: there the score of the power profile is singular, and the whole left side is more
    # accurate
    outward = (profile.score(s) < mean) & ((right < c) | (k > 1))
    e = torch.where(outward, right.minimum(c), -left.minimum(s))
    top = k * profile.score(s) + half * (s * c).log()
    for _ in range(_NEWTON if half else 0):
        # Newton steps from outside to where the concave log density has decreased by ``drop``; they stay
        # outside
        y = (s + e).maximum(0.05 * s).minimum(2 - 0.05 * c)
        d = c - (y - s)
        short = k * profile.score(y) + half * (y * d).log() - top + drop
        new = y - s - short / (half * (1 / y - 1 / d) - profile.rate(k, d))
        e = torch.where(short < 0, new, e)
    end = s + e
    w0 = _warp(s)
    step = _warp(end) - w0
    w = (step * x).add_(w0)  # (nodes, lanes)
    q = w * w
    score = profile.score(torch.rsub(w, 6, alpha=4).mul_(q))
    j = w.sub_(q).clamp_min_(1e-150)  # w (1 - w): s c = 4 j^2 (3 + 4j), ds = 12 j dw
    exponent = k * score
    if m:
        exponent.add_((4 * j).add_(3).mul_(j).mul_(j).log_(), alpha=m)
    exponent.sub_(k * profile.score(s) + m * (s * c / 4).log())
    f = exponent.exp_().mul_(j).mul_(score.sub_(mean))
    return 12 * step * (weight.mT @ f).squeeze(0)
