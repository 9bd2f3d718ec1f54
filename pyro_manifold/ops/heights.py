r"""Rotation-symmetric laws on :math:`S^{n-1}`: exact draws, with pathwise gradients that are unbiased.

With respect to surface area the density is :math:`e^{g(s)}/Z`, where :math:`s = 1 - \mu\cdot x = |x-\mu|^2/2 \in [0, 2]` is
the height below the pole (s, not :math:`\mu\cdot x`, so that no digit is lost at large concentration). Two profiles:

.. math:: g(s) = -\kappa s \;\text{(von Mises-Fisher)}, \qquad g(s) = \kappa\log(1 - s/2) \;\text{(power spherical)}, \qquad
          f(s) \propto e^{g(s)} [s(2-s)]^{(n-3)/2}

* Proposal: a Möbius image of the height of a uniform point, with the fixed point s0 of greatest density ratio (Wood 1994
  for the first profile; the same argument gives :math:`s_0 = (n-1)/(\kappa+n-1)` for the second); acceptance above 0.6
  for every n and concentration. The uniform height needs no gamma draws (Ulrich 1984). On :math:`S^2`: by inversion.
* Concentration gradient: :math:`ds/d\kappa = -\frac{1}{f(s)}\int_0^s (\partial_\kappa g - \mathrm E\,\partial_\kappa g) f`, the
  integral taken on that side of s where its integrand has one sign, by Gauss-Legendre nodes in w,
  :math:`s = 2w^2(3-2w)`, in which f is smooth at both poles for even and odd n.
* Direction: a uniform unit vector orthogonal to the axis, without reflections, so that no axis is special. The axis has the
  gradient of the *minimal rotation* of the draw; that of the projection has infinite variance for n <= 3.

First order only: a second derivative raises.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .autograd import first_order
from .radial import _compact, _legendre
from .special import digamma_difference, ratio_complement

__all__ = ["EXPONENTIAL", "POWER", "Profile", "around_axis", "height_gradient", "sample_height"]

_CHUNK = 1 << 16  # elements of a temporary: larger ones cost more in page faults than in arithmetic
_MAX_ROUNDS = 200  # of rejection; at acceptance 0.6 the chance to need them all is 1e-79 per draw
_NODES = 24
_DROP = 36.0  # the window ends where the log-density has fallen by this much at least


class Profile(Protocol):
    """What the engine needs to know of g; ``k`` is the concentration, ``c = 2 - s``."""

    def fixed_point(self, k: Tensor, n: int) -> Tensor:
        """s0, where the ratio of target and proposal is greatest."""

    def change(self, k: Tensor, delta: Tensor, c_ratio: Tensor) -> Tensor:
        """g(s + delta) - g(s), also given c(s + delta) / c(s)."""

    def rate(self, k: Tensor, c: Tensor) -> Tensor:
        """-g'(s)."""

    def score(self, s: Tensor, c: Tensor) -> Tensor:
        """dg/dk."""

    def mean_score(self, k: Tensor, n: int) -> Tensor:
        """E dg/dk."""

    def invert(self, u: Tensor, k: Tensor) -> Tensor:
        """On S^2: the height whose distribution function is u (or 1 - u)."""

    def invert_gradient(self, s: Tensor, k: Tensor) -> Tensor:
        """On S^2: ds/dk at a fixed u."""


