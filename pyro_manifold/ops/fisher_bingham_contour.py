r"""The contour integral that gives the normaliser of quadratic-exponential densities on the sphere, and its
nodes.

.. math::
    e^{S(c)} = 2\pi^{d/2}\,\frac1{2\pi i}\int_{t-i\infty}^{t+i\infty} e^{s^2/(c_1+s)}\prod_j (c_j+s)^{-1/2}\,ds

Let :math:`\varphi` be the log integrand and t > 0 its saddle point. The trapezoidal rule in w runs along the
path

.. math:: s(w) = t - A(\cosh w - 1) + i\sigma\sinh w, \quad \sigma = \varphi''(t)^{-1/2},\;
          A = \min\{1,\ 5\sigma|\varphi'''(t)|/12\varphi''(t)\}\,\sigma

A approximates the curvature of the path of steepest descent at the saddle. Since :math:`A\le\sigma`, no factor
grows along the path faster than :math:`e^s` decays, however different the rates :math:`c_i` are.

References: Kume & Wood, Biometrika 92 (2005), eq. 8; Kume & Sei, Stat. Comput. 28 (2018); the shape of the
contour: Weideman & Trefethen, Math. Comp. 76 (2007), sec. 4.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .tracing import is_concrete

__all__ = ["NODES", "Contour", "contour"]

# worst error on random and adversarial rates up to 1e4: 4e-12 (64 nodes 3e-11, 48 nodes 5e-9); 40 are enough
# for rates of similar size
NODES = 72
_SETTLED = 1e-9  # Newton's method stops after a relative step below this
_DROP = 38.0  # the path ends where the integrand has fallen by exp(-38)


class Contour(NamedTuple):
    """The integral and its nodes, for a matrix of rates ``(rows, d)``. The factors have d as their first axis,
    since torch's sums over a short last axis are slow."""

    log: Tensor  # S, (rows,)
    weights: Tensor  # complex, (rows, n); their real parts sum to 1
    u: Tensor  # 1 / (c_i + s), complex, (d, rows, n)
    w: Tensor  # s / (c_1 + s), complex, (rows, n)


def _saddle(c: Tensor) -> Tensor:
    r"""The root t of :math:`h(t)=\sum_i \tfrac12(c_i+t)^{-1}+c_1^2(c_1+t)^{-2}=1`.

    :math:`h^{-1/2}` is increasing and concave, so Newton's method from a lower bound increases monotonically to
    the root. The lower bounds are the roots for each term alone, and the root for the largest of the terms with
    i > 1 against :math:`1-c_1^2/(c_1+t)^2\le2t/(c_1+t)`."""
    first, others = c[:, :1], c[:, 1:].amin(-1, keepdim=True)
    one = torch.ones_like(first)
    alone = 0.25 * (1 + 1 / (torch.hypot(one, 4 * first) + 4 * first))
    slack = 4 * others - 1
    root = torch.hypot(slack, 4 * first.sqrt())
    ridge = torch.where(
        slack > 0, 2 * first / (slack + root).clamp_min(torch.finfo(c.dtype).tiny), (root - slack) / 8
    )
    t = torch.maximum(torch.maximum(alone, ridge), 0.5 - others)
    may_stop_early = is_concrete(c) and c.device.type == "cpu"
    for i in range(12):
        v = 1 / (c + t)
        v1 = v[:, :1]
        excess = 0.5 * v.sum(-1, keepdim=True) - (t * v1) * ((2 * first + t) * v1)  # h - 1
        slope = 0.5 * v.square().sum(-1, keepdim=True) + 2 * (first * v1).square() * v1
        h = 1 + excess
        step = 2 * h * excess / ((1 + h.sqrt()) * slope)
        t = t + step
        if may_stop_early and i > 2 and bool((step <= _SETTLED * t).all()):  # convergence is quadratic
            break
    return t


def _end(a: Tensor, sigma: Tensor, v: Tensor, r: Tensor, linear: Tensor) -> Tensor:
    """The end of the path: the least w in [1, 9], in steps of 1/8, where the integrand has fallen by exp(-38).
    Steps of 1 are tried first, then steps of 1/8 within one of them."""
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


def contour(c: Tensor) -> Contour:
    """The contour for each row of float64 rates. Products are taken in an order in which nothing overflows or
    underflows for rates up to 1e300."""
    first = c[:, :1]
    t = _saddle(c)
    v = 1 / (c + t)
    v1 = v[:, :1]
    share = first * v1  # c_1 / (c_1 + t)
    # with z_i = (s - t) / (c_i + t), the exponent minus its value at t is
    # linear * (s - t) + (r z_1)^2 / (1 + z_1) - sum_i log(1 + z_i) / 2
    linear = (t * v1) * ((2 * first + t) * v1)
    r = first.sqrt() * share.sqrt()
    sigma = (0.5 * v.square().sum(-1, keepdim=True) + 2 * share.square() * v1).rsqrt()
    sv = sigma * v
    bent = sigma * (sv.pow(3).sum(-1, keepdim=True) + 6 * sigma * (share * sv[:, :1]).square()) * (5 / 12)
    a = torch.minimum(sigma, bent)
    high = _end(a, sigma, v, r, linear)
    h = high / NODES
    e = (0.5 * h * torch.arange(NODES + 1, dtype=c.dtype, device=c.device)).exp()
    half_sinh, half_cosh = 0.5 * (e - 1 / e), 0.5 * (e + 1 / e)
    drop, sinh = 2 * half_sinh.square(), 2 * half_sinh * half_cosh  # cosh(w) - 1 and sinh(w)
    x, y, vs = -a * drop, sigma * sinh, v.mT.unsqueeze(-1)
    # 1 + z, shape (d, rows, n), as real and imaginary part: a complex log costs as much as twenty real ones
    re = 1 + x * vs
    im = y * vs
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
    return Contour(log.squeeze(-1) + constant, f / total, u, torch.complex((t + x) * v1, y * v1) * inverse)
