r"""Values of modified Bessel functions of real order :math:`v \ge 0` at machine precision for every argument.

.. math::
    G_v(k) = \log\frac{\Gamma(v+1)\,I_v(k)}{(k/2)^v} \ge 0, \qquad
    G_v' = A_v = \frac{I_{v+1}}{I_v}, \qquad G_v(0) = A_v(0) = 0

At order :math:`V \ge 16` both follow from Debye's expansion in powers of :math:`1/V`, whose coefficients are
polynomials in :math:`p = V/\sqrt{V^2+k^2}` (economised; :math:`V \ge 10` and fewer terms for float32). The
downward recurrences

.. math:: G_v = G_{v+1} + \log\Big(1 + \frac{\rho_{v+1}}{2(v+1)}\Big), \qquad
          \rho_v = k A_v = \frac{k^2}{2(v+1) + \rho_{v+1}}, \qquad
          \tau_v = k(1 - A_v) = \frac{k\,(2(v+1) - \tau_{v+1})}{2(v+1) + \rho_{v+1}}

are stable and lead from V to v. Beyond :math:`k = 10^{18}(v+1)^2`, where products of the :math:`\rho` would
overflow, the first terms of Hankel's expansion are exact to rounding: :math:`G - k` decreases like
:math:`-(v+\frac12)\log k`, and :math:`1 - A` is :math:`(v+\frac12)/k`. :math:`\rho` is relatively accurate for
small k, :math:`\tau` for large k. All arithmetic is float64. References: DLMF 10.41.3 (Debye), 10.29.1
(recurrence).
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .chunks import slices
from .numpy_bessel import numpy_bessel
from .numpy_operator import Array, by_numpy
from .tracing import constant_result, maybe_any

__all__ = ["Bessel", "bessel", "bessel_columns", "largest_argument"]

# for float64 and for float32 results: the lowest V, the number of terms, the tolerance of the polynomials
_RULES = {False: (16, 14, 5e-16), True: (10, 8, 1e-8)}
_TERMS = 14
_DEGREE = 32
_FEW = 512  # arguments up to which NumPy is faster (measured)
_CHUNK = 1 << 14  # elements per chunk, so that all temporaries stay in the cache


@lru_cache
def _debye_slopes() -> list[list[Fraction]]:
    r"""The polynomials D_k' in p, k = 1, 2, ..., where :math:`\sum_k D_k(p) V^{-k}` is the log of Debye's
    series:

    :math:`D_1' = (1 - 5p^2)/8,\quad 2 D_{k+1}' = (p^2(1-p^2) D_k')' + p^2(1-p^2) \sum_{i+j=k} D_i' D_j'`.
    """
    out = [[Fraction(1, 8), Fraction(0), Fraction(-5, 8)]]
    for k in range(1, _TERMS):
        inner = [Fraction(0)] * (3 * k + 5)  # p^2 (1 - p^2) sum_{i+j=k} D_i' D_j'
        for a, b in ((out[i], out[k - 2 - i]) for i in range(k - 1)):
            for m, x in enumerate(a):
                if x:
                    for n, y in enumerate(b):
                        inner[m + n + 2] += x * y
                        inner[m + n + 4] -= x * y
        for m, x in enumerate(out[-1]):  # (p^2 (1 - p^2) D_k')'
            inner[m + 1] += (m + 2) * x
            inner[m + 3] -= (m + 4) * x
        out.append([x / 2 for x in inner[: 3 * k + 3]])
    return out


def _economise(coefficients: list[float], tolerance: float) -> list[float]:
    """The coefficients (lowest power first) of the polynomial of least degree in z = 2p - 1 that
    approximates, for p in [0, 1] and to ``tolerance``, the one with the given ``coefficients`` in p; from its
    Chebyshev series."""
    f = np.polynomial.Polynomial(coefficients)
    series: Any = np.polynomial.chebyshev.chebinterpolate(lambda z: f((z + 1) / 2), _DEGREE)  # type: ignore[type-var]
    return np.polynomial.chebyshev.cheb2poly(np.polynomial.chebyshev.chebtrim(series, tolerance)).tolist()


@lru_cache(maxsize=256)
def _debye(order: float, single: bool) -> tuple[list[float], list[float]]:
    """T = 1/2 + p sum_k D_k'/V^k and Q = sum_k (D_k(p) - D_k(1)) / (p - 1) / V^k at order V, as polynomials in
    2p - 1."""
    _, terms, tolerance = _RULES[single]
    total = [Fraction(0)] * (3 * _TERMS)
    scale = Fraction(1)
    for d in _debye_slopes()[:terms]:
        scale /= Fraction(order)
        if scale * max(map(abs, d)) < 1e-19:  # large orders need few terms
            break
        for m, x in enumerate(d):
            total[m] += scale * x
    q = [x / (m + 1) for m, x in enumerate(total)]
    for m in range(len(q) - 1, 0, -1):
        q[m - 1] += q[m]
    return _economise([0.5, *map(float, total)], tolerance), _economise([*map(float, q)], tolerance)


@constant_result  # a compiler cannot trace arithmetic with fractions
def _coefficients(order: float, single: bool) -> tuple[list[float], list[float]]:
    return _debye(order, single)


def _polynomial(coefficients: list[float], z: Tensor) -> Tensor:
    """The polynomial with these coefficients, lowest power first; computed in place, not differentiable."""
    if len(coefficients) == 1:
        return torch.full_like(z, coefficients[0])
    out = z * coefficients[-1]
    for c in reversed(coefficients[1:-1]):
        out = out.add_(c).mul_(z)
    return out.add_(coefficients[0])


class Bessel(NamedTuple):
    """G (or G - k), A, 1 - A and A' at one order; fields that were not requested may be ``None``."""

    g: Tensor | None
    ratio: Tensor | None
    complement: Tensor | None
    slope: Tensor | None


