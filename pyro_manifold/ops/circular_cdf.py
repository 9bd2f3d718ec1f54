r"""Distribution functions of symmetric distributions of the circle, and their inverses.

.. math::
    F(\delta) = P(-\pi \le \text{angle} \le \delta), \qquad -\pi\le\delta\le\pi, \qquad F(-\delta) = 1 - F(\delta)

of the angle from the centre. A :class:`CircularFamily` gives the probability T of the tail beyond
:math:`a\in[0,\pi]`, so that small probabilities keep their digits: in closed form for the wrapped normal, else by
Gauss-Legendre quadrature up to where the density has fallen by :math:`e^{-40}`. Inverses are roots of
:math:`\log T(a) = \log p` by Newton's method within a bracket, and are differentiable once:

.. math:: \frac{\partial\delta}{\partial q} = \frac1{f(\delta)}, \qquad
          \frac{\partial\delta}{\partial\theta} = -\frac1{f(\delta)}\frac{\partial F}{\partial\theta}.

References: Mardia & Jupp, *Directional Statistics* (2000), sec. 3.5; implicit gradients: Figurnov et al., NeurIPS
2018, eq. 5."""

import math
from typing import Protocol

import torch
from torch import Tensor

from .autograd import OnceDifferentiable
from .gamma_ratio import log_gamma_ratio
from .quadrature import legendre
from .special import log_bessel
from .tracing import is_concrete

__all__ = ["POWER", "VON_MISES", "WRAPPED_NORMAL", "CircularFamily", "circular_cdf", "circular_icdf"]

_NODES = 96
_DROP = 40.0  # of the log density, where an integral is cut
_CROSSOVER = 1.7  # of the scale of a wrapped normal: as in the module circular
_STEPS = 80  # of Newton's method or bisection; the largest number met is 12


class CircularFamily(Protocol):
    """A distribution of the angle that is symmetric about 0 and falls away from it, with one parameter."""

    def log_density(self, a: Tensor, parameter: Tensor) -> Tensor:
        """At angles in [0, pi]."""

    def tail(self, a: Tensor, parameter: Tensor) -> Tensor:
        """The probability of angles in (a, pi), differentiable in both."""


def _integral(family: CircularFamily, start: Tensor, end: Tensor, parameter: Tensor, power: int) -> Tensor:
    """From ``start`` to ``end``, with nodes that crowd near the end for ``power`` above 1."""
    x, weight = (t.reshape((-1,) + (1,) * start.dim()) for t in legendre(_NODES, start.device))
    length = end - start
    angle = end - length * x**power
    return (weight * power * x ** (power - 1) * family.log_density(angle, parameter).exp()).sum(0) * length


class _VonMises:
    r""":math:`f(a) = e^{-2\kappa\sin^2(a/2)} / 2\pi e^{-\kappa}I_0(\kappa)`."""

    def log_density(self, a: Tensor, parameter: Tensor) -> Tensor:
        height = log_bessel(parameter, 0.0, scaled=True) + math.log(2 * math.pi)
        return -2 * (parameter.sqrt() * torch.sin(a / 2)).square() - height

    def tail(self, a: Tensor, parameter: Tensor) -> Tensor:
        k, at = parameter.detach(), a.detach()
        reach = (torch.sin(at / 2).square() + _DROP / (2 * k.clamp_min(1e-300))).clamp_max(1)
        return _integral(self, a, 2 * torch.asin(reach.sqrt()).maximum(at / 2), parameter, 1)


class _Power:
    r""":math:`f(a) = \cos^{2\kappa}(a/2)\,\Gamma(\kappa+1) / 2\sqrt\pi\,\Gamma(\kappa+\frac12)`. It may have
    any power of the distance to the antipode, where nodes crowd."""

    def log_density(self, a: Tensor, parameter: Tensor) -> Tensor:
        height = log_gamma_ratio(parameter + 0.5, 0.5) - math.log(2) - 0.5 * math.log(math.pi)
        far = a > 2
        near = torch.log1p(-torch.sin(torch.where(far, 0.0, a) / 2).square())
        gap = torch.where(far, math.pi - a, 1.0).clamp_min(1e-150)
        return parameter * torch.where(far, 2 * torch.sin(gap / 2).log(), near) + height

    def tail(self, a: Tensor, parameter: Tensor) -> Tensor:
        k, at = parameter.detach(), a.detach()
        # cos(end/2) = cos(a/2) exp(-20 / k), solved by the cosine or, for ends close to the start, by the sine
        cos = torch.cos(at / 2)
        by_cosine = torch.acos(cos * torch.exp(-_DROP / (2 * k.clamp_min(1e-300))))
        rise = cos.square() * -torch.expm1(-_DROP / k.clamp_min(1))
        by_sine = torch.asin((torch.sin(at / 2).square() + rise).clamp_max(1).sqrt())
        return _integral(self, a, 2 * torch.where(k > 1, by_sine, by_cosine).maximum(at / 2), parameter, 4)


