r"""The distribution of the distance to the centre of a Riemannian normal distribution in constant curvature.

On a d-dimensional space of constant curvature :math:`K` let a point have the density
:math:`\exp(-r^2/2\sigma^2)/Z`, where r is its distance to the centre. The density of r is proportional to

.. math::
    f(r) = e^{-r^2/2\sigma^2}\,\mathrm{sn}_K(r)^{d-1}, \qquad
    \mathrm{sn}_K(r) = \frac{\sin(\sqrt K r)}{\sqrt K}, \; r, \; \frac{\sinh(\sqrt{-K} r)}{\sqrt{-K}}
    \quad (K > 0, = 0, < 0), \qquad Z = |S^{d-1}| \int f

:math:`\log f` is concave with :math:`(\log f)'' \le -1/w^2`, where
:math:`1/w^2 = 1/\sigma^2 + (d-1)\max(K, 0)`. From this follow

* a window (mode ± 8.8 w) outside which f is negligible in double precision, so that Gauss-Legendre sums over it
  are exact to rounding;
* an envelope, N(mode, w²), for exact rejection, with an acceptance of at least 0.65 for every d > 1, sigma
  and K;
* bounds on the tails, over which the implicit gradients
  :math:`\partial r/\partial\theta = -\partial_\theta F(r)/f(r)` are integrated.

All arithmetic is float64 in the unit :math:`1/\sqrt{|K|}` (``y = r sqrt|K|``, ``s = sigma sqrt|K|``). Exponents
are relative to the mode, in a form without cancellation for s from 0 to infinity.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .chunks import slices
from .memo import remember_by_contents
from .quadrature import legendre

__all__ = ["RadialDensity", "first_moments", "quadrature", "radial_density", "rule"]

# by dtype of the result: number of Gauss-Legendre nodes and half-width of the window (in w); number of nodes
# for a tail, and the decrease of log f at which it is cut. Measured errors in float64 and float32: log Z
# 1e-14 and 4e-10, its derivatives 2e-13 and 6e-10, tails 1e-10 and 2e-7
_RULE = {torch.float64: (48, 8.8, 16, 25.0)}
_RULE_SINGLE = (32, 6.5, 12, 22.0)
# below this s the space is flat to rounding (the relative deviation is d^2 s^2); s is clamped there, so K = 0
# works
_FLAT = 1e-9
_COT = [1 / 3, 1 / 45, 2 / 945, 1 / 4725, 2 / 93555, 1382 / 638512875, 4 / 18243225, 3617 / 162820783125]


class RadialDensity(NamedTuple):
    """f in curvature units. The tensors have one entry for each scale; all scales share one curvature."""

    dim: int
    sphere: bool  # whether K > 0
    tau: Tensor  # 1 / s^2
    mode: Tensor
    width: Tensor
    unit: Tensor  # 1 / sqrt|K|

    def map(self, f: Callable[[Tensor], Tensor]) -> "RadialDensity":
        """Apply ``f`` to each tensor."""
        return RadialDensity(self.dim, self.sphere, *(f(t) for t in self[2:]))

    @property
    def end(self) -> float:
        """The largest y: pi on the sphere, else infinity."""
        return math.pi if self.sphere else math.inf

    def rise(self, y: Tensor, e: Tensor) -> Tensor:
        """(d-1) [log sn(y + e) - log sn(y) - e (log sn)'(mode)], without cancellation. At y = mode it is at
        most 0 (on the sphere at most -(d-1) e^2 / 2)."""
        n, m = self.dim - 1, self.mode
        if n == 0:
            return torch.zeros_like(e + y)
        if self.sphere:
            return (e + y).sin_().div_(y.sin()).log_().mul_(n).sub_(e * (n / m.tan()))
        a = torch.expm1(-2 * m)
        # sinh(y + e) / sinh(y), without the factor exp(e)
        sinh = (e + y).mul_(-2).expm1_().div_(torch.expm1(-2 * y))
        return sinh.log_().addcmul_(e, 2 * (1 + a) / a).mul_(n)

    def weight(self, y: Tensor, e: Tensor) -> Tensor:
        """f(y + e) / f(y)."""
        return self.rise(y, e).sub_((e / 2 + (y - self.mode)).mul_(e).mul_(self.tau)).exp_()

    def log_peak(self) -> Tensor:
        """log f(mode)."""
        n, m = self.dim - 1, self.mode
        if n == 0:
            return torch.zeros_like(m)
        if self.sphere:
            return n * (m.sin() * self.unit).log() - m.square() * self.tau / 2
        return n * (m + (-torch.expm1(-2 * m) / 2 * self.unit).log()) - m.square() * self.tau / 2

    def reach(self, y: Tensor, right: Tensor, drop: float) -> Tensor:
        """A distance to the right (elsewhere: to the left) of y at which log f has decreased by at least
        ``drop``: the root of a quadratic upper bound of log f."""
        n = self.dim - 1

        def cot(z: Tensor) -> Tensor:
            return 1 / (z.tan() if self.sphere else z.tanh())

        def precision(z: Tensor) -> Tensor:  # -(log f)''
            return self.tau + n * (cot(z).square() + (1 if self.sphere else -1)) if n else self.tau

        def root(p: Tensor) -> Tensor:
            return (slope + (slope * slope + 2 * drop * p).sqrt()) / p

        slope = (n * cot(y) if n else 0.0) - y * self.tau
        slope = torch.where(right, slope, -slope)
        # first a bound with the smallest precision anywhere, then one with the smallest between y and that
        # point
        far = y + root(self.width.reciprocal().square())
        if self.sphere:
            far = far.clamp_max(math.pi / 2).maximum(y)
        return root(precision(torch.where(right, far, y)))

    def curvature_score(self, y: Tensor) -> Tensor:
        r"""d log f / dK at fixed r: -(d-1)/2 r^2 c(K r^2), with c(x) = (1 - sqrt(x) cot sqrt(x)) / x."""
        sign = 1.0 if self.sphere else -1.0
        x = y * y
        near = x < 0.05
        safe = torch.where(near, 1.0, y)
        far = sign * (1 - safe / (safe.tan() if self.sphere else safe.tanh()))
        series = torch.full_like(y, _COT[-1])
        for c in reversed(_COT[:-1]):
            series = series.mul_(x).mul_(sign).add_(c)
        return (-(self.dim - 1) / 2) * self.unit**2 * torch.where(near, x * series, far)

    def curvature_score_slope(self, y: Tensor) -> Tensor:
        r"""d^2 log f / dK^2 at fixed r: -(d-1)/2 r^4 c'(x), with q = 1 - x c and 2 x q' = q - q^2 - x."""
        x = y * y if self.sphere else -y * y
        near = x.abs() < 0.05
        safe, z = torch.where(near, 1.0, y), torch.where(near, 1.0 if self.sphere else -1.0, x)
        q = safe / (safe.tan() if self.sphere else safe.tanh())
        far = -((q - q * q - z) / (2 * z) + (1 - q) / z) / z
        series = torch.zeros_like(y)
        for k in range(len(_COT) - 1, 0, -1):
            series = series * x + k * _COT[k]
        return (-(self.dim - 1) / 2) * (self.unit * y) ** 4 * torch.where(near, series, far)


def radial_density(scale: Tensor, curvature: Tensor, dim: int) -> RadialDensity:
    """f for scales and one curvature; remembered, since a draw, its density and its gradient all need it."""
    return _radial_density(scale.detach().double(), curvature.detach().double(), dim)


@remember_by_contents(4)
def _radial_density(scale: Tensor, k: Tensor, dim: int) -> RadialDensity:
    """The mode solves y tanh y = s^2 (d-1) (hyperbolic) or y tan y = s^2 (d-1)
    (sphere), by Newton's method."""
    sphere = bool(k > 0)
    s = (scale * k.abs().sqrt()).clamp_min(_FLAT)
    # scale / s is not a number for an infinite scale, but then K > 0
    unit = torch.where(s > _FLAT, 1 / k.abs().sqrt(), scale / s)
    tau, n = 1 / s.square(), dim - 1
    if n == 0:
        return RadialDensity(dim, sphere, tau, torch.zeros_like(s), s, unit)
    if not sphere:
        a = n * s.square()
        y = (a * (1 + a)).sqrt()
        one = torch.ones_like(a)
        for _ in range(6):
            t = y.tanh()
            slope = torch.addcmul(t, y, torch.addcmul(one, t, t, value=-1))
            y = torch.addcdiv(y, torch.addcmul(-a, y, t), slope, value=-1)
        return RadialDensity(dim, sphere, tau, y, s, unit)
    precision = tau + n
    alpha, beta = n / precision, tau / precision
    y = (alpha / (beta + alpha * (4 / math.pi**2))).sqrt()
    for _ in range(5):
        sin, cos = y.sin(), y.cos()
        y = y + (alpha * cos - beta * y * sin) / (alpha * sin + beta * (sin + y * cos))
    return RadialDensity(dim, sphere, tau, y, precision.rsqrt(), unit)


def rule(dtype: torch.dtype) -> tuple[int, float, int, float]:
    """For results of ``dtype``: nodes and half-width of the window, nodes and decrease of a tail."""
    return _RULE.get(dtype, _RULE_SINGLE)


def quadrature(density: RadialDensity, nodes: int, window: float) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes y and their probabilities, both (nodes, scales), and the log of the integral of f over r."""
    x, w = legendre(nodes, density.unit.device)
    low = (density.mode - window * density.width).clamp_min(0)
    high = (density.mode + window * density.width).clamp_max(density.end)
    delta = x * (high - low) + (low - density.mode)
    p = density.weight(density.mode, delta).mul_(w)
    total = p.sum(0)
    log_z = density.log_peak() + (total * (high - low) * density.unit).log()
    return delta.add_(density.mode), p.div_(total), log_z


@remember_by_contents(4)
def first_moments(
    scale: Tensor, curvature: Tensor, dim: int, single: bool, curved: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The log of the integral of f, E[y^2] and, if ``curved``, the mean of the curvature score (else zeros), each
    for a vector of scales.

    :param scale: in float64, shape ``(n,)``; so is the scalar ``curvature``.
    :param single: are the results wanted in float32?
    """
    density = radial_density(scale, curvature, dim)
    nodes, window, _, _ = _RULE_SINGLE if single else _RULE[torch.float64]
    out = torch.zeros(3, len(scale), dtype=torch.float64, device=scale.device)
    for part in slices(len(scale), nodes):
        lanes = density.map(lambda t: t[part])  # noqa: B023
        y, p, log_z = quadrature(lanes, nodes, window)
        out[0, part] = log_z
        out[1, part] = (p * y.square()).sum(0)
        if curved:
            out[2, part] = (p * lanes.curvature_score(y)).sum(0)
    log_z, square, score = out.unbind()
    return log_z, square, score
