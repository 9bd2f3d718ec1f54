r"""Normaliser and moments of Riemannian normal distributions in constant curvature, as differentiable
operators.

.. math:: \log Z = \log|S^{d-1}| + \log\int e^{-r^2/2\sigma^2}\,\mathrm{sn}_K(r)^{d-1}\,dr, \qquad \mathrm E[r^2],
          \qquad \mathrm E[\cos(\sqrt K r)]

The integrals are those of :mod:`pyro_manifold.ops.radial_density`. log Z may be differentiated twice in
:math:`\sigma` and K, the moments once.
"""

from typing import Any

import torch
from torch import Tensor

from .autograd import BatchFunction, differentiated, last_order_gradient, plus, save_tensors
from .batched import unexpand
from .chunks import slices
from .radial_density import first_moments, quadrature, radial_density, rule
from .signed_trig import cos_sqrt, sinc_sqrt
from .spherical import log_sphere_area
from .tracing import operator

__all__ = ["log_normalizer", "radius_moment"]

# below this sigma^2 |K| nothing of f is left near the antipode of a sphere (14 standard deviations away)
_NEARLY_FLAT = 0.05


@operator(
    "radial_moments(Tensor scale, Tensor curvature, int dim, str statistic, bool curved) -> Tensor[]",
    lambda scale, curvature, dim, statistic, curved: [
        torch.empty_like(scale) for _ in range(6 if curved else 4)
    ],
)
def _moments_op(scale: Tensor, curvature: Tensor, dim: int, statistic: str, curved: bool) -> list[Tensor]:
    """The log of the integral of f, the expectation of one statistic, and the derivatives of both in scale
    and, if ``curved``, in curvature.

    This is an operator, which compilers and tracers see as one node, since the sign of the curvature selects
    the formulas and must not become a constant of the traced program."""
    sigma, k = scale.double().reshape(-1), curvature.double()
    density = radial_density(sigma, k, dim)
    if not statistic:
        log_z, square, score = first_moments(sigma, k, dim, scale.dtype != torch.float64, curved)
        slopes = [square * (density.unit / sigma).square() / sigma, *([score] if curved else [])]
        zero = torch.zeros_like(log_z)
        # no two results share memory: callers of an operator may write to them
        parts = [log_z.clone(), zero, *(s.clone() for s in slopes), *(zero.clone() for _ in slopes)]
        return [t.reshape(scale.shape).to(scale.dtype) for t in parts]
    nodes, window, _, _ = rule(scale.dtype)
    out: list[list[Tensor]] = []
    for part in slices(len(sigma), nodes):
        lanes = density.map(lambda t: t[part])  # noqa: B023
        y, p, log_z = quadrature(lanes, nodes, window)
        r2 = (y * lanes.unit).square()
        scores = [r2 / sigma[part] ** 3]  # of f, in scale and curvature
        if curved:
            scores.append(lanes.curvature_score(y))
        d_log_z = [(p * score).sum(0) for score in scores]
        f = r2 if statistic == "square" else cos_sqrt(k * r2)
        mean = (p * f).sum(0)
        d_mean = [(p * (f - mean) * (score - d)).sum(0) for score, d in zip(scores, d_log_z, strict=True)]
        if statistic == "cosine" and curved:  # the statistic depends on K too
            d_mean[1] = d_mean[1] - (p * r2 * sinc_sqrt(k * r2)).sum(0) / 2
        out.append([log_z, mean, *d_log_z, *d_mean])
    return [torch.cat(c).reshape(scale.shape).to(scale.dtype) for c in zip(*out, strict=True)]


@operator(
    "radial_hessian(Tensor scale, Tensor curvature, int dim) -> Tensor[]",
    lambda scale, curvature, dim: [torch.empty_like(scale) for _ in range(5)],
)
def _hessian_op(scale: Tensor, curvature: Tensor, dim: int) -> list[Tensor]:
    r"""Derivatives of log Z: the first ones in scale and curvature, and the second ones
    :math:`\partial_{\sigma\sigma}, \partial_{\sigma K}, \partial_{KK}`.

    With u and c the derivatives of log f in :math:`\sigma` and K at fixed r, the second ones are
    :math:`\mathrm{Var}\,u + \mathrm E\,\partial_\sigma u`, :math:`\mathrm{Cov}(u, c)` and
    :math:`\mathrm{Var}\,c + \mathrm E\,\partial_Kc`. The terms of the last diverge at the antipode. Where
    :math:`w = \sigma^2K` is not small it is therefore computed from the mixed one: with
    :math:`\log Z = d\log\sigma + G(w)`, :math:`\partial_{KK} = \sigma^4G''`,
    :math:`\partial_{\sigma K} = 2\sigma(G' + wG'')` and :math:`\partial_K = \sigma^2G'`.
    """
    sigma, k = scale.double().reshape(-1), curvature.double()
    density = radial_density(sigma, k, dim)
    nodes, window, _, _ = rule(scale.dtype)
    out: list[list[Tensor]] = []
    for part in slices(len(sigma), nodes):
        lanes, s = density.map(lambda t: t[part]), sigma[part]  # noqa: B023
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
    """Functions of many scales and one curvature; ``vmap`` over curvatures calls them one after the other."""

    ranks = (0,)

    @classmethod
    def vmap(cls, info: Any, in_dims: Any, scale: Tensor, curvature: Tensor, *rest: Any) -> Any:
        if in_dims[1] is None:
            return cls.apply(scale.movedim(in_dims[0], 0), curvature, *rest), 0
        scales = [scale] * info.batch_size if in_dims[0] is None else scale.movedim(in_dims[0], 0)
        each = [cls.apply(s, k, *rest) for s, k in zip(scales, curvature.movedim(in_dims[1], 0), strict=True)]
        return tuple(torch.stack(column) for column in zip(*each, strict=True)), 0


class _Moments(_Lanes):
    """log Z and the mean of a statistic; their derivatives are further outputs, which the backward pass
    uses."""

    @staticmethod
    def forward(
        scale: Tensor, curvature: Tensor, dim: int, statistic: str, curved: bool
    ) -> tuple[Tensor, ...]:
        return tuple(_moments_op(scale, curvature, dim, statistic, curved))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.dim, ctx.curved = inputs[2], inputs[4]
        ctx.mark_non_differentiable(*output[2:])
        save_tensors(ctx, *inputs[:2], *output[2:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def _derivatives(ctx: Any) -> tuple[Tensor, Tensor, list[list[Tensor]]]:
        """The derivatives of log Z (differentiable if a second derivative may be asked for) and of the mean,
        each in scale and, if ``curved``, in curvature."""
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
    """The derivatives of log Z in scale and curvature; differentiable once."""

    @staticmethod
    def forward(scale: Tensor, curvature: Tensor, dim: int) -> tuple[Tensor, ...]:
        return tuple(_hessian_op(scale, curvature, dim))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[2:])
        save_tensors(ctx, *inputs[:2], *output[2:])

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
    curved = differentiated(curvature)
    log_z, mean = _Moments.apply(unexpand(scale), curvature, int(dim), statistic, curved)[:2]
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
