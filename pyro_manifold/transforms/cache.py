"""What a map is computed from: the tensors that a cached pair is keyed on; and the caches of foreign layers."""

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions.conditional import ConditionalDistribution, ConditionalTransform
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints

from ..ops.memo import Memo

__all__ = ["CopiesWithoutCaches", "attributes", "clear_caches", "dependencies"]

_PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    slice,
    torch.dtype,
    torch.device,
    constraints.Constraint,
)
# attributes that hold what was computed, not what it was computed from; and those of every module
_NOT_READ = {"_inv", "_cache_size", *vars(nn.Module())} - {"_parameters", "_buffers", "_modules", "training"}
_KNOWN = ("torch", "pyro", "geoopt", "pyro_manifold")


def dependencies(part: Any) -> list[Any] | None:
    """The tensors and plain values that a transform, distribution or module computes with, found in its
    attributes; ``None`` where some cannot be known: functions of the user may read anything.

    >>> from torch.distributions import AffineTransform
    >>> dependencies(AffineTransform(torch.tensor(1.0), 2.0))
    [tensor(1.), 2.0, 0]
    >>> dependencies(lambda x: x) is None
    True
    """
    if isinstance(part, (Tensor, *_PLAIN)):
        return [part]
    if isinstance(part, Memo):
        return []
    if isinstance(part, (list, tuple, Mapping)):
        values = list(part.values() if isinstance(part, Mapping) else part)
        out = []
        for value in values:
            found = dependencies(value)
            if found is None:
                return None
            out.extend(found)
        return out
    if isinstance(part, Transform) and hasattr(part, "depends"):
        return part.depends()
    if (
        isinstance(part, (Transform, Distribution, nn.Module))
        and type(part).__module__.split(".")[0] in _KNOWN
    ):
        return attributes(part)
    return None


def attributes(part: Any) -> list[Any] | None:
    """:func:`dependencies` of all attributes of an object but those that hold results."""
    names = (name for name in vars(part) if name not in _NOT_READ and not name.startswith("_cache"))
    return dependencies([vars(part)[name] for name in names])


def clear_caches(obj: Any, seen: set[int] | None = None) -> None:
    """Make the transforms of torch and Pyro that ``obj`` holds forget their last pair and what they computed
    with it."""
    seen = set() if seen is None else seen
    if id(obj) in seen:
        return
    seen.add(id(obj))
    if isinstance(obj, (list, tuple)):
        parts = list(obj)
    elif isinstance(obj, Mapping):
        parts = list(obj.values())
    elif isinstance(obj, (Transform, Distribution, ConditionalDistribution, ConditionalTransform, nn.Module)):
        for name, value in vars(obj).items():
            if name.startswith("_cache") and isinstance(value, Tensor):
                vars(obj)[name] = None
        if "_cached_x_y" in vars(obj):
            obj._cached_x_y = None, None  # type: ignore[union-attr]
        parts = [value for name, value in vars(obj).items() if name != "_parameters"]
    else:
        return
    for part in parts:
        clear_caches(part, seen)


class CopiesWithoutCaches:
    """Mixin for what holds foreign layers: copies and pickles do not take along what these have cached,
    tensors with a graph that torch refuses to copy."""

    def __getstate__(self) -> Any:
        clear_caches(vars(self))
        return getattr(super(), "__getstate__", self.__dict__.copy)()
