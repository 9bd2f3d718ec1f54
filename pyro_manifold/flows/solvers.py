r"""Solvers of the differential equations of continuous flows: Runge's and Kutta's method of order 4 with a fixed step,
and torchdiffeq's Dormand-Prince method of order 5 with an adaptive one.

.. math::
    \dot y = f(t, y), \qquad y_{n+1} = \pi\Big(y_n + \tfrac h6 (k_1 + 2k_2 + 2k_3 + k_4)\Big)

:math:`\pi` takes the point in a state y back to its manifold. States are rows ``(n, width)`` of the point's numbers,
then what is integrated along.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..ops.newton import ConvergenceError

__all__ = ["IntegrationError", "adaptive", "fixed"]

Rate = Callable[[Tensor, Tensor], Tensor]


class IntegrationError(ConvergenceError):
    """A differential equation was not solved: the solver ran out of steps, or its states ceased to be finite."""


def fixed(
    rate: Rate,
    y: Tensor,
    span: tuple[float, float],
    steps: int,
    project: Callable[[Tensor], Tensor],
    recompute: bool = False,
) -> Tensor:
    """The state at the end of the span, after steps of equal length.

    :param project: :math:`\\pi`, applied to the state after each step.
    :param bool recompute: keep the states between steps only, and compute what is inside a step again for the gradient.
    """
    h = (span[1] - span[0]) / steps

    def step(y: Tensor, t: Tensor) -> Tensor:
        k1 = rate(t, y)
        k2 = rate(t + 0.5 * h, y + (0.5 * h) * k1)
        k3 = rate(t + 0.5 * h, y + (0.5 * h) * k2)
        k4 = rate(t + h, y + h * k3)
        return project(y + (h / 6) * (k1 + 2 * (k2 + k3) + k4))

    times = [torch.tensor(span[0] + h * i, dtype=y.dtype, device=y.device) for i in range(steps)]
    for t in times:
        y = (
            checkpoint(step, y, t, use_reentrant=False)
            if recompute and torch.is_grad_enabled()
            else step(y, t)
        )
    return y


def adaptive(
    rate: Rate,
    y: Tensor,
    span: tuple[float, float],
    rtol: float,
    atol: float,
    max_steps: int,
    adjoint: Sequence[Tensor] | None = None,
) -> Tensor:
    """The state at the end of the span, every number of every row to the tolerances, which are at least ten roundings
    of the dtype.

    :param adjoint: the tensors that the rate reads, for gradients by the adjoint equation; None to differentiate
        through the steps.
    :raises IntegrationError: where more than ``max_steps`` steps are needed, or no step is short enough.
    """
    from torchdiffeq import odeint, odeint_adjoint  # imported late: it brings SciPy along

    floor = 10 * torch.finfo(y.dtype).eps
    tolerance = {"rtol": max(rtol, floor), "atol": max(atol, floor)}
    first = min(0.1, max(rtol, floor) ** 0.2)  # torchdiffeq's own choice would mix rows in the gradient

    def options(end: float, norm: Callable[..., Tensor]) -> dict[str, object]:
        # step_t: it would step over the end, where a field need not be defined, and interpolate
        stop = torch.tensor([end], dtype=torch.float64, device=y.device)
        return {"norm": norm, "first_step": first, "max_num_steps": max_steps, "step_t": stop}

    t = torch.tensor(span, dtype=torch.float64, device=y.device)
    try:
        if adjoint is None:
            states = odeint(rate, y, t, method="dopri5", options=options(span[1], _largest), **tolerance)
        else:
            states = odeint_adjoint(
                rate,
                y,
                t,
                method="dopri5",
                options=options(span[1], _largest),
                adjoint_options=options(span[0], _largest_of_state),
                adjoint_params=tuple(adjoint),
                **tolerance,
            )
    except AssertionError as error:
        raise IntegrationError(_remedy(str(error), max_steps, tolerance)) from error
    return states[-1]


def _largest(y: Tensor) -> Tensor:
    """The error of the worst number: a row must not be solved less well because others are easy."""
    return y.abs().amax()


def _largest_of_state(parts: Sequence[Tensor]) -> Tensor:
    """The same of state and adjoint state; what is accumulated for the parameters does not govern the step."""
    return torch.maximum(_largest(parts[1]), _largest(parts[2]))


def _remedy(seen: str, max_steps: int, tolerance: dict[str, float]) -> str:
    told = ", ".join(f"{name}={value:.1e}" for name, value in tolerance.items())
    if "max_num_steps" in seen:
        return (
            f"max_steps: the field needs more than {max_steps} steps at {told}; allow more, raise the tolerances, or "
            "train the field to be smoother (smaller weights, weight decay, lower lr)."
        )
    return (
        f"field: no step is short enough for {told} ({seen[:60]}); its values jump or grow without bound. Raise the "
        "tolerances, work in float64, or lower lr."
    )


def check_finite(y: Tensor, t: Tensor | float) -> None:
    """:raises IntegrationError: unless all numbers of the states are finite."""
    rows = y.isfinite().all(-1)
    if not bool(rows.all()):
        raise IntegrationError(
            f"field: {int((~rows).sum())} of {len(rows)} points are not finite at time {float(t):.3g}; its values grow "
            "without bound or are NaN. Look for NaN in its parameters, lower lr, or take more steps."
        )
