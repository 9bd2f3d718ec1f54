"""Functions of tensors recorded as graphs of torch operators, and compiled.

``make_fx`` runs a function once, autograd inside included, and records every operator: Python, Pyro's effect handlers
and autograd's bookkeeping are left out of what runs later. Tensors that the function finds outside its arguments (data,
parameters) become arguments of the graph, so that recordings with other data share one compiled function.
"""

import traceback
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..ops.tracing import operator

__all__ = ["Changes", "NotRecordableError", "Recording", "form_of", "reason_of"]

BACKEND: Any = "inductor"  # of torch.compile
_SAME_DRAWS: dict[str, Any] = {"fallback_random": True, "reorder_for_peak_memory": False}  # in the same order
# Loops over one number at a time, and intermediate results kept: half the compiler's work, and faster code for small
# arrays and for rows of three or four numbers, which fill no vector
_ONE_BY_ONE: dict[str, Any] = {"cpp.simdlen": 1, "realize_opcount_threshold": 10}
_SMALL, _SHORT = 2**14, 16  # fewer numbers; shorter rows
_COMPILED: OrderedDict[Any, Callable[..., Any]] = (
    OrderedDict()
)  # what torch.compile made, by graph and shapes
_MOST = 16  # of these are kept


class NotRecordableError(RuntimeError):
    """The function cannot be run as a graph; the message says why."""


class Recording:
    """``f(*inputs)`` as a graph, which is right for other inputs of the same shapes.

    Python branches on values are refused: a graph would freeze what they decide.

    :param bool draws: may ``f`` draw random numbers? They are drawn anew at each call, from torch's generator.
    :param state: tensors outside ``f`` that each call is to change in place, such as running means. Of others that
        are changed a copy is, as those are made within ``f``.
    :raises NotRecordableError: naming what stands in the way, and where. A call raises ``RuntimeError``, as ``f`` does,
        if a matrix cannot be factorised.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        inputs: Sequence[Tensor],
        *,
        draws: bool = False,
        state: Iterable[Tensor] = (),
    ) -> None:
        # imported only for those who compile, as it takes half a second
        from torch._guards import TracingContext, tracing
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.proxy_tensor import make_fx

        changed = Changes()
        given: list[Tensor] = []
        for x in inputs:  # one that is given twice is two arguments
            given.append(x.detach() if any(x is y for y in given) else x)

        def watched(*inputs: Tensor) -> tuple[Any, ...]:  # flat, as the compiler wants it
            with changed:
                found, self._form = tree_flatten(f(*inputs))
            return tuple(found)

        try:
            # in a context with a mode for shapes of its own make_fx does not make one for each operator, which would
            # take three times as long
            with torch.no_grad(), tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
                self.graph = make_fx(watched)(*given)
        except Exception as error:  # whatever a model does while it is recorded, the caller has another way
            raise NotRecordableError(reason_of(error)) from error
        finally:
            changed.undo(state)
        self._check(draws)  # of dead code too: of a loop that ended after one round here its condition is
        self._factorises = _return_failures(self.graph)
        self.graph.graph.eliminate_dead_code()
        kept = {id(x) for x in state}
        copied = {k: v for k, v in changed.before.items() if k not in kept}
        self.constants = _lift(self.graph, copied)
        self.graph.recompile()
        self.run: Callable[..., Any] = self.graph
        self._signature = [form_of(x) for x in (*inputs, *self.constants)]

    def _check(self, draws: bool) -> None:
        """Refuse operators whose results a graph would freeze."""
        varying: set[Any] = set()  # what depends on more than numbers in the code
        for node in self.graph.graph.nodes:
            tags = getattr(node.target, "tags", ())
            drawn = torch.Tag.nondeterministic_seeded in tags
            if drawn and not draws:
                raise NotRecordableError(
                    f"the model draws random numbers ({node.target}), as subsampled plates and dropout do"
                )
            if node.target is torch.ops.aten.lift_fresh_copy.default:
                continue
            if drawn or node.op in ("placeholder", "get_attr") or varying.intersection(node.all_input_nodes):
                varying.add(node)
                if torch.Tag.dynamic_output_shape in tags and not _has_fixed_shape(node):
                    raise NotRecordableError(
                        f"sizes depend on the values of a tensor ({node.target}), as with masks as indices"
                    )

    def compile(self, inputs: Sequence[Tensor]) -> str:
        """Run compiled code from now on; the same graph and shapes are compiled once in a process. Random numbers are
        those that the operators draw without it.

        :return: why it could not be compiled; empty if it was. The graph is right without.
        """
        _opaque_draws(self.graph)
        key = (BACKEND, self.graph.code, tuple(self._signature))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler's own, about code of torch
                if key not in _COMPILED:
                    _COMPILED[key] = _compiled(self.graph, [*inputs, *self.constants])
                    while len(_COMPILED) > _MOST:
                        _COMPILED.popitem(last=False)
                self.run = _COMPILED[key]
                self(*inputs)
        except Exception as error:  # a compiler can fail in many ways
            self.run = self.graph
            text = " ".join(str(error).split())
            return f"torch.compile failed with {type(error).__name__}: {text[:300]}"
        return ""

    def is_current(self) -> bool:
        """Do the tensors from outside have the shapes and types that were recorded?"""
        outside = self._signature[len(self._signature) - len(self.constants) :]
        return all(form_of(x) == form for x, form in zip(self.constants, outside, strict=True))

    def __call__(self, *inputs: Tensor) -> Any:
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self(*inputs)
        given = [
            x if x.stride() == form[1] else _with_strides(x, form[1])  # compiled code takes them as they were
            for x, form in zip(inputs, self._signature, strict=False)
        ]
        out = self.run(*given, *(x.detach() if x.requires_grad else x for x in self.constants))
        found = list(out)
        if self._factorises and bool(found.pop()):
            raise RuntimeError("a matrix could not be factorised: it is singular or not positive definite")
        return tree_unflatten(found, self._form)


def _with_strides(x: Tensor, strides: tuple[int, ...]) -> Tensor:
    return torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device).copy_(x)


def _compiled(graph: Any, inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """What the compiler makes of a graph for inputs of these shapes. It has no guards, which cost 40 us a call: shapes
    are what it is found by. Of fixed shapes too the compiler's cache on disk wants an environment of shapes."""
    if BACKEND != "inductor":
        return torch.compile(graph, backend=BACKEND, dynamic=False, fullgraph=True)
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    options = _SAME_DRAWS | (_ONE_BY_ONE if _is_small(graph) else {})
    shapes = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True, allow_fallback_kernels=True)
    with tracing(TracingContext(shapes)):
        return torch._inductor.compile(graph, [x.detach() for x in inputs], options=options)


