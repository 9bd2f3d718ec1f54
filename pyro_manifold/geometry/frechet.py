r"""Fréchet means by gradient descent along geodesics, for a whole batch at once.

.. math:: \bar x = \operatorname*{arg\,min}_m \sum_i w_i\, d(m, x_i)^2, \qquad
    m \leftarrow \exp_m\Big(\eta\sum_i w_i\log_m x_i\Big)
"""

import torch
from torch import Tensor

from ..ops.newton import ConvergenceError
from ..ops.numerics import norm
from .base import Geometry

__all__ = ["mean_and_variance"]

_SUBSAMPLE, _STARTS = 64, 8


@torch.no_grad()
def mean_and_variance(
    geo: Geometry, x: Tensor, w: Tensor, max_steps: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Fréchet mean, ``batch + event``, and geodesic variance, ``batch``, of the points x, ``(n,) + batch +
    event``, with weights w, ``(n,) + batch``, that sum to 1.

    :raises ConvergenceError: if some batch element is not there after ``max_steps``.
    """
    shapes = zip(geo.factors, geo.split(x), strict=True)
    parts = [_factor_mean(g, y, w, max_steps, tolerance) for g, y in shapes]
    return geo.pack([m for m, _ in parts]), torch.stack([v for _, v in parts]).sum(0)


def _factor_mean(
    geo: Geometry, x: Tensor, w: Tensor, max_steps: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    m = geo.exact_mean(x, w)
    return _descend(geo, x, w, max_steps, tolerance) if m is None else (m, _objective(geo, m, x, w))


def _objective(geo: Geometry, m: Tensor, x: Tensor, w: Tensor) -> Tensor:
    return (w * geo.dist(m.expand_as(x), x).square()).sum(0)


def _start(geo: Geometry, x: Tensor, w: Tensor) -> Tensor:
    """The projected ambient mean or one of a few points, whichever is best for a subsample."""
    events = (1,) * geo.event_dim
    best = geo.project((w.reshape(w.shape + events) * x).sum(0))
    if not geo.has_global_log or len(x) == 1:  # logarithms cost too much there
        return best
    few = torch.linspace(0, len(x) - 1, min(len(x), _SUBSAMPLE)).long()
    y, v = x[few], w[few]
    value = _objective(geo, best, y, v)
    for i in few[:: max(1, len(few) // _STARTS)].tolist():
        other = _objective(geo, x[i], y, v)
        best = torch.where((other < value).reshape(value.shape + events), x[i], best)
        value = torch.minimum(value, other)
    return best


def _descend(geo: Geometry, x: Tensor, w: Tensor, max_steps: int, tolerance: float) -> tuple[Tensor, Tensor]:
    m, events = _start(geo, x, w), (1,) * geo.event_dim
    if not m.numel():
        return m, w.sum(0)

    def look(m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        v = geo.log_frame(m.expand_as(x), x)
        g = (w.unsqueeze(-1) * v).sum(0)
        return (w * v.square().sum(-1)).sum(0), g, norm(g)

    value, g, size = look(m)
    step = torch.ones_like(value)
    eps = torch.finfo(x.dtype).eps
    signs = 1 - 2 * (torch.arange(x.shape[-1], device=x.device) % 2)
    rounded = geo.project(
        x[0] + 16 * eps * signs * x[0].roll(1, -1)
    )  # a point beside x_0, some roundings away
    floor = norm(geo.log_frame(rounded, x[0])).amax() + 10 * eps * norm(geo.log_frame(rounded, x[-1])).amax()

    def left() -> Tensor:
        # done too is what no step, however short, improves, if its gradient is zero to half of the digits
        done = (step < eps) & (size <= 8 * eps**0.5 * value.sqrt())
        return (size > tolerance * value.sqrt() + floor) & ~done

    for _ in range(max_steps):
        todo = left()
        if not bool(todo.any()):
            return m, value
        new = geo.project(geo.exp_frame(m, step.unsqueeze(-1) * g))
        f, h, s = look(new)
        # lower; or, where rounding hides the difference, with a shorter gradient
        better = todo & ((f < value * (1 - 8 * eps)) | ((f <= value * (1 + 8 * eps)) & (s < size)))
        m = torch.where(better.reshape(better.shape + events), new, m)
        g = torch.where(better.unsqueeze(-1), h, g)
        value, size = torch.where(better, f, value), torch.where(better, s, size)
        step = torch.where(better, (1.3 * step).clamp(max=8.0), 0.5 * step)
    todo = left()
    if bool(todo.any()):
        raise ConvergenceError(
            f"frechet_mean: {int(todo.sum())} of {todo.numel()} means on {geo.manifold.name} have not "
            f"converged in {max_steps} steps (gradient {float(size.max()):.1e}); the sample may have no "
            "unique mean (antipodal or uniform). Raise max_steps or tolerance, or align axes first "
            "(align_axes)."
        )
    return m, value
