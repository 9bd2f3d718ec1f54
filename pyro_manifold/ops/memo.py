"""One remembered result, together with the state of everything it was computed from.

A result may be used again only while every tensor behind it is the same object with the same contents: the
arguments, what else the computation read (parameters, buffers, a base point, a context), and the result
itself, which the caller may have changed.
"""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Memo", "Snapshot", "module_tensors"]

_COPIED = 1 << 20  # elements up to which a tensor on the CPU is compared by its contents too


def module_tensors(module: nn.Module) -> list[Any]:
    """Parameters and buffers of a module and its parts: five times as fast as torch's generators."""
    out = [*module._parameters.values(), *module._buffers.values()]
    for part in module._modules.values():
        if part is not None:
            out.extend(module_tensors(part))
    return out


def _can_be_watched(items: Sequence[Any]) -> bool:
    """Not while they are traced or mapped over; torch counts no changes of inference tensors."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return not any(isinstance(x, Tensor) and (wrapped(x) or x.is_inference()) for x in items)


class Snapshot:
    """The state of some tensors (and plain values) at one moment, to be compared with a later one.

    A tensor is the same if it is the same object, with the same memory, the same version (torch counts
    changes in place), and is differentiated as before. Of tensors on the CPU (up to a million elements) the
    contents are compared too, since changes through ``x.data`` or numpy are not counted.

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
        """Are these the tensors and values of before, unchanged?"""
        return len(items) == len(self._seen) and all(map(self._same, self._seen, items))


class Memo:
    """The last result of a computation on tensors. Copies and pickles of a memo are empty.

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
        """Forget it."""
        self._entry = None

    def gives(self, x: Tensor) -> bool:
        """Is ``x`` what would be given first? (Cheaper to ask than :meth:`get`.)"""
        return self._entry is not None and self._entry[3][0] is x

    def replace(self, result: Sequence[Any]) -> None:
        """Remember another result in place of the one that :meth:`get` gave, of the same computation."""
        if self._entry is not None:
            before, _, with_graph, _ = self._entry
            self._entry = before, Snapshot(result), with_graph, tuple(result)

    def put(self, arguments: Sequence[Any], depends: Sequence[Any] | None, result: Sequence[Any]) -> None:
        """Remember ``result`` (tensors, or None), computed of ``arguments`` and of the tensors ``depends``;
        where these are not known (None), or a tensor is traced, nothing is remembered."""
        self._entry = None
        if depends is None:
            return
        behind = [*arguments, *depends]
        if not _can_be_watched([*behind, *result]):
            return
        self._entry = Snapshot(behind), Snapshot(result), torch.is_grad_enabled(), tuple(result)

    def get(self, arguments: Sequence[Any], depends: Sequence[Any] | None) -> tuple[Any, ...] | None:
        """The result for these arguments, if what is behind it is as it was; not one computed without a graph
        where a gradient is asked for now."""
        entry = self._entry
        if entry is None or depends is None or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return None
        before, returned, with_graph, result = entry
        behind = [*arguments, *depends]
        if not before.same_as(behind) or not returned.same_as(result):
            return None
        differentiated = any(isinstance(t, Tensor) and t.requires_grad for t in behind)
        if torch.is_grad_enabled() and differentiated and not with_graph:
            return None
        return result
