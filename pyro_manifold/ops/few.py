r"""Operators on a few numbers, computed by NumPy with closed-form gradients.

A call of torch takes 2 to 6 microseconds whatever it computes, one of NumPy 0.4 to 1. A density of a few
points is a chain of some fifty calls, so up to :data:`MOST` numbers on the CPU it is computed by NumPy, in
one autograd operator. Elsewhere (more numbers, other devices, transforms of ``torch.func``, compilers,
derivatives of second order) the same function is composed of torch's operators.

.. math:: \log\mathcal N(v; 0, \Sigma) = -\tfrac12|y|^2 - \log\det L - \tfrac d2\log2\pi, \qquad y = L^{-1}v
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import forward_ad

from .checks import common_shape
from .numerics import horner
from .signed_trig import SERIES_BELOW, SLOPE_SERIES
from .tracing import is_traced

__all__ = ["MOST", "Array", "Normal", "Pull", "dot", "few", "is_few", "log_normal", "near_zero"]

MOST = 2048  # numbers in the largest argument up to which NumPy is faster (measured)

Array = NDArray[Any]
Pull = Callable[[Array], tuple[Array | None, ...]]

_PLAIN = (Tensor, torch.nn.Parameter)
_DTYPE_OF = {"float64": torch.float64, "float32": torch.float32}
_NAME_OF = {dtype: name for name, dtype in _DTYPE_OF.items()}


def is_few(*xs: Tensor) -> bool:
    """Whether these are few numbers of one dtype that nothing but autograd records."""
    if is_traced() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    dtype = xs[0].dtype
    if dtype not in _DTYPE_OF.values():
        return False
    return all(
        0 < x.numel() <= MOST and x.dtype == dtype and x.device.type == "cpu" and type(x) in _PLAIN
        for x in xs
    )


def _rows(x: Array, rank: int, batch: torch.Size) -> Array:
    """``x`` with its batch axes flattened to one: of size 1 if it is a single element."""
    event = x.shape[x.ndim - rank :]
    if x.size == math.prod(event):
        return x.reshape(1, *event)
    return (x if x.shape[: x.ndim - rank] == batch else np.broadcast_to(x, (*batch, *event))).reshape(
        -1, *event
    )


def _back(g: Array | None, like: Tensor, rank: int, batch: torch.Size) -> Tensor | None:
    """The gradient of rows, summed over what was broadcast."""
    if g is None:
        return None
    shape = tuple(like.shape)
    event = shape[len(shape) - rank :]
    if like.numel() == math.prod(event):
        g = (g.sum(0, keepdims=True) if len(g) > 1 else g).reshape(shape)
    else:
        g = g.reshape(*batch, *event)
        own = (1,) * (len(batch) + rank - len(shape)) + shape
        axes = tuple(i for i, (a, b) in enumerate(zip(g.shape, own, strict=True)) if a != b)
        g = (g.sum(axes, keepdims=True) if axes else g).reshape(shape)
    return torch.from_numpy(g.astype(_NAME_OF[like.dtype], copy=False))


def few(
    value: Callable[..., tuple[Array, Pull]], composed: Callable[..., Tensor], ranks: tuple[int, ...]
) -> Callable[..., Tensor]:
    """An operator with a value for each row of its arguments, tensors for which :func:`is_few` must hold.

    :param value: takes arrays with one batch axis (of size 1 where the argument is a single element); returns
        the values, shape ``(n,)``, and a function from their gradients, ``(n,)``, to those of the arguments,
        each with a batch axis of size 1 or n.
    :param composed: the same function of tensors with any batch shapes, made of torch's operators.
    :param ranks: how many trailing axes of each argument belong to one element.
    """

    def evaluate(xs: Sequence[Tensor]) -> tuple[Tensor, Pull, torch.Size]:
        batch = common_shape(*(x.shape[: x.dim() - rank] for x, rank in zip(xs, ranks, strict=True)))
        with np.errstate(all="ignore"):
            rows = [_rows(x.detach().numpy(), rank, batch) for x, rank in zip(xs, ranks, strict=True)]
            out, pull = value(*rows)
        return torch.from_numpy(out.astype(rows[0].dtype, copy=False).reshape(batch)), pull, batch

    class Few(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *xs: Tensor) -> Tensor:
            out, ctx.pull, ctx.batch = evaluate(xs)
            ctx.save_for_backward(*xs)
            return out

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
            xs, needed = ctx.saved_tensors, ctx.needs_input_grad
            if torch.is_grad_enabled():
                asked = [x for x, need in zip(xs, needed, strict=True) if need]
                found = iter(torch.autograd.grad(composed(*xs), asked, grad, create_graph=True))
                return tuple(next(found) if need else None for need in needed)
            with np.errstate(all="ignore"):
                gs = ctx.pull(grad.numpy().reshape(-1))
            parts = zip(gs, xs, ranks, needed, strict=True)
            return tuple(_back(g, x, rank, ctx.batch) if need else None for g, x, rank, need in parts)

    def op(*xs: Tensor) -> Tensor:
        if torch.is_grad_enabled() and any(x.requires_grad for x in xs):
            return super(torch.autograd.Function, Few).apply(*xs)  # type: ignore[misc]
        return evaluate(xs)[0]

    return op


def dot(x: Array, y: Array) -> Array:
    """Inner product along the last axis."""
    return (x * y).sum(-1)


def near_zero(kind: str, s: Array, elsewhere: Array) -> Array:
    """The derivative in s of a function of :mod:`pyro_manifold.ops.signed_trig` by its series near s = 0, and
    the values ``elsewhere``."""
    near = np.abs(s) < SERIES_BELOW
    if not near.any():
        return elsewhere
    series = horner(SLOPE_SERIES[kind, _DTYPE_OF[s.dtype.name]], np.where(near, s, 0))  # type: ignore[arg-type]
    return np.where(near, series, elsewhere)


class Normal:
    """y and log det L of rows v, from standard deviations, shape ``(n, d)`` (n or d may be 1), or Cholesky
    factors ``(n, d, d)``."""

    def __init__(self, v: Array, spread: Array) -> None:
        self.spread = spread
        if spread.ndim == 2:
            self.y = v / spread
            self.log_det = np.log(spread).sum(-1) * (v.shape[-1] // spread.shape[-1])
        else:
            self.y = _solve(spread, v, upper=False)
            self.log_det = np.log(np.diagonal(spread, axis1=-2, axis2=-1)).sum(-1)
        self.square = dot(self.y, self.y)

    def pull(self, g_square: Array, g_log_det: Array) -> tuple[Array, Array]:
        """Gradients in v and the spread, from those of the square of y and of log det L, shape ``(n,)``."""
        g_y = 2 * g_square[:, None] * self.y
        if self.spread.ndim == 2:
            g_v = g_y / self.spread
            g = (g_log_det[:, None] - g_y * self.y) / self.spread
            return g_v, g if self.spread.shape[-1] == g.shape[-1] else g.sum(-1, keepdims=True)
        g_v = _solve(self.spread.swapaxes(-1, -2), g_y, upper=True)
        g = np.tril(-g_v[:, :, None] * self.y[:, None, :])
        i = np.arange(g.shape[-1])
        g[:, i, i] += g_log_det[:, None] / np.diagonal(self.spread, axis1=-2, axis2=-1)
        return g_v, g


def _solve(factor: Array, v: Array, upper: bool) -> Array:
    """The solutions y of ``factor y = v`` for triangular matrices, ``(1, d, d)`` or ``(n, d, d)``."""
    d = v.shape[-1]
    y = np.empty((max(len(v), len(factor)), d), np.result_type(factor, v))
    for i in reversed(range(d)) if upper else range(d):
        known = slice(i + 1, d) if upper else slice(0, i)
        rest = v[:, i] if known.start == known.stop else v[:, i] - (factor[:, i, known] * y[:, known]).sum(-1)
        y[:, i] = rest / factor[:, i, i]
    return y


def log_normal(v: Tensor, spread: Tensor, full: bool) -> Tensor:
    """Log density of tangent vectors v, ``batch + (d,)``, composed of torch's operators; ``spread`` are
    standard deviations, or Cholesky factors if ``full``."""
    constant = 0.5 * v.shape[-1] * math.log(2 * math.pi)
    if full:
        y = torch.linalg.solve_triangular(spread, v.unsqueeze(-1), upper=False).squeeze(-1)
        log_det = spread.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    else:
        y = v / spread
        log_det = spread.expand(spread.shape[:-1] + v.shape[-1:]).log().sum(-1)
    return -0.5 * y.square().sum(-1) - log_det - constant
