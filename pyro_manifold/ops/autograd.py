"""Operators of our own: for every transform of ``torch.func``, and custom gradients that are of the last
order implemented."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad

__all__ = ["BatchFunction", "Function", "differentiated", "last_order_gradient", "minus", "plus"]


def differentiated(*xs: Tensor | None) -> bool:
    """May a derivative in one of these be asked for? Inside ``torch.func`` and in forward mode the answer is
    a cautious yes."""
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return True
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in xs)


def plus(a: Tensor | None, b: Tensor | None) -> Any:
    """a + b of tangents or gradients, where None is zero."""
    if a is None or b is None:
        return b if a is None else a
    return a + b


def minus(a: Tensor | None, b: Tensor | None) -> Any:
    """a - b, likewise."""
    return plus(a, None if b is None else -b)


def _forward_levels(args: Sequence[Any]) -> int:
    """In how many nested forward modes of ``torch.func`` do the arguments take part?"""
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
    """torch's, without its look at the signature of ``forward`` at each call, which takes longer than most
    operators here: arguments are given by position, all of them.

    :raises NotImplementedError: for forward mode inside forward mode, of which torch makes zeros without a
        word, since it does not differentiate the ``jvp`` of a function in forward mode.
    """

    @classmethod
    def apply(cls, *args: Any) -> Any:
        if torch.compiler.is_compiling():
            return super().apply(*args)
        if torch._C._are_functorch_transforms_active():
            if _forward_levels(args) > 1:
                raise NotImplementedError(
                    "forward mode inside forward mode (jacfwd of jacfwd) is not supported by torch for "
                    "custom operators; use torch.func.hessian or jacfwd(jacrev(f))."
                )
            return super().apply(*args)
        return super(torch.autograd.Function, cls).apply(*unwrap_dead_wrappers(args))  # type: ignore[misc]


class BatchFunction(Function):
    """An operator on batches, with the one rule by which ``torch.func.vmap`` maps over it: another batch axis
    in front.

    Subclasses write ``forward`` and ``setup_context`` for tensors of any batch shape, and name in ``ranks``
    how many trailing axes of each argument belong to one element (None: not a tensor). ``forward`` sees plain
    tensors, never those of a transform, so it may branch on values, write in place and call LAPACK; mapped
    over, it is given all of one batch shape. Every output must have the batch in front. ``backward`` and
    ``jvp`` are made of torch's operators and of others of this kind.
    """

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
            if d is not None:  # the new axis first, then those that broadcasting would add
                own = x.shape[1 : x.dim() - r]
                x = x.reshape((info.batch_size,) + (1,) * (len(batch) - len(own)) + own + event)
            moved[i] = x.expand((info.batch_size, *batch, *event))
        return cls.apply(*moved), 0


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
    """``value``, the result of a backward pass, such that differentiating it again in what it depends on
    raises.

    torch's ``once_differentiable`` does not do: ``torch.autograd.grad(..., inputs)`` prunes its error and is
    silently wrong.

    >>> x = torch.ones(1, requires_grad=True)
    >>> last_order_gradient(x.detach() * 2, x).requires_grad
    True
    """
    return _LastOrderGradient.apply(value.detach(), *depends) if torch.is_grad_enabled() else value
