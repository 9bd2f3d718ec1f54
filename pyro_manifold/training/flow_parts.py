"""What functions that train one flow ask of it and of its rows."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import geoopt
import torch
from torch import Tensor, nn
from torch.distributions import Transform

from ..constraints import check_point, on, point_constraint
from ..ops.checks import check_all
from ..transforms.chain import as_map
from ..transforms.module import submodules
from .loop import Loop
from .phase import Phase
from .run import History
from .verdict import warned

__all__ = [
    "bijection_of",
    "check_rows",
    "module_of",
    "same_draws_in_validation",
    "train",
    "trainable",
]


def train(
    name: str,
    loss: Callable[..., Tensor],
    data: Any,
    model: nn.Module,
    phase: dict[str, Any],
    settings: dict[str, Any] | None = None,
    **loop: Any,
) -> History:
    """Run the one phase of ``fit_<name>``, called ``name``, on the parameters of ``model``. Warnings point at the
    caller of that function, which must be :func:`~pyro_manifold.ops.arguments.checked`.

    :param dict phase: other arguments of :class:`Phase`.
    :param dict settings: what a checkpoint must agree on beside rate and warm-up.
    :param loop: arguments of :class:`~pyro_manifold.training.loop.Loop`.
    """
    optimizer = phase["optimizer"] or default_optimizer(model, phase["lr"])
    only = Phase(name, loss, trainable(model), **{**phase, "optimizer": optimizer})
    settings = {"lr": phase["lr"], "warmup": phase["warmup"], **(settings or {})}
    whole = Loop([only], data, model=model, settings=settings, description=f"fit_{name}", **loop)
    return warned(whole.run(), stacklevel=4)


@contextlib.contextmanager
def same_draws_in_validation(device: torch.device, seed: int) -> Iterator[None]:
    """Where gradients are switched off, as in validation, draws inside are the same for the same seed, and the
    generators are left as they were; else nothing happens."""
    if torch.is_grad_enabled():
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """:raises ValueError: if the model has no parameter that asks for a gradient."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(
            "flow: none of its parameters requires a gradient; flow.requires_grad_() lets them be trained."
        )
    return parameters


def default_optimizer(model: nn.Module, lr: float) -> Callable[..., Any] | None:
    """None for that of :class:`Phase`, unless a parameter lies on a manifold."""
    if any(isinstance(p, geoopt.ManifoldParameter) for p in model.parameters()):
        return functools.partial(geoopt.optim.RiemannianAdam, lr=lr)
    return None


def module_of(flow: Any, base: Any = None) -> nn.Module:
    """``flow``, or the modules among its transforms, and a base that is one, as one module."""
    if isinstance(flow, nn.Module) and not isinstance(base, nn.Module):
        return flow
    parts = [flow] if isinstance(flow, nn.Module) else getattr(flow, "transforms", [flow])
    parts = [p if isinstance(p, nn.Module | Transform) else getattr(p, "transform", p) for p in parts]
    return submodules([*parts, base])


def bijection_of(flow: Any, base: Any) -> Any:
    """``flow`` with the primitives of a map.

    :raises ValueError: unless it is a bijection whose points are those of ``base``.
    """
    if not isinstance(flow, Transform) or not flow.bijective:
        raise ValueError(
            f"flow: got {type(flow).__name__}, expected a bijection, such as those of pyro_manifold.flows; "
            "for several use torch's ComposeTransform, for a module of another kind give log_prob."
        )
    shape = getattr(base, "event_shape", None)
    if shape is not None and len(shape) != flow.domain.event_dim:
        raise ValueError(
            f"base: got event shape {tuple(shape)}; a point of the flow's domain, {flow.domain}, has "
            f"{flow.domain.event_dim} axes. Declare them by base.to_event(...)."
        )
    return as_map(flow)


def check_rows(data: Tensor, context: Tensor | None, like: Tensor, codomain: Any = None) -> None:
    """At least two rows, finite, in the dtype and on the device of ``like``, points of the manifold that
    ``codomain`` may name; and a context for each."""
    for name, t in (("data", data), ("context", context)):
        if t is None:
            continue
        if t.dim() < 1 or len(t) < 2 or len(t) != len(data):
            wanted = "at least 2 rows" if t is data else f"{len(data)} rows, one for each of data"
            raise ValueError(f"{name}: got shape {tuple(t.shape)}; expected {wanted}.")
        if (t.dtype, t.device) != (like.dtype, like.device):
            raise ValueError(
                f"{name}: got {t.dtype} on {t.device}; the flow's parameters are {like.dtype} on {like.device}. "
                "Convert one of them by .to(...)."
            )
        finite = t.isfinite().reshape(len(t), -1).all(-1)
        check_all(finite, name, t, "finite rows", "Remove or impute them.")
    point = None if codomain is None else point_constraint(codomain)
    if isinstance(point, on):
        check_point(point.manifold, "data", data)
