"""The loss of a model and a guide with its gradients, recorded as one graph."""

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.traceenum_elbo import _compute_dice_elbo
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from .recording import Changes, NotRecordableError, Recording, reason_of

__all__ = ["RecordedLoss", "leaves_of"]

MOVES = (0.0, 0.02)  # of the parameters, at which the graph is compared with the ELBO


class RecordedLoss:
    """Loss, gradients of every leaf that autograd finds, and the values of Pyro's parameters, for one kind of
    arguments.

    Model and guide have run before, so that their parameters are there. Parameters are not arguments: the graph reads
    the tensors that the parameter store and the modules hold.

    :param tensors: those among the arguments, in the order of ``tree_flatten``.
    :raises NotRecordableError: naming what stands in the way.
    """

    def __init__(
        self,
        elbo: Any,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        tensors: list[Tensor],
        args: Any,
        kwargs: Any,
    ) -> None:
        self._elbo, self._model, self._guide = elbo, model, guide
        leaves, self._tree = tree_flatten((args, kwargs))
        self._others = [None if isinstance(x, Tensor) else x for x in leaves]
        self._places = [i for i, x in enumerate(leaves) if isinstance(x, Tensor)]
        self._none = torch.zeros(())  # a graph needs an argument
        # tensors of their own, so that one given twice is two arguments
        self._inputs = self._given([x.detach().clone(memory_format=torch.preserve_format) for x in tensors])
        changes = Changes()
        with self._aside():
            try:
                with _called_modules() as modules, changes:
                    self.leaves, self.parameters = self._traced(*self._inputs)[2:]
            except Exception as error:
                raise NotRecordableError(reason_of(error)) from error
            finally:
                self._changed = [x for x, _ in changes.before.values()]
                changes.undo(self._changed)
            self._modules = list({id(m): m for m in [*modules, *_modules_of(model, guide)]}.values())
            for x in [*self.leaves, *(b for m in self._modules for b in m.buffers(recurse=False))]:
                increment_version(
                    x
                )  # so that what was computed from it before is computed again in the graph
            self.recording = Recording(self._losses, self._inputs, draws=True, state=self._changed)
        if any(x.grad_fn is not None for x in self.recording.constants):
            raise NotRecordableError(
                "the model uses a tensor that was computed from parameters outside of it"
            )
        kept = {id(x) for x in self.recording.constants}
        self._changed = [x for x in self._changed if id(x) in kept]
        store = pyro.get_param_store()._params
        self._store = {name: store.get(name) for name in self.parameters}
        self._state = _state(self._modules)

    def __call__(self, tensors: list[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        return self.recording(*self._given(tensors))

    def _given(self, tensors: list[Tensor]) -> list[Tensor]:
        return tensors or [self._none]

    def compile(self) -> str:
        """Why it could not be compiled; empty if it was."""
        with self._aside(), self._restored():
            return self.recording.compile(self._inputs)

    def is_current(self) -> bool:
        """Are parameters and modules those that were recorded?"""
        store = pyro.get_param_store()._params
        return (
            all(store.get(name) is x for name, x in self._store.items())
            and _state(self._modules) == self._state
            and self.recording.is_current()
        )

    # --- what is recorded -----------------------------------------------------------------------------------
    def _arguments(self, inputs: Iterable[Tensor]) -> Any:
        leaves = list(self._others)
        for i, x in zip(self._places, inputs, strict=False):
            leaves[i] = x
        return tree_unflatten(leaves, self._tree)

    def _traced(self, *inputs: Tensor) -> tuple[Any, Any, list[Tensor], dict[str, Tensor]]:
        """Loss, what has its gradient, leaves and parameters; ``self.values`` are those of the parameters."""
        args, kwargs = self._arguments(inputs)
        loss, surrogate = torch.zeros(()), torch.zeros(())
        with torch.enable_grad(), poutine.trace(param_only=True) as seen:
            for traces in self._elbo._get_traces(self._model, self._guide, args, kwargs):
                with _ForGraphs():
                    if isinstance(self._elbo, TraceEnum_ELBO):
                        part = surrogate_part = -_compute_dice_elbo(*traces)
                    else:
                        part, surrogate_part = self._elbo._differentiable_loss_particle(*traces)
                loss = loss + part / self._elbo.num_particles
                surrogate = surrogate + surrogate_part / self._elbo.num_particles
        values = {k: node["value"] for k, node in seen.trace.nodes.items() if node["type"] == "param"}
        self._values = [v.detach() for v in values.values()]
        return (
            loss.detach(),
            surrogate,
            leaves_of(surrogate),
            {k: v.unconstrained() for k, v in values.items()},
        )

    def _losses(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor]]:
        loss, surrogate, leaves, parameters = self._traced(*inputs)
        again = {id(x) for x in leaves}
        self.leaves = [x for x in self.leaves if id(x) in again]  # those that are not made by the model
        if [*parameters] != [*self.parameters]:
            raise NotRecordableError("the parameters are others at each call")
        grads = torch.autograd.grad(surrogate, self.leaves) if self.leaves else ()
        return loss, grads, self._values

    # --- beside the run of the caller -----------------------------------------------------------------------
    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Random numbers, handlers and warnings of the caller are left alone."""
        cuda = [x.device for x in self._inputs if x.device.type == "cuda"][:1]
        with torch.random.fork_rng(cuda), pyro.validation_enabled(False), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with poutine.block():
                yield

    @contextmanager
    def _restored(self) -> Iterator[None]:
        """Parameters, running means and other tensors that change are afterwards what they were."""
        saved = [(x, x.detach().clone()) for x in (*self.leaves, *self._changed)]
        try:
            yield
        finally:
            with torch.no_grad():
                for x, value in saved:
                    x.copy_(value)

    def compare(self) -> None:
        """:raises NotRecordableError: if loss or gradients differ from those of the ELBO by more than rounding, with
        the same random numbers, at the present parameters or at others."""
        with self._aside():
            for move in MOVES:
                with self._restored():
                    with torch.no_grad():
                        for x in self.leaves:
                            many = x.shape[-1] if x.dim() > 1 else 1  # summed by a matrix
                            x.add_(move * (1 + x.abs()) * torch.randn_like(x) / many**0.5)
                    try:
                        own, found = self._own(), self._found()
                    except Exception as error:
                        if move == 0:
                            raise NotRecordableError(reason_of(error)) from error
                        continue  # a model may refuse other parameters
                names = ["loss"] + ["gradient"] * len(self.leaves) + ["state"] * len(self._changed)
                for name, a, b in zip(names, own, found, strict=True):
                    _check_close(name, a, b)

    def _own(self) -> list[Tensor]:
        torch.manual_seed(0)
        args, kwargs = self._arguments(self._inputs)
        with torch.enable_grad(), self._restored():
            loss = self._elbo.differentiable_loss(self._model, self._guide, *args, **kwargs)
            grads = torch.autograd.grad(loss, self.leaves) if self.leaves else ()
            return [torch.as_tensor(loss).detach(), *grads, *(x.clone() for x in self._changed)]

    def _found(self) -> list[Tensor]:
        torch.manual_seed(0)
        with self._restored():
            loss, grads, _ = self(self._inputs)
            return [loss, *grads, *(x.clone() for x in self._changed)]


def _check_close(name: str, a: Tensor, b: Tensor) -> None:
    if not a.is_floating_point():
        a, b = a.double(), b.double()
    gap = (a - b).abs().nan_to_num(0.0)
    gap = torch.where(a.isfinite() == b.isfinite(), gap, torch.inf)
    much = 1 + float(a.abs().nan_to_num(0.0, 0.0, 0.0).max()) if a.numel() else 1.0
    largest = float(gap.max()) if a.numel() else 0.0
    if largest > torch.finfo(a.dtype).eps ** 0.4 * much:  # float32 at the rim of a ball: up to 7e-4
        raise NotRecordableError(
            f"its {name} as a graph differs by {largest:.3g} from up to {much:.3g}, so the model does not compute the "
            "same at each call"
        )


class _ForGraphs(TorchFunctionMode):
    """The ELBOs of Pyro add numbers up where a graph needs tensors: ``x.item()`` is ``x`` without its gradient. And
    the one for enumeration leaves out terms without probability, if there are any: they count as zero always."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.item:
            return args[0].detach()
        if func is Tensor.all:
            return False
        if func is Tensor.masked_select:
            return torch.where(args[1], args[0], torch.zeros_like(args[0]))
        return func(*args, **(kwargs or {}))


def leaves_of(x: Any) -> list[Tensor]:
    """The leaves to which ``x.backward()`` would add a gradient."""
    start = getattr(x, "grad_fn", None)
    seen, todo, found = {start}, [start], []
    while todo:
        node = todo.pop()
        if node is None:
            continue
        if type(node).__name__ == "AccumulateGrad":
            found.append(node.variable)
        for other, _ in node.next_functions:
            if other not in seen:
                seen.add(other)
                todo.append(other)
    return found


def _modules_of(*functions: Any) -> Iterator[nn.Module]:
    """Those that a model or guide is, or is a method of."""
    for f in functions:
        while isinstance(f, functools.partial):
            f = f.func
        owner = f if isinstance(f, nn.Module) else getattr(f, "__self__", None)
        if isinstance(owner, nn.Module):
            yield from owner.modules()


@contextmanager
def _called_modules() -> Iterator[list[nn.Module]]:
    """The modules that are called within, wherever they are held."""
    called: list[nn.Module] = []
    handle = register_module_forward_pre_hook(lambda module, _: called.append(module))
    try:
        yield called
    finally:
        handle.remove()


def _state(modules: list[nn.Module]) -> list[tuple[Any, ...]]:
    """What a graph of modules depends on but for values: their modes, and which tensors they hold."""
    return [(m.training, *map(id, m._parameters.values()), *map(id, m._buffers.values())) for m in modules]
