r"""The density of a normal distribution on a line that is wrapped around a closed geodesic of length
:math:`2\pi`.

.. math::
    w(t) = \log \sum_{k\in\mathbb Z} \Big|\frac{t_k}{h\sin(t_k/h)}\Big|^m e^{-t_k^2/2s^2}, \qquad t_k = t +
    2\pi k

m = d - 1, h = 1 on the sphere :math:`S^d`; m = h = 2 on :math:`SO(3)`; m = 0 on circles. The sine is the same
in every term, and :math:`f(t) = |t|^m e^{-t^2/2s^2}` is log-concave on either side of 0, with
:math:`(\log f)'' \le -1/s^2` and its mode at :math:`s\sqrt m`. So, relative to the largest term, terms beyond
:math:`s\sqrt m \pm (2\pi + cs)` are below the rounding error :math:`e^{-c^2/2}`, and about
:math:`4 + 2cs/\pi` terms are enough for every m. For scales above :math:`s_0 = 12.5` the dual sum is used
(Poisson summation),

.. math::
    \sum_k |t_k|^m e^{-t_k^2/2s^2} = \frac{(2s^2)^{\frac{m+1}2}}{2\pi}\,\Gamma\big(\tfrac{m+1}2\big)
        - 2 \sum_{j\ge0} \frac{(-1)^j (2\pi)^{m+2j}}{j!\,(2s^2)^j}\,\frac{B_{m+1+2j}(t/2\pi)}{m+1+2j} +
          O(e^{-s^2/4})

Its first term is the limit of a wide normal. The others, Bernoulli polynomials, come from the kink of
:math:`|t|^m` at 0: they are absent for even m and below the rounding error for m > 32. Measured against sums
with 60 digits for m from 1 to 1023, the two sums differ by less than 2e-16 at :math:`s_0`.

For m > 0 the sum has poles at t = 0 and (for h = 1) at t = π. A point closer to a pole than the rounding
error eps is scored as if it were at the distance eps.

References: DLMF 24.4 and 25.11.14 (Hurwitz zeta at negative integers); Mardia & Jupp (2000), eq. 3.5.60 (m =
0).
"""

import math
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

from .circular import log_wrapped_normal
from .signed_trig import log_sinc_sqrt
from .tracing import constant_result, is_concrete, maybe_any, on_host

__all__ = ["log_windings", "normal_reach"]

_CROSSOVER = 12.5
_SMOOTH = 32
_KINKS = 14  # number of terms of the series for the kink
_TURN = 2 * math.pi
_FEW = 6  # up to this number of turns on either side, all elements use the same turns


@lru_cache
def _bernoulli_numbers(n: int) -> list[Fraction]:
    """The Bernoulli numbers B_0, B_2, ..., B_n."""
    out = [Fraction(1)]
    for m in range(2, n + 1, 2):
        lower = sum(math.comb(m + 1, 2 * i) * b for i, b in enumerate(out)) - Fraction(m + 1, 2)
        out.append(-lower / (m + 1))
    return out


def _log_abs(b: Fraction) -> float:
    return math.log(abs(b.numerator)) - math.log(b.denominator)


