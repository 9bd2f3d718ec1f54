r"""The 1-D engine of rotation-symmetric Gaussian distributions in constant curvature: normaliser, sampler,
implicit gradients.

On a d-dimensional space of constant curvature :math:`K` the distance :math:`r` of a point of density
:math:`\exp(-r^2/2\sigma^2)/Z` to the centre has density proportional to

.. math::
    f(r) = e^{-r^2/2\sigma^2}\,\mathrm{sn}_K(r)^{d-1}, \qquad
    \mathrm{sn}_K(r) = \frac{\sin(\sqrt K r)}{\sqrt K}, \; r, \; \frac{\sinh(\sqrt{-K} r)}{\sqrt{-K}}
    \quad (K > 0, = 0, < 0), \qquad Z = |S^{d-1}| \int f

:math:`\log f` is concave with :math:`(\log f)'' \le -1/w^2`, where
:math:`1/w^2 = 1/\sigma^2 + (d-1)\max(K, 0)`. This one fact gives

* a window (mode ± 8.8 w) outside which nothing of f is left in double precision: Gauss-Legendre sums on it
  are exact;
* an envelope, N(mode, w²), for exact rejection, whose acceptance is at least 0.65 for every d > 1, sigma and
  K;
* one-signed tail integrals for the implicit gradients
  :math:`\partial r/\partial\theta = -\partial_\theta F(r)/f(r)`.

All arithmetic is float64 in the unit :math:`1/\sqrt{|K|}` (``y = r sqrt|K|``, ``s = sigma sqrt|K|``); the
exponent is taken relative to the mode, in a form without cancellation for s from 0 to infinity. log Z may be
differentiated twice, moments once.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .autograd import BatchFunction, differentiated, last_order_gradient, plus
from .chunks import slices
from .numerics import cos_sqrt, sinc_sqrt
from .quadrature import legendre, unexpand
from .spherical import log_sphere_area
from .tracing import operator

__all__ = ["log_normalizer", "radius_moment"]

# Gauss-Legendre nodes and half-width of the window (in w), and nodes and fall of log f for one-sided tails,
# by dtype of
# the result; measured errors: log Z 1e-14 and 4e-10, its derivatives 2e-13 and 6e-10, tails 1e-10 and 2e-7
_RULE = {torch.float64: (48, 8.8, 16, 25.0)}
_RULE_SINGLE = (32, 6.5, 12, 22.0)
# below this s the space is flat to rounding (relative deviation d^2 s^2): s is floored, K = 0 is regular
_FLAT = 1e-9
# below this sigma^2 |K| nothing of f is left near the antipode of a sphere (14 standard deviations away)
_NEARLY_FLAT = 0.05
_COT = [1 / 3, 1 / 45, 2 / 945, 1 / 4725, 2 / 93555, 1382 / 638512875, 4 / 18243225, 3617 / 162820783125]


class RadialDensity(NamedTuple):
    """The distribution in curvature units: one entry per lane; ``sphere`` is the sign of the curvature,
    shared by all lanes."""

    dim: int
    sphere: bool
    tau: Tensor  # 1 / s^2
    mode: Tensor
    width: Tensor
    unit: Tensor  # 1 / sqrt|K|

    def map(self, f: Callable[[Tensor], Tensor]) -> "RadialDensity":
        return RadialDensity(self.dim, self.sphere, *(f(t) for t in self[2:]))

    @property
    def end(self) -> float:
        return math.pi if self.sphere else math.inf

    def rise(self, y: Tensor, e: Tensor) -> Tensor:
        """(d-1) [log sn(y + e) - log sn(y) - e (log sn)'(mode)], without cancellation; at y = mode it is at
        most 0 (on the sphere at most -(d-1) e^2 / 2)."""
        n, m = self.dim - 1, self.mode
        if n == 0:
            return torch.zeros_like(e + y)
        if self.sphere:
            return (e + y).sin_().div_(y.sin()).log_().mul_(n).sub_(e * (n / m.tan()))
        a = torch.expm1(-2 * m)
        sinh = (
            (e + y).mul_(-2).expm1_().div_(torch.expm1(-2 * y))
        )  # of both arguments, the exponentials taken out
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
        """How far to the right (left) of y log f has fallen by at least ``drop``: the root of a quadratic
        bound of log f."""
        n = self.dim - 1

        def cot(z: Tensor) -> Tensor:
            return 1 / (z.tan() if self.sphere else z.tanh())

        def precision(z: Tensor) -> Tensor:  # -(log f)''
            return self.tau + n * (cot(z).square() + (1 if self.sphere else -1)) if n else self.tau

        def root(p: Tensor) -> Tensor:
            return (slope + (slope * slope + 2 * drop * p).sqrt()) / p

        slope = (n * cot(y) if n else 0.0) - y * self.tau
        slope = torch.where(right, slope, -slope)
        far = y + root(
            self.width.reciprocal().square()
        )  # the least precision anywhere; then the least between y and there
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
        r"""Its derivative in K at fixed r: -(d-1)/2 r^4 c'(x), with q = 1 - x c and 2 x q' = q - q^2 - x."""
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
    """Mode by Newton steps: y tanh y = s^2 (d-1) (hyperbolic), y tan y = s^2 (d-1) (sphere)."""
    scale, k = scale.detach().double(), curvature.detach().double()
    sphere = bool(k > 0)
    s = (scale * k.abs().sqrt()).clamp_min(_FLAT)
    unit = torch.where(
        s > _FLAT, 1 / k.abs().sqrt(), scale / s
    )  # an infinite scale has no s-scaled unit, but K > 0
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
    return _RULE.get(dtype, _RULE_SINGLE)


def quadrature(distribution: RadialDensity, nodes: int, window: float) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes y and probabilities p, both (nodes, lanes), and log of the integral of f over r."""
    x, w = legendre(nodes, distribution.unit.device)
    low, high = (
        (distribution.mode - window * distribution.width).clamp_min(0),
        (distribution.mode + window * distribution.width).clamp_max(distribution.end),
    )
    delta = x * (high - low) + (low - distribution.mode)
    p = distribution.weight(distribution.mode, delta).mul_(w)
    total = p.sum(0)
    log_z = distribution.log_peak() + (total * (high - low) * distribution.unit).log()
    return delta.add_(distribution.mode), p.div_(total), log_z


@operator(
    "radial_moments(Tensor scale, Tensor curvature, int dim, str statistic, bool curved) -> Tensor[]",
    lambda scale, curvature, dim, statistic, curved: [
        torch.empty_like(scale) for _ in range(6 if curved else 4)
    ],
)
def _moments_op(scale: Tensor, curvature: Tensor, dim: int, statistic: str, curved: bool) -> list[Tensor]:
    """log of the integral of f, E of one statistic, and the derivatives of both in scale and, if ``curved``,
    in curvature.

    An operator, so that compilers and tracers see one node: the sign of the curvature picks the formulas, and
    is not to become a constant of the traced program.
    """
    sigma, k = scale.double().reshape(-1), curvature.double()
    distribution = radial_density(sigma, k, dim)
    nodes, window, _, _ = rule(scale.dtype)
    out: list[list[Tensor]] = []
    for part in slices(len(sigma), nodes):
        lanes = distribution.map(lambda t: t[part])  # noqa: B023
        y, p, log_z = quadrature(lanes, nodes, window)
        r2 = (y * lanes.unit).square()
        scores = [r2 / sigma[part] ** 3]  # of f, in scale and curvature
        if curved:
            scores.append(lanes.curvature_score(y))
        d_log_z = [(p * score).sum(0) for score in scores]
        mean, d_mean = torch.zeros_like(log_z), [torch.zeros_like(log_z)] * len(scores)
        if statistic:
            f = r2 if statistic == "square" else cos_sqrt(k * r2)
            mean = (p * f).sum(0)
            d_mean = [(p * (f - mean) * (score - d)).sum(0) for score, d in zip(scores, d_log_z, strict=True)]
            if statistic == "cosine" and curved:  # it depends on K itself
                d_mean[1] = d_mean[1] - (p * r2 * sinc_sqrt(k * r2)).sum(0) / 2
        out.append([log_z, mean, *d_log_z, *d_mean])
    return [torch.cat(c).reshape(scale.shape).to(scale.dtype) for c in zip(*out, strict=True)]


@operator(
    "radial_hessian(Tensor scale, Tensor curvature, int dim) -> Tensor[]",
    lambda scale, curvature, dim: [torch.empty_like(scale) for _ in range(5)],
)
def _hessian_op(scale: Tensor, curvature: Tensor, dim: int) -> list[Tensor]:
    r"""Of log Z: first derivatives in scale and curvature, and second ones
    :math:`\sigma\sigma, \sigma K, KK`.

    At fixed r, with the scores u and c of log f in :math:`\sigma` and K, these are
    :math:`\mathrm{Var}\,u + \mathrm E\,\partial_\sigma u`, :math:`\mathrm{Cov}(u, c)` and
    :math:`\mathrm{Var}\,c + \mathrm E\,\partial_Kc`. The terms of the last diverge at the antipode; with
    :math:`\log Z = d\log\sigma + G(w)`, :math:`w = \sigma^2K`, it follows from the mixed one where w is not
    small: :math:`\partial_{KK} = \sigma^4G''`, :math:`\partial_{\sigma K} = 2\sigma(G' + wG'')`,
    :math:`\partial_K = \sigma^2G'`.
    """
    sigma, k = scale.double().reshape(-1), curvature.double()
    distribution = radial_density(sigma, k, dim)
    nodes, window, _, _ = rule(scale.dtype)
    out: list[list[Tensor]] = []
    for part in slices(len(sigma), nodes):
        lanes, s = distribution.map(lambda t: t[part]), sigma[part]  # noqa: B023
        y, p, _ = quadrature(lanes, nodes, window)
        r2 = (y * lanes.unit).square()
        u, c = r2 / s**3, lanes.curvature_score(y)
        mean_u, mean_c = (p * u).sum(0), (p * c).sum(0)
        mixed = (p * (u - mean_u) * (c - mean_c)).sum(0)
        w = s.square() * k
        near = w.abs() < _NEARLY_FLAT
        far = s.square() * (mixed * s / 2 - mean_c) / torch.where(near, 1.0, w)
        direct = (p * ((c - mean_c).square() + lanes.curvature_score_slope(y))).sum(0)
        second = (p * (u - mean_u).square()).sum(0) - 3 * mean_u / s
        out.append([mean_u, mean_c, second, mixed, torch.where(near, direct, far)])
    return [torch.cat(t).reshape(scale.shape).to(scale.dtype) for t in zip(*out, strict=True)]


class _Lanes(BatchFunction):
    """Functions of lanes of scales and one curvature; mapped over curvatures, one after the other."""

    ranks = (0,)

    @classmethod
    def vmap(cls, info: Any, in_dims: Any, scale: Tensor, curvature: Tensor, *rest: Any) -> Any:
        if in_dims[1] is None:
            return cls.apply(scale.movedim(in_dims[0], 0), curvature, *rest), 0
        scales = [scale] * info.batch_size if in_dims[0] is None else scale.movedim(in_dims[0], 0)
        each = [cls.apply(s, k, *rest) for s, k in zip(scales, curvature.movedim(in_dims[1], 0), strict=True)]
        return tuple(torch.stack(column) for column in zip(*each, strict=True)), 0


class _Moments(_Lanes):
    """log Z and a mean, and their derivatives, which the gradient is made of."""

    @staticmethod
    def forward(
        scale: Tensor, curvature: Tensor, dim: int, statistic: str, curved: bool
    ) -> tuple[Tensor, ...]:
        return tuple(_moments_op(scale, curvature, dim, statistic, curved))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.dim, ctx.curved = inputs[2], inputs[4]
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(*inputs[:2], *output[2:])
        ctx.save_for_forward(*inputs[:2], *output[2:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def _derivatives(ctx: Any) -> tuple[Tensor, Tensor, list[list[Tensor]]]:
        """Of log Z (differentiable where that may be asked for) and of the mean: each in scale and, if
        ``curved``, curvature."""
        scale, curvature, *d = ctx.saved_tensors
        half = len(d) // 2
        first = d[:half]
        if differentiated(scale, curvature):
            first = list(_Slopes.apply(scale, curvature, ctx.dim)[:half])
        return scale, curvature, [first, d[half:]]

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, k_tangent: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        scale, curvature, derivatives = _Moments._derivatives(ctx)
        out = []
        for d in derivatives:
            part = torch.zeros_like(scale) if tangent is None else d[0] * tangent
            out.append(part if k_tangent is None or not ctx.curved else part + d[1] * k_tangent)
        log_z, mean = out
        return log_z, last_order_gradient(mean, scale, curvature), *(None for _ in ctx.saved_tensors[2:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        scale, curvature, (d_log_z, d_mean) = _Moments._derivatives(ctx)
        g_log_z, g_mean = grads[:2]
        out: list[Tensor | None] = []
        for a, b in zip(d_log_z, d_mean, strict=True):
            other = None if g_mean is None else last_order_gradient(g_mean * b, scale, curvature, g_mean)
            out.append(plus(None if g_log_z is None else g_log_z * a, other))
        g_k = out[1].sum().to(curvature.dtype) if len(out) > 1 and out[1] is not None else None
        return out[0], g_k, None, None, None


class _Slopes(_Lanes):
    """The derivatives of log Z in scale and curvature; those of these are of the last order."""

    @staticmethod
    def forward(scale: Tensor, curvature: Tensor, dim: int) -> tuple[Tensor, ...]:
        return tuple(_hessian_op(scale, curvature, dim))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(*inputs[:2], *output[2:])
        ctx.save_for_forward(*inputs[:2], *output[2:])

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, k_tangent: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        scale, curvature, *second = ctx.saved_tensors
        ss, sk, kk = (last_order_gradient(x, scale, curvature) for x in second)
        t = torch.zeros_like(scale) if tangent is None else tangent
        t_k = torch.zeros_like(curvature) if k_tangent is None else k_tangent
        return ss * t + sk * t_k, sk * t + kk * t_k, None, None, None

    @staticmethod
    def backward(ctx: Any, g: Tensor, g_k: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        scale, curvature, *second = ctx.saved_tensors
        ss, sk, kk = (last_order_gradient(x, scale, curvature) for x in second)
        return ss * g + sk * g_k, (sk * g + kk * g_k).sum().to(curvature.dtype), None


def _moments(scale: Tensor, curvature: Tensor, dim: int, statistic: str) -> tuple[Tensor, Tensor]:
    log_z, mean = _Moments.apply(unexpand(scale), curvature, int(dim), statistic, differentiated(curvature))[
        :2
    ]
    return (log_z + log_sphere_area(dim - 1)).expand(scale.shape), mean.expand(scale.shape)


def log_normalizer(scale: Tensor, curvature: Tensor, dim: int) -> Tensor:
    r"""Log of :math:`Z = \int e^{-r^2/2\sigma^2} d\mathrm{vol}` over the space of ``curvature`` and ``dim``.

    :param scale: :math:`\sigma > 0`, any shape, in units of length; infinite is allowed where curvature is
        positive.
    :param curvature: :math:`K`, a scalar of either sign or zero.
    :param dim: dimension :math:`d \ge 1`.

    >>> z = log_normalizer(torch.tensor(float("inf")), torch.tensor(1.0), 2)  # uniform: the area of the sphere
    >>> bool(torch.isclose(z, torch.tensor(4 * torch.pi).log()))
    True
    """
    return _moments(scale, curvature, dim, "")[0]


def radius_moment(
    scale: Tensor, curvature: Tensor, dim: int, statistic: str = "square"
) -> tuple[Tensor, Tensor]:
    r"""log Z and :math:`E[r^2]` (``"square"``) or :math:`E[\cos(\sqrt K r)]` (``"cosine"``, cosh for K <
    0)."""
    return _moments(scale, curvature, dim, statistic)
