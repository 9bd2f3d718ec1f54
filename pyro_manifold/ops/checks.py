"""Checks of arguments whose errors name the argument, the value seen, what was expected and the remedy."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .tracing import is_traced

__all__ = [
    "as_tensors",
    "broadcast_shapes",
    "check_all",
    "check_dtype",
    "check_expansion",
    "common_shape",
    "held",
]


def check_dtype(name: str, x: Any) -> None:
    """:raises ValueError: for a tensor of complex numbers, integers or booleans."""
    if isinstance(x, Tensor) and not x.dtype.is_floating_point:
        remedy = (
            "take its .real, if that is what is meant"
            if x.dtype.is_complex
            else "convert it with .float() or .double()"
        )
        raise ValueError(f"{name}: got dtype {x.dtype}, expected a floating dtype; {remedy}.")


def as_tensors(**named: Any) -> list[Tensor]:
    """The arguments as plain floating tensors with one dtype and one device; numbers get the dtype and device
    of the tensors among the arguments.

    Tensor subclasses (geoopt's ``ManifoldTensor``) are converted to plain tensors with the same autograd
    history; ``None`` stays ``None``.

    :raises ValueError: for integer tensors, mixed dtypes or devices.
    """
    tensors = {
        k: x if type(x) is Tensor else x.as_subclass(Tensor)
        for k, x in named.items()
        if isinstance(x, Tensor)
    }
    for name, x in tensors.items():
        check_dtype(name, x)
    names = list(tensors)
    for name in names[1:]:
        for what in ("dtype", "device"):
            a, b = getattr(tensors[names[0]], what), getattr(tensors[name], what)
            if a != b:
                raise ValueError(
                    f"{name}: got {what} {b} but {names[0]} has {what} {a}; expected one {what}. "
                    f"Move one of them with .to({what}=...)."
                )
    like = tensors[names[0]] if names else torch.empty(())
    out: list[Any] = []
    for name, x in named.items():
        if x is None:
            out.append(None)
            continue
        try:
            out.append(
                tensors[name] if name in tensors else torch.as_tensor(x, dtype=like.dtype, device=like.device)
            )
        except (TypeError, ValueError, RuntimeError) as e:
            raise ValueError(
                f"{name}: got {type(x).__name__}, expected a number or a tensor ({e})."
            ) from None
    return out


def common_shape(*shapes: Sequence[int]) -> torch.Size:
    """``torch.broadcast_shapes``, faster where every shape is a trailing part of the longest."""
    if shapes and not is_traced():
        sizes = [tuple(s) for s in shapes]
        longest = max(sizes, key=len)
        if all(longest[len(longest) - len(s) :] == s for s in sizes):
            return torch.Size(longest)
    return torch.broadcast_shapes(*shapes)


def broadcast_shapes(**named: torch.Size) -> torch.Size:
    """The broadcast of the named batch shapes.

    :raises ValueError: if they do not broadcast; the message names them.
    """
    try:
        return common_shape(*named.values())
    except RuntimeError:
        seen = ", ".join(f"{k} {tuple(s)}" for k, s in named.items())
        raise ValueError(f"batch shapes do not broadcast: {seen}; expand or unsqueeze one of them.") from None


def check_expansion(batch_shape: Sequence[int], new: Sequence[int]) -> None:
    """Check that ``batch_shape`` can be expanded to ``new``; allocates no memory.

    :raises RuntimeError: if it cannot, as torch's own distributions do.
    """
    torch.empty(()).expand(torch.Size(batch_shape)).expand(torch.Size(new))


def held(x: Tensor) -> Tensor:
    """The plain tensor inside the wrapped one of a ``torch.func`` transform, with the mapped axes, so that a
    check sees all elements."""
    while not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


def check_all(ok: Tensor, name: str, value: Tensor, expected: str, remedy: str) -> None:
    """
    :raises ValueError: if ``ok``, whose axes are the leading axes of ``value``, is false anywhere; the
        message shows the first such element.
    """
    plain = held(ok)
    if bool(plain.all()):
        return
    if plain is not ok and plain.shape != ok.shape:  # inside vmap, where the index of an element is not known
        raise ValueError(f"{name}: {int((~plain).sum())} of {plain.numel()} are not {expected}. {remedy}")
    ok, value = plain, held(value)
    bad = value.expand(torch.broadcast_shapes(value.shape, ok.shape + (1,) * (value.dim() - ok.dim())))
    index = tuple(int(i) for i in (~ok).nonzero()[0])
    seen = bad[index].detach().flatten().tolist()
    shown = ", ".join("nan" if math.isnan(s) else f"{s:.6g}" for s in seen[:6]) + (
        ", ..." if len(seen) > 6 else ""
    )
    where = f" at index {index}" if index else ""
    raise ValueError(f"{name}: got {shown}{where}, expected {expected}. {remedy}")