def _steps(order: float, single: bool) -> int:
    return max(1, math.ceil(_RULES[single][0] - order))  # at least one: it divides by k without 0/0 at k = 0


def _by_numpy(k: Array, order: float, single: bool, value: str, slope: bool) -> tuple[Array | None, ...]:
    steps = _steps(order, single)
    with np.errstate(all="ignore"):
        return numpy_bessel(k, order, steps, _coefficients(order + steps, single), value, slope)


def _bessel_below(k: Tensor, order: float, single: bool, value: str = "", slope: bool = False) -> Bessel:
    """The algorithm above for one chunk of float64 arguments up to :func:`largest_argument`.

    :param single: whether the precision of float32 is enough.
    :param value: "G" (returned with A), "G - k" (with 1 - A), or "" for A and 1 - A alone.
    :param slope: whether to return A' too.
    """
    steps = _steps(order, single)
    if k.numel() <= _FEW and by_numpy(k):
        found = _by_numpy(k.numpy(), order, single, value, slope)
        return Bessel(*(None if x is None else torch.from_numpy(x) for x in found))
    top = order + steps
    k2 = k * k
    s = (k2 + top**2).sqrt_()
    p = s.reciprocal().mul_(top)
    z = p * 2
    z -= 1
    t_coefficients, q_coefficients = _coefficients(top, single)
    t = _polynomial(t_coefficients, z)
    r = (s + top).reciprocal_()
    g = product = tau = d_tau = ratio = complement = dratio = None
    if value:
        g = _polynomial(q_coefficients, z).mul_(p)
        w = (k2 * r).mul_(1 / top)
        g.mul_(w).neg_()
        if value == "G":
            g.add_(w, alpha=top)
        else:
            g.addcdiv_(k, (s + k).add_(top), value=-2 * top)
        g.sub_((w / 2).log1p_(), alpha=top)
        g.sub_(w.log1p_(), alpha=0.5)
    if value != "G":
        h = (s + k).reciprocal_().mul_(top**2).add_(top)
        c2t = (k / s).square_().mul_(t)
        tau = (k * h).mul_(r).add_(c2t)
    if slope:
        c = k / s
        dt = _polynomial([2 * m * x for m, x in enumerate(t_coefficients)][1:] or [0.0], z)
        d_tau = (h * top * (1 + p) * r - k * top**2 * (1 + c) / (s + k) ** 2) * r
        d_tau = d_tau + (2 * p * p * c * t - c * c * c * p * dt) / s
    rho = t.mul_(p).mul_(p).mul_(-1 / top**2).add_(r).mul_(k2)
    for i in reversed(range(steps)):
        b = 2.0 * (order + i + 1)
        if value:
            product = rho / b if product is None else product.addcmul_(rho, product + 1, value=1 / b)
        inverse = (rho + b).reciprocal_()
        if tau is not None:
            left = b - tau
        if i == 0:
            break
        if tau is not None:
            tau = (k * left).mul_(inverse)
            if d_tau is not None:
                d_tau = (left - tau - (k - tau) * d_tau) * inverse
        rho = torch.mul(k2, inverse, out=rho)
    if g is not None and product is not None:
        g += product.log1p_()
    if tau is not None:
        complement = left * inverse
    if value != "G - k":
        ratio = k * inverse
    if d_tau is not None and ratio is not None and complement is not None:
        # tau/k^2 - tau'/k loses digits for small k, and A (1/k + A_{v+1} - A_v) for large k
        small = k < order + 1
        safe = torch.where(small, order + 1.0, k)
        d_tau = (left - k * complement - (k - k * complement) * d_tau) * inverse
        dratio = torch.where(small, inverse * (1 + rho - k * ratio), (complement - d_tau) / safe)
    return Bessel(g, ratio, complement, dratio)


