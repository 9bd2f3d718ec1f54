"""Steps of stochastic variational inference as one compiled function."""

import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.elbo import ELBO
from pyro.poutine.runtime import _PYRO_STACK, effectful
from pyro.poutine.trace_messenger import TraceMessenger
from pyro.util import warn_if_nan
from torch import Tensor
from torch.utils._pytree import tree_flatten

from ..ops.arguments import checked
from .elbo_recording import RecordedLoss, leaves_of
from .recording import NotRecordableError, form_of

__all__ = ["CompiledELBO"]

_KNOWN = (Trace_ELBO, TraceMeanField_ELBO, TraceEnum_ELBO)


class CompiledELBO(ELBO):
    r"""One of Pyro's ELBOs whose loss and gradients, model and guide included, run as one compiled function.

    .. math:: (\text{arguments},\ \theta) \;\mapsto\; \hat L(\theta),\ \nabla_\theta \hat L(\theta)

    The first call with arguments of a kind is one of ``elbo`` itself, with its checks, which sets up guides and
    parameters. It then records the operators of torch that loss and gradients take, compiles them,
    and compares the graph with ``elbo`` at two values of the parameters with the same random numbers. Later
    calls run the graph alone. They draw the random numbers that ``elbo`` would draw from the same seed, so that
    training takes the same path up to rounding. Use it wherever an ELBO goes: ``SVI`` with any optimiser, or
    ``elbo(model, guide)`` as a module.

    *What is seen at each call*: tensors among the arguments; the present values of parameters, buffers and
    other tensors that the model finds outside; subsamples, which are drawn anew. *What records anew*:
    arguments of other shapes or types, other numbers and objects among the arguments, parameters that are other
    tensors than before (a cleared parameter store), modules in another mode (``eval``). *What is not seen*: numbers
    and objects other than tensors that the model finds outside its arguments; pass what changes as a tensor.
    Distributions are not validated while the graph runs.

    Where there is no such graph (a branch on the value of a tensor; handlers around the call), ``elbo`` itself is used,
    and a warning says why.

    :param ELBO elbo: ``Trace_ELBO`` (default), ``TraceMeanField_ELBO`` or ``TraceEnum_ELBO``, with its options, such as
        ``num_particles``.
    :param compile: ``True``; or ``"trace"``: the operators are recorded, but run one by one, without a compiler.
    :param int max_recordings: after that many recordings arguments of new kinds run as without compilation, with
        a warning: for batches whose sizes keep changing.
    :raises ValueError: for another ELBO.

    >>> import pyro.distributions as dist
    >>> from pyro_manifold.infer import AutoManifoldNormal
    >>> def model(x):
    ...     loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    ...     with pyro.plate("n", len(x)):
    ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
    >>> elbo = CompiledELBO(Trace_ELBO(num_particles=2), compile="trace")
    >>> svi = pyro.infer.SVI(model, AutoManifoldNormal(model), pyro.optim.Adam({"lr": 0.1}), elbo)
    >>> losses = [svi.step(torch.ones(5)) for _ in range(3)]
    """

    @checked(max_recordings=1)
    def __init__(
        self, elbo: ELBO | None = None, *, compile: bool | str = True, max_recordings: int = 32
    ) -> None:
        self.elbo: Any = Trace_ELBO() if elbo is None else elbo
        if not any(
            type(self.elbo).loss_and_grads is e.loss_and_grads
            and type(self.elbo).differentiable_loss is e.differentiable_loss
            for e in _KNOWN
            if isinstance(self.elbo, e)
        ):
            raise ValueError(
                f"elbo: got {type(self.elbo).__name__}; expected Trace_ELBO(), TraceMeanField_ELBO() or "
                "TraceEnum_ELBO(). The others are used as they are, without compilation."
            )
        if compile is not True and compile != "trace":
            raise ValueError(
                f"compile: got {compile!r}; expected True, or 'trace' to do without a compiler. Without either, use "
                f"{type(self.elbo).__name__} itself."
            )
        super().__init__(num_particles=self.elbo.num_particles)
        self.compile, self.max_recordings = compile, max_recordings
        self.forget()

    def forget(self) -> None:
        """Record anew at the next call: for what the model finds outside its arguments and is no tensor."""
        self._recorded: dict[Any, RecordedLoss] = {}
        self._refused: set[Any] = set()  # models and guides without a graph
        self._warned: set[str] = set()
        self._made = 0

    def __getstate__(self) -> dict[str, Any]:
        fresh: dict[str, Any] = {"_recorded": {}, "_refused": set(), "_warned": set(), "_made": 0}
        return {**self.__dict__, **fresh}  # compiled code does not pickle; it is made again

    # --- Pyro's interface -----------------------------------------------------------------------------------
    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        return self.elbo._get_trace(model, guide, args, kwargs)

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """An estimate without gradients: that of ``elbo``, which is not compiled."""
        return self.elbo.loss(model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """An estimate; its gradients are added to those of the parameters."""
        key, tensors, recorded = self._find(model, guide, args, kwargs)
        if recorded is None:
            loss = self.elbo.loss_and_grads(model, guide, *args, **kwargs)
            self._record(key, model, guide, tensors, args, kwargs)
            return loss
        out, grads = self._run(recorded, tensors)
        for leaf, grad in zip(recorded.leaves, grads, strict=True):
            leaf.grad = grad.clone() if leaf.grad is None else leaf.grad.add_(grad)
        loss = out.item()
        warn_if_nan(loss, "loss")
        return loss

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """An estimate that autograd can differentiate, once, in the parameters."""
        key, tensors, recorded = self._find(model, guide, args, kwargs)
        if recorded is None:
            loss = self.elbo.differentiable_loss(model, guide, *args, **kwargs)
            if key is None:
                return loss
            # differentiated now, as a recording moves the parameters and puts them back
            leaves = leaves_of(loss)
            found = torch.autograd.grad(loss, leaves) if leaves else ()
            self._record(key, model, guide, tensors, args, kwargs)
            return _Loss.apply(loss.detach(), len(found), *found, *leaves)  # type: ignore[no-untyped-call]
        out, grads = self._run(recorded, tensors)
        warn_if_nan(out, "loss")
        return _Loss.apply(out, len(grads), *grads, *recorded.leaves)  # type: ignore[no-untyped-call]

    # --- recordings -----------------------------------------------------------------------------------------
    def _find(
        self, model: Any, guide: Any, args: Any, kwargs: Any
    ) -> tuple[Any, list[Tensor], RecordedLoss | None]:
        """The recording for these arguments, or ``None``, and what it is known by, ``None`` if there can be none."""
        leaves, tree = tree_flatten((args, kwargs))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        if (model, guide) in self._refused:
            return None, tensors, None
        if any(not (isinstance(m, TraceMessenger) and m.param_only) for m in _PYRO_STACK):
            return self._decline("there are handlers around the call, which a graph would not see")
        if any(x.requires_grad for x in tensors):
            return self._decline("an argument requires a gradient; make it a parameter, or detach it")
        kinds = tuple(form_of(x) if isinstance(x, Tensor) else _Constant(x) for x in leaves)
        key = (model, guide, str(tree), kinds, torch.is_autocast_enabled("cpu"))
        recorded = self._recorded.get(key)
        if recorded is not None and not recorded.is_current():
            recorded = self._recorded.pop(key) and None
        if recorded is None and self._made >= self.max_recordings:
            return self._decline(
                f"{self.max_recordings} recordings have been made, max_recordings, of arguments or parameters of "
                "different kinds. Keep the sizes of batches, and pass numbers that change as tensors"
            )
        return key, tensors, recorded

    def _decline(self, reason: str) -> tuple[None, list[Tensor], None]:
        self._warn("the step runs as without compilation", reason)
        return None, [], None

    def _warn(self, way: str, reason: str) -> None:
        if reason not in self._warned:  # once
            self._warned.add(reason)
            warnings.warn(f"CompiledELBO: {way}: {reason}.", UserWarning, stacklevel=4)

    def _record(
        self, key: Any, model: Any, guide: Any, tensors: list[Tensor], args: Any, kwargs: Any
    ) -> None:
        if key is None:
            return
        self._made += 1
        try:
            recorded = RecordedLoss(self.elbo, model, guide, tensors, args, kwargs)
            reason = recorded.compile() if self.compile is True else ""
            recorded.compare()
        except NotRecordableError as error:
            self._refused.add((model, guide))
            self._warn("steps run as without compilation", str(error))
            return
        self._recorded[key] = recorded
        if reason:
            self._warn("steps are recorded, but not compiled", reason)

    @staticmethod
    def _run(recorded: RecordedLoss, tensors: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        loss, grads, values = recorded(tensors)
        if _PYRO_STACK:  # handlers, such as SVI's own, are shown the parameters
            for (name, leaf), value in zip(recorded.parameters.items(), values, strict=True):
                value.unconstrained = weakref.ref(leaf)  # type: ignore[attr-defined]
                effectful(_given(value), type="param")(name, name=name)
        return loss, grads


def _given(value: Tensor) -> Callable[..., Tensor]:
    return lambda *_, **__: value


class _Constant:
    """An argument that is no tensor: equal to others of the same type and value; to itself, if it has no hash."""

    def __init__(self, value: Any) -> None:
        self.value = value
        try:
            self._hash = hash((type(value), value))
        except TypeError:
            self._hash = id(value)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Constant) or type(self.value) is not type(other.value):
            return False
        if self.value is other.value:
            return True
        return type(self.value).__hash__ is not None and bool(self.value == other.value)


class _Loss(torch.autograd.Function):
    """A loss with gradients that are known."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, n: int, *grads_and_leaves: Tensor) -> Tensor:
        ctx.save_for_backward(*(g.clone() for g in grads_and_leaves[:n]))
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, out: Tensor) -> Any:  # type: ignore[override]
        grads = ctx.saved_tensors
        return (None, None, *(None for _ in grads), *(out * g for g in grads))
