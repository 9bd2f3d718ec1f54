"""Points of the Lorenz attractor."""

import torch
from torch import Tensor

from ..ops.arguments import checked

__all__ = ["lorenz"]

_MEAN, _STD = (-0.682, -0.554, 23.719), (7.982, 9.088, 8.320)


def _field(x: Tensor) -> Tensor:
    a, b, c = x
    return torch.stack([10.0 * (b - a), a * (28.0 - c) - b, a * b - 8.0 / 3.0 * c])


def _step(x: Tensor, dt: float) -> Tensor:
    """Classical Runge-Kutta of order 4."""
    k1 = _field(x)
    k2 = _field(x + 0.5 * dt * k1)
    k3 = _field(x + 0.5 * dt * k2)
    return x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + _field(x + dt * k3))


@checked(n=1, trajectories=1, dt=0, spacing=0, warm_up=0, seed=0)
def lorenz(
    n: int, *, trajectories: int = 1000, dt: float = 0.01, spacing: float = 0.25, warm_up: float = 50.0,
    standardize: bool = True, seed: int = 0,
) -> Tensor:  # fmt: skip
    r"""n points of the Lorenz attractor, from many trajectories after a warm-up.

    .. math:: \dot x_1 = 10(x_2-x_1), \quad \dot x_2 = x_1(28-x_3)-x_2, \quad \dot x_3 = x_1x_2-\tfrac83x_3,
        \qquad x(0) = (1,1,1) + 0.1\,e, \; e\sim N(0, I)

    The attractor has dimension about 2.06, so no two-dimensional model can be exact. The M-flow paper
    integrates 100 trajectories to time 1000 by scipy's RK45 (rtol 1e-3) and draws random times; here 1000
    shorter ones run side by side by classical Runge-Kutta with a fixed step, in torch, and are read every
    ``spacing`` after time ``warm_up``: the same invariant measure, in a fraction of the time. The paper
    publishes no figure for this set.

    :param n: number of points; the rows are shuffled.
    :param trajectories: how many run side by side.
    :param dt: time step.
    :param spacing: time between readings.
    :param standardize: subtract and divide by the paper's constants (means -0.682, -0.554, 23.719; standard
        deviations 7.982, 9.088, 8.320).
    :param seed: starting points and order; torch's global generator is not touched.
    :return: (n, 3) in torch's default dtype.
    :raises ValueError: for sizes below 1 or times that are not positive.

    >>> tuple(lorenz(100, trajectories=50, warm_up=1.0).shape)
    (100, 3)
    """
    if not 0 < dt <= 0.02 or not dt <= spacing or not warm_up >= 0:
        raise ValueError(
            f"dt, spacing, warm_up: got {dt}, {spacing}, {warm_up}; expected 0 < dt <= 0.02, spacing >= dt "
            f"and warm_up >= 0."
        )
    gen = torch.Generator().manual_seed(seed)
    x = 1 + 0.1 * torch.randn(3, trajectories, generator=gen, dtype=torch.float64)
    for _ in range(round(warm_up / dt)):
        x = _step(x, dt)
    readings = []
    for _ in range(-(-n // trajectories)):
        for _ in range(round(spacing / dt)):
            x = _step(x, dt)
        readings.append(x.T)
    points = torch.cat(readings)
    points = points[torch.randperm(len(points), generator=gen)[:n]]
    if standardize:
        points = (points - points.new_tensor(_MEAN)) / points.new_tensor(_STD)
    return points.to(torch.get_default_dtype())
