"""Tests of whether a tensor is traced, compiled, mapped over or differentiated, and decorators for functions
that compilers and tracers must not look into."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = [
    "can_write_inplace",
    "constant_result",
    "first_row",
    "is_concrete",
    "is_traced",
    "is_transformed",
    "maybe_any",
    "not_compiled",
    "on_host",
    "operator",
]

_F = TypeVar("_F", bound=Callable[..., Any])
_LIBRARY = torch.library.Library("pyro_manifold", "DEF")
_PROXY = torch._C._TorchDispatchModeKey.PROXY


def is_traced() -> bool:
    """Whether operations are recorded to run again on other values: by ``torch.compile``, ``torch.jit.trace`` or
    ``make_fx``."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._get_dispatch_mode(_PROXY) is not None
    )


def is_concrete(x: Tensor) -> bool:
    """Whether Python code may branch on the values of ``x``: not while they are traced, compiled or mapped
    over."""
    if is_traced():
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(x)


def is_transformed() -> bool:
    """Whether the code runs to be traced, or inside a transform of ``torch.func`` or forward mode, whichever tensors
    take part."""
    return is_traced() or forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def on_host(x: Tensor) -> bool:
    """Whether reading values of ``x`` waits for no device."""
    return x.device.type == "cpu"


def first_row(x: Tensor, mask: Tensor) -> Tensor:
    """The first row of ``x`` (first axis) where ``mask`` holds, found without waiting for the device; row 0 if there
    is none.

    >>> first_row(torch.arange(6).reshape(3, 2), torch.tensor([False, True, True]))
    tensor([2, 3])
    """
    return x.index_select(0, mask.byte().argmax(0, keepdim=True)).squeeze(0)


def can_write_inplace(x: Tensor) -> bool:
    """Whether ``x`` may be overwritten: whether neither autograd nor a tracer records operations on it."""
    return not torch.is_grad_enabled() and forward_ad._current_level < 0 and is_concrete(x)


def maybe_any(mask: Tensor) -> bool:
    """Whether ``mask`` may be true anywhere; always true where a test would be slow or impossible (on a GPU,
    in a trace)."""
    return mask.device.type != "cpu" or not is_concrete(mask) or bool(mask.any())


def constant_result(f: _F) -> _F:
    """The same as ``torch.compiler.assume_constant_result``, which would import the compiler when this
    package is imported."""
    f._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return f


def not_compiled(f: _F) -> _F:
    """The same as ``torch.compiler.disable``, which would import the compiler when this package is imported."""

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(f)(*args, **kwargs)
        return f(*args, **kwargs)

    return cast(_F, call)


def operator(
    schema: str, empty: Callable[..., Any], draws: bool = False
) -> Callable[[Callable[..., Any]], Any]:
    """Decorator that registers a function as a torch operator, which compilers and tracers see as a single
    node.

    ``torch.library.custom_op`` does the same, but reads the source of every imported module.

    :param schema: name, arguments and results in torch's notation.
    :param empty: a function of the same arguments that returns results of the right shape and dtype.
    :param draws: does it draw random numbers? Such an operator may repeat rejected draws as long as it takes: a
        recording of what is inside would keep the number of rounds that it saw.
    """
    name = schema.partition("(")[0]
    tags = (torch.Tag.pt2_compliant_tag, *([torch.Tag.nondeterministic_seeded] if draws else []))

    def register(f: Callable[..., Any]) -> Any:
        _LIBRARY.define(schema, tags=tags)
        _LIBRARY.impl(name, f, "CompositeExplicitAutograd")
        _LIBRARY.impl(name, empty, "Meta")
        return getattr(torch.ops.pyro_manifold, name)

    return register
