r"""The normaliser and the moments of the general quadratic-exponential density on the sphere, relative to its mode.

With the mode first among orthonormal axes, D nonnegative definite with eigenvalues :math:`c_i`, and
:math:`v_i` the first components of its eigenvectors,

.. math::
    e^{S(D)} = \int_{S^{d-1}} e^{-y^\top Dy}\,dS, \quad y = x - e_1, \qquad
    e^{S(D)} = 2\pi^{d/2}\,\frac1{2\pi i}\int e^{\sum_i v_i^2s^2/(c_i+s)} \prod_j (c_j+s)^{-1/2}\,ds

along the path of :mod:`pyro_manifold.ops.fisher_bingham_contour`, which is the case :math:`v = e_1`. Given s, the
:math:`y_i` along the eigenvectors are independent normals with means :math:`-v_is/(c_i+s)` and variances
:math:`\tfrac12(c_i+s)^{-1}`; moments are averages over the nodes. A linear term :math:`r\cdot y` is zero in value and
has derivatives: a change of the mode with the parameters. S may be differentiated twice, moments once; no eigenvector
is differentiated."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .autograd import BatchFunction, Undifferentiable, save_tensors
from .chunks import by_chunks
from .fisher_bingham_contour import NODES
from .quadrature import legendre
from .spherical import log_sphere_area
from .tracing import is_concrete

__all__ = ["general_divergence", "general_moments", "mode_of"]

_CHUNK = 2**17
_DROP = 38.0
_STEPS = 30  # of Newton's method; the largest number met for rates up to 1e6 is 13


def mode_of(rates: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    r"""The mode m of :math:`g\cdot x - \sum_i l_ix_i^2` on the sphere, and the t >= 0 with
    :math:`m_i = g_i/2(l_i+t)`: the root of :math:`\sum_i g_i^2/4(l_i+t)^2 = 1`, or 0 where there is none and the
    first axis has the rest (two modes).

    :math:`h^{-1/2}` of that sum h is increasing and concave, so Newton's method from a lower bound increases
    monotonically to the root.

    :param Tensor rates: l, nonnegative, the first of them 0, shape ``batch + (d,)``.
    :param Tensor linear: g, of that shape.
    """
    half = linear.abs() / 2
    tiny = torch.finfo(half.dtype).tiny
    t = (half - rates).amax(-1, keepdim=True).maximum(half[..., :1]).clamp_min(0)
    for _ in range(_STEPS):
        below = (rates + t).clamp_min(tiny)
        share = half / below
        h = share.square().sum(-1, keepdim=True)
        slope = (share.square() / below).sum(-1, keepdim=True)
        step = torch.where(h > 1, (h.sqrt() - 1) * h / slope.clamp_min(tiny), 0.0)
        t = t + step
        if is_concrete(t) and t.device.type == "cpu" and bool((step <= 1e-15 * t).all()):
            break
    below = rates + t
    m = torch.where(below > 0, linear / 2 / torch.where(below > 0, below, 1.0), 0.0)
    rest = (1 - m.square().sum(-1, keepdim=True)).clamp_min(0)
    one_sided = t > half[..., :1] * (1 + 1e-9)  # otherwise the first component may be anything up to 1
    sign = torch.where(m[..., :1] < 0, -1.0, 1.0)
    first = torch.where(one_sided, m[..., :1], sign * (m[..., :1].square() + rest).sqrt())
    m = torch.cat([first, m[..., 1:]], -1)
    return m / torch.linalg.vector_norm(m, dim=-1, keepdim=True), t.squeeze(-1)


class _Nodes(NamedTuple):
    """As :class:`~.fisher_bingham_contour.Contour`, where w is :math:`s/(c_i+s)` for every i."""

    log: Tensor  # (rows,)
    weights: Tensor  # complex, (rows, n)
    u: Tensor  # (d, rows, n)
    w: Tensor  # (d, rows, n)


def _saddle(c: Tensor, share: Tensor) -> Tensor:
    r"""The root of :math:`\sum_i\tfrac12(c_i+t)^{-1} + v_i^2c_i^2(c_i+t)^{-2} = 1`, above that of the smallest c alone
    with :math:`v^2 = 1`."""
    least = c.amin(-1, keepdim=True)
    t = 0.25 * (1 + 1 / (torch.hypot(torch.ones_like(least), 4 * least) + 4 * least))
    for _ in range(_STEPS):
        v = 1 / (c + t)
        excess = (0.5 * v - share * (t * v) * ((2 * c + t) * v)).sum(-1, keepdim=True)  # h - 1
        slope = (0.5 * v.square() + 2 * share * (c * v).square() * v).sum(-1, keepdim=True)
        h = 1 + excess
        step = (2 * h * excess / ((1 + h.sqrt()) * slope)).clamp_min(0)
        t = t + step
        if is_concrete(c) and c.device.type == "cpu" and bool((step <= 1e-9 * t).all()):
            break
    return t


def _path(c: Tensor, share: Tensor) -> _Nodes:
    """The nodes for each row of rates and of squares of v, ``(rows, d)``."""
    t = _saddle(c, share)
    v = 1 / (c + t)
    part = c * v
    linear = (share * (t * v) * ((2 * c + t) * v)).sum(-1, keepdim=True)
    sigma = (0.5 * v.square() + 2 * share * part.square() * v).sum(-1, keepdim=True).rsqrt()
    sv = sigma * v
    bent = sigma * (sv.pow(3) + 6 * sigma * share * (part * sv).square()).sum(-1, keepdim=True) * (5 / 12)
    a = torch.minimum(sigma, bent)
    vs = v.mT.unsqueeze(-1)
    r2 = (share * c * part).mT.unsqueeze(-1)  # of the term r^2 z^2 / (1 + z)

    def factors(drop: Tensor, sinh: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """1 + z as real and imaginary part, and the exponent less its value at t, without the product."""
        x, y = -a * drop, sigma * sinh
        re, im = 1 + x * vs, y * vs
        z = torch.complex(x * vs, y * vs)
        extra = (r2 * z * (z / torch.complex(re, im))).sum(0)
        return re, im, extra.real + x * linear, extra.imag + y * linear

    low = torch.ones_like(a)
    for width in (1.0, 0.125):  # to where the integrand has fallen by exp(-38), in steps of 1/8
        w = low + width * torch.arange(1, 8, dtype=c.dtype, device=c.device)
        re, im, exponent, _ = factors(torch.cosh(w) - 1, torch.sinh(w))
        fall = 0.25 * (re * re + im * im).log().sum(0) - exponent - w
        low = low + width * (fall < _DROP).sum(-1, keepdim=True)
    h = (low + 0.125) / NODES
    e = (0.5 * h * torch.arange(NODES + 1, dtype=c.dtype, device=c.device)).exp()
    half_sinh, half_cosh = 0.5 * (e - 1 / e), 0.5 * (e + 1 / e)
    drop, sinh = 2 * half_sinh.square(), 2 * half_sinh * half_cosh
    re, im, real, phase = factors(drop, sinh)
    m = re * re + im * im
    real = real - 0.25 * m.log().sum(0)
    phase = phase - 0.5 * torch.atan2(im, re).sum(0)
    f = torch.polar(real.exp(), phase) * torch.complex(sigma * (1 + drop), a * sinh)
    f = torch.cat([0.5 * f[..., :1], f[..., 1:]], -1)
    total = f.real.sum(-1, keepdim=True)
    d = c.shape[-1]
    log = (
        t * (share * (t * v)).sum(-1, keepdim=True) + 0.5 * v.log().sum(-1, keepdim=True) + (h * total).log()
    )
    constant = math.log(2) + (d / 2 - 1) * math.log(math.pi)
    u = torch.complex(re / m * vs, -im / m * vs)
    s = torch.complex(t - a * drop, sigma * sinh)
    return _Nodes(log.squeeze(-1) + constant, f / total, u, s * u)


def _spectrum(form: Tensor) -> tuple[Tensor, Tensor]:
    c, axes = torch.linalg.eigh(form)
    return c.clamp_min(0), axes


def _moments(form: Tensor) -> tuple[Tensor, ...]:
    """S, E[y] and E[yy^T] for the rows of D."""
    c, axes = _spectrum(form)
    first = axes[:, 0, :]
    k = _path(c, first.square())
    centre = -first.mT.unsqueeze(-1) * k.w
    mean = (k.weights * centre).sum(-1).real.mT
    at = centre.movedim(0, 1)  # (rows, d, n)
    second = ((k.weights.unsqueeze(-2) * at) @ at.mT).real
    second = second + torch.diag_embed((k.weights * 0.5 * k.u).sum(-1).real.mT)
    return k.log, (axes @ mean.unsqueeze(-1)).squeeze(-1), axes @ second @ axes.mT


def _covariances(form: Tensor, g: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    """Cov(y, q) and Cov(yy^T, q) for q = g.y + y^T h y."""
    c, axes = _spectrum(form)
    first = axes[:, 0, :]
    k = _path(c, first.square())
    g = (axes.mT @ g.unsqueeze(-1)).squeeze(-1)
    h = axes.mT @ (0.5 * (h + h.mT)) @ axes
    a = (-first.mT.unsqueeze(-1) * k.w).movedim(0, 1)  # (rows, d, n)
    var = (0.5 * k.u).movedim(0, 1)
    ha = h.to(a.dtype) @ a
    push = g.unsqueeze(-1) + 2 * ha  # the gradient of q at the mean
    q = (a * (g.unsqueeze(-1) + ha)).sum(1) + (h.diagonal(dim1=-2, dim2=-1).unsqueeze(-1) * var).sum(1)
    q = q - (k.weights * q).sum(-1, keepdim=True).real
    weights = k.weights.unsqueeze(-2)
    moved = var * push
    mean = (weights * (a * q.unsqueeze(-2) + moved)).sum(-1).real
    second = (weights * q.unsqueeze(-2) * a) @ a.mT + torch.diag_embed(
        (weights * q.unsqueeze(-2) * var).sum(-1)
    )
    cross = (weights * moved) @ a.mT
    second = second + cross + cross.mT + 2 * h * ((weights * var) @ var.mT)
    return (axes @ mean.unsqueeze(-1)).squeeze(-1), axes @ second.real @ axes.mT


def _by_rows(f: Any, form: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    batch, d = form.shape[:-2], form.shape[-1]
    rows = [x.reshape((-1,) + x.shape[len(batch) :]) for x in (form, *others)]
    return tuple(y.reshape(batch + y.shape[1:]) for y in by_chunks(f, NODES * d, _CHUNK, *rows))


class _General(BatchFunction):
    """D, r -> S, E[y], E[yy^T], at r = 0."""

    ranks = (2, 1)

    @staticmethod
    def forward(form: Tensor, linear: Tensor) -> tuple[Tensor, ...]:
        return _by_rows(_moments, form)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
        save_tensors(ctx, inputs[0], *output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def jvp(ctx: Any, form: Tensor | None, linear: Tensor | None) -> tuple[Tensor, ...]:  # type: ignore[override]
        d, mean, second = ctx.saved_tensors
        h = torch.zeros_like(second) if form is None else -form
        g = torch.zeros_like(mean) if linear is None else linear
        value = (second * h).sum((-1, -2)) + (mean * g).sum(-1)
        return value, *_Covariances.apply(d, g, h)

    @staticmethod
    def backward(
        ctx: Any, g0: Tensor | None, g1: Tensor | None, g2: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        d, mean, second = ctx.saved_tensors
        to_form, to_linear = None, None
        if g0 is not None:
            to_form, to_linear = -g0[..., None, None] * second, g0.unsqueeze(-1) * mean
        if g1 is not None or g2 is not None:
            g = torch.zeros_like(mean) if g1 is None else g1
            h = torch.zeros_like(second) if g2 is None else g2
            of_mean, of_second = _Covariances.apply(d, g, h)
            to_form = -of_second if to_form is None else to_form - of_second
            to_linear = of_mean if to_linear is None else to_linear + of_mean
        return to_form, to_linear


class _Covariances(Undifferentiable):
    ranks = (2, 1, 2)
    limit = "log C of a Fisher-Bingham distribution has derivatives up to the second order here, no third."

    @staticmethod
    def forward(form: Tensor, g: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        return _by_rows(_covariances, form, g, h)


def general_moments(form: Tensor, linear: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""S, :math:`\mathrm E[y]` and :math:`\mathrm E[yy^\top]`, in float64.

    :param Tensor form: D, nonnegative definite, shape ``batch + (d, d)``.
    :param Tensor linear: r, whose value is 0, shape ``batch + (d,)``.

    >>> zero = torch.zeros(3, 3)
    >>> general_moments(zero, zero[0])[0]  # log 4 pi
    tensor(2.5310, dtype=torch.float64)
    """
    form = form.double()
    return _General.apply(0.5 * (form + form.mT), linear.double())


