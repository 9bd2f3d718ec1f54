"""A cache of one result, stored with the state of every tensor it depends on.

A cached result is valid only while each of these tensors is the same object with the same contents: the
arguments, everything else that the computation read (parameters, buffers, a base point, a context), and the
result itself, which the caller may have modified."""

import functools
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .tracing import is_traced

__all__ = ["Memo", "Snapshot", "module_tensors", "remember_by_contents"]

_F = TypeVar("_F", bound=Callable[..., Any])
_SMALL = 1 << 12  # arguments of at most so many elements are compared by their contents
_COPIED = 1 << 20  # tensors on the CPU with at most so many elements are also compared by their contents


def module_tensors(module: nn.Module) -> list[Any]:
    """Parameters and buffers of a module and its submodules; five times as fast as torch's generators."""
    out = [*module._parameters.values(), *module._buffers.values()]
    for part in module._modules.values():
        if part is not None:
            out.extend(module_tensors(part))
    return out


def _can_be_watched(items: Sequence[Any]) -> bool:
    """Whether changes of these tensors can be detected: not while they are traced or mapped over, and not for
    inference tensors, which have no version counter."""
    if is_traced():
        return False
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return not any(isinstance(x, Tensor) and (wrapped(x) or x.is_inference()) for x in items)


class Snapshot:
    """The state of some tensors (and plain values) at one moment, to be compared with a later one.

    A tensor is unchanged if it is the same object with the same memory, the same version (torch counts
    in-place changes) and the same ``requires_grad``. For tensors on the CPU with at most a million elements
    the contents are compared too, since changes through ``x.data`` or numpy are not counted.

    >>> x = torch.zeros(2)
    >>> before = Snapshot([x, 1])
    >>> before.same_as([x, 1]), before.same_as([x.clone(), 1]), before.same_as([x, 2])
    (True, False, False)
    >>> before.same_as([x.add_(1), 1])
    False
    """

    def __init__(self, items: Sequence[Any]) -> None:
        self._seen = [self._state(item) for item in items]

    @staticmethod
    def _state(item: Any) -> tuple[Any, ...]:
        if not isinstance(item, Tensor):
            return (item,)
        small = item.device.type == "cpu" and item.numel() <= _COPIED
        contents = item.detach().clone() if small else None
        return weakref.ref(item), item.data_ptr(), item._version, item.requires_grad, contents

    @staticmethod
    def _same(seen: tuple[Any, ...], item: Any) -> bool:
        if not isinstance(item, Tensor):
            return len(seen) == 1 and (seen[0] is item or bool(seen[0] == item))
        if len(seen) == 1 or seen[0]() is not item:
            return False
        if seen[1:4] != (item.data_ptr(), item._version, item.requires_grad):
            return False
        return seen[4] is None or torch.equal(seen[4], item.detach())

    def same_as(self, items: Sequence[Any]) -> bool:
        """Whether these are the same tensors and values, unchanged."""
        return len(items) == len(self._seen) and all(map(self._same, self._seen, items))


class Memo:
    """A cache of the last result of a computation on tensors. Copies and pickles of it are empty.

    >>> memo, x, w = Memo(), torch.ones(2), torch.ones(2)
    >>> memo.put([x], [w], [x * w])
    >>> memo.get([x], [w]) is not None, memo.get([x.clone()], [w]) is None
    (True, True)
    >>> w.add_(1), memo.get([x], [w])
    (tensor([2., 2.]), None)
    """

    def __init__(self) -> None:
        self._entry: tuple[Any, ...] | None = None

    def __deepcopy__(self, memo: Any) -> "Memo":
        return Memo()

    def __reduce__(self) -> Any:
        return Memo, ()

    def clear(self) -> None:
        """Drop the cached result."""
        self._entry = None

    def gives(self, x: Tensor) -> bool:
        """Whether ``x`` is the first tensor of the cached result; cheaper than :meth:`get`."""
        return self._entry is not None and self._entry[3][0] is x

    def replace(self, result: Sequence[Any]) -> None:
        """Replace the cached result by another one of the same computation."""
        if self._entry is not None:
            before, _, with_graph, _ = self._entry
            self._entry = before, Snapshot(result), with_graph, tuple(result)

    def put(self, arguments: Sequence[Any], depends: Sequence[Any] | None, result: Sequence[Any]) -> None:
        """Cache ``result`` (tensors or ``None``), computed from ``arguments`` and the tensors ``depends``.
        Nothing is cached if ``depends`` is ``None`` (unknown), or if a tensor is traced."""
        self._entry = None
        if depends is None:
            return
        behind = [*arguments, *depends]
        if not _can_be_watched([*behind, *result]):
            return
        self._entry = Snapshot(behind), Snapshot(result), torch.is_grad_enabled(), tuple(result)

    def get(self, arguments: Sequence[Any], depends: Sequence[Any] | None) -> tuple[Any, ...] | None:
        """The cached result for these arguments, or ``None`` if anything it depends on has changed, or if it
        was computed without a graph and a gradient is needed now."""
        entry = self._entry
        if entry is None or depends is None or is_traced():
            return None
        before, returned, with_graph, result = entry
        behind = [*arguments, *depends]
        if not before.same_as(behind) or not returned.same_as(result):
            return None
        differentiated = any(isinstance(t, Tensor) and t.requires_grad for t in behind)
        if torch.is_grad_enabled() and differentiated and not with_graph:
            return None
        return result


def remember_by_contents(entries: int) -> Callable[[_F], _F]:
    """Decorator of a pure function of tensors and plain values that is called again and again with the same ones:
    its last results are found by the *contents* of the arguments, so no change of a tensor can be missed.

    Only small tensors on the CPU are compared, elsewhere the function is called. Results are shared: they must
    neither be modified nor carry a graph.

    >>> @remember_by_contents(2)
    ... def total(x):
    ...     print("called")
    ...     return x.sum()
    >>> x = torch.ones(2)
    >>> total(x), total(x.clone()), total(x.add_(1))
    called
    called
    (tensor(2.), tensor(2.), tensor(4.))
    """

    def decorate(f: _F) -> _F:
        last: deque[tuple[tuple[Any, ...], Any]] = deque(maxlen=entries)

        @functools.wraps(f)
        def call(*args: Any) -> Any:
            if not all(map(_comparable, args)) or not _can_be_watched(args):
                return f(*args)
            for seen, result in tuple(last):
                if len(seen) == len(args) and all(map(_equal, seen, args)):
                    return result
            result = f(*args)
            last.append((tuple(x.detach().clone() if isinstance(x, Tensor) else x for x in args), result))
            return result

        return call  # type: ignore[return-value]

    return decorate


def _comparable(x: Any) -> bool:
    return not isinstance(x, Tensor) or (x.device.type == "cpu" and x.numel() <= _SMALL)


def _equal(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b) and bool(a == b)
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
