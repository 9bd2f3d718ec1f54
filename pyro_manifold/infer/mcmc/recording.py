"""Functions of tensors recorded as graphs of torch operators, and compiled.

``make_fx`` runs a function once, autograd inside included, and records every operator: Python, Pyro's effect handlers
and autograd's bookkeeping are left out of what runs later. Tensors that the function finds outside its arguments (data,
parameters) become arguments of the graph, so that recordings with other data share one compiled function.
"""

import traceback
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["NotRecordableError", "Recording"]

_COMPILED: OrderedDict[Any, Callable[..., Any]] = (
    OrderedDict()
)  # what torch.compile made, by graph and shapes
_MOST = 16  # of these are kept


class NotRecordableError(RuntimeError):
    """The function cannot be run as a graph; the message says why."""


class Recording:
    """``f(*inputs)`` as a graph, which is right for other inputs of the same shapes.

    Random operators and Python branches on values are refused: a graph would freeze what they decide.

    :raises NotRecordableError: naming what stands in the way, and where.
    """

    def __init__(self, f: Callable[..., Any], inputs: Sequence[Tensor]) -> None:
        # imported only for those who compile, as it takes half a second
        from torch._guards import TracingContext, tracing
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.proxy_tensor import make_fx

        changed = _Unchanged()

        def watched(*inputs: Tensor) -> Any:
            with changed:
                return f(*inputs)

        try:
            # in a context with a mode for shapes of its own make_fx does not make one for each operator, which would
            # take three times as long
            with torch.no_grad(), tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
                self.graph = make_fx(watched)(*inputs)
        except Exception as error:  # whatever a model does while it is recorded, the caller has another way
            raise NotRecordableError(_reason(error)) from error
        self.graph.graph.eliminate_dead_code()
        for node in self.graph.graph.nodes:
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                raise NotRecordableError(
                    f"the model draws random numbers ({node.target}), as subsampled plates and dropout do"
                )
        self.constants = _lift(self.graph, changed.before)
        self.graph.recompile()
        self.run: Callable[..., Any] = self.graph
        self._signature = [
            (tuple(x.shape), x.stride(), x.dtype, x.device) for x in (*inputs, *self.constants)
        ]

    def compile(self, backend: str = "inductor") -> None:
        """Run compiled code from now on; the same graph and shapes are compiled once in a process."""
        key = (backend, self.graph.code, tuple(self._signature))
        if key not in _COMPILED:
            _COMPILED[key] = torch.compile(self.graph, backend=backend, dynamic=False, fullgraph=True)
            while len(_COMPILED) > _MOST:
                _COMPILED.popitem(last=False)
        self.run = _COMPILED[key]

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Any:
        return self.run(*inputs, *self.constants)


class _Unchanged(TorchDispatchMode):
    """Keeps the values that tensors had before they were first changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[
            int, tuple[Tensor, Tensor]
        ] = {}  # by id: the tensor, which so stays alive, and its values

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.is_mutable:
            for parameter, x in zip(func._schema.arguments, args, strict=False):
                info = parameter.alias_info
                if info is not None and info.is_write and isinstance(x, Tensor) and id(x) not in self.before:
                    self.before[id(x)] = (x, x.detach().clone())
        return func(*args, **(kwargs or {}))


def _lift(module: Any, before: dict[int, tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Tensors that are attributes of a graph become its last arguments; they are returned. Of those that the graph
    changes in place, as some constructors do, it changes a copy."""
    graph, nodes = module.graph, {}
    found: list[Tensor] = []
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    for node in [n for n in graph.nodes if n.op == "get_attr"]:
        value = getattr(module, node.target, None)
        if not isinstance(value, Tensor):
            raise NotRecordableError(
                f"the model has an operator of functions ({node.target}), such as torch.cond"
            )
        if id(value) not in nodes:
            with graph.inserting_after(last):
                last = nodes[id(value)] = graph.placeholder(f"constant_{len(found)}")
            found.append(before[id(value)][1] if id(value) in before else value)
            if id(value) in before:
                with graph.inserting_before(node):
                    nodes[id(value)] = graph.call_function(torch.ops.aten.clone.default, (last,))
        node.replace_all_uses_with(nodes[id(value)])
        graph.erase_node(node)
    return [x.detach() for x in found]


def _reason(error: Exception) -> str:
    """What went wrong, and the line of the model or distribution at which it did."""
    torch_itself = str(Path(torch.__file__).parent)
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if not f.filename.startswith(torch_itself) and f.filename != __file__
    ]
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    text = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    if "data-dependent" in text or "get value out of a tracing tensor" in text:
        text = "Python code branches on the value of a tensor"
    return text + where