class _Exponential:
    def fixed_point(self, k: Tensor, n: int) -> Tensor:
        b = (n - 1) / (2 * k + (4 * k * k + (n - 1) ** 2).sqrt())
        return 2 * b / (1 + b)

    def change(self, k: Tensor, delta: Tensor, c_ratio: Tensor) -> Tensor:
        return -k * delta

    def rate(self, k: Tensor, c: Tensor) -> Tensor:
        return k

    def score(self, s: Tensor, c: Tensor) -> Tensor:
        return -s

    def mean_score(self, k: Tensor, n: int) -> Tensor:
        return -ratio_complement(k, n / 2 - 1)

    def invert(self, u: Tensor, k: Tensor) -> Tensor:
        k = k.clamp_min(1e-30)  # the limit 2u at k = 0, to rounding
        return (-torch.log1p(u * torch.expm1(-2 * k)) / k).clamp_max(2.0)

    def invert_gradient(self, s: Tensor, k: Tensor) -> Tensor:
        # closed form (2u exp(k(s - 2)) - s) / k with u = expm1(-ks)/expm1(-2k); near k = 0, where it cancels, the series
        # s exp(-2k) (phi(ks) - phi(2k)) / (k h(2k)), phi(x) = (e^x - 1)/x, h(x) = (1 - e^-x)/x
        small = k < 0.25
        j = torch.where(small, 1.0, k)
        closed = (2 * torch.expm1(-j * s) / torch.expm1(-2 * j) * torch.exp(j * (s - 2)) - s) / j
        j = torch.where(small, k, 0.0)
        total, power = torch.zeros_like(s), s
        for m in range(1, 15):  # (phi(2k) - phi(ks)) / k = sum_m k^{m-1} (2^m - s^m) / (m + 1)!
            total = total + (j ** (m - 1)) * (2.0**m - power) / math.factorial(m + 1)
            power = power * s
        x = torch.where(j > 0, 2 * j, 1.0)
        h = torch.where(j > 0, -torch.expm1(-x) / x, 1.0)
        return torch.where(small, -s * torch.exp(-2 * j) * total / h, closed)


class _Power:
    def fixed_point(self, k: Tensor, n: int) -> Tensor:
        return (n - 1) / (k + (n - 1))

    def change(self, k: Tensor, delta: Tensor, c_ratio: Tensor) -> Tensor:
        return k * c_ratio.log()

    def rate(self, k: Tensor, c: Tensor) -> Tensor:
        return k / c

    def score(self, s: Tensor, c: Tensor) -> Tensor:
        return torch.where(s < 1, torch.log1p(-s / 2), (c / 2).log())

    def mean_score(self, k: Tensor, n: int) -> Tensor:
        return mean_log_power(k, n)

    def invert(self, u: Tensor, k: Tensor) -> Tensor:
        return -2 * torch.expm1(torch.log1p(-u) / (k + 1))

    def invert_gradient(self, s: Tensor, k: Tensor) -> Tensor:
        z = 1 - s / 2
        return 2 * z * torch.log1p(-s / 2) / (k + 1)


EXPONENTIAL, POWER = _Exponential(), _Power()


def mean_log_power(k: Tensor, n: int) -> Tensor:
    r""":math:`\mathrm E\log(1-s/2) = \psi(\kappa+\beta) - \psi(\kappa+2\beta)`, :math:`\beta = (n-1)/2`: the power profile."""
    b = (n - 1) / 2
    return -digamma_difference(k + b, b)


