r"""The one normaliser of all quadratic-exponential distributions on the sphere
:math:`S^{d-1}\subset\mathbb R^d`, d >= 2.

Relative to its mode a density of this kind is, in its own axes and with rates :math:`c_1 \ge 0`,

.. math::
    e^{-q(x)}, \qquad q(x) = c_1 (1-x_1)^2 + \sum_{j\ge2} c_jx_j^2, \qquad
    e^{S(c)} = \int_{S^{d-1}} e^{-q}\,dS
             = 2\pi^{d/2}\,\frac1{2\pi i}\int_{t-i\infty}^{t+i\infty} e^{s^2/(c_1+s)}\prod_j
             (c_j+s)^{-1/2}\,ds

Kent's density :math:`e^{\kappa x_1+\sum\beta_jx_j^2}` has :math:`c_1=\kappa/2`, :math:`c_j=\kappa/2-\beta_j`,
von Mises-Fisher's equal rates :math:`\kappa/2`, Bingham's :math:`c_1 = 0` and the gaps of its eigenvalues;
through quaternions the matrix Fisher distribution of SO(3) is one of them. Nothing of the order of
:math:`\kappa` appears, so that log densities, entropies and divergences keep their digits at every
concentration: q is of the order of 1 wherever there is mass.

Let :math:`\varphi` be the log integrand and t > 0 its saddle. The trapezoidal rule in w runs along

.. math:: s(w) = t - A(\cosh w - 1) + i\sigma\sinh w, \quad \sigma = \varphi''(t)^{-1/2},\;
          A = \min\{1,\ 5\sigma|\varphi'''(t)|/12\varphi''(t)\}\,\sigma

A is about the curvature of steepest descent at the saddle. Since :math:`A\le\sigma`, no factor grows along
the path faster than :math:`e^s` decays, however unlike the :math:`c_i`. Moments are averages over the same
nodes: given s, the coordinates :math:`x_j`, j >= 2, are independent normals of variance
:math:`\tfrac12(c_j+s)^{-1}`. Derivatives are as exact as values: :math:`S` may be differentiated twice,
moments and entropies once.

References: Kume & Wood, Biometrika 92 (2005), eq. 8; Kume & Sei, Stat. Comput. 28 (2018); the contour's
shape: Weideman & Trefethen, Math. Comp. 76 (2007), sec. 4.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .autograd import BatchFunction, differentiated, last_order_gradient
from .chunks import by_chunks
from .quadrature import legendre
from .tracing import is_concrete, maybe_any

__all__ = [
    "log_normalizer",
    "relative_moments",
    "relative_normalizer",
    "square_products",
    "uniform_divergence",
]

# worst error on random and adversarial rates up to 1e4: 4e-12 (64 nodes 3e-11, 48 nodes 5e-9); plain cases
# need 40
_NODES = 72
_CHUNK = 2**17  # rows x nodes x d at a time: smaller ones pay for the calls, larger ones for page faults
_SETTLED = 1e-9  # a relative step of Newton's method after which there is no other
_DROP = 38.0  # the integrand is followed until it has fallen by exp(-38)
# below this E|x - mode|^2, and without mass at the antipode, E(1 - x_1)^2 is taken from the moments of the
# others
_NARROW = 6e-6


def _saddle(c: Tensor) -> Tensor:
    r"""Root t of :math:`h(t)=\sum_i \tfrac12(c_i+t)^{-1}+c_1^2(c_1+t)^{-2}=1`.

    :math:`h^{-1/2}` is increasing and concave, so Newton's method from a lower bound climbs to the root
    monotonically. The bounds: each term alone; and the largest of the other terms against
    :math:`1-c_1^2/(c_1+t)^2\le2t/(c_1+t)`."""
    first, others = c[:, :1], c[:, 1:].amin(-1, keepdim=True)
    one = torch.ones_like(first)
    alone = 0.25 * (1 + 1 / (torch.hypot(one, 4 * first) + 4 * first))
    slack = 4 * others - 1
    root = torch.hypot(slack, 4 * first.sqrt())
    ridge = torch.where(
        slack > 0, 2 * first / (slack + root).clamp_min(torch.finfo(c.dtype).tiny), (root - slack) / 8
    )
    t = torch.maximum(torch.maximum(alone, ridge), 0.5 - others)
    watched = is_concrete(c) and c.device.type == "cpu"
    for i in range(12):
        v = 1 / (c + t)
        v1 = v[:, :1]
        excess = 0.5 * v.sum(-1, keepdim=True) - (t * v1) * ((2 * first + t) * v1)  # h - 1
        slope = 0.5 * v.square().sum(-1, keepdim=True) + 2 * (first * v1).square() * v1
        h = 1 + excess
        step = 2 * h * excess / ((1 + h.sqrt()) * slope)
        t = t + step
        if (
            watched and i > 2 and bool((step <= _SETTLED * t).all())
        ):  # the next step is of the order of the square
            break
    return t


class _Contour(NamedTuple):
    """S; complex weights ``(rows, n)`` whose real parts add up to 1; 1/(c_i + s), complex ``(d, rows, n)``, d
    in front because sums over a short last axis are slow; and s/(c_1 + s), ``(rows, n)``."""

    log: Tensor
    weights: Tensor
    u: Tensor
    w: Tensor


def _end(a: Tensor, sigma: Tensor, v: Tensor, r: Tensor, linear: Tensor) -> Tensor:
    """The least w in steps of 1/8 from 1 to 9 where the integrand has fallen by exp(-38), of 8 and then of 8
    between two."""
    low = torch.ones_like(a)
    steps = torch.arange(1, 8, dtype=a.dtype, device=a.device)
    vs = v.mT.unsqueeze(-1)
    for step in (1.0, 0.125):
        w = low + step * steps
        drop = a * (torch.cosh(w) - 1)
        x, y = drop * vs, sigma * torch.sinh(w) * vs
        x1, m = 1 - x, y * y
        m = torch.addcmul(m, x1, x1)
        rx, ry, z = r * x[0], r * y[0], x1[0]
        fall = (
            drop * linear - w + 0.25 * m.log().sum(0) - ((rx * rx - ry * ry) * z - 2 * rx * ry * y[0]) / m[0]
        )
        low = low + step * (fall < _DROP).sum(-1, keepdim=True)
    return low + 0.125


def _contour(c: Tensor) -> _Contour:
    """For rows of float64 rates. Products are taken in an order in which nothing overflows or vanishes up to
    1e300."""
    first = c[:, :1]
    t = _saddle(c)
    v = 1 / (c + t)
    v1 = v[:, :1]
    share = first * v1  # c_1 / (c_1 + t)
    # with z = (s - t) / (c + t) the exponent less its value at t is linear * (s - t) + (r z_1)^2 / (1 + z_1)
    # - sum log(1 + z) / 2
    linear = (t * v1) * ((2 * first + t) * v1)
    r = first.sqrt() * share.sqrt()
    sigma = (0.5 * v.square().sum(-1, keepdim=True) + 2 * share.square() * v1).rsqrt()
    sv = sigma * v
    bent = sigma * (sv.pow(3).sum(-1, keepdim=True) + 6 * sigma * (share * sv[:, :1]).square()) * (5 / 12)
    a = torch.minimum(sigma, bent)
    high = _end(a, sigma, v, r, linear)
    h = high / _NODES
    e = (0.5 * h * torch.arange(_NODES + 1, dtype=c.dtype, device=c.device)).exp()
    half_sinh, half_cosh = 0.5 * (e - 1 / e), 0.5 * (e + 1 / e)
    drop, sinh = 2 * half_sinh.square(), 2 * half_sinh * half_cosh  # cosh(w) - 1 and sinh(w)
    x, y, vs = -a * drop, sigma * sinh, v.mT.unsqueeze(-1)
    re, im = (
        1 + x * vs,
        y * vs,
    )  # 1 + z, shape (d, rows, n); in real parts, for a complex log costs twenty real ones
    m = re * re + im * im
    inverse = torch.complex(re[0] / m[0], -im[0] / m[0])  # 1 / (1 + z_1)
    u = torch.complex(re / m * vs, -im / m * vs)
    rz = torch.complex(r * (x * v1), r * (y * v1))
    exponent = torch.complex(x * linear, y * linear) + rz.square() * inverse
    exponent = exponent - 0.5 * torch.complex(0.5 * m.log().sum(0), torch.atan2(im, re).sum(0))
    f = torch.polar(exponent.real.exp(), exponent.imag) * torch.complex(sigma * (1 + drop), a * sinh)
    f = torch.cat([0.5 * f[..., :1], f[..., 1:]], -1)
    total = f.real.sum(-1, keepdim=True)
    d = c.shape[-1]
    log = t * (t * v1) + 0.5 * v.log().sum(-1, keepdim=True) + (h * total).log()
    constant = math.log(2) + (d / 2 - 1) * math.log(math.pi)
    return _Contour(log.squeeze(-1) + constant, f / total, u, torch.complex((t + x) * v1, y * v1) * inverse)


def _mean(weights: Tensor, f: Tensor) -> Tensor:
    """Averages over the nodes, ``(rows, d)``, of ``f``, ``(d, rows, n)``."""
    return (weights * f).sum(-1).real.mT


def _chunked(f: Callable[..., tuple[Tensor, ...]], *rows: Tensor) -> tuple[Tensor, ...]:
    return by_chunks(f, _NODES * rows[0].shape[-1], _CHUNK, *rows)


def _by_rows(f: Callable[..., tuple[Tensor, ...]], c: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """:func:`_chunked` for arguments of any one batch shape."""
    batch, d = c.shape[:-1], c.shape[-1]
    rows = (x.reshape(-1, d) for x in others)
    return tuple(y.reshape(batch + y.shape[1:]) for y in _chunked(f, c.reshape(-1, d), *rows))


def _values(c: Tensor) -> tuple[Tensor, ...]:
    return (_contour(c).log,)


def _values_and_moments(c: Tensor) -> tuple[Tensor, ...]:
    k = _contour(c)
    half = 0.5 * k.u
    moments = _mean(k.weights, half)
    first = moments[:, 0] + _mean(k.weights, k.w.square().unsqueeze(0))[:, 0]
    narrow = (moments[:, 1:].sum(-1) < _NARROW) & (c[:, 0] > 25)
    if not maybe_any(narrow):
        return k.log, torch.cat([first.unsqueeze(-1), moments[:, 1:]], -1)
    # where all mass is near the mode this is a difference: (1 - x_1)^2 = q^2/4 + q^3/8 + ... with q the
    # squares of the others
    others = half[1:]
    square, cube = (2 * others.square()).sum(0), (8 * others.pow(3)).sum(0)
    mean = others.sum(0)
    q2 = _mean(k.weights, (mean.square() + square).unsqueeze(0))[:, 0]
    q3 = _mean(k.weights, (mean * mean.square() + 3 * mean * square + cube).unsqueeze(0))[:, 0]
    first = torch.where(narrow, q2 / 4 + q3 / 8, first)
    return k.log, torch.cat([first.unsqueeze(-1), moments[:, 1:]], -1)


def _slopes(c: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    """Gradient in c of ``g.E[((1 - x_1)^2, x_2^2, ...)]``: derivatives of the nodes' moments, and of their
    weights."""
    k = _contour(c)
    g = g.mT.unsqueeze(-1)
    statistics = 0.5 * k.u
    squared = k.w.square()
    statistics = torch.cat([statistics[:1] + squared, statistics[1:]])
    q = (g * statistics).sum(0)
    q = q - (k.weights * q).sum(-1, keepdim=True).real
    change = -0.5 * (g * k.u) * k.u  # in this order: squares of 1e-300 vanish
    change = torch.cat([change[:1] - 2 * g[:1] * squared * k.u[:1], change[1:]])
    return (_mean(k.weights, change - q * statistics),)


class _Moments(BatchFunction):
    """c -> (S, E((1 - x_1)^2, x_2^2, ...)); the gradient of the first is minus the second, whose own is
    symmetric."""

    ranks = (1,)

    @staticmethod
    def forward(c: Tensor) -> tuple[Tensor, ...]:
        return _by_rows(_values_and_moments, c)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs, output[1])
        ctx.save_for_forward(*inputs, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        c, moments = ctx.saved_tensors
        return -(tangent * moments).sum(-1), _Slopes.apply(c, tangent)

    @staticmethod
    def backward(ctx: Any, g0: Tensor | None, g: Tensor | None) -> Tensor | None:  # type: ignore[override]
        c, moments = ctx.saved_tensors
        out = None if g is None else _Slopes.apply(c, g)
        if g0 is None:
            return out
        value = -g0.unsqueeze(-1) * moments
        return value if out is None else out + value


class _Slopes(BatchFunction):
    ranks = (1, 1)

    @staticmethod
    def forward(c: Tensor, g: Tensor) -> Tensor:
        return _by_rows(_slopes, c, g)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None: ...

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError(
            "log C of a Fisher-Bingham distribution has derivatives up to the second order here, no third."
        )

    jvp = backward


class _UniformDivergence(BatchFunction):
    r"""log of the area - S - c.E[...]: the divergence from the uniform distribution, and its gradient as a
    second output.

    Its gradient is minus that of :math:`c\cdot` moments at fixed c. Where the rates are small it is
    integrated along the ray to 0, :math:`\int_0^1 t\,\mathrm{Var}_{tc}(q)\,dt`."""

    ranks = (1,)

    @staticmethod
    def forward(c: Tensor) -> tuple[Tensor, Tensor]:
        batch, d = c.shape[:-1], c.shape[-1]
        c = c.reshape(-1, d)
        log, moments = _chunked(_values_and_moments, c)
        area = math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)
        value = area - log - (c * moments).sum(-1)
        i = (c.abs().amax(-1) < 1).nonzero(as_tuple=True)
        near = c[i]
        x, weight = legendre(8, c.device)
        nodes = (x.unsqueeze(-1) * near).reshape(-1, d)
        variance = -(
            _chunked(_slopes, nodes, near.repeat(len(x), 1))[0].reshape((len(x),) + near.shape) * near
        ).sum(-1)
        value[i] = (weight * x * variance).sum(0)
        return value.reshape(batch), -_chunked(_slopes, c, c)[0].reshape(batch + (d,))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, output[1])
        ctx.save_for_forward(*inputs, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        c, slope = ctx.saved_tensors
        return last_order_gradient((tangent * slope).sum(-1), c, tangent), None

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> Tensor:  # type: ignore[override]
        c, slope = ctx.saved_tensors
        return last_order_gradient(grad.unsqueeze(-1) * slope, c, grad)


def _checked(c: Tensor) -> Tensor:
    if c.dim() < 1 or c.shape[-1] < 2:
        raise ValueError(
            f"rates: got shape {tuple(c.shape)}, expected (..., d), d >= 2 the ambient dimension."
        )
    return c.double()


def relative_moments(c: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`S(c)` and the means of :math:`(1-x_1)^2, x_2^2, \dots, x_d^2`, in float64.

    :param Tensor c: rates, shape ``batch + (d,)``, the first not negative.

    >>> log, moments = relative_moments(torch.zeros(3))
    >>> log, moments  # log 4 pi; 1 + 1/3
    (tensor(2.5310, dtype=torch.float64), tensor([1.3333, 0.3333, 0.3333], dtype=torch.float64))
    """
    return _Moments.apply(_checked(c))


