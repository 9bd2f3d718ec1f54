r"""Modified Bessel functions of real order as differentiable operators, and divergences made of them.

.. math::
    G_v(k) = \log\frac{\Gamma(v+1)\,I_v(k)}{(k/2)^v}, \qquad G_v' = A_v = \frac{I_{v+1}}{I_v}

:math:`G` is the log normaliser of the von Mises-Fisher distribution minus its value at ``k = 0``, so k = 0 is a
regular point; :math:`A` is its mean resultant length. Values come from :mod:`pyro_manifold.ops.bessel`.
"""

from typing import Any

import torch
from torch import Tensor

from .autograd import BatchFunction, OnceDifferentiable, last_order_gradient, minus, save_tensors
from .bessel import bessel, bessel_columns, largest_argument
from .quadrature import legendre
from .tracing import is_concrete

__all__ = ["bessel_divergence", "bessel_ratio", "log_bessel", "ratio_complement"]

_NO_SECOND = "the second derivative of a Bessel ratio is not implemented; detach the concentration."


class _Ratio(BatchFunction):
    """A, 1 - A and the slope A'. The first two are differentiable once. A derivative of the third raises; with
    ``with_slope`` false, it is ignored in forward mode."""

    ranks = (0,)

    @staticmethod
    def forward(k: Tensor, order: float, with_slope: bool) -> tuple[Tensor, ...]:
        return bessel_columns(k, order, ("ratio", "complement", "slope"), slope=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, bool], output: tuple[Tensor, ...]) -> None:
        ctx.with_slope = inputs[2]
        save_tensors(ctx, inputs[0], output[2])
        ctx.set_materialize_grads(False)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        if ctx.with_slope:
            raise NotImplementedError(_NO_SECOND)
        k, slope = ctx.saved_tensors
        ratio = last_order_gradient(tangent * slope, k, tangent)
        return ratio, -ratio, torch.zeros_like(ratio)  # the caller does not use the third

    @staticmethod
    def backward(
        ctx: Any, g_ratio: Tensor | None, g_complement: Tensor | None, g_slope: Tensor | None
    ) -> Any:
        if g_slope is not None:
            raise NotImplementedError(_NO_SECOND)
        g = minus(g_ratio, g_complement)
        k, slope = ctx.saved_tensors
        return (None if g is None else last_order_gradient(g * slope, k, g)), None, None


