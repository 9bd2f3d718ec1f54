r"""The heat kernel of the rotations of space, SO(3), with the rotation angle as distance, and its angle.

.. math::
    p_\sigma(\omega) = \frac1{8\pi^2}\sum_{l\ge0} (2l+1)\,e^{-l(l+1)\sigma^2/2}\,
        \frac{\sin(l+\frac12)\omega}{\sin\frac\omega2}
    = \frac{e^{\sigma^2/8}}{(2\pi\sigma^2)^{3/2}}\,\frac{1}{2\sin\frac\omega2}
        \sum_{k\in\mathbb Z} (-1)^k (\omega+2\pi k)\,e^{-(\omega+2\pi k)^2/2\sigma^2}

solves :math:`\partial_t p = \frac12\Delta p` at the time :math:`t = \sigma^2`. The second sum follows from the
first by Poisson summation; near :math:`\omega = 0`, where its terms cancel unless :math:`\sigma` is small, and
for wide kernels the first sum is used, otherwise the second. The density of the angle is
:math:`f = 16\pi\sin^2\frac\omega2\;p`, and by the heat equation its cdf F satisfies

.. math:: \frac{\partial F}{\partial\sigma} = \sigma f\,\frac{d\log p}{d\omega}, \qquad
          \frac{d\omega}{d\sigma}\Big|_F = -\sigma\,\frac{d\log p}{d\omega},

the derivative of a draw of the angle. Draws are exact, by rejection: from Haar's distribution where
:math:`\sigma^2 > 3`, otherwise from the length of a normal vector, of which
:math:`\frac\pi4e^{-\sigma^2/8}` are accepted since :math:`\frac{\sin(\omega/2)}{\omega/2}\,[1 + \dots]
\le\frac4\pi`.

References: Nikolayev & Savyolov, Textures and Microstructures 29 (1997), eq. 2 to 6; Leach et al., *Denoising
diffusion probabilistic models on SO(3)*, ICLR workshop 2022, eq. 4 and 5; both write
:math:`\epsilon^2 = \sigma^2/2`."""

import math
from typing import Any

import torch
from torch import Tensor

from .autograd import Function, last_order_gradient
from .quadrature import legendre
from .rejection import redraw
from .signed_trig import cos_sqrt, log_sinc_length
from .tracing import maybe_any, not_compiled, operator

__all__ = [
    "LOG_VOLUME",
    "NARROWEST",
    "WIDEST",
    "angle_cdf",
    "angle_entropy",
    "log_heat_kernel",
    "sample_angle",
    "uniform_divergence",
]

LOG_VOLUME = math.log(8 * math.pi**2)
_ORDERS = 18  # terms of the first sum; what they leave out is below 1e-17 for sigma^2 above 0.3
_WIDE, _NARROW = 2.0, 0.3  # of sigma^2: above the first sum only; below it no other winding counts near 0
_NEAR = 1.0  # angles that are near 0 in this sense
WIDEST, NARROWEST = 40.0, 1e-150  # from here on the limits are reached to rounding
_HAAR = 3.0  # of sigma^2: above it proposals are uniform rotations
_PEAK = 4 / math.pi * (1 + 1e-12)
_MAX_ROUNDS = 200  # at an acceptance of 0.5 a draw is still missing after them with probability 1e-60
_REACH = 10.0  # in scales: beyond it the angle has a probability of 1e-21
_NODES = 64


def _characters(cos: Tensor, tau: Tensor) -> Tensor:
    """Log of the first sum; ``cos`` is the cosine of the angle."""
    before, now = torch.ones_like(cos), cos
    character, total = torch.ones_like(cos), torch.ones_like(cos)
    for m in range(1, _ORDERS + 1):
        character = character + 2 * now
        before, now = now, 2 * cos * now - before
        total = total + (2 * m + 1) * torch.exp(-m * (m + 1) / 2 * tau) * character
    return total.log() - LOG_VOLUME


def _other_windings(angle: Tensor, tau: Tensor) -> Tensor:
    """The terms of the second sum other than that of k = 0, divided by it."""
    gap = math.pi - angle
    gap = gap - gap.detach().clamp_max(0)  # an angle of pi may be rounded up
    total = torch.zeros_like(angle)
    for k in (1, 2):
        rate, turn = 2 * math.pi * k / tau, 2 * math.pi * k / angle
        down = (1 - turn) * torch.exp(-rate * (gap + math.pi * (k - 1)))
        up = (1 + turn) * torch.exp(-rate * (angle + math.pi * k))
        total = total + (-1) ** k * (down + up)
    return total


