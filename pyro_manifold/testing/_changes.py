"""Every tensor that an object computes with, moved in place one at a time: nothing remembered may survive
it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints


def tensors_behind(obj: Any, name: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Floating tensors in the attributes of distributions, transforms, constraints and modules (manifolds are
    modules), by name: those that can be changed in place."""
    seen = set() if seen is None else seen
    if id(obj) in seen:
        return
    seen.add(id(obj))
    if isinstance(obj, Tensor):
        if (
            obj.is_floating_point()
            and obj.numel()
            and all(s > 0 or n == 1 for s, n in zip(obj.stride(), obj.shape, strict=True))
        ):
            yield name, obj
        return
    if isinstance(obj, nn.Module):
        for key, value in (*obj.named_parameters(), *obj.named_buffers()):
            yield from tensors_behind(value, f"{name}.{key}", seen)
    if isinstance(obj, (Distribution, Transform, nn.Module, constraints.Constraint)):
        for key, value in vars(obj).items():
            if not key.startswith("_cache"):
                yield from tensors_behind(value, f"{name}.{key}", seen)
    elif isinstance(obj, (list, tuple)):
        for i, value in enumerate(obj):
            yield from tensors_behind(value, f"{name}[{i}]", seen)
    elif isinstance(obj, Mapping):
        for key, value in obj.items():
            yield from tensors_behind(value, f"{name}.{key}", seen)


@contextmanager
def moved(x: Tensor, by: float = 0.01) -> Iterator[None]:
    """``x`` a little larger, changed in place; afterwards as it was."""
    with torch.no_grad():
        before = x.clone()
        x.add_(by)
        try:
            yield
        finally:
            x.copy_(before)


def same(a: Tensor, b: Tensor, what: str) -> None:
    """Assert equality to rounding, NaN included: both may be nonsense, of a parameter that is none, but the
    same nonsense."""
    eps = 100 * torch.finfo(a.dtype).eps
    torch.testing.assert_close(a, b, rtol=eps, atol=eps, equal_nan=True, msg=lambda m: f"{what}: {m}")