class _LogBessel(BatchFunction):
    """G, or G - k if ``scaled``; the slope is a second output, which the backward pass uses."""

    ranks = (0,)

    @staticmethod
    def forward(k: Tensor, order: float, scaled: bool) -> tuple[Tensor, Tensor]:
        if scaled:
            g, complement = bessel_columns(k, order, ("g", "complement"), "G - k")
            return g, complement.neg_()
        g, ratio = bessel_columns(k, order, ("g", "ratio"), "G")
        return g, ratio

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, bool], output: tuple[Tensor, Tensor]) -> None:
        k, ctx.order, ctx.scaled = inputs
        save_tensors(ctx, k, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def _slope(ctx: Any) -> Tensor:
        k, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative may be asked for
            ratio, complement, _ = _Ratio.apply(k, ctx.order, False)
            return -complement if ctx.scaled else ratio
        return slope

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return grad * _LogBessel._slope(ctx), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> tuple[Tensor, None]:  # type: ignore[override]
        return tangent * _LogBessel._slope(ctx), None


def log_bessel(k: Tensor, order: float, scaled: bool = False) -> Tensor:
    r""":math:`G_v(k) = \log[\Gamma(v+1)(2/k)^v I_v(k)]`, or :math:`G_v(k) - k`, which is only of the order of
    log k.

    :param k: argument, nonnegative, any shape.
    :param order: :math:`v \ge 0`, a multiple of 1/2 for the sphere :math:`S^{2v+1}`.
    :param scaled: subtract k, without cancellation.

    Twice differentiable in k; a third derivative raises.

    >>> k = torch.tensor([0.0, 1.0, 1e6], dtype=torch.float64)
    >>> torch.exp(log_bessel(k, 0.5, scaled=True)) * 2 * k  # sinh(k) exp(-k) * 2, at order 1/2
    tensor([0.0000, 0.8647, 1.0000], dtype=torch.float64)
    """
    return _LogBessel.apply(k, float(order), scaled)[0]  # under torch.jit.trace sizes are tensors


def bessel_ratio(k: Tensor, order: float) -> tuple[Tensor, Tensor, Tensor]:
    r""":math:`A_v(k) = I_{v+1}(k)/I_v(k)`, :math:`1 - A_v(k)` without cancellation, and the derivative
    :math:`A_v'(k)`.

    The first two are differentiable once; a gradient through the third raises.

    >>> ratio, complement, slope = bessel_ratio(torch.tensor(0.0), 0.5)
    >>> ratio, complement, slope
    (tensor(0.), tensor(1.), tensor(0.3333))
    """
    return _Ratio.apply(k, float(order), True)


def ratio_complement(k: Tensor, order: float) -> Tensor:
    """1 - A alone; not differentiable."""
    return bessel_columns(k, order, ("complement",))[0]


# relative difference of p and q below which their divergence is integrated; 8 nodes are then exact to rounding
_NEAR = 0.25


def _close_divergence(p: Tensor, q: Tensor, d: Tensor, order: float) -> tuple[Tensor, Tensor]:
    """The divergence, and its derivative in q, of flat p and q = p + d that are close."""
    # for larger arguments the divergence depends on the ratio of p and q alone
    unit = (torch.maximum(p, q) / largest_argument(order)).clamp_min(1)
    start, step = p / unit, d / unit
    u, w = legendre(8, p.device)
    slopes = bessel((start + u * step).reshape(-1), order, False, "", True).slope
    assert slopes is not None
    slopes = slopes.reshape(len(u), -1) * step
    return (w * (1 - u) * slopes).sum(0) * step, (w * slopes).sum(0) / unit


class _Divergence(OnceDifferentiable):
    """G(q) - G(p) - (q - p) A(p), and its derivatives in p and q."""

    ranks = (0, 0)

    @staticmethod
    def forward(p: Tensor, q: Tensor, order: float) -> tuple[Tensor, ...]:
        dtype, shape = p.dtype, p.shape
        p, q = p.detach().double().reshape(-1), q.detach().double().reshape(-1)
        a, b = (bessel(x, order, False, "", False) for x in (p, q))
        own = bessel(p.clamp_max(largest_argument(order)), order, False, "", True).slope
        assert a.ratio is not None and a.complement is not None and own is not None
        assert b.ratio is not None and b.complement is not None
        small = torch.maximum(p, q) < order + 1
        d = q - p
        plain = [bessel_columns(x, order, ("g",), "G")[0] for x in (p, q)]
        scaled = [bessel_columns(x, order, ("g",), "G - k")[0] for x in (p, q)]  # stays small for large k
        value = torch.where(
            small, plain[1] - plain[0] - d * a.ratio, scaled[1] - scaled[0] + d * a.complement
        )
        slope_q = torch.where(small, b.ratio - a.ratio, a.complement - b.complement)
        beyond = (p / largest_argument(order)).clamp_min(1)
        slope_p = -(d / beyond) * own / beyond
        # where p and q are close, all of these differences lose digits: integrate A' from p to q instead
        near = d.abs() < _NEAR * torch.maximum(p, q)
        if is_concrete(p):
            i = near.nonzero(as_tuple=True)
            value[i], slope_q[i] = _close_divergence(p[i], q[i], d[i], order)
        else:
            close = _close_divergence(p, q, d, order)
            value, slope_q = (torch.where(near, c, x) for c, x in zip(close, (value, slope_q), strict=True))
        return tuple(x.reshape(shape).to(dtype) for x in (value, slope_p, slope_q))


def bessel_divergence(p: Tensor, q: Tensor, order: float) -> Tensor:
    r""":math:`G_v(q) - G_v(p) - (q-p)A_v(p) \ge 0`, differentiable once; its relative error is of the order of
    rounding also where p is close to q or to 0.

    It is the Kullback-Leibler divergence between von Mises-Fisher distributions with concentrations p and q and
    equal mean directions.

    :param p: a nonnegative argument.
    :param q: another, of a shape that broadcasts with that of p.

    >>> bessel_divergence(torch.tensor(1e6), torch.tensor(3e6), 0.5)  # 2 - log 3
    tensor(0.9014)
    """
    p, q = torch.broadcast_tensors(p, q)
    return _Divergence.apply(p, q, float(order))[0]
