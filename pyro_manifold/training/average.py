r"""Exponential averages of the parameters of a phase.

.. math:: \bar\theta_n = \bar\theta_{n-1} + (1 - \beta_n)(\theta_n - \bar\theta_{n-1}), \qquad
    \beta_n = \min\Big(\beta,\ \frac{n}{10 + n}\Big)

The decay grows from 0, so that the first weights are forgotten.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """The average of some parameters over the steps of an optimiser.

    :param float decay: :math:`\\beta`, in (0, 1): the average reaches back about :math:`1/(1-\\beta)` steps.
    :raises ValueError: for a decay that is not.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"average: got {decay}; expected a decay in (0, 1), such as 0.99, or None.")
        self.parameters, self.decay, self.steps = list(parameters), decay, 0
        self.means = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """After a step."""
        self.steps += 1
        share = 1 - min(self.decay, self.steps / (10 + self.steps))
        for mean, p in zip(self.means, self.parameters, strict=True):
            mean.lerp_(p.detach(), share)

    @torch.no_grad()
    def apply(self) -> None:
        """Set the parameters to their averages."""
        for mean, p in zip(self.means, self.parameters, strict=True):
            p.copy_(mean)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The parameters are their averages inside of this."""
        own = [p.detach().clone() for p in self.parameters]
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for p, value in zip(self.parameters, own, strict=True):
                    p.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"means": [m.clone() for m in self.means], "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for mean, value in zip(self.means, state["means"], strict=True):
            mean.copy_(value)
        self.steps = state["steps"]