class _WrappedNormal:
    r"""The normal distribution of angles modulo :math:`2\pi`; the parameter is its scale."""

    def log_density(self, a: Tensor, parameter: Tensor) -> Tensor:
        wide = parameter > _CROSSOVER
        narrow, broad = torch.where(wide, 1.0, parameter), torch.where(wide, parameter, 2.0)
        turns = _column(torch.arange(-3, 4), a)
        terms = -((a + 2 * math.pi * turns) / narrow).square() / 2
        direct = torch.logsumexp(terms, 0) - narrow.log() - 0.5 * math.log(2 * math.pi)
        n = _column(torch.arange(1, 7), a)
        cosines = (torch.exp(-(n * broad).square() / 2) * torch.cos(n * a)).sum(0)
        return torch.where(wide, torch.log1p(2 * cosines) - math.log(2 * math.pi), direct)

    def tail(self, a: Tensor, parameter: Tensor) -> Tensor:
        wide = parameter > _CROSSOVER
        narrow, broad = torch.where(wide, 1.0, parameter), torch.where(wide, parameter, 2.0)
        turns = 2 * math.pi * _column(torch.arange(0, 4), a)
        right = _upper((a + turns) / narrow) - _upper((math.pi + turns) / narrow)
        left = _upper((math.pi + turns) / narrow) - _upper((2 * math.pi - a + turns) / narrow)
        n = _column(torch.arange(1, 7), a)
        gap = math.pi - a
        sines = (-1) ** n * torch.exp(-(n * broad).square() / 2) * torch.sin(n * gap) / n
        series = (gap / 2 + sines.sum(0)) / math.pi
        return torch.where(wide, series, (right + left).sum(0))


VON_MISES, POWER, WRAPPED_NORMAL = _VonMises(), _Power(), _WrappedNormal()


def _column(n: Tensor, like: Tensor) -> Tensor:
    return n.to(like).reshape((-1,) + (1,) * like.dim())


def _upper(z: Tensor) -> Tensor:
    """The upper tail of the standard normal distribution."""
    return torch.special.erfc(z / math.sqrt(2)) / 2


def circular_cdf(offset: Tensor, parameter: Tensor, family: CircularFamily) -> Tensor:
    """F, in float64, of angles in [-pi, pi] from the centre; differentiable.

    >>> circular_cdf(torch.tensor([-torch.pi, 0.0]), torch.tensor(2.0), VON_MISES)
    tensor([0.0000, 0.5000], dtype=torch.float64)
    """
    offset, parameter = torch.broadcast_tensors(offset.double(), parameter.double())
    upper = offset > 0
    tail = family.tail(torch.where(upper, offset, -offset).clamp_max(math.pi), parameter)
    return torch.where(upper, 1 - tail, tail)


def _solve(p: Tensor, parameter: Tensor, family: CircularFamily) -> Tensor:
    """The a in [0, pi] beyond which the tail has the probability p <= 1/2."""
    low, high = torch.zeros_like(p), torch.full_like(p, math.pi)
    log_p = p.clamp_min(torch.finfo(p.dtype).tiny).log()
    a = high / 2
    for _ in range(_STEPS):
        tail = family.tail(a, parameter).clamp_min(torch.finfo(p.dtype).tiny)
        too_near = tail > p
        low, high = torch.where(too_near, a, low), torch.where(too_near, high, a)
        step = (tail.log() - log_p) * tail / family.log_density(a, parameter).exp()
        new = a + step
        # where the step leaves the bracket: bisection, of the logarithm while the bracket is wide
        middle = torch.where(high > 4 * low, (high * low.maximum(high * 1e-3)).sqrt(), (low + high) / 2)
        new = torch.where((new > low) & (new < high), new, middle)
        settled = ((new - a).abs() <= 1e-15 * a) | (high <= low)
        a = torch.where(settled, a, new)
        if is_concrete(a) and a.device.type == "cpu" and bool(settled.all()):
            break
    return torch.where(p <= 0, math.pi, torch.where(p >= 0.5, 0.0, a))


class _Quantile(OnceDifferentiable):
    ranks = (0, 0)

    @staticmethod
    def forward(q: Tensor, parameter: Tensor, family: CircularFamily) -> tuple[Tensor, Tensor, Tensor]:
        a = _solve(torch.minimum(q, 1 - q), parameter, family)
        with torch.enable_grad():
            leaf = parameter.detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(family.tail(a, leaf).sum(), leaf)
        density = family.log_density(a, parameter).exp()
        upper = q > 0.5
        offset = torch.where(upper, a, -a)
        return offset, 1 / density, torch.where(upper, slope, -slope) / density


def circular_icdf(q: Tensor, parameter: Tensor, family: CircularFamily) -> Tensor:
    """The angle in [-pi, pi] from the centre, in float64, below which the probability is q; differentiable once.

    >>> circular_icdf(torch.tensor([0.0, 0.5, 1.0]), torch.tensor(2.0), VON_MISES)
    tensor([-3.1416, -0.0000,  3.1416], dtype=torch.float64)
    """
    q, parameter = torch.broadcast_tensors(q.double(), parameter.double())
    return _Quantile.apply(q, parameter, family)[0]
