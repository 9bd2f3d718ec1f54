r"""Operators computed by NumPy with closed-form gradients, for tensors on the CPU.

A call of torch takes 2 to 6 microseconds whatever it computes, one of NumPy 0.4 to 1, and a density of a few
points is a chain of some fifty calls. Many points are computed in blocks of :data:`BLOCK` numbers that stay in
the cache, with the components of points on the first axes, along which NumPy's loops are long. Elsewhere (other
devices, transforms of ``torch.func``, compilers, derivatives of second order) the same function is composed of
torch's operators.

.. math:: \log\mathcal N(v; 0, \Sigma) = -\tfrac12|y|^2 - \log\det L - \tfrac d2\log2\pi, \qquad y = L^{-1}v
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
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

__all__ = [
    "BLOCK",
    "Array",
    "Normal",
    "Slopes",
    "dot",
    "by_numpy",
    "numpy_operator",
    "log_normal",
    "near_zero",
    "solve",
]

BLOCK = 1 << 15  # numbers of the largest argument that are computed at once
_WIDEST = 64  # numbers in one element up to which more than one block pays: all derivatives of all are kept

Array = NDArray[Any]
Slopes = Callable[[], tuple[Array | None, ...]]

_PLAIN = (Tensor, torch.nn.Parameter)
_DTYPE_OF = {"float64": torch.float64, "float32": torch.float32}
_NAME_OF = {dtype: name for name, dtype in _DTYPE_OF.items()}
_BATCH_LAST = {0: (0,), 1: (1, 0), 2: (1, 2, 0)}


def by_numpy(*xs: Tensor) -> bool:
    """Whether these are numbers of one dtype on the CPU that nothing but autograd records."""
    if is_traced() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    dtype = xs[0].dtype
    if dtype not in _NAME_OF:
        return False
    return all(
        x.numel() > 0 and x.dtype == dtype and x.device.type == "cpu" and type(x) in _PLAIN for x in xs
    )


def _rows(x: Array, rank: int, batch: torch.Size) -> Array:
    """``x`` with its batch axes flattened to one, the last: of size 1 if it is a single element."""
    event = x.shape[x.ndim - rank :]
    if x.size == math.prod(event):
        return x.reshape(*event, 1)
    if x.shape[: x.ndim - rank] != batch:
        x = np.broadcast_to(x, (*batch, *event))
    return x.reshape(-1, *event).transpose(_BATCH_LAST[rank])


def _parts(rows: Sequence[Array], size: int, n: int) -> Iterator[tuple[slice, list[Array]]]:
    for start in range(0, n, size):
        part = slice(start, start + size)
        yield part, [np.ascontiguousarray(x if x.shape[-1] == 1 else x[..., part]) for x in rows]


class _Gradient:
    """The gradient in one argument, from the derivative of the values in it, block by block; summed over what was
    broadcast, by float64 from block to block."""

    def __init__(self, like: Tensor, rank: int, batch: torch.Size) -> None:
        self.shape, self.batch, self.dtype = tuple(like.shape), batch, _NAME_OF[like.dtype]
        event = self.shape[len(self.shape) - rank :]
        self.single = like.numel() == math.prod(event)
        self.total: Any = 0.0
        self.event, self.out = (
            event,
            None if self.single else np.empty((math.prod(batch), *event), self.dtype),
        )

    def add(self, part: slice, slope: Array, g: Array) -> None:
        if self.out is not None:
            np.multiply(
                slope, g, out=self.out[part].transpose(_BATCH_LAST[len(self.event)]), casting="same_kind"
            )
        elif slope.shape[-1] == len(g):
            self.total = self.total + (slope @ g).astype(np.float64)
        else:
            self.total = self.total + slope[..., 0].astype(np.float64) * g.sum()

    def result(self) -> Tensor:
        if self.out is None:
            return torch.from_numpy(np.asarray(self.total, self.dtype).reshape(self.shape))
        out = self.out.reshape(*self.batch, *self.event)
        own = (1,) * (out.ndim - len(self.shape)) + self.shape
        axes = tuple(i for i, (a, b) in enumerate(zip(out.shape, own, strict=True)) if a != b)
        return torch.from_numpy((out.sum(axes, keepdims=True) if axes else out).reshape(self.shape))


def numpy_operator(
    value: Callable[..., tuple[Array, Slopes]],
    composed: Callable[..., Tensor] | None,
    ranks: tuple[int, ...],
    again: bool = False,
    widest: int = _WIDEST,
) -> Callable[..., Tensor]:
    """An operator with a value for each element of its arguments, tensors for which :func:`by_numpy` must hold.

    :param value: takes arrays with one batch axis, the last (of size 1 where the argument is a single element);
        returns the values, shape ``(n,)``, and a function that returns their derivatives in each argument, each
        with a batch axis of size 1 or n, or ``None`` for zeros.
    :param composed: the same function of tensors with any batch shapes, made of torch's operators; if ``None``, it is
        given by name in each call.
    :param ranks: how many trailing axes of each argument belong to one element.
    :param again: whether the backward pass over more than one block computes the values again, which for a short
        formula is faster than to write and read all derivatives.
    :param widest: numbers in the largest element up to which more than one block is faster than ``composed``.
    """

    def rows_of(xs: Sequence[Tensor], batch: torch.Size) -> list[Array]:
        return [_rows(x.detach().numpy(), rank, batch) for x, rank in zip(xs, ranks, strict=True)]

    def evaluate(
        xs: Sequence[Tensor], batch: torch.Size, size: int, kept: Sequence[bool] | None = None
    ) -> tuple[Tensor, list[Slopes]]:
        rows, n = rows_of(xs, batch), math.prod(batch)
        out = np.empty(n, rows[0].dtype)
        blocks: list[Slopes] = []
        with np.errstate(all="ignore"):
            for part, block in _parts(rows, size, n):
                out[part], slopes = value(*block)
                if n <= size:
                    blocks.append(slopes)
                elif kept is not None and not again:
                    found = zip(slopes(), rows, kept, strict=True)
                    # those of rows in their precision, those to be summed in that of the computation
                    kept_slopes = tuple(
                        None
                        if s is None or not k
                        else s
                        if r.shape[-1] == 1
                        else s.astype(r.dtype, copy=False)
                        for s, r, k in found
                    )
                    blocks.append(partial(_same, kept_slopes))
        return torch.from_numpy(out.reshape(batch)), blocks

    class NumpyOperator(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any, composed: Callable[..., Tensor], batch: torch.Size, size: int, *xs: Tensor
        ) -> Tensor:
            ctx.composed, ctx.batch, ctx.size = composed, batch, size
            out, ctx.blocks = evaluate(xs, batch, size, ctx.needs_input_grad[3:])
            ctx.save_for_backward(*xs)
            return out

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
            xs, needed, batch = ctx.saved_tensors, ctx.needs_input_grad[3:], ctx.batch
            if torch.is_grad_enabled():
                ys = [x.view_as(x) for x in xs]  # an argument may be a function of another
                asked = [y for y, need in zip(ys, needed, strict=True) if need]
                found = iter(torch.autograd.grad(ctx.composed(*ys), asked, grad, create_graph=True))
                return None, None, None, *(next(found) if need else None for need in needed)
            g, n = grad.numpy().reshape(-1), math.prod(batch)
            gradients = [
                _Gradient(x, rank, batch) if need else None
                for x, rank, need in zip(xs, ranks, needed, strict=True)
            ]
            with np.errstate(all="ignore"):
                if ctx.blocks:
                    starts = range(0, n, ctx.size)
                    parts = ((slice(i, i + ctx.size), f) for i, f in zip(starts, ctx.blocks, strict=True))
                else:
                    blocks = _parts(rows_of(xs, batch), ctx.size, n)
                    parts = ((part, value(*block)[1]) for part, block in blocks)
                for part, slopes in parts:
                    for gradient, slope in zip(gradients, slopes(), strict=True):
                        if gradient is not None and slope is not None:
                            gradient.add(part, slope, g[part])
            return None, None, None, *(None if x is None else x.result() for x in gradients)

    always = composed

    def op(*xs: Tensor, composed: Callable[..., Tensor] | None = None) -> Tensor:
        composed = composed or always
        assert composed is not None
        events = [x.shape[x.dim() - rank :] for x, rank in zip(xs, ranks, strict=True)]
        batch = common_shape(*(x.shape[: x.dim() - rank] for x, rank in zip(xs, ranks, strict=True)))
        width = max(map(math.prod, events))
        if width > widest and math.prod(batch) * width > BLOCK:
            return composed(*xs)
        size = max(1, BLOCK // width)
        if torch.is_grad_enabled() and any(x.requires_grad for x in xs):
            return super(torch.autograd.Function, NumpyOperator).apply(composed, batch, size, *xs)  # type: ignore[misc]
        return evaluate(xs, batch, size)[0]

    return op


def _same(x: Any) -> Any:
    return x


def dot(x: Array, y: Array) -> Array:
    """Inner product along the first axis."""
    if x.shape[-1] == 1:
        return x[:, 0] @ y
    return y[:, 0] @ x if y.shape[-1] == 1 else (x * y).sum(0)


def near_zero(kind: str, s: Array, elsewhere: Array) -> Array:
    """The derivative in s of a function of :mod:`pyro_manifold.ops.signed_trig` by its series near s = 0, and
    the values ``elsewhere``, which are overwritten."""
    near = np.abs(s) < SERIES_BELOW
    if not near.any():
        return elsewhere
    series = SLOPE_SERIES[kind, _DTYPE_OF[s.dtype.name]]
    if near.all():
        return horner(series, s)
    elsewhere[near] = horner(series, s[near])
    return elsewhere


class Normal:
    """y and log det L of tangent vectors v, shape ``(d, n)``, from standard deviations, ``(d, n)`` (n or d may be
    1), or Cholesky factors ``(d, d, n)``."""

    def __init__(self, v: Array, spread: Array) -> None:
        self.spread = spread
        if spread.ndim == 2:
            self.y = v / spread
            self.log_det = np.log(spread).sum(0) * (len(v) // len(spread))
        else:
            self.y = solve(spread, v, upper=False)
            self.log_det = np.log(spread.diagonal()).sum(-1)
        self.square = dot(self.y, self.y)

    def slopes(self, of_square: Array | float, of_log_det: Array | float) -> tuple[Array, Array]:
        """Derivatives in v and the spread of a function of the square of y and of log det L, from its
        derivatives in these."""
        in_y = 2 * of_square * self.y
        if self.spread.ndim == 2:
            in_v = in_y / self.spread
            out = (of_log_det - in_y * self.y) / self.spread
            return in_v, out if len(self.spread) == len(out) else out.sum(0, keepdims=True)
        in_v = solve(self.spread.swapaxes(0, 1), in_y, upper=True)
        out = in_v[:, None] * self.y
        out *= -np.tri(len(out))[:, :, None]
        i = np.arange(len(out))
        out[i, i] += of_log_det / self.spread[i, i]
        return in_v, out


def solve(factor: Array, v: Array, upper: bool) -> Array:
    """The solutions y of ``factor y = v`` for triangular matrices, whose batch axes, the last ones, broadcast."""
    d = len(v)
    y = np.empty((d, *np.broadcast_shapes(v.shape[1:], factor.shape[2:])), np.result_type(factor, v))
    for i in reversed(range(d)) if upper else range(d):
        known = slice(i + 1, d) if upper else slice(0, i)
        rest = v[i] if known.start == known.stop else v[i] - (factor[i, known] * y[known]).sum(0)
        y[i] = rest / factor[i, i]
    return y


def log_normal(v: Tensor, spread: Tensor, full: bool) -> Tensor:
    """Log density of tangent vectors v, ``batch + (d,)``, composed of torch's operators; ``spread`` are
    standard deviations, or Cholesky factors if ``full``."""
    constant = 0.5 * v.shape[-1] * math.log(2 * math.pi)
    if full:
        if spread.dim() == 2:  # one factor, at any number of vectors
            y = torch.linalg.solve_triangular(spread, v.reshape(-1, v.shape[-1]).mT, upper=False).mT.reshape(
                v.shape
            )
        else:
            y = torch.linalg.solve_triangular(spread, v.unsqueeze(-1), upper=False).squeeze(-1)
        log_det = spread.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    else:
        y = v / spread
        log_det = spread.expand(spread.shape[:-1] + v.shape[-1:]).log().sum(-1)
    return -0.5 * y.square().sum(-1) - log_det - constant
