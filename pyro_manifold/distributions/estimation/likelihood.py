r"""The mean log likelihood of a distribution in the tangent coordinates of its parameters, and Newton's method
for its maximum.

.. math::
    \ell(\theta) = \sum_i w_i\log p(x_i\mid\theta), \quad \sum_i w_i = 1, \qquad
    \theta \leftarrow \theta + |H|^{-1}\nabla\ell, \quad H = -\nabla^2\ell

:math:`|H|` has the absolute eigenvalues of H, so that every step climbs; it is halved until the likelihood
rises. The coordinates are taken anew at each iterate.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from .coordinates import CHARTS, Chart
from .sample import Sample

__all__ = ["ascend", "chart_of", "derivatives", "moved"]

_STEPS, _HALVINGS = 100, 40
_FLAT = 1e-10  # eigenvalues of the scaled Hessian below this are flat directions
_DECREMENT = 1e-18  # nats per row that the next step would gain


def chart_of(d: Any, only: Collection[str] | None = None) -> Chart:
    """The chart of the parameters of ``d``, or of ``only`` some, the others held.

    :raises ValueError: for a family without one.
    """
    make = CHARTS.find(type(d))
    if make is None:
        raise ValueError(
            f"distribution: got {type(d).__name__}, expected one of {', '.join(CHARTS.names())}, whose "
            "parameters have tangent coordinates. Use the bootstrap for others."
        )
    chart = make(d)
    if only is None:
        return chart
    held = {name: v.double() for name, v in chart.values.items() if name not in only}
    return chart._replace(
        parameters={name: c for name, c in chart.parameters.items() if name in only},
        make=lambda new: chart.make(held | new),
        inside=None if chart.inside is None else lambda new: chart.inside(held | new),  # type: ignore[misc]
    )


def moved(d: Any, theta: Tensor, only: Collection[str] | None = None) -> tuple[Any, Tensor]:
    """The distribution with coordinates ``theta``, ``batch + (k,)``, at ``d``, in float64 and without
    validation; and which elements of the batch are valid."""
    chart = chart_of(d, only)
    parts = theta.split(list(chart.sizes().values()), -1)
    new = {
        name: c.moved(chart.values[name], part)
        for (name, c), part in zip(chart.parameters.items(), parts, strict=True)
    }
    ok = torch.ones(theta.shape[:-1], dtype=torch.bool, device=theta.device)
    for name, c in chart.parameters.items():
        ok = ok & c.inside(new[name].detach())
    if chart.inside is not None:
        ok = ok & chart.inside({name: v.detach() for name, v in new.items()})
    return chart.make(new), ok


def mean_log_likelihood(d: Any, x: Tensor, shares: Tensor) -> Tensor:
    """Per element of the batch; rows of weight 0 do not enter."""
    return torch.where(shares > 0, shares * d.log_prob(x), 0.0).sum(0)


@torch.enable_grad()
def derivatives(
    d: Any, x: Tensor, shares: Tensor, only: Collection[str] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Value, gradient and *negative* Hessian of the mean log likelihood in the coordinates at ``d``.

    By automatic differentiation; where a log density has only one derivative in a number (see
    :class:`~.coordinates.Number`), by central differences of its derivative.
    """
    chart = chart_of(d, only)
    parameters, counts = chart.parameters, list(chart.sizes().values())
    twice = [c.twice for c, k in zip(parameters.values(), counts, strict=True) for _ in range(k)]
    k = len(twice)
    theta = torch.zeros(d.batch_shape + (k,), dtype=torch.float64, device=x.device, requires_grad=True)

    if not theta.numel():  # an empty batch
        none = theta.detach()
        return none.sum(-1), none, none.unsqueeze(-1).expand(d.batch_shape + (k, k))

    def slope(t: Tensor, graph: bool) -> tuple[Tensor, Tensor]:
        value = mean_log_likelihood(moved(d, t, only)[0], x, shares)
        return value, torch.autograd.grad(value.sum(), t, create_graph=graph)[0]

    value, gradient = slope(theta, True)
    hessian = torch.zeros(d.batch_shape + (k, k), dtype=torch.float64, device=x.device)
    for i, exact in enumerate(twice):
        if exact:
            (row,) = torch.autograd.grad(gradient[..., i].sum(), theta, retain_graph=True)
            hessian[..., i, :] = row
    for i, exact in enumerate(twice):
        if not exact:
            own = torch.cat([chart.values[name].detach().reshape(d.batch_shape + (-1,)).double()
                             if not c.twice else theta.new_zeros(d.batch_shape + (n,))
                             for (name, c), n in zip(parameters.items(), counts, strict=True)], -1)  # fmt: skip
            step = 1e-5 * own[..., i]
            ends = []
            for sign in (1.0, -1.0):
                t = torch.zeros_like(theta)
                t[..., i] = sign * step
                ends.append(slope(t.detach().requires_grad_(), False)[1])
            hessian[..., i, :] = (ends[0] - ends[1]) / (2 * step).unsqueeze(-1)
    for i, exact in enumerate(twice):
        if not exact:
            others = [j for j in range(k) if twice[j]]
            hessian[..., i, others] = hessian[..., others, i]
    return value.detach(), gradient.detach(), -0.5 * (hessian + hessian.mT).detach()


