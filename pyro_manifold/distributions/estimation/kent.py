r"""Maximum likelihood for the Kent distribution in any dimension.

.. math::
    \log p(x) = -\tfrac{a_2+\dots+a_d}{2(d-1)}(1-y_1)^2 - \tfrac12\sum_{j\ge2}a_jy_j^2 - S(a), \quad
    y = \Gamma^\top x, \quad a_j = \kappa - 2\beta_j \ge 0

With the frame held the likelihood is concave in the concentrations a along the axes, and the condition of one
mode is that they are not negative: projected Newton steps find its maximum. In turns with it the frame is moved
by Newton's method; where no concentration is near 0, both are moved together instead. The start is Kent's moment
estimate: the mean direction, and the axes of the scatter across it.

Reference: Kent, J. R. Stat. Soc. B 44 (1982), sec. 4.
"""

from typing import Any

import torch
from torch import Tensor

from ...ops.fisher_bingham import relative_moments
from ...ops.newton import householder_basis
from .likelihood import ascend, mean_log_likelihood
from .sample import Sample

__all__ = ["kent", "orthonormal"]

_ROUNDS, _STEPS = 30, 60
_INTERIOR = 1e-3  # concentrations above this share of the largest are moved together with the frame


def orthonormal(frame: Tensor) -> Tensor:
    """Orthonormal again after a cast."""
    q, r = torch.linalg.qr(frame)
    return q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def _rates(a: Tensor) -> Tensor:
    return torch.cat([a.mean(-1, keepdim=True), a], -1) / 2


def _statistics(s: Sample, frame: Tensor) -> Tensor:
    """The means of :math:`(1-y_1)^2, y_2^2, \\dots`, ``(B, d)``."""
    y = torch.einsum("nbi,bij->nbj", s.points - frame[..., 0], frame)
    fall = 0.5 * (s.points - frame[..., 0]).square().sum(-1, keepdim=True)
    return s.mean(torch.cat([fall, y[..., 1:]], -1).square())


def _value(a: Tensor, m: Tensor) -> Tensor:
    c = _rates(a)
    return (c * m).sum(-1) + relative_moments(c)[0]


def _slope(a: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian in a of minus the mean log likelihood."""
    with torch.enable_grad():
        leaf = a.detach().requires_grad_()
        gap = m - relative_moments(_rates(leaf))[1]
        gradient = 0.5 * (gap[..., 1:] + gap[..., :1] / a.shape[-1])
        rows = [torch.autograd.grad(gradient[..., i].sum(), leaf, retain_graph=True)[0]
                for i in range(a.shape[-1])]  # fmt: skip
    return gradient.detach(), torch.stack(rows, -2)


@torch.no_grad()
def _concentrations(a: Tensor, m: Tensor) -> Tensor:
    """The a >= 0 of greatest likelihood, by projected Newton steps."""
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    value = _value(a, m)
    for _ in range(_STEPS):
        gradient, hessian = _slope(a, m)
        held = (a <= 0) & (gradient >= 0)
        gradient = torch.where(held, 0.0, gradient)
        either = held.unsqueeze(-1) | held.unsqueeze(-2)
        hessian = torch.where(either, eye, hessian)
        size = hessian.diagonal(dim1=-2, dim2=-1).rsqrt()
        scaled = size.unsqueeze(-1) * hessian * size.unsqueeze(-2)
        step = -size * torch.linalg.solve(scaled, (size * gradient).unsqueeze(-1)).squeeze(-1)
        done = -(gradient * step).sum(-1) <= 1e-20
        length = torch.ones_like(a[..., :1])
        for _ in range(40):
            new = (a + length * step).clamp_min(0.0)
            then = _value(new, m)
            lower = then <= value + 1e-14 * (1 + value.abs())
            if bool(lower.all()):
                break
            length = torch.where(lower.unsqueeze(-1), length, length / 2)
        a = torch.where(lower.unsqueeze(-1), new, a)
        value = torch.where(lower, then, value)
        if bool((done | ~lower).all()):
            break
    return a


def _made(family: Any, frame: Tensor, a: Tensor) -> Any:
    k = a.mean(-1)
    return family(frame, k, axis_ovalness=0.5 * (k.unsqueeze(-1) - a), validate_args=False)


def _start(s: Sample) -> tuple[Tensor, Tensor]:
    """The frame, major axes first, and the concentrations of a narrow distribution."""
    frame = householder_basis(s.mean(s.points).unsqueeze(-1))
    sign = torch.where((frame[..., 0] * s.mean(s.points)).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    frame = torch.cat([(sign * frame[..., 0]).unsqueeze(-1), frame[..., 1:]], -1)
    y = torch.einsum("nbi,bij->nbj", s.points, frame[..., 1:])
    _, axes = torch.linalg.eigh(torch.einsum("nb,nbi,nbj->bij", s.shares, y, y))
    frame = torch.cat([frame[..., :1], frame[..., 1:] @ axes.flip(-1)], -1)
    spread = _statistics(s, frame)[..., 1:]
    if bool((spread <= (4 * s.rounding) ** 2).any()):
        raise ValueError(
            "x: the rows have no spread along some axis across their mean direction, so the likelihood has no "
            "maximum: a concentration is infinite. Expected rows that spread in all directions: give more rows "
            "than dimensions, or fit VonMisesFisher."
        )
    return frame, 1 / spread


def kent(s: Sample, family: Any) -> tuple[Tensor, Tensor, Tensor]:
    """``frame`` (B, d, d), ``concentration`` (B,) and ``axis_ovalness`` (B, d - 1), the latter descending.

    :param family: the class ``Kent``.
    """
    frame, a = _start(s)
    a = _concentrations(a, _statistics(s, frame))
    before = torch.full_like(a[..., 0], -torch.inf)
    for _ in range(_ROUNDS):
        d = _made(family, frame, a)
        if bool((a > _INTERIOR * a.amax(-1, keepdim=True)).all()):
            d = ascend(d, s)
            frame, a = d.frame, d.concentration.unsqueeze(-1) - 2 * d.axis_ovalness
            if bool((a > _INTERIOR * a.amax(-1, keepdim=True)).all()):
                break
        frame = ascend(d, s, only=("frame",)).frame
        a = _concentrations(a.clamp_min(0.0), _statistics(s, frame))
        d = _made(family, frame, a)
        value = mean_log_likelihood(d, s.points, s.shares)
        if bool((value - before <= 1e-15 * (1 + value.abs())).all()):
            break
        before = value
    order = d.axis_ovalness.argsort(-1, descending=True)
    axes = d.frame[..., 1:].gather(-1, order.unsqueeze(-2).expand_as(d.frame[..., 1:]))
    return torch.cat([d.frame[..., :1], axes], -1), d.concentration, d.axis_ovalness.gather(-1, order)
