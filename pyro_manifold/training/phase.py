r"""A phase of training: a loss of a batch, the parameters that it trains, their optimiser and its schedule.

.. math::
    \theta \leftarrow \text{optimiser}\Big(\theta,\; \nabla_\theta\, \operatorname{loss}(\text{batch}),\;
    \eta\, r(p)\Big), \qquad r(p) = \min(1, p / w)\, \tfrac12 (1 + \cos \pi p)

p is the share of the phase that is over, in passes or in seconds, and w the share in which the rate rises.
"""

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

if TYPE_CHECKING:
    from .loop import Loop

__all__ = ["Phase", "warmup_cosine"]


@dataclass(frozen=True)
class Phase:
    """A phase of :func:`~pyro_manifold.training.fit`. All but name, loss and parameters have defaults.

    :param str name: of its losses in the history.
    :param loss: the mean loss over the rows of a batch, a function of as many tensors as the data have.
    :param parameters: what the phase trains; parameters of the model that ``fit`` is given.
    :param optimizer: an optimiser of a list of parameters, such as ``partial(torch.optim.SGD, lr=0.1)``; None
        for AdamW of rate ``lr`` and weight decay 1e-5.
    :param schedule: a torch scheduler of an optimiser, which makes a step after each batch; None for a rate
        that rises for the share ``warmup`` of the phase and then falls to zero along a cosine.
    :param float clip: largest norm of a gradient; longer ones are shortened to it.
    :param int epochs: passes over the data; None for as many as make 2000 batches, at least 10.
    :param float seconds: budget of time. What ends first ends the phase.
    :param float average: decay of an exponential average of the parameters over the steps, such as 0.99; it is
        what is validated, and kept as the best weights. None for the parameters themselves.
    :param prepare: a function of the data whose value the loss is given in their place. It is computed once,
        or before each pass where other phases take turns with this one.
    :param anneal: keyword arguments of the loss in training, a function of the share of the phase that is
        over; validation is without them.
    :param start: a function of the running :class:`~pyro_manifold.training.loop.Loop` that may change the
        model before the first pass. Training goes on from there if the validation loss has fallen or if the
        function returns True; the earlier weights remain a candidate for the best.
    :param review: sentences about the finished phase, a function of the loop, the loss before the first pass
        and the losses after each; None for :func:`~pyro_manifold.training.verdict`.
    :raises ValueError: for numbers out of range; by ``fit``, for parameters that are not the model's or all frozen,
        and for a loss that is not one number or does not depend on them.

    >>> net = nn.Linear(2, 1)
    >>> phase = Phase("net", lambda x, y: (net(x) - y).square().mean(), list(net.parameters()), epochs=5)
    """

    name: str
    loss: Callable[..., Tensor]
    parameters: Sequence[nn.Parameter]
    optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None
    schedule: Callable[[Optimizer], Any] | None = None
    lr: float = 1e-2
    warmup: float = 0.05
    clip: float = 5.0
    epochs: int | None = None
    seconds: float = math.inf
    average: float | None = None
    prepare: Callable[..., Sequence[Tensor | None]] | None = None
    anneal: Callable[[float], dict[str, Any]] | None = None
    start: "Callable[[Loop], bool] | None" = None
    review: "Callable[[Loop, float, Sequence[float]], list[str]] | None" = None

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "parameters", list(self.parameters)
        )  # a generator would be empty the second time
        passes = isinstance(self.epochs, numbers.Integral) and not isinstance(self.epochs, bool)
        for name, fits, expected in (
            ("name", isinstance(self.name, str), "a string"),
            ("loss", callable(self.loss), "a function of a batch"),
            ("parameters", all(isinstance(p, Tensor) for p in self.parameters), "parameters of a module"),
            ("epochs", self.epochs is None or (passes and self.epochs >= 0), "passes, at least 0, or None"),
            ("lr", 0 <= self.lr < math.inf, "a finite rate, at least 0"),
            ("warmup", 0 <= self.warmup <= 1, "a share of the phase, in [0, 1]"),
            ("clip", self.clip > 0, "a positive norm; math.inf leaves gradients as they are"),
            ("seconds", self.seconds >= 0, "seconds, at least 0"),
        ):
            if not fits:
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r} for phase {self.name}; expected {expected}."
                )

    def make_optimizer(self) -> Optimizer:
        parameters = list(self.parameters)
        if self.optimizer is not None:
            return self.optimizer(parameters)
        fused = all(
            p.device.type in ("cpu", "cuda") for p in parameters
        )  # a third off a small network's step
        return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=1e-5, fused=fused)


def warmup_cosine(progress: float, warmup: float) -> float:
    """The factor r of the rate when the share ``progress`` of the phase is over.

    >>> [warmup_cosine(p, 0.5) for p in (0.0, 0.5, 1.0)]
    [0.0, 0.5, 0.0]
    """
    rise = min(1.0, progress / warmup) if warmup > 0 else 1.0
    return rise * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
