r"""Rotation-symmetric distributions on :math:`S^{n-1}`: exact draws, with pathwise gradients that are
unbiased.

With respect to surface area the density is :math:`e^{g(s)}/Z`, where
:math:`s = 1 - \mu\cdot x = |x-\mu|^2/2 \in [0, 2]` is the height below the pole (s, not :math:`\mu\cdot x`,
so that no digit is lost at large concentration). Two profiles:

.. math:: g(s) = -\kappa s \;\text{(von Mises-Fisher)}, \qquad g(s) = \kappa\log(1 - s/2) \;\text{(power
    spherical)}, \qquad
          f(s) \propto e^{g(s)} [s(2-s)]^{(n-3)/2}

* Proposal: a Möbius image of the height of a uniform point, with the fixed point s0 of greatest density ratio
  (Wood 1994 for the first profile; the same argument gives :math:`s_0 = (n-1)/(\kappa+n-1)` for the second);
  acceptance above 0.6 for every n and concentration. The uniform height needs no gamma draws (Ulrich 1984).
  On :math:`S^2`: by inversion.
* Concentration gradient:
  :math:`ds/d\kappa = -\frac{1}{f(s)}\int_0^s (\partial_\kappa g - \mathrm E\,\partial_\kappa g) f`, the
  integral taken on that side of s where its integrand has one sign, by Gauss-Legendre nodes in w,
  :math:`s = 2w^2(3-2w)`, in which f is smooth at both poles for even and odd n.

First order only: a second derivative raises. The point at a height: :mod:`pyro_manifold.ops.axis`.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .autograd import Function, last_order_gradient
from .chunks import slices
from .gamma_ratio import digamma_difference
from .quadrature import legendre, unexpand
from .rejection import redraw
from .special import ratio_complement

__all__ = [
    "EXPONENTIAL",
    "POWER",
    "AxialProfile",
    "one_minus_cosine_gradient",
    "mean_log_power",
    "sample_one_minus_cosine",
]

_MAX_ROUNDS = 200  # of rejection; at acceptance 0.6 the chance to need them all is 1e-79 per draw
# Gauss-Legendre nodes of the tail integral, whose window ends where the log-density has fallen by this much
# at least
_RULE = {torch.float64: (24, 36.0)}
_RULE_SINGLE = (12, 18.0)
_NEWTON = 3


class AxialProfile(Protocol):
    """What the engine needs to know of g; ``k`` is the concentration, ``c = 2 - s``."""

    def fixed_point(self, k: Tensor, n: int) -> Tensor:
        """s0, where the ratio of target and proposal is greatest."""

    def score(self, s: Tensor) -> Tensor:
        """dg/dk = g/k."""

    def rate(self, k: Tensor, c: Tensor) -> Tensor:
        """-g'(s)."""

    def mean_score(self, k: Tensor, n: int) -> Tensor:
        """E dg/dk."""

    def invert(self, u: Tensor, k: Tensor) -> Tensor:
        """On S^2: the height whose distribution function is u (or 1 - u)."""

    def invert_gradient(self, s: Tensor, k: Tensor) -> Tensor:
        """On S^2: ds/dk at a fixed u."""


class _Exponential:
    def fixed_point(self, k: Tensor, n: int) -> Tensor:
        w = k * (2 / (n - 1))
        root = (
            w.clamp_max(1e8).square_().add_(1).sqrt_()
        )  # of 1 + w^2; beyond it is w, whose square may overflow
        b = root.maximum(w).add_(w).reciprocal_()
        return 2 * b / (1 + b)

    def score(self, s: Tensor) -> Tensor:
        return -s

    def rate(self, k: Tensor, c: Tensor) -> Tensor:
        return k

    def mean_score(self, k: Tensor, n: int) -> Tensor:
        return -ratio_complement(k, n / 2 - 1)

    def invert(self, u: Tensor, k: Tensor) -> Tensor:
        k = k.clamp_min(1e-30)  # the limit 2u at k = 0, to rounding
        return (-torch.log1p(u * torch.expm1(-2 * k)) / k).clamp_max(2.0)

    def invert_gradient(self, s: Tensor, k: Tensor) -> Tensor:
        # closed form (2u exp(k(s - 2)) - s) / k with u = expm1(-ks)/expm1(-2k)
        t = k * s
        out = torch.expm1(-t).mul_(2).div_(torch.expm1(-2 * k)).mul_((t - 2 * k).exp_()).sub_(s).div_(k)
        # near k = 0, where it cancels, the series
        # s exp(-2k) (phi(ks) - phi(2k)) / (k phi(-2k)), phi(x) = (e^x - 1)/x
        small = (k < 0.25).nonzero(as_tuple=True)
        s, k = s[small], k[small]
        x = torch.stack([2 * k, s * k])
        phi = torch.zeros_like(x)  # (phi(x) - 1) / x
        for m in range(14, 0, -1):
            phi.mul_(x).add_(1 / math.factorial(m + 1))
        total = 2 * phi[0] - s * phi[1]  # (phi(2k) - phi(ks)) / k
        h = torch.where(k > 0, torch.expm1(-2 * k) / torch.where(k > 0, -2 * k, 1.0), 1.0)
        out[small] = -s * torch.exp(-2 * k) * total / h
        return out


