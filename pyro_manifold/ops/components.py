"""Maps of batches of short vectors, written with the component axis first, as operators with their own
gradients.

A map is written for vectors ``(d, n)`` and scalars ``(n,)``, which broadcast against each other. The memory
layout depends on the size: many vectors of up to 5 components are copied so that each component is
contiguous; otherwise the transposed *view* of ``(n, d)`` is used, which is cheaper than a copy. Compiled
programs always use views, since the inductor backend of torch 2.13 computes wrong gradients, without an
error, from copied components (``aot_eager`` computes the right ones)."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .autograd import Function, save_tensors
from .checks import common_shape
from .tracing import can_write_inplace, is_concrete, is_traced, maybe_any

Kept = Sequence[Tensor] | None  # scalars that the value saved for its gradient

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

_NARROW = 5  # the largest number of components that are copied
_ENOUGH = 2048  # the smallest number of elements for which a copy pays


def _narrow(x: Tensor) -> bool:
    """Whether it pays to copy these components ``(d, n)``."""
    return len(x) <= _NARROW and x.numel() >= _ENOUGH and not is_traced()


def extremes(x: Tensor) -> tuple[float, float]:
    """The smallest and the largest element of a nonempty tensor; NaN if any element is."""
    x = x.detach()
    if x.numel() >= _ENOUGH and not x.is_contiguous():  # read in memory order, which is five times as fast
        stride = x.stride()
        x = x.permute(sorted(range(x.dim()), key=lambda i: -stride[i]))
    low, high = torch.aminmax(x)
    return float(low), float(high)


def replace_lanes_each(
    sign: Tensor, ys: tuple[Tensor, ...], f: Callable[..., tuple[Tensor, ...]], *xs: Tensor
) -> tuple[Tensor, ...]:
    """``ys`` with the lanes (elements of the last axis) where ``sign`` < 0 replaced by those of ``f(*xs)``.
    On the CPU ``f`` is evaluated for these lanes alone."""
    if sign.device.type != "cpu" or not is_concrete(sign):
        return tuple(torch.where(sign < 0, a, y) for a, y in zip(f(*xs), ys, strict=True))
    if sign.numel() == 0 or bool(sign.detach().amin() >= 0):  # false if any element is NaN
        return ys
    lanes = (sign < 0).nonzero().squeeze(-1)
    parts = f(*(x.t().index_select(0, lanes).t() for x in xs))
    put = torch.Tensor.index_copy if torch.is_grad_enabled() else torch.Tensor.index_copy_
    return tuple(put(y.t(), 0, lanes, a.t()).t() for a, y in zip(parts, ys, strict=True))


def replace_lanes(sign: Tensor, y: Tensor, f: Callable[..., Tensor], *xs: Tensor) -> Tensor:
    """:func:`replace_lanes_each` for one tensor."""
    return replace_lanes_each(sign, (y,), lambda *xs: (f(*xs),), *xs)[0]


def dot(x: Tensor, y: Tensor, first: int = 0) -> Tensor:
    """The inner product over the first axis, from component ``first`` on."""
    if _narrow(x[first:] if first else x):
        out = x[first] * y[first]
        for a, b in zip(x[first + 1 :].unbind(0), y[first + 1 :].unbind(0), strict=True):
            out = torch.addcmul(out, a, b)
        return out
    xy = (x * y)[first:] if first else x * y  # whole tensors are multiplied faster than parts of them
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
    """The sum of squares over the first axis, from component ``first`` on."""
    return dot(x, x, first)


def linear_combination(a: Tensor, x: Tensor, *more: Tensor) -> Tensor:
    """a x + b y + ..., for scalars and vectors given alternately."""
    return add_scaled(x * a, *more)


def add_scaled(out: Tensor, *more: Tensor) -> Tensor:
    """out + b y + ...; overwrites ``out`` if autograd is not recording."""
    add = torch.Tensor.addcmul_ if can_write_inplace(out) else torch.addcmul
    for b, y in zip(more[::2], more[1::2], strict=True):
        out = add(out, b, y)
    return out


def scaled(out: Tensor, a: Tensor) -> Tensor:
    """a out; overwrites ``out`` if autograd is not recording."""
    return out.mul_(a) if can_write_inplace(out) and can_write_inplace(a) else out * a


def join(first: Tensor, rest: Tensor) -> Tensor:
    """The vectors with components ``first`` and ``rest``."""
    if not _narrow(rest):
        return torch.cat([first.unsqueeze(1), rest.t()], 1).t()
    return torch.cat([first.unsqueeze(0), rest])


def _front(x: Tensor) -> Tensor:
    """``x`` of shape ``(n, d)`` with the component axis first, copied where that pays."""
    if x.dim() == 1 or (x.stride(0) == 1 and not is_traced()):
        return x.t()
    return torch.stack(x.unbind(-1)) if _narrow(x.t()) else x.contiguous().t()


def _flat(xs: Iterable[Tensor]) -> tuple[torch.Size, list[Tensor]]:
    """The common batch shape, and each tensor expanded to it, as a matrix of vectors."""
    xs = tuple(xs)
    batch = common_shape(*(x.shape[:-1] for x in xs))
    return batch, [x.expand(batch + x.shape[-1:]).reshape(-1, x.shape[-1]) for x in xs]


def by_components(f: Callable[..., Any], *xs: Tensor) -> Any:
    r"""Call ``f`` on the tensors, with their batches broadcast and flattened and the component axis first.

    ``f`` returns vectors ``(d, n)``, scalars ``(n,)`` or a tuple of these. They are returned with shapes
    ``batch + (d,)`` and ``batch``; vectors are transposed views, which the next such call needs not copy.
    """
    batch, flat = _flat(xs)
    out = f(*map(_front, flat))

    def back(y: Tensor) -> Tensor:
        return (y.t() if y.dim() == 2 else y).reshape(batch + y.shape[:-1])

    return tuple(map(back, out)) if isinstance(out, tuple) else back(out)


def _transposed(y: Any) -> Any:
    """Vectors with the component axis moved from the front to the end, or back; scalars and ``None``
    unchanged."""
    return y.t() if y is not None and y.dim() == 2 else y


def fused(
    value: Callable[..., tuple[Tensor, ...]],
    pull: Callable[..., tuple[Tensor | None, ...]],
) -> Callable[..., Tensor]:
    """An autograd operator of a scalar ``k`` (or ``None``) and two tensors of vectors, from functions of
    tensors with the component axis first.

    ``value(k, x, z)`` returns the result, followed by scalars of each point that are saved for
    ``pull(k, x, z, out, grad, kept, needs_k)``, which returns the gradients. With ``kept = None``, ``pull``
    must compute them as differentiable functions of its arguments, so that derivatives of every order are
    right."""

    class Fused(Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(k: Tensor | None, x: Tensor, z: Tensor, keep: bool) -> tuple[Tensor, ...]:
            return tuple(map(_transposed, value(k, _front(x), _front(z))[: None if keep else 1]))

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
            ctx.set_materialize_grads(False)
            ctx.mark_non_differentiable(*output[1:])
            save_tensors(ctx, *inputs[:3], *output)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
            k, x, z, out, *kept = ctx.saved_tensors

            def gradients(grad: Tensor) -> tuple[Tensor | None, ...]:
                args = (y.t() for y in (x, z, out, grad))
                g_k, g_x, g_z = pull(k, *args, None, tangents[0] is not None)
                pairs = zip((g_k, g_x, g_z), tangents, strict=False)
                return tuple(_transposed(g) for g, t in pairs if t is not None)

            # the gradients are linear in grad; the transpose of this map is the derivative along the tangents
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
            vectors = map(_front, (x, z, out, grad))
            return *map(_transposed, pull(k, *vectors, kept or None, ctx.needs_input_grad[0])), None

    def op(k: Tensor | None, x: Tensor, z: Tensor) -> Tensor:
        batch, flat = _flat((x, z))
        if flat[0].numel() < _ENOUGH and all(can_write_inplace(t) for t in (k, *flat) if t is not None):
            out = value(k, flat[0].t(), flat[1].t())[0].t()
            return out.reshape(batch + out.shape[-1:])
        out = Fused.apply(k, *flat, torch.is_grad_enabled())[0]
        return out.reshape(batch + out.shape[-1:])

    return op