@not_compiled  # the compiler takes minutes for the sums
def log_heat_kernel(v: Tensor, scale: Tensor) -> Tensor:
    r""":math:`\log p_\sigma(|v|)` with respect to Riemannian volume (8 pi^2 in all), in float64; it may be
    differentiated any number of times.

    :param Tensor v: rotation vectors, :math:`|v|\le\pi`, shape ``batch + (n,)``.
    :param Tensor scale: :math:`\sigma > 0`, shape ``batch``; infinity gives the uniform distribution.

    >>> log_heat_kernel(torch.zeros(3), torch.tensor(float("inf")))  # -log 8 pi^2
    tensor(-4.3689, dtype=torch.float64)
    """
    v, scale = v.double(), scale.double()
    square = v.square().sum(-1)
    tau = scale.clamp(NARROWEST, WIDEST).square()
    square, tau = torch.broadcast_tensors(square, tau)
    near = square < _NEAR**2
    wide = (tau > _WIDE) | (near & (tau > _NARROW))
    series = None
    if maybe_any(wide):
        series = _characters(cos_sqrt(torch.where(wide, square, 0.0), 1), torch.where(wide, tau, _WIDE))
        if not maybe_any(~wide):
            return series
    narrow = torch.where(wide, 1.0, scale)
    out = torch.where(wide, 1.0, tau) / 8 - 1.5 * math.log(2 * math.pi) - 3 * narrow.log()
    out = out - (torch.where(wide.unsqueeze(-1), 0.0, v) / narrow.unsqueeze(-1)).square().sum(-1) / 2
    out = out - log_sinc_length(v, 0.25, 1)
    far = ~(wide | near)
    if maybe_any(far):
        angle = torch.where(far, square, 4.0).sqrt()
        others = _other_windings(angle, torch.where(far, tau, 1.0))
        out = out + torch.where(far, others, 0.0).log1p()
    return out if series is None else torch.where(wide, series, out)