def _slices(n: int, width: int) -> Iterator[slice]:
    step = max(1, _CHUNK // width)
    return (slice(i, i + step) for i in range(0, n, step))


def _propose(k: Tensor, n: int, profile: Profile) -> tuple[Tensor, Tensor]:
    """One height per lane, and whether it is accepted."""
    y = torch.rand_like(k).mul_(2 * math.pi).cos_()
    if n > 2:
        y.mul_(torch.rand_like(k).log_().mul_(2 / (n - 2)).expm1_().neg_().sqrt_())
    s0 = profile.fixed_point(k, n)
    q = 1 + (1 - s0) * y
    s = s0 * (1 - y) / q
    # the ratio of target to proposal, over its value at s0
    log_ratio = (n - 1) * torch.log((s0 + s - s0 * s) / (s0 * (2 - s0)))
    log_ratio += profile.change(k, s - s0, (2 - s) / (2 - s0))
    return s, torch.rand_like(k).log_() <= log_ratio


def _draw(k: Tensor, n: int, profile: Profile) -> Tensor:
    """Heights for a flat tensor of concentrations."""
    s = torch.empty_like(k)
    todo = []
    for part in _slices(len(k), 4):
        if n == 3:
            s[part] = profile.invert(torch.rand_like(k[part]), k[part])
            continue
        s[part], ok = _propose(k[part], n, profile)
        todo.append((~ok).nonzero().squeeze(-1) + part.start)
    left = torch.cat(todo) if todo else k.new_empty(0, dtype=torch.long)
    for _ in range(_MAX_ROUNDS):
        if left.numel() == 0:
            return s
        fresh, ok = _propose(k[left], n, profile)
        s[left] = fresh
        left = left[~ok]
    raise RuntimeError(
        f"height sampler: {left.numel()} of {k.numel()} draws not accepted in {_MAX_ROUNDS} rounds on S^{n - 1}; "
        "expected finite concentrations >= 0. Check concentration for NaN."
    )


class _Height(torch.autograd.Function):
    """Draws inside the node, so that a traced program draws anew at each call."""

    @staticmethod
    def forward(ctx: Any, k: Tensor, n: int, profile: Profile, shape: torch.Size) -> Tensor:
        s = _draw(k.detach().expand(shape).reshape(-1), n, profile).reshape(shape)
        ctx.n, ctx.profile = n, profile
        ctx.save_for_backward(s, k)
        return s

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        s, k = ctx.saved_tensors
        g = (grad * height_gradient(s, k, ctx.n, ctx.profile).to(s.dtype)).sum_to_size(k.shape)
        return first_order(g, k, grad), None, None, None


def sample_height(k: Tensor, n: int, profile: Profile, shape: Sequence[int] | None = None) -> Tensor:
    r"""Exact draws of s, differentiable once in the concentration.

    :param k: :math:`\kappa \ge 0`, broadcastable to ``shape`` (its own shape if None).
    :param n: ambient dimension, at least 2.
    :raises RuntimeError: when a draw is not accepted in a bounded number of rounds (NaN concentration).

    >>> sample_height(torch.ones(4), 5, EXPONENTIAL).shape
    torch.Size([4])
    """
    return _Height.apply(k, n, profile, torch.Size(k.shape if shape is None else shape))


def _warp(s: Tensor) -> Tensor:
    """The w in [0, 1] with s = 2 w^2 (3 - 2w)."""
    third = torch.asin((s / 2).clamp(0, 1).sqrt()) * (2 / 3)
    return (third / 2).sin().square() + math.sqrt(0.75) * third.sin()


@torch.no_grad()
def height_gradient(s: Tensor, k: Tensor, n: int, profile: Profile) -> Tensor:
    r"""Derivative :math:`ds/d\kappa` of a draw at a fixed value of its distribution function; float64."""
    if n == 3:
        return profile.invert_gradient(s.double(), k.double())
    small = _compact(k).double()
    flat = [t.expand(s.shape).reshape(-1) for t in (s.double(), small, profile.mean_score(small, n))]
    out = torch.empty_like(flat[0])
    x, weight = _legendre(_NODES, s.device)
    for part in _slices(len(out), _NODES):
        ss, kk, mean = (t[part] for t in flat)
        out[part] = _tail(ss, kk, mean, n, profile, x, weight)
    return out.reshape(s.shape)


def _tail(s: Tensor, k: Tensor, mean: Tensor, n: int, profile: Profile, x: Tensor, weight: Tensor) -> Tensor:
    s = s.clamp(torch.finfo(s.dtype).tiny, 2 - 1e-15)  # the poles themselves, where the derivative is 0
    c, m, half = 2 - s, (n - 3) / 2, (n - 2) / 2
    rate = profile.rate(k, c)
    # distance to the end of the window, by bounds on the log-density in the angle, -int(rate) + half log(s c):
    # with log1p(e) <= e - e^2/(2 + 2e) to the right, -log(1 - e) >= e + e^2/2 to the left
    a = (s * (rate + half / c) - half).clamp_min(0)
    b = _DROP - a
    right = s * (b + (b * b + 2 * _DROP * (2 * a + half)).sqrt()) / (2 * a + half)
    a = half - s * (rate + half / c)
    left = 2 * _DROP * s / (a + (a * a + 2 * half * _DROP).sqrt())
    # to the far side of the mean; but a right window that ends in the pole of a nearly uniform law, where the power
    # profile's score is singular, is worse than the whole left side
    outward = (profile.score(s, c) < mean) & ((right < c) | (k > 1))
    end = torch.where(outward, s + right.minimum(c), s - left.minimum(s))
    w0 = _warp(s)
    step = _warp(end) - w0
    delta = step * x  # (nodes, lanes)
    w = w0 + delta
    v = 1 - w
    ss, cc = 2 * w * w * (3 - 2 * w), 2 * v * v * (1 + 2 * w)
    delta = 2 * delta * (3 * (w + w0) - 2 * (w * w + w0 * (w + w0)))  # of s, without cancellation
    exponent = profile.change(k, delta, cc / c)
    if m:
        exponent += m * (ss * cc / (s * c)).log()
    f = exponent.exp_().mul_(w).mul_(v).mul_(profile.score(ss, cc) - mean)
    return 12 * step * f.mul_(weight).sum(0)


class _AroundAxis(torch.autograd.Function):
    r"""x = (1-s) mu + sqrt(s(2-s)) v, v uniform among the unit vectors orthogonal to mu."""

    @staticmethod
    def forward(ctx: Any, mu: Tensor, s: Tensor) -> Tensor:
        n = mu.shape[-1]
        x = torch.empty(s.shape + (n,), dtype=mu.dtype, device=mu.device)
        shared = mu.numel() == n
        axis = mu.detach().reshape(1, n) if shared else mu.detach().expand(x.shape).reshape(-1, n)
        rows, heights = x.view(-1, n), s.reshape(-1, 1)
        for part in _slices(len(rows), n):
            p, h = axis if shared else axis[part], heights[part]
            sin = (h * (2 - h)).sqrt_()
            if n == 2:  # exactly: the projection of a vector almost along mu would not be orthogonal to it
                sign = torch.rand_like(h).sub_(0.5).sign_()
                v = torch.cat([-p[:, 1:], p[:, :1]], -1) * (sign * sin)
                rows[part] = torch.addcmul(v, p, 1 - h)
                continue
            v = rows[part].normal_()
            v.addcmul_(p, (v * p).sum(-1, keepdim=True), value=-1)
            v.mul_(sin.div_(torch.linalg.vector_norm(v, dim=-1, keepdim=True)))
            v.addcmul_(p, 1 - h)
            v.div_(torch.linalg.vector_norm(v, dim=-1, keepdim=True))
        ctx.save_for_backward(x, mu, s)
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor]:
        # with cos v = x - t mu over sin: grad mu = t g - sin (mu.g) v, grad s = (t/sin) g.v - g.mu
        x, mu, s = ctx.saved_tensors
        t = 1 - s
        sin2 = s * (2 - s)
        along = (g * mu).sum(-1)
        g_s = (t * (g * x).sum(-1) - along) / torch.where(sin2 > 0, sin2, 1.0)
        g_s = torch.where(sin2 > 0, g_s, 0.0)  # at the poles ds/dk = 0
        if not ctx.needs_input_grad[0]:
            return None, first_order(g_s, s, g)
        g_mu = t.unsqueeze(-1) * g - along.unsqueeze(-1) * (x - t.unsqueeze(-1) * mu)
        return first_order(g_mu.sum_to_size(mu.shape), mu, s, g), first_order(g_s, mu, s, g)


def around_axis(mu: Tensor, s: Tensor) -> Tensor:
    r"""Uniform draws among the points of the unit sphere with :math:`1 - \mu\cdot x = s`, differentiable in both.

    :param mu: unit vectors, shape ``(..., n)``, its batch broadcastable to the shape of s.
    :param s: heights in [0, 2], shape ``shape``; the result has shape ``shape + (n,)``.

    >>> around_axis(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(0.4))[2]
    tensor(0.6000)
    """
    return _AroundAxis.apply(mu, s)
