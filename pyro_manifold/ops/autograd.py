"""Base classes for autograd operators with hand-written derivatives: they work under every transform of
``torch.func``, and raise where a derivative of too high an order is asked for."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad

__all__ = [
    "BatchFunction",
    "Function",
    "OnceDifferentiable",
    "Undifferentiable",
    "differentiated",
    "last_order_gradient",
    "minus",
    "plus",
    "save_tensors",
]


def differentiated(*xs: Tensor | None) -> bool:
    """Whether a derivative in one of these tensors may be asked for; always true inside ``torch.func`` and in
    forward mode."""
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return True
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in xs)


def plus(a: Tensor | None, b: Tensor | None) -> Any:
    """a + b of tangents or gradients, where ``None`` stands for zero."""
    if a is None or b is None:
        return b if a is None else a
    return a + b


def minus(a: Tensor | None, b: Tensor | None) -> Any:
    """a - b of tangents or gradients, where ``None`` stands for zero."""
    return plus(a, None if b is None else -b)


def save_tensors(ctx: Any, *tensors: Tensor | None) -> None:
    """Save tensors in the context of an operator, for both ``backward`` and ``jvp``."""
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


def _forward_levels(args: Sequence[Any]) -> int:
    """The number of nested forward modes of ``torch.func`` that the arguments take part in."""
    stack = torch._C._functorch.get_interpreter_stack() or []
    forward = {i.level() for i in stack if i.key() == torch._C._functorch.TransformType.Jvp}
    seen = set()
    if len(forward) > 1:
        for x in args:
            while isinstance(x, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(x):
                seen.add(torch._C._functorch.maybe_get_level(x))
                x = torch._C._functorch.get_unwrapped(x)
    return len(forward & seen)


class Function(torch.autograd.Function):
    """``torch.autograd.Function`` with a faster ``apply``: torch's inspects the signature of ``forward`` at
    each call, which takes longer than most operators here. All arguments must be passed by position.

    :raises NotImplementedError: for forward mode inside forward mode. Torch does not differentiate ``jvp`` in
        forward mode and would silently return zeros.
    """

    _plain: ClassVar[Any]  # the same operator with torch's own apply, which the compiler needs to see

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_plain" not in cls.__dict__:
            original = torch.autograd.Function.__dict__["apply"]
            kind: Any = type(cls)
            cls._plain = kind(cls.__name__, (cls,), {"apply": original, "_plain": None})

    @classmethod
    def apply(cls, *args: Any) -> Any:
        if torch.compiler.is_compiling():
            return cls._plain.apply(*args)
        if torch._C._are_functorch_transforms_active():
            if _forward_levels(args) > 1:
                raise NotImplementedError(
                    "forward mode inside forward mode (jacfwd of jacfwd) is not supported by torch for "
                    "custom operators; use torch.func.hessian or jacfwd(jacrev(f))."
                )
            return super().apply(*args)
        return super(torch.autograd.Function, cls).apply(*unwrap_dead_wrappers(args))  # type: ignore[misc]


class BatchFunction(Function):
    """An operator on batches; ``torch.func.vmap`` maps over it by adding a leading batch axis.

    Subclasses write ``forward`` and ``setup_context`` for tensors of any batch shape, and state in ``ranks``
    how many trailing axes of each argument belong to one element (``None`` for arguments that are not
    tensors). ``forward`` receives plain tensors, never the wrapped ones of a ``torch.func`` transform, so it
    may branch on values, write in place and call LAPACK. Under vmap all its arguments have the same batch
    shape. The batch axes of every output must come first. ``backward`` and ``jvp`` must consist of torch
    operators and other operators of this kind."""

    ranks: ClassVar[tuple[int | None, ...]]

    @classmethod
    def vmap(cls, info: Any, in_dims: Sequence[Any], *args: Any) -> tuple[Any, int]:  # type: ignore[override]
        ranks = cls.ranks + (None,) * (len(args) - len(cls.ranks))
        moved = [x.movedim(d, 0) if isinstance(d, int) else x for x, d in zip(args, in_dims, strict=True)]
        parts = [
            (x, r, d)
            for x, r, d in zip(moved, ranks, in_dims, strict=True)
            if r is not None and x is not None
        ]
        batch = torch.broadcast_shapes(*(x.shape[(d is not None) : x.dim() - r] for x, r, d in parts))
        for i, (x, r, d) in enumerate(zip(moved, ranks, in_dims, strict=True)):
            if r is None or x is None:
                continue
            event = x.shape[x.dim() - r :]
            if d is not None:  # the new axis first, then the axes that broadcasting would add
                own = x.shape[1 : x.dim() - r]
                x = x.reshape((info.batch_size,) + (1,) * (len(batch) - len(own)) + own + event)
            moved[i] = x.expand((info.batch_size, *batch, *event))
        return cls.apply(*moved), 0


class Undifferentiable(BatchFunction):
    """An operator whose derivatives raise a ``NotImplementedError`` with the message ``limit``."""

    limit: ClassVar[str]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @classmethod
    def backward(cls, ctx: Any, *grad: Any) -> Any:  # type: ignore[override]
        raise NotImplementedError(cls.limit)

    jvp = backward


class OnceDifferentiable(BatchFunction):
    """An operator that computes its derivatives together with its value; a second derivative raises.

    ``forward`` takes tensors (and then other arguments), and returns the value, whose shape is the batch, and
    the derivative of each element of it in each tensor, in the shape of that tensor.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        slopes = output[1:]
        ctx.mark_non_differentiable(*slopes)
        save_tensors(ctx, *inputs[: len(slopes)], *slopes)
        ctx.ranks = [slope.dim() - output[0].dim() for slope in slopes]
        ctx.others = len(inputs) - len(slopes)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        n = len(ctx.ranks)
        arguments, slopes = ctx.saved_tensors[:n], ctx.saved_tensors[n:]
        total = None
        for tangent, slope, rank in zip(tangents, slopes, ctx.ranks, strict=False):
            if tangent is not None:
                change = (tangent * slope).sum(tuple(range(-rank, 0))) if rank else tangent * slope
                total = plus(total, last_order_gradient(change, *arguments, tangent))
        return total, *(None for _ in slopes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        n = len(ctx.ranks)
        arguments, slopes = ctx.saved_tensors[:n], ctx.saved_tensors[n:]
        out = [
            last_order_gradient(grad[(...,) + (None,) * rank] * slope, *arguments, grad)
            for slope, rank in zip(slopes, ctx.ranks, strict=True)
        ]
        return *out, *(None for _ in range(ctx.others))


class _LastOrderGradient(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, *depends: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None: ...

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Any:
        raise NotImplementedError(
            "this derivative is of the last order implemented; detach its arguments to use it as a number."
        )

    jvp = backward


def last_order_gradient(value: Tensor, *depends: Tensor) -> Tensor:
    """``value``, the result of a backward pass, such that differentiating it again in any tensor of ``depends``
    raises an error.

    Torch's ``once_differentiable`` is not used: ``torch.autograd.grad(..., inputs)`` prunes its error node
    and is silently wrong.

    >>> x = torch.ones(1, requires_grad=True)
    >>> last_order_gradient(x.detach() * 2, x).requires_grad
    True
    """
    return _LastOrderGradient.apply(value.detach(), *depends) if torch.is_grad_enabled() else value
