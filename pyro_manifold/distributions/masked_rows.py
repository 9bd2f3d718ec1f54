"""``log_prob`` of batches in which masked rows hold arbitrary fillers: zeros, NaN, points off the manifold.

Pyro applies a mask only after ``log_prob`` has scored every row. A masked filler must not raise the error that
an unmasked point off the manifold does, and must not put a NaN into the gradients of other rows (NaN times the
mask's zero is NaN).
"""

import math
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine import Trace
from torch import Tensor

from ..ops.components import extremes
from ..ops.numpy_operator import by_numpy
from ..ops.tracing import first_row, is_concrete, on_host

__all__ = ["MaskedRows", "fills_dropped_rows"]

_SCORED = {f.__code__ for f in (Trace.compute_log_prob, Trace.log_prob_sum, Trace.compute_score_parts)}
_FEW = 2048  # numbers up to which NumPy is faster


class MaskedRows:
    r"""Mixin that wraps ``log_prob`` so that it accepts rows off the support.

    With validation, rows that the callers' masks drop (``fn.mask``, ``poutine.mask``, ``obs_mask``) are
    replaced by a point of the support before they are scored; any other row off the support is an error.
    Without validation, a row that is not finite, or is zero where zero is not a point of the manifold, gets the
    log density :math:`-\infty` and no gradient.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = cls.__dict__.get("log_prob")
        if own is not None and not hasattr(own, "_masked_rows"):
            cls.log_prob = _with_masked_rows(own)  # type: ignore[attr-defined]


def _with_masked_rows(log_prob: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    @wraps(log_prob)
    def wrapped(self: Any, value: Tensor) -> Tensor:
        if not isinstance(value, Tensor) or not is_concrete(value) or value.dim() < self.event_dim:
            return log_prob(self, value)
        if not self._validate_args:
            if _ordinary(value):
                return log_prob(self, value)
            size = value.abs()
            size = size.flatten(size.dim() - self.event_dim).amax(-1) if self.event_dim else size
            usual = (size > 0) & (size < math.inf)
            if on_host(value) and bool(usual.all()):
                return log_prob(self, value)
            zero = value.new_zeros(value.shape[value.dim() - self.event_dim :])
            good = usual | ((size == 0) & self.support.check(zero))
            return torch.where(good, log_prob(self, _filled(self, value, good)), -math.inf)
        try:
            return log_prob(self, value)
        except ValueError:
            dropped = _dropped_rows(self)
            if dropped is None or value.shape[value.dim() - self.event_dim :] != self.event_shape:
                raise
            good = self.support.check(value)
            if not bool((good | dropped).all()):
                raise
        return log_prob(self, _filled(self, value, good))

    wrapped._masked_rows = True  # type: ignore[attr-defined]
    return wrapped


def fills_dropped_rows(log_prob: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """Decorator for a ``log_prob`` of a :class:`MaskedRows` that checks its rows itself: where it raises, it is
    called again with the rows that masks drop replaced by a draw."""

    @wraps(log_prob)
    def wrapped(self: Any, value: Tensor) -> Tensor:
        try:
            return log_prob(self, value)
        except ValueError:
            dropped = _dropped_rows(self) if isinstance(value, Tensor) and is_concrete(value) else None
            if dropped is None or value.shape[value.dim() - self.event_dim :] != self.event_shape:
                raise
        cuda = [value.device] if value.device.type == "cuda" else []
        # with a forked generator, so that later draws do not depend on whether rows are missing
        with torch.no_grad(), torch.random.fork_rng(cuda):
            point = self.sample()
        return log_prob(
            self, torch.where(dropped.reshape(dropped.shape + (1,) * self.event_dim), point, value)
        )

    wrapped._masked_rows = True  # type: ignore[attr-defined]
    return wrapped


def _ordinary(value: Tensor) -> bool:
    """Whether all coordinates are finite and nonzero, by one cheap reduction. On a GPU the answer is always no:
    rows are replaced there without a test whether any must be, which would wait for the device."""
    if not on_host(value) or not value.numel():
        return False
    if value.numel() <= _FEW and by_numpy(value):
        size = np.abs(value.detach().numpy())
        low, high = size.min(), size.max()
    else:
        low, high = extremes(value.detach().abs())
    return bool(low > 0 and high < math.inf)


@torch.no_grad()
def _filled(fn: Any, value: Tensor, good: Tensor) -> Tensor:
    """``value`` with all other rows replaced by the first good row, or by draws if no row is good."""
    if not on_host(value) and value.numel():
        point = first_row(value.reshape((-1,) + value.shape[good.dim() :]), good.reshape(-1))
    elif bool(good.any()):
        point = value.flatten(0, good.dim() - 1)[good.flatten().nonzero()[0, 0]] if good.dim() else value
    else:
        point = fn.sample()
    events = good.reshape(good.shape + (1,) * fn.event_dim)
    with torch.enable_grad():
        return torch.where(events, value, point)


def _dropped_rows(fn: Any) -> Tensor | None:
    """Rows of the batch of ``fn`` that the callers' masks will drop; ``None`` without masks.

    Pyro does not pass masks to ``log_prob``, so they are read from the frames of the callers that apply them.
    This runs only where the alternative is an error.
    """
    dropped: Tensor | None = None
    frame = sys._getframe(2)
    while frame is not None:
        outer: Any = None
        if frame.f_code is MaskedDistribution.log_prob.__code__:
            outer = frame.f_locals["self"]
            mask = outer._mask
        elif frame.f_code in _SCORED:
            outer, mask = frame.f_locals["site"]["fn"], frame.f_locals["site"]["mask"]
        if outer is not None and mask is not None:
            # the number of batch axes of fn that to_event has made part of the outer event
            extra = len(fn.batch_shape) - len(outer.batch_shape)
            drops = ~torch.as_tensor(mask)
            drops = drops.reshape(drops.shape + (1,) * max(0, extra))
            dropped = drops if dropped is None else dropped | drops
        if frame.f_code in _SCORED:
            break
        frame = frame.f_back  # type: ignore[assignment]
    return dropped