def relative_normalizer(c: Tensor) -> Tensor:
    r""":math:`S(c)`, differentiable twice; half the work of :func:`relative_moments` where no gradient is
    due.

    >>> relative_normalizer(torch.full((3,), 0.5e300, dtype=torch.float64))  # log 2 pi - log 1e300
    tensor(-688.9377, dtype=torch.float64)
    """
    c = _checked(c)
    return _Moments.apply(c)[0] if differentiated(c) else _by_rows(_values, c)[0]


def log_normalizer(lam: Tensor, kappa: Tensor | None = None) -> Tensor:
    r""":math:`\log\int e^{\kappa x_1-\sum_i l_i x_i^2}dS`, shape ``batch``; ``lam`` of either sign, kappa
    nonnegative.

    >>> log_normalizer(torch.zeros(4))  # log 2 pi^2
    tensor(2.9826)
    """
    k = lam.new_zeros(()).double() if kappa is None else kappa.double()
    l1 = lam[..., :1].double()
    out = k - l1.squeeze(-1) + relative_normalizer(lam.double() - l1 + (k / 2).unsqueeze(-1))
    return out.to(lam.dtype)


def uniform_divergence(c: Tensor) -> Tensor:
    r"""The Kullback-Leibler divergence from the uniform distribution, float64, with all its digits near rates
    of 0 too.

    >>> uniform_divergence(torch.tensor([0.0, 1e-8, 1e-8]))  # Bingham's: 2 / 45 of the square
    tensor(4.4444e-18, dtype=torch.float64)
    """
    return _UniformDivergence.apply(_checked(c))[0]


def square_products(c: Tensor) -> Tensor:
    r""":math:`E[x_i^2x_j^2]` (a third of it where i = j) under :math:`e^{-\sum c_ix_i^2}` with
    :math:`c_1 = 0`."""

    def products(rows: Tensor) -> tuple[Tensor, ...]:
        k = _contour(rows)
        u = k.u.movedim(0, 1)
        return ((0.25 * (k.weights.unsqueeze(-2) * u) @ u.mT).real,)

    with torch.no_grad():
        return _by_rows(products, _checked(c))[0]
