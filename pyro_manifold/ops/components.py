"""Batches of short vectors: component axis first, block by block, and one operator with its own pull-back.

A map of points is written once for tensors ``(d, n)``, scalars of a point being ``(n,)``, so that both
broadcast without a thought. What the memory holds is another matter: up to 5 components they are copied
apart, and sums run at full width; above, the transposed *view* of ``(n, d)`` is cheaper than a transposition.
A compiled program takes views always: from components apart torch 2.13's inductor makes wrong gradients
without a word (``aot_eager`` makes the right ones).
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from .autograd import Function
from .checks import common_shape
from .tracing import can_write_inplace, is_concrete, maybe_any

Into = Sequence[Tensor | None]  # memory for results
Kept = Sequence[Tensor] | None  # what the value kept for its gradient

__all__ = [
    "by_components",
    "linear_combination",
    "is_concrete",
    "dot",
    "add_scaled",
    "extremes",
    "fused",
    "join",
    "maybe_any",
    "replace_lanes",
]
__all__ += ["replace_lanes_each", "can_write_inplace", "scaled", "squared_norm"]

_NARROW = 5  # so many components are copied apart, where there are enough vectors for it to pay
_ENOUGH = 2048
_BLOCK = (
    3 << 20
)  # about so many bytes of a vector tensor in a block: some ten stay in a shared cache and with the allocator


def _narrow(x: Tensor) -> bool:
    """Are these components ``(d, n)`` worth to be copied apart?"""
    return len(x) <= _NARROW and x.numel() >= _ENOUGH and not torch.compiler.is_compiling()


def extremes(x: Tensor) -> tuple[float, float]:
    """Least and greatest of the values (at least one; NaN, if any is), many read in the order in which they
    lie in memory."""
    x = x.detach()
    if x.numel() >= _ENOUGH and not x.is_contiguous():  # five times as fast
        stride = x.stride()
        x = x.permute(sorted(range(x.dim()), key=lambda i: -stride[i]))
    low, high = torch.aminmax(x)
    return float(low), float(high)


def replace_lanes_each(
    sign: Tensor, ys: tuple[Tensor, ...], f: Callable[..., tuple[Tensor, ...]], *xs: Tensor
) -> tuple[Tensor, ...]:
    """``ys``, but ``f(*xs)`` in the lanes (last axis) where ``sign`` < 0: evaluated there alone where that is
    cheap to find."""
    if sign.device.type != "cpu" or not is_concrete(sign):
        return tuple(torch.where(sign < 0, a, y) for a, y in zip(f(*xs), ys, strict=True))
    if sign.numel() == 0 or bool(sign.detach().amin() >= 0):  # a NaN is not, and hides what else there is
        return ys
    lanes = (sign < 0).nonzero().squeeze(-1)
    parts = f(*(x.t().index_select(0, lanes).t() for x in xs))
    put = torch.Tensor.index_copy if torch.is_grad_enabled() else torch.Tensor.index_copy_
    return tuple(put(y.t(), 0, lanes, a.t()).t() for a, y in zip(parts, ys, strict=True))


def replace_lanes(sign: Tensor, y: Tensor, f: Callable[..., Tensor], *xs: Tensor) -> Tensor:
    """:func:`replace_lanes_each` of one."""
    return replace_lanes_each(sign, (y,), lambda *xs: (f(*xs),), *xs)[0]


def dot(x: Tensor, y: Tensor, first: int = 0) -> Tensor:
    """Inner product over the first axis, from component ``first`` on."""
    if _narrow(x[first:] if first else x):
        out = x[first] * y[first]
        for a, b in zip(x[first + 1 :].unbind(0), y[first + 1 :].unbind(0), strict=True):
            out = torch.addcmul(out, a, b)
        return out
    xy = (x * y)[first:] if first else x * y  # whole rows are multiplied faster than parts of them
    if (
        xy.dim() == 2
        and xy.stride(0) == 1
        and xy.numel() >= _ENOUGH
        and xy.device.type == "cpu"
        and is_concrete(xy)
    ):
        return torch.mv(xy.t(), xy.new_ones(len(xy)))  # torch's sum is slow over a short last axis
    return xy.sum(0)


def squared_norm(x: Tensor, first: int = 0) -> Tensor:
    """Sum of squares over the first axis, from component ``first`` on."""
    return dot(x, x, first)


def linear_combination(a: Tensor, x: Tensor, *more: Tensor, into: Tensor | None = None) -> Tensor:
    """a x + b y + ... of scalars and vectors in turn; ``into`` given memory where that is not None."""
    return add_scaled(torch.mul(x, a, out=into), *more)


def add_scaled(out: Tensor, *more: Tensor) -> Tensor:
    """out + b y + ..., written over ``out`` where nobody can tell."""
    add = torch.Tensor.addcmul_ if can_write_inplace(out) else torch.addcmul
    for b, y in zip(more[::2], more[1::2], strict=True):
        out = add(out, b, y)
    return out


def scaled(out: Tensor, a: Tensor) -> Tensor:
    """a out, written over ``out`` where nobody can tell."""
    return out.mul_(a) if can_write_inplace(out) and can_write_inplace(a) else out * a


def join(first: Tensor, rest: Tensor) -> Tensor:
    """One component ahead of others."""
    if not _narrow(rest):
        return torch.cat([first.unsqueeze(1), rest.t()], 1).t()
    return torch.cat([first.unsqueeze(0), rest])


def _front(x: Tensor) -> Tensor:
    if x.dim() == 1 or (x.stride(0) == 1 and not torch.compiler.is_compiling()):
        return x.t()
    x = x.t()
    return torch.stack(x.unbind(0)) if _narrow(x) else x


def _flat(xs: Iterable[Tensor]) -> tuple[torch.Size, list[Tensor]]:
    """The common batch, and each as a matrix of its vectors."""
    xs = tuple(xs)
    batch = common_shape(*(x.shape[:-1] for x in xs))
    return batch, [x.expand(batch + x.shape[-1:]).reshape(-1, x.shape[-1]) for x in xs]


def by_components(f: Callable[..., Any], *xs: Tensor) -> Any:
    r"""Call ``f`` with the last axis of each tensor moved to the front and their batches broadcast and
    flattened.

    ``f`` returns vectors ``(d, n)``, scalars ``(n,)`` or a tuple of these; they come back as ``batch + (d,)``
    and ``batch``, vectors as transposed views: what the next call does with them is as fast, and needs no
    copy.
    """
    batch, flat = _flat(xs)
    out = f(*map(_front, flat))

    def back(y: Tensor) -> Tensor:
        return (y.t() if y.dim() == 2 else y).reshape(batch + y.shape[:-1])

    return tuple(map(back, out)) if isinstance(out, tuple) else back(out)


def _room(n: int, d: int, like: Tensor) -> Tensor:
    """Memory for vectors, laid out as the next call reads fastest."""
    return like.new_empty(d, n).t() if d <= _NARROW else like.new_empty(n, d)


def _turned(y: Tensor | None) -> Tensor | None:
    return y.t() if y is not None and y.dim() == 2 else y


def _blockwise(
    f: Callable[..., tuple[Tensor | None, ...]], rooms: Callable[[], list[Any]], *xs: Tensor
) -> list[Any]:
    """``f`` of matrices ``(n, d)`` and vectors ``(n,)``, in blocks whose temporaries stay in the cache; sums
    are added up.

    ``rooms`` makes memory for the first results, or None; ``f`` may write into what it is offered of it.
    """
    n = len(xs[0])
    held = n * max(x.shape[-1] for x in xs[:2]) * xs[0].element_size()
    size = -(-n // max(1, (held + _BLOCK // 2) // _BLOCK))  # blocks of one size
    if n == size or xs[0].device.type != "cpu" or not all(map(is_concrete, xs)) or torch.is_grad_enabled():
        return [_turned(y) for y in f(*map(_front, xs), (None,) * 3)]
    out = rooms()
    for i, block in enumerate(zip(*(x.split(size) for x in xs), strict=True)):
        rows = slice(i * size, (i + 1) * size)
        into = [None if place is None or place.dim() == 0 else _turned(place[rows]) for place in out]
        ys = f(*map(_front, block), into)
        out += [None] * (len(ys) - len(out))
        for j, (y, there) in enumerate(zip_longest(ys, into)):
            if y is None:
                continue
            if out[j] is None:
                out[j] = (
                    torch.zeros_like(y)
                    if y.dim() == 0
                    else _room(n, len(y), y)
                    if y.dim() == 2
                    else y.new_empty(n)
                )
            if y.dim() == 0:
                out[j] += y
            elif there is None or y.data_ptr() != there.data_ptr():
                out[j][rows].copy_(_turned(y))
    return out


def fused(
    value: Callable[..., tuple[Tensor, ...]],
    pull: Callable[..., tuple[Tensor | None, ...]],
    as_x: bool = True,
) -> Callable[..., Tensor]:
    """One autograd operator of a scalar ``k`` (or None) and two tensors of vectors, from what it does to
    ``(d, n)``.

    ``value(k, x, z, into)`` gives the result, in the memory ``into`` unless that is None, and scalars of each
    point that are kept for ``pull(k, x, z, out, grad, kept, needs_k, into)``. This gives the gradients, with
    memory for those of x and z; without what was kept (None) as differentiable functions of its arguments, so
    that derivatives of every order are right. On the CPU both run in blocks. ``as_x``: the result has as many
    components as x.
    """

    class Fused(Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(k: Tensor | None, x: Tensor, z: Tensor, keep: bool) -> tuple[Tensor, ...]:
            def one(x: Tensor, z: Tensor, into: Into) -> tuple[Tensor, ...]:
                return value(k, x, z, into[0])[: None if keep else 1]

            return tuple(_blockwise(one, lambda: [_room(len(x), x.shape[-1], x) if as_x else None], x, z))

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
            ctx.set_materialize_grads(False)
            ctx.mark_non_differentiable(*output[1:])
            ctx.save_for_backward(*inputs[:3], *output)
            ctx.save_for_forward(*inputs[:3], *output)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
            k, x, z, out, *kept = ctx.saved_tensors

            def gradients(grad: Tensor) -> tuple[Tensor | None, ...]:
                args = (y.t() for y in (x, z, out, grad))
                g_k, g_x, g_z = pull(k, *args, None, tangents[0] is not None, (None, None))
                return tuple(
                    _turned(g) for g, t in zip((g_k, g_x, g_z), tangents, strict=False) if t is not None
                )

            # linear in grad: its transpose is the derivative in the direction of the tangents
            (tangent,) = torch.func.vjp(gradients, torch.zeros_like(out))[1](
                tuple(t for t in tangents[:3] if t is not None)
            )
            return tangent, *(None for _ in kept)

        @staticmethod
        def backward(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
            if grad is None:
                return None, None, None, None
            k, x, z, out, *kept = ctx.saved_tensors
            if torch.is_grad_enabled():
                kept = []
            needs_k = ctx.needs_input_grad[0]

            def all_of(
                x: Tensor, z: Tensor, out: Tensor, grad: Tensor, *rest: Any
            ) -> tuple[Tensor | None, ...]:
                return pull(k, x, z, out, grad, rest[:-1] or None, needs_k, rest[-1][1:])

            return *_blockwise(
                all_of, lambda: [None, torch.empty_like(x), torch.empty_like(z)], x, z, out, grad, *kept
            ), None

    def op(k: Tensor | None, x: Tensor, z: Tensor) -> Tensor:
        batch, flat = _flat((x, z))
        if flat[0].numel() < _ENOUGH and all(can_write_inplace(t) for t in (k, *flat) if t is not None):
            out = value(k, flat[0].t(), flat[1].t(), None)[0].t()
            return out.reshape(batch + out.shape[-1:])
        out = Fused.apply(k, *flat, torch.is_grad_enabled())[0]
        return out.reshape(batch + out.shape[-1:])

    return op
