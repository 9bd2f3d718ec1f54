"""What a map remembers of the pairs it made: one cache, keyed on everything the pair was computed from."""

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions.conditional import ConditionalDistribution, ConditionalTransform
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints

from ..ops.memo import Memo, module_tensors
from ..ops.precision import FullPrecision
from ..ops.tracing import is_concrete

__all__ = ["CachedTransform", "CopiesWithoutCaches", "dependencies", "module_tensors"]

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
    if isinstance(part, CachedTransform):
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


class CachedTransform(FullPrecision, Transform):
    """A transform that remembers the last pair (x, y) it made, while nothing that it was computed from has
    changed.

    torch's own cache asks only whether y is the same object. This one returns the x of before only if y, x
    and all that :meth:`depends` names are unchanged, and never where a gradient is asked for that the
    remembered tensors do not carry: the density of a detached draw depends on the parameters through the
    inverse. Only pairs made in the forward direction are returned, under ``cache_size=1``.
    """

    _exact = (
        "_call",
        "_inverse",
        "__call__",
        "_inv_call",
        "log_abs_det_jacobian",
        "jvp",
        "log_volume",
        "project",
        "reconstruction_error",
        "forward_and_log_volume",
        "inverse_and_log_volume",
    )

    def __init__(self, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self._made = Memo()  # y -> x, by the map
        self._inverted = Memo()  # y -> x, by its inverse

    def depends(self) -> list[Any] | None:
        """All tensors (and plain values) besides x that the map reads; ``None`` if they cannot be known, so
        that nothing is remembered. By default those found among the attributes."""
        return attributes(self)

    def __call__(self, x: Tensor) -> Any:
        y = self._call(x)
        if self._cache_size and is_concrete(x):
            self._made.put([y], self.depends(), [x])
        return y

    def _inv_call(self, y: Tensor) -> Tensor:
        x = self.cached_preimage(y)
        return self._inverse(y) if x is None else x

    def cached_preimage(self, y: Tensor) -> Tensor | None:
        """The x that ``y`` was made from, if that is known for certain."""
        if not self._cache_size or not is_concrete(y):
            return None
        pair = self._made.get([y], self.depends())
        return None if pair is None else pair[0]

    def clear_cache(self) -> None:
        """Forget the last pair."""
        self._made.clear()
        self._inverted.clear()