def _log_angle_density(angle: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The log densities of the angle and of the rotation."""
    log_p = log_heat_kernel(angle.unsqueeze(-1), scale)
    return log_p + 2 * torch.sin(angle / 2).log() + math.log(16 * math.pi), log_p


def _rule(end: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes from 0 to ``end``, the probability of each under the distribution of the angle, and its log density
    as a rotation."""
    x, weight = (t.reshape((-1,) + (1,) * end.dim()) for t in legendre(_NODES, end.device))
    angle = x * end
    log_f, log_p = _log_angle_density(angle, scale.expand(angle.shape))
    return angle, (log_f + (weight * end).log()).exp(), log_p


def angle_cdf(angle: Tensor, scale: Tensor) -> Tensor:
    """The probability of a smaller angle, in float64, by Gauss-Legendre quadrature; differentiable.

    >>> angle_cdf(torch.tensor([0.0, torch.pi]), torch.tensor(0.5))
    tensor([0., 1.], dtype=torch.float64)
    """
    angle, scale = torch.broadcast_tensors(angle.double(), scale.double())
    end = torch.minimum(angle, _REACH * scale)
    positive = end > 0
    out = _rule(torch.where(positive, end, 1.0), scale)[1].sum(0)
    return torch.where(positive, out.clamp_max(1.0), 0.0)


def angle_entropy(scale: Tensor) -> Tensor:
    r"""The entropy :math:`-\int p\log p\,d\mathrm{vol}` of the rotation, in float64; differentiable.

    >>> angle_entropy(torch.tensor(float("inf")))  # log 8 pi^2
    tensor(4.3689, dtype=torch.float64)
    """
    scale = scale.double()
    _, weight, log_p = _rule((_REACH * scale).clamp_max(math.pi), scale)
    return -(weight * log_p).sum(0)


def uniform_divergence(scale: Tensor) -> Tensor:
    r"""The Kullback-Leibler divergence from Haar's distribution, in float64: with
    :math:`1 + \epsilon = 8\pi^2p`, the mean of :math:`(1+\epsilon)\log(1+\epsilon) - \epsilon \ge 0` where the
    kernel is wide, so that it keeps its digits.

    >>> uniform_divergence(torch.tensor([4.0, float("inf")]))
    tensor([5.6989e-14, 0.0000e+00], dtype=torch.float64)
    """
    scale = scale.double()
    broad = scale > 0.5
    wide = torch.where(broad, scale, 1.0)
    x, weight = (t.reshape((-1,) + (1,) * scale.dim()) for t in legendre(_NODES, scale.device))
    angle = math.pi * x
    haar = 2 * weight * torch.sin(angle / 2).square()
    cos, tau = torch.cos(angle), wide.clamp_max(WIDEST).square()
    excess = torch.zeros_like(angle * tau)  # the first sum less 1
    before, now, character = torch.ones_like(cos), cos, torch.ones_like(cos)
    for m in range(1, _ORDERS + 1):
        character = character + 2 * now
        before, now = now, 2 * cos * now - before
        excess = excess + (2 * m + 1) * torch.exp(-m * (m + 1) / 2 * tau) * character
    small = excess.abs() < 1e-2
    e = torch.where(small, excess, 0.0)
    series = torch.zeros_like(e)
    for m in range(9, 1, -1):
        series = 1 / (m * (m - 1)) - e * series
    big = torch.where(small, 1.0, excess)
    direct = (1 + big) * torch.log1p(big.clamp_min(-1 + 1e-300)) - big
    near = (haar * torch.where(small, e * e * series, direct)).sum(0)
    return torch.where(broad, near, LOG_VOLUME - angle_entropy(torch.where(broad, 0.5, scale)))


@operator("heat_kernel_angle_draw(Tensor scale) -> Tensor", torch.empty_like, draws=True)
def _draw(scale: Tensor) -> Tensor:
    """Draws of the angle for a flat float64 tensor of scales."""
    tau = scale.clamp(NARROWEST, WIDEST).square()
    haar = tau > _HAAR
    log_top = log_heat_kernel(scale.new_zeros(scale.shape + (1,)), scale)

    def propose(lanes: Tensor) -> tuple[Tensor, Tensor]:
        s, t, uniform = scale[lanes], tau[lanes], haar[lanes]
        z = torch.randn(4, len(lanes), dtype=scale.dtype, device=scale.device)
        length = z[1:].square().sum(0).sqrt()
        turned = 2 * torch.atan2(length, z[0].abs())  # the angle of a uniform rotation
        length = torch.where(uniform, 1.0, length)
        angle = torch.where(uniform, turned, s * length)
        inside = angle.clamp_max(math.pi).unsqueeze(-1)
        log_p = log_heat_kernel(inside, s)
        normal = torch.where(uniform, 1.0, s).log() * 3 + 1.5 * math.log(2 * math.pi) + length.square() / 2
        normal = log_p + normal + 2 * log_sinc_length(inside, 0.25, 1) - t / 8 - math.log(_PEAK)
        log_accept = torch.where(uniform, log_p - log_top[lanes], normal)
        ok = (torch.rand_like(s).log() < log_accept) & (angle <= math.pi)
        return angle.unsqueeze(0), ok.unsqueeze(0)

    lanes = torch.arange(len(scale), device=scale.device)
    return redraw(torch.empty_like(scale), lanes, propose, _MAX_ROUNDS, "check scale for NaN.")


class _Angle(Function):
    """The angle, differentiable once."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor, shape: torch.Size) -> Tensor:
        angle = _draw(scale.detach().expand(shape).reshape(-1)).reshape(shape)
        ctx.save_for_backward(angle, scale)
        return angle

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        angle, scale = ctx.saved_tensors
        with torch.enable_grad():
            w = angle.detach().requires_grad_()
            (slope,) = torch.autograd.grad(log_heat_kernel(w.unsqueeze(-1), scale.detach()).sum(), w)
        g = torch.where(scale < WIDEST, -grad * scale * slope, 0.0).sum_to_size(scale.shape)
        return last_order_gradient(g, scale, grad), None


def sample_angle(scale: Tensor, shape: torch.Size) -> Tensor:
    r"""Exact draws of the angle in float64, shape ``shape``, differentiable once in ``scale``.

    :raises RuntimeError: if a draw is not accepted in a bounded number of rounds (NaN scale).

    >>> sample_angle(torch.tensor(0.1), torch.Size([4])).shape
    torch.Size([4])
    """
    return _Angle.apply(scale.double(), shape)