def _direction(gradient: Tensor, hessian: Tensor) -> Tensor:
    """The Newton step with the absolute eigenvalues of the Hessian, scaled by its diagonal."""
    scale = hessian.diagonal(dim1=-2, dim2=-1).abs().clamp_min(1e-300).rsqrt()
    scale = torch.where(scale < 1e140, scale, 1.0)
    values, axes = torch.linalg.eigh(scale.unsqueeze(-1) * hessian * scale.unsqueeze(-2))
    along = (axes.mT @ (scale * gradient).unsqueeze(-1)).squeeze(-1)
    return scale * (axes @ (along / values.abs().clamp_min(_FLAT)).unsqueeze(-1)).squeeze(-1)


def ascend(d: Any, sample: Sample, only: Collection[str] | None = None, steps: int = _STEPS) -> Any:
    """A local maximum of the likelihood of ``sample`` near ``d``, whose batch shape is ``(B,)``; in float64.

    :param only: names of the parameters that move; all by default.
    """
    x, shares = sample.points, sample.shares
    count = sum(chart_of(d).sizes().values())
    d = moved(d, torch.zeros(d.batch_shape + (count,), dtype=torch.float64, device=x.device))[0]
    for _ in range(steps if x.numel() else 0):
        value, gradient, hessian = derivatives(d, x, shares, only)
        delta = _direction(gradient, hessian)
        gain = (gradient * delta).sum(-1)
        delta = torch.where(((gain > 0) & gain.isfinite()).unsqueeze(-1), delta, 0.0)
        last = bool((gain <= _DECREMENT).all())
        d, climbed = _searched(d, x, shares, value, delta, only)
        if last or not climbed:
            break
    return d


@torch.no_grad()
def _searched(
    d: Any, x: Tensor, shares: Tensor, value: Tensor, delta: Tensor, only: Collection[str] | None
) -> tuple[Any, bool]:
    """``d`` moved by ``delta``, halved per element of the batch until the likelihood does not fall (by more
    than rounding); whether any moved."""
    length = torch.ones_like(value)
    slack = 1e-14 * (1 + value.abs())
    for _ in range(_HALVINGS):
        new, ok = moved(d, length.unsqueeze(-1) * delta, only)
        ok = ok & (mean_log_likelihood(new, x, shares) >= value - slack)
        if bool(ok.all()):
            break
        length = torch.where(ok, length, length / 2)
    length = torch.where(ok, length, 0.0)
    return moved(d, length.unsqueeze(-1) * delta, only)[0], bool((length > 0).any() & (delta != 0).any())