def general_divergence(form: Tensor, linear: Tensor) -> Tensor:
    r"""The Kullback-Leibler divergence from the uniform distribution, in float64; where it is small, as
    :math:`\int_0^1 t\,\mathrm{Var}_{tD}(y^\top Dy)\,dt`, which keeps its digits."""
    form, linear = form.double(), linear.double()
    log, mean, second = general_moments(form, linear)
    own = (form * second).sum((-1, -2)) - (linear * mean).sum(-1)
    direct = log_sphere_area(form.shape[-1] - 1) - log - own
    x, weight = legendre(8, form.device)
    d = form.detach()
    small = d.abs().amax((-1, -2), keepdim=True) < 0.5
    d = torch.where(small, d, 0.0)
    nodes = x.reshape((-1,) + (1,) * d.dim()) * d
    slope = _Covariances.apply(nodes, nodes[..., 0] * 0, d.expand(nodes.shape))[1]
    variance = (slope * d).sum((-1, -2))
    near = (
        weight.reshape((-1,) + (1,) * (d.dim() - 2)) * x.reshape((-1,) + (1,) * (d.dim() - 2)) * variance
    ).sum(0)
    right = torch.where(small.squeeze(-1).squeeze(-1), near, direct.detach().clamp_min(0))
    return right + (direct - direct.detach())
