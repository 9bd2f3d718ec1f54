"""The isotropic normal of a tangent space, conditioned on a ball."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from ..ops.autograd import Function, last_order_gradient
from ..ops.incomplete_gamma import log_gammainc, log_gammainc_slope
from ..ops.numerics import norm
from ..ops.tracing import operator

__all__ = ["TruncatedTangentNormal"]

_MAX_ROUNDS = 200  # acceptance is at least 0.16 a round: a draw is still missing with probability below 1e-15


def _half_square(r: Tensor, scale: Tensor) -> Tensor:
    return 0.5 * (r.double() / scale.double()).square()


class _ImplicitRadius(Function):
    r"""Returns the drawn radius r; its gradient in the scale s and the bound R is that of the implicit function
    F(r; s, R) = const, where F is the cdf.

    With x = r^2/2s^2, X = R^2/2s^2, P the regularised gamma function at a = d/2, e(x) = d log P/d log x and
    h = e(X)/e(x): dr/ds = (r/s)(1 - h),  dr/dR = (r/R) h.
    """

    @staticmethod
    def forward(ctx: Any, r: Tensor, scale: Tensor, bound: Tensor, a: float) -> Tensor:
        ctx.save_for_backward(r, scale, bound)
        ctx.a = a
        return r.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, None]:
        r, scale, bound = ctx.saved_tensors
        log_h = log_gammainc_slope(ctx.a, _half_square(bound, scale)) - log_gammainc_slope(
            ctx.a, _half_square(r, scale)
        )
        h = log_h.exp().to(r.dtype)
        ds, db = grad * (r / scale) * (1 - h), grad * (r / bound) * h
        depends = r, scale, bound, grad
        return (
            None,
            last_order_gradient(ds.sum_to_size(scale.shape), *depends),
            last_order_gradient(db.sum_to_size(bound.shape), *depends),
            None,
        )


@operator(
    "truncated_radius_draw(Tensor scale, Tensor bound, int d) -> Tensor",
    lambda scale, bound, d: torch.empty_like(scale),
    draws=True,
)
def _draw(scale: Tensor, bound: Tensor, d: int) -> Tensor:
    """Radii, one for each of a vector of scales."""
    narrow = bound > (math.sqrt(d) - 0.7) * scale
    power = torch.where(narrow, 1.0, d - (bound / scale) ** 2)
    out, todo = torch.empty_like(scale), torch.arange(scale.numel(), device=scale.device)
    for _ in range(_MAX_ROUNDS):
        s, chi_lane = scale[todo], narrow[todo]
        chi = s * torch.randn(s.shape + (d,), dtype=s.dtype, device=s.device).norm(dim=-1)
        rho = torch.rand_like(s) ** (1 / power[todo])
        accept = torch.rand_like(s).log() < (bound / s) ** 2 * (rho.log() - 0.5 * (rho**2 - 1))
        r = torch.where(chi_lane, chi, bound * rho)
        keep = torch.where(chi_lane, chi < bound, accept)
        out[todo[keep]] = r[keep]
        todo = todo[~keep]
        if not todo.numel():
            return out
    raise RuntimeError(
        f"truncated normal: {todo.numel()} draws were not accepted in {_MAX_ROUNDS} rounds; please report "
        "this with scale and radius."
    )


class TruncatedTangentNormal(TorchDistribution):
    r"""Isotropic normal on the open ball of radius R in :math:`\mathbb R^d`.

    .. math:: p(v) = \frac{\exp(-|v|^2/2\sigma^2)}{(2\pi\sigma^2)^{d/2}\,P(d/2, R^2/2\sigma^2)}, \quad |v| < R

    Base measure: Lebesgue. Draws are exact: the radius is drawn by rejection, from a chi distribution or (if R
    is smaller than about :math:`\sigma\sqrt d`) from a density :math:`\propto r^k`, tangent to its own at R. They
    are reparametrised in ``scale`` and ``radius`` by implicit differentiation of the cdf.
    """

    arg_constraints: dict[str, Any] = {}
    has_rsample = True
    support = constraints.real_vector

    def __init__(
        self, scale: Tensor, radius: float | Tensor | Callable[[], float | Tensor], dim: int
    ) -> None:
        self._scale, self._radius = scale, radius
        super().__init__(scale.shape, torch.Size([int(dim)]), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "TruncatedTangentNormal":
        return TruncatedTangentNormal(
            self._scale.expand(torch.Size(batch_shape)), self._radius, self.event_shape[0]
        )

    @property
    def _exact_radius(self) -> Tensor:
        """R in float64."""
        radius = self._radius() if callable(self._radius) else self._radius
        return torch.as_tensor(radius, dtype=torch.float64, device=self._scale.device)

    @property
    def radius(self) -> Tensor:
        """The current value of R, in the dtype of the scale."""
        return self._exact_radius.to(self._scale.dtype)

    @property
    def stddev(self) -> Tensor:
        """Standard deviation of the untruncated distribution along each axis."""
        return self._scale.unsqueeze(-1).expand(self.batch_shape + self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        d, s = self.event_shape[0], self._scale
        log_mass = log_gammainc(d / 2, _half_square(self._exact_radius, s))
        # in float64, since d log s cancels against log_mass for a wide scale
        log_peak = -d / 2 * math.log(2 * math.pi) - d * s.double().log() - log_mass
        out = log_peak.to(s.dtype) - 0.5 * (value / s.unsqueeze(-1)).square().sum(-1)
        return torch.where(norm(value.detach()) <= self.radius, out, -math.inf)

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        d, shape = self.event_shape[0], self._extended_shape(torch.Size(sample_shape))
        scale = self._scale.expand(shape[:-1])
        w = torch.randn(shape, dtype=scale.dtype, device=scale.device)
        with torch.no_grad():
            r = _draw(scale.reshape(-1), self.radius, d).reshape(scale.shape)
        r = _ImplicitRadius.apply(r, scale, self.radius, d / 2)
        return r.unsqueeze(-1) * w / norm(w, keepdim=True)