class _Power:
    def fixed_point(self, k: Tensor, n: int) -> Tensor:
        return (n - 1) / (k + (n - 1))

    def score(self, s: Tensor) -> Tensor:
        return (s / -2).log1p_()

    def rate(self, k: Tensor, c: Tensor) -> Tensor:
        return k / c

    def mean_score(self, k: Tensor, n: int) -> Tensor:
        return mean_log_power(k, n)

    def invert(self, u: Tensor, k: Tensor) -> Tensor:
        return -2 * torch.expm1(torch.log1p(-u) / (k + 1))

    def invert_gradient(self, s: Tensor, k: Tensor) -> Tensor:
        z = 1 - s / 2
        return 2 * z * torch.log1p(-s / 2) / (k + 1)


EXPONENTIAL, POWER = _Exponential(), _Power()


def mean_log_power(k: Tensor, n: int) -> Tensor:
    r""":math:`\mathrm E\log(1-s/2) = \psi(\kappa+\beta) - \psi(\kappa+2\beta)`, :math:`\beta = (n-1)/2`: the
    power profile."""
    b = (n - 1) / 2
    return -digamma_difference(k + b, b)


def _propose(k: Tensor, n: int, profile: AxialProfile) -> tuple[Tensor, Tensor]:
    """One height per lane, and whether it is accepted."""
    # 1 + y of a uniform point's first coordinate y with all its digits: near the antipode s is (1 - y) over
    # it
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
    if n > 64:  # times n - 1 the rounding of 1 + (1 - s0) y would show in float32
        log_width = torch.where(above > 0.5, (1 - s0).mul_(above - 1).log1p_(), width.log_())
    else:
        log_width = width.log_()
    # the ratio of target to proposal, over its value at s0
    log_ratio = profile.score(s).sub_(profile.score(s0)).mul_(k).sub_(log_width, alpha=n - 1)
    return s, torch.rand_like(k).log_() <= log_ratio


def _draw(k: Tensor, n: int, profile: AxialProfile) -> Tensor:
    """Heights for a flat tensor of concentrations."""
    s = torch.empty_like(k)
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
    """Draws inside the node, so that a traced program draws anew at each call."""

    @staticmethod
    def forward(ctx: Any, k: Tensor, n: int, profile: AxialProfile, shape: torch.Size) -> Tensor:
        s = _draw(k.detach().expand(shape).reshape(-1), n, profile).reshape(shape)
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

    :param k: :math:`\kappa \ge 0`, broadcastable to ``shape`` (its own shape if None).
    :param n: ambient dimension, at least 2.
    :raises RuntimeError: when a draw is not accepted in a bounded number of rounds (NaN concentration).

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
    r"""Derivative :math:`ds/d\kappa` of a draw at a fixed value of its distribution function; float64."""
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
    s = s.clamp(torch.finfo(s.dtype).tiny, 2 - 1e-15)  # the poles themselves, where the derivative is 0
    c, m, half = 2 - s, (n - 3) / 2, (n - 2) / 2
    rate = profile.rate(k, c)
    # distance to the end of the window, by bounds on the log-density in the angle, -int(rate) + half log(s
    # c):
    # with log1p(e) <= e - e^2/(2 + 2e) to the right, -log(1 - e) >= e + e^2/2 to the left
    a = (s * (rate + half / c) - half).clamp_min(0)
    b = drop - a
    right = s * (b + (b * b + 2 * drop * (2 * a + half)).sqrt()) / (2 * a + half)
    a = half - s * (rate + half / c)
    left = 2 * drop * s / (a + (a * a + 2 * half * drop).sqrt())
    # to the far side of the mean; but a right window that ends in the pole of a nearly uniform distribution,
    # where the power
    # profile's score is singular, is worse than the whole left side
    outward = (profile.score(s) < mean) & ((right < c) | (k > 1))
    e = torch.where(outward, right.minimum(c), -left.minimum(s))
    top = k * profile.score(s) + half * (s * c).log()
    for _ in range(
        _NEWTON if half else 0
    ):  # on the concave log-density less its goal: from outside, never too far inside
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