def bessel_columns(
    k: Tensor, order: float, fields: Sequence[str], value: str = "", slope: bool = False
) -> tuple[Tensor, ...]:
    """The named fields of :class:`Bessel` for arguments of any shape, dtype and size, computed in chunks."""
    flat, single = k.detach().reshape(-1), k.dtype != torch.float64
    if 0 < len(flat) <= _FEW and by_numpy(flat) and float(flat.max()) <= largest_argument(order):
        x = flat.numpy()
        found = Bessel(*_by_numpy(x.astype(np.float64), order, single, value, slope))  # type: ignore[arg-type]
        arrays = (getattr(found, name) for name in fields)
        return tuple(torch.from_numpy(a.astype(x.dtype, copy=False)).view(k.shape) for a in arrays)
    out = tuple(torch.empty_like(flat) for _ in fields)
    for part in slices(len(flat), 1, _CHUNK):
        found = bessel(flat[part].double(), order, single, value, slope)
        for column, name in zip(out, fields, strict=True):
            column[part] = getattr(found, name)
    return tuple(column.view(k.shape) for column in out)


def largest_argument(order: float) -> float:
    """The largest argument up to which :func:`_bessel_below` cannot overflow; from there on the first terms of
    Hankel's expansion are exact to rounding."""
    return 1e18 * (1 + order) ** 2


def bessel(k: Tensor, order: float, single: bool, value: str, slope: bool) -> Bessel:
    """:func:`_bessel_below` for float64 arguments of any size."""
    last = largest_argument(order)
    if not maybe_any(k > last):
        return _bessel_below(k, order, single, value, slope)
    near = k.clamp_max(last)
    b = _bessel_below(near, order, single, value, slope)
    beyond = (k / last).clamp_min(1)
    g = b.g
    if g is not None:
        g = g - (order + 0.5) * beyond.log()
        g = g + (k - near) if value == "G" else g
    complement = None if b.complement is None else b.complement / beyond
    dratio = None if b.slope is None else b.slope / beyond / beyond
    return Bessel(g, b.ratio, complement, dratio)
