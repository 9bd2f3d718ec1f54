"""Batches of short vectors: component axis first, block by block, and one operator with its own pull-back.

A map of points is written once for tensors ``(d, n)``, scalars of a point being ``(n,)``, so that both broadcast without a
thought. What the memory holds is another matter: up to 5 components they are copied apart, and sums run at full width;
above, the transposed *view* of ``(n, d)`` is cheaper than a transposition.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["by_components", "combine", "concrete", "dot", "fused", "join", "may_hold", "patch", "sq"]

_NARROW = 5  # so many components are copied apart
_BLOCK = 1 << 21  # bytes of a vector tensor in a block: some ten of these stay in a shared cache and with the allocator


def concrete(x: Tensor) -> bool:
    """May Python branch on the values of ``x``? Not while they are traced, compiled or mapped over."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(x)


def may_hold(mask: Tensor) -> bool:
    """Is ``mask`` true anywhere? Where asking would cost (a GPU, a trace) the answer is a cautious yes."""
    return mask.device.type != "cpu" or not concrete(mask) or bool(mask.any())


def patch(sign: Tensor, y: Tensor, f: Callable[..., Tensor], *xs: Tensor) -> Tensor:
    """``y``, but ``f(*xs)`` in the lanes (last axis) where ``sign`` < 0: evaluated there alone where that is cheap to find."""
    if sign.device.type != "cpu" or not concrete(sign):
        return torch.where(sign < 0, f(*xs), y)
    if sign.numel() == 0 or not bool(sign.detach().amin() < 0):
        return y
    lanes = (sign < 0).nonzero().squeeze(-1)
    part = f(*(x.t().index_select(0, lanes).t() for x in xs)).t()
    return (y.t().index_copy if torch.is_grad_enabled() else y.t().index_copy_)(0, lanes, part).t()


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner product over the first axis."""
    if len(x) <= _NARROW:
        out = x[0] * y[0]
        for a, b in zip(x[1:].unbind(0), y[1:].unbind(0), strict=True):
            out = torch.addcmul(out, a, b)
        return out
    xy = x * y
    if xy.dim() == 2 and xy.stride(0) == 1 and xy.device.type == "cpu" and concrete(xy):
        return torch.mv(xy.t(), xy.new_ones(len(xy)))  # torch's sum is slow over a short last axis
    return xy.sum(0)


def sq(x: Tensor) -> Tensor:
    """Sum of squares over the first axis."""
    return dot(x, x)


def combine(a: Tensor | float, x: Tensor, *more: Tensor) -> Tensor:
    """a x + b y + ... of scalars and vectors in turn."""
    out = a * x
    for b, y in zip(more[::2], more[1::2], strict=True):
        out = torch.addcmul(out, b, y)
    return out


def join(first: Tensor, rest: Tensor) -> Tensor:
    """One component ahead of others."""
    if len(rest) > _NARROW:
        return torch.cat([first.unsqueeze(1), rest.t()], 1).t()
    return torch.cat([first.unsqueeze(0), rest])


def _front(x: Tensor) -> Tensor:
    return torch.stack(x.unbind(-1)) if x.shape[-1] <= _NARROW else x.contiguous().t()


def _flat(xs: Iterable[Tensor]) -> tuple[torch.Size, list[Tensor]]:
    """The common batch, and each as a matrix of its vectors."""
    xs = tuple(xs)
    batch = torch.broadcast_shapes(*(x.shape[:-1] for x in xs))
    return batch, [x.expand(batch + x.shape[-1:]).reshape(-1, x.shape[-1]) for x in xs]


def by_components(f: Callable[..., Any], *xs: Tensor) -> Any:
    r"""Call ``f`` with the last axis of each tensor moved to the front and their batches broadcast and flattened.

    ``f`` returns vectors ``(d, n)``, scalars ``(n,)`` or a tuple of these; they come back as ``batch + (d,)`` and ``batch``,
    vectors as transposed views: what the next call does with them is as fast, and needs no copy.
    """
    batch, flat = _flat(xs)
    out = f(*map(_front, flat))

    def back(y: Tensor) -> Tensor:
        return (y.t() if y.dim() == 2 else y).reshape(batch + y.shape[:-1])

    return tuple(map(back, out)) if isinstance(out, tuple) else back(out)


def _rows(y: Tensor | None, like: Tensor | None) -> Tensor | None:
    if y is None or y.dim() == 0:
        return y
    missing = 0 if like is None else like.shape[-1] - len(y)
    return torch.nn.functional.pad(y.t(), (missing, 0)) if missing else y.t()


def _place(y: Tensor | None, n: int, like: Tensor | None) -> Tensor | None:
    """Memory for the results of all blocks: as its input holds it, or what the next call reads fastest."""
    if y is None or y.dim() == 0:
        return y if y is None else torch.zeros_like(y)
    if like is not None:
        return torch.empty_like(like) if len(y) == like.shape[-1] else torch.zeros_like(like)
    return y.new_empty(len(y), n).t() if len(y) <= _NARROW else y.new_empty(n, len(y))


def _blockwise(f: Callable[..., tuple[Tensor | None, ...]], likes: tuple[Tensor | None, ...], *xs: Tensor) -> list[Any]:
    """``f`` of matrices ``(n, d)``, in blocks whose temporaries stay in the cache; results without a batch are summed.

    A result goes with the tensor it is the gradient of, or None; one with fewer components than that belongs to the last.
    """
    n = len(xs[0])
    size = -(-n // max(1, -(-n * max(x.shape[-1] for x in xs) * xs[0].element_size() // _BLOCK)))  # blocks of one size
    if n == size or xs[0].device.type != "cpu" or not all(map(concrete, xs)) or torch.is_grad_enabled():
        return [_rows(y, like) for y, like in zip(f(*map(_front, xs)), likes, strict=True)]
    out: list[Any] = []
    for i, block in enumerate(zip(*(x.split(size) for x in xs), strict=True)):
        ys = f(*map(_front, block))
        out = out or [_place(y, n, like) for y, like in zip(ys, likes, strict=True)]
        for place, y in zip(out, ys, strict=True):
            if y is not None and y.dim():
                place[i * size : (i + 1) * size, place.shape[-1] - len(y) :].copy_(y.t())
            elif y is not None:
                place += y
    return out


def fused(value: Callable[..., Tensor], pull: Callable[..., tuple[Tensor | None, ...]]) -> Callable[..., Tensor]:
    """One autograd operator of a scalar ``k`` (or None) and two tensors of vectors, from what it does to ``(d, n)``.

    ``pull(k, x, z, out, grad, needs_k)`` gives their gradients as differentiable functions of its arguments, so that
    derivatives of every order are right. On the CPU a first derivative runs in blocks and keeps no temporary.
    """

    class Fused(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(k: Tensor | None, x: Tensor, z: Tensor) -> Tensor:
            return _blockwise(lambda x, z: (value(k, x, z),), (None,), x, z)[0]

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            ctx.save_for_backward(*inputs, output)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
            k, x, z, out = ctx.saved_tensors
            needs_k = ctx.needs_input_grad[0]
            return tuple(_blockwise(lambda *a: pull(k, *a, needs_k), (None, x, z), x, z, out, grad))

    def op(k: Tensor | None, x: Tensor, z: Tensor) -> Tensor:
        batch, flat = _flat((x, z))
        out = Fused.apply(k, *flat)
        return out.reshape(batch + out.shape[-1:])

    return op