@lru_cache
def _kink_coefficients(power: int) -> list[list[float]]:
    r"""The terms for the kink at the scale :math:`s_0`, divided by the first term: their coefficients as
    polynomials in :math:`(1/2 - t/2\pi)^2`."""
    bernoulli = _bernoulli_numbers(_SMOOTH + 2 * _KINKS)
    out = []
    for j in range(_KINKS):
        n = power + 1 + 2 * j
        log_factor = n * math.log(_TURN / (math.sqrt(2) * _CROSSOVER)) - math.log(n)
        log_factor -= math.lgamma(j + 1) + math.lgamma((power + 1) / 2)
        # B_n(1/2 + u) = sum_i C(n, i) B_i(1/2) u^(n-i), with B_i(1/2) = (2^(1-i) - 1) B_i
        at_half = [
            math.comb(n, i) * (Fraction(2) ** (1 - i) - 1) * bernoulli[i // 2] for i in range(n, -1, -2)
        ]
        out.append(
            [2 * (-1) ** (j + 1) * math.exp(log_factor + _log_abs(b)) * (1 if b > 0 else -1) for b in at_half]
        )
    return out


@constant_result  # a compiler cannot trace arithmetic with fractions
def _kink(power: int) -> list[list[float]]:
    return _kink_coefficients(power)


def normal_reach(dtype: torch.dtype) -> float:
    """The c for which ``exp(-c**2 / 2)`` is an eighth of the rounding error of ``dtype``: 8.7 in float64, 6.0
    in float32.

    >>> round(normal_reach(torch.float64), 1)
    8.7
    """
    return math.sqrt(-2 * math.log(torch.finfo(dtype).eps / 8))


def log_windings(t: Tensor, scale: Tensor, power: int, half: int = 1) -> Tensor:
    r"""The logarithm w of the sum over all windings, elementwise; differentiable in both arguments.

    :param Tensor t: arc length from the centre, in radians; may be more than one turn.
    :param Tensor scale: s > 0, the standard deviation along the line, in radians.
    :param int power: m >= 0, the dimension of the Jacobi fields.
    :param int half: h, 1 or 2: the Jacobi fields vanish at multiples of :math:`h\pi`.

    >>> log_windings(torch.tensor(0.0), torch.tensor(0.1), 0)
    tensor(0.)
    """
    power = int(power)  # under a jit tracer sizes are tensors
    t, scale = torch.broadcast_tensors(t, scale)
    if power == 0:  # this form is smooth at t = 0 too
        return log_wrapped_normal(t, scale) + scale.log() + 0.5 * math.log(_TURN)
    t = (t - _TURN * (t.detach() / _TURN).round()).abs()
    log_sinc = log_sinc_sqrt((t / half).square(), 1)
    log_t = t.clamp_min(torch.finfo(t.dtype).eps).log()
    wide = scale.detach() > _CROSSOVER
    if not maybe_any(wide):
        return _direct(t, scale, power, log_t) - power * log_sinc
    direct = _direct(t, torch.where(wide, 1.0, scale), power, log_t)
    dual = _dual(t, torch.where(wide, scale, 2 * _CROSSOVER), power) - power * log_t
    return torch.where(wide, dual, direct) - power * log_sinc


def _direct(t: Tensor, scale: Tensor, power: int, log_t: Tensor) -> Tensor:
    """The log of the sum of ``f(t_k) / t**m``, whose term with k = 0 is ``exp(-t**2 / 2 s**2)``."""
    turn = _TURN * _turns(scale.detach(), power, normal_reach(t.dtype), t)
    # for narrower scales than this all terms but k = 0 are below rounding, unless t is half a turn, where the
    # terms do not depend on s
    s = scale.clamp_min(math.sqrt(torch.finfo(t.dtype).eps) / 50)
    terms = power * ((turn + t).abs().log() - log_t) - (turn / s) * ((turn / 2 + t) / s)
    zero = torch.zeros_like(t).unsqueeze(0)
    return torch.logsumexp(torch.cat([zero, terms]), 0) - 0.5 * (t / scale).square()


def _turns(s: Tensor, power: int, reach: float, t: Tensor) -> Tensor:
    """The k other than 0 whose terms matter, on a new first axis. If the modes are many turns away from 0,
    every element has the same number of k, around its own modes."""
    column = (-1,) + (1,) * t.dim()
    known = is_concrete(s) and on_host(s)  # a number of terms that depends on s would wait for a GPU
    if known and s.numel():
        last = math.floor((float(s.amax()) * (math.sqrt(power) + reach)) / _TURN + 1.5)
        if last <= _FEW:
            few = [k for k in range(-last, last + 1) if k]
            return torch.tensor(few, dtype=t.dtype, device=t.device).reshape(column)
    mode = s * math.sqrt(power)
    first = torch.ceil((mode - reach * s) / _TURN - 1.5).clamp_min(1)
    if not known:
        count = math.ceil(2 * reach * _CROSSOVER / _TURN) + 4
    elif s.numel() == 0:
        count = 1
    else:
        count = int((torch.floor((mode + reach * s) / _TURN + 1.5) - first).amax()) + 1
    k = first + torch.arange(count, dtype=t.dtype, device=t.device).reshape(column)
    return torch.cat([k, -k])


def _dual(t: Tensor, scale: Tensor, power: int) -> Tensor:
    """The log of the sum of ``f(t_k)`` for a wide normal, by the dual sum."""
    half = (power + 1) / 2
    out = 2 * half * scale.log() + half * math.log(2) + math.lgamma(half) - math.log(_TURN)
    if power % 2 == 0 or power > _SMOOTH:
        return out
    q = (_CROSSOVER / scale).square()
    x = (0.5 - t / _TURN).square()
    kink = torch.zeros_like(out)
    for coefficients in reversed(_kink(power)):
        bernoulli = torch.zeros_like(x)
        for c in reversed(coefficients):
            bernoulli = bernoulli * x + c
        kink = kink * q + bernoulli
    return out + torch.log1p(kink * q ** int(half))