def _is_small(graph: Any) -> bool:
    """Whether all arrays are small, or most numbers in rows that fill no vector."""
    values = [x for node in graph.graph.nodes for x in [node.meta.get("val")] if isinstance(x, Tensor)]
    short = sum(x.numel() for x in values if not x.dim() or x.shape[-1] < _SHORT)
    return max(x.numel() for x in values) < _SMALL or 2 * short > sum(x.numel() for x in values)


def _has_fixed_shape(node: Any) -> bool:
    """Whether the operator is an indexing by numbers."""
    if node.target is not torch.ops.aten.index.Tensor:
        return False
    return all(i is None or i.meta["val"].dtype not in (torch.bool, torch.uint8) for i in node.args[1])


def form_of(x: Tensor) -> tuple[Any, ...]:
    return tuple(x.shape), x.stride(), x.dtype, x.device


_RUNNING = (
    "running_mean",
    "running_var",
)  # that the operators of batch normalisation change, without saying so


class Changes(TorchDispatchMode):
    """Keeps the values that tensors had before they were first changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[
            int, tuple[Tensor, Tensor]
        ] = {}  # by id: the tensor, which so stays alive, and its values

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for parameter, x in zip(func._schema.arguments, args, strict=False):
            info = parameter.alias_info
            changed = (info is not None and info.is_write) or parameter.name in _RUNNING
            if changed and isinstance(x, Tensor) and id(x) not in self.before:
                self.before[id(x)] = (x, x.detach().clone())
        return func(*args, **(kwargs or {}))

    @torch.no_grad()
    def undo(self, tensors: Iterable[Tensor]) -> None:
        for x in tensors:
            if id(x) in self.before:
                x.copy_(self.before[id(x)][1])


@operator("bernoulli(Tensor p) -> Tensor", torch.empty_like, draws=True)
def _bernoulli(p: Tensor) -> Tensor:
    return torch.bernoulli(p)


@operator("bernoulli_like(Tensor x, float p) -> Tensor", lambda x, p: torch.empty_like(x), draws=True)
def _bernoulli_like(x: Tensor, p: float) -> Tensor:
    return torch.empty_like(x).bernoulli_(p)


def _opaque_draws(module: Any) -> None:
    """Hide the operators from the compiler in whose place it would draw other numbers from the same seed."""
    graph, aten = module.graph, torch.ops.aten
    for node in graph.nodes:
        if node.target is aten.bernoulli.default:
            node.target, node.kwargs = _bernoulli.default, {}
        elif node.target is aten.bernoulli_.float:
            with graph.inserting_before(node):
                drawn = graph.call_function(
                    _bernoulli_like.default, (node.args[0], *(node.args[1:] or (0.5,)))
                )
            node.target, node.args, node.kwargs = aten.copy_.default, (node.args[0], drawn), {}
    module.recompile()


def _return_failures(module: Any) -> bool:
    """Make whether a matrix could not be factorised the last output, in place of operators that raise then: code with
    those is not kept on disk. Are there any?"""
    graph, aten = module.graph, torch.ops.aten
    checks = [node for node in graph.nodes if node.target is aten._linalg_check_errors.default]
    if not checks:
        return False
    end = next(node for node in graph.nodes if node.op == "output")
    with graph.inserting_before(end):
        failed = [
            graph.call_function(aten.any.default, (graph.call_function(aten.ne.Scalar, (node.args[0], 0)),))
            for node in checks
        ]
        whole = failed[0]
        for one in failed[1:]:
            whole = graph.call_function(aten.logical_or.default, (whole, one))
    end.args = ((*end.args[0], whole),)
    for node in checks:
        graph.erase_node(node)
    return True


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
    return found


_OWN = (Path(__file__).name, "elbo_recording.py")


def reason_of(error: Exception) -> str:
    """What went wrong, and the line of the model or distribution at which it did."""
    torch_itself = str(Path(torch.__file__).parent)
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if not f.filename.startswith(torch_itself) and Path(f.filename).name not in _OWN
    ]
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    text = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    if "data-dependent" in text or "get value out of a tracing tensor" in text:
        text = "Python code branches on the value of a tensor"
    return text + where
