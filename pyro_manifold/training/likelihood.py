r"""Maximum likelihood of flows, and their fit to an unnormalised density.

.. math::
    \min_\theta\; -\mathbb E_{\text{data}} \log p_\theta(x \mid c), \qquad
    \min_\theta\; \mathbb E_{z \sim \text{base}}\big[\log p_{\text{base}}(z) - \log\mathrm{vol}_{f_\theta}(z)
    - \log q(f_\theta(z))\big]

The first is the divergence of the model from the data, up to their entropy; the second, that of q from the model,
up to the log of q's integral. With :math:`x = f_\theta(z)`,
:math:`\log p_\theta(x) = \log p_{\text{base}}(z) - \log\mathrm{vol}_{f_\theta}(z)`.
"""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import geoopt
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from ..constraints import check_point, on, point_constraint
from ..ops.arguments import checked
from ..ops.checks import check_all
from ..transforms.chain import as_map
from ..transforms.module import submodules
from .loop import Loop
from .phase import Phase
from .run import History
from .verdict import TrainingWarning

__all__ = ["fit_likelihood", "fit_reverse_kl"]

REVIEWED = 50  # steps of a pass of fit_reverse_kl, about


@checked(epochs=0, seconds=0, lr=0, warmup=0, clip=0)
def fit_likelihood(
    flow: Any,
    data: Tensor,
    context: Tensor | None = None,
    *,
    base: Any = None,
    log_prob: Callable[..., Tensor] | None = None,
    epochs: int | None = None,
    seconds: float = math.inf,
    lr: float = 5e-3,
    warmup: float = 0.05,
    clip: float = 5.0,
    optimizer: Callable[..., Any] | None = None,
    schedule: Callable[..., Any] | None = None,
    **loop: Any,
) -> History:
    r"""Train ``flow`` in place by maximum likelihood; the weights that did best on the validation rows are
    restored, those given among them.

    :param flow: one of

        * a bijection, or a :class:`~pyro_manifold.flows.Conditional` one, with ``base``;
        * a distribution with transforms, such as Pyro's ``TransformedDistribution`` or
          ``ConditionalTransformedDistribution``;
        * a module with ``log_prob(x)``, ``log_prob(x, context)`` or ``condition(context).log_prob(x)``;
        * any module, with ``log_prob``.
    :param Tensor data: rows, shape ``(rows,) + event``.
    :param Tensor context: a row for each, shape ``(rows, size)``, if the flow is conditional.
    :param base: a distribution on the flow's domain, or one with ``condition(context)``; one that is a module
        is trained too.
    :param log_prob: the log density of a batch of rows, a function of x, or of x and context.
    :param int epochs: passes over the data; None for as many as make 2000 batches, at least 10.
    :param float seconds: budget of time; what ends first ends the training.
    :param float lr: learning rate of AdamW (of geoopt's ``RiemannianAdam``, where a parameter lies on a
        manifold), falling to zero along a cosine.
    :param float warmup: share of the training in which it rises from zero first.
    :param float clip: largest norm of a gradient.
    :param optimizer: see :class:`~pyro_manifold.training.Phase`; so is ``schedule``.
    :param loop: what else :func:`~pyro_manifold.training.fit` takes: ``batch_size``, ``validation``,
        ``seed``, ``clock``, ``checkpoint``, ``fabric``, ``disable_progbar``.
    :return: losses of the phase ``"likelihood"``: mean negative log densities of the validation rows, in
        nats.
    :raises ValueError: for rows that are fewer than 2, not finite or not on the flow's manifold, a context
        that is missing, not wanted or of another number of rows, a flow without a density or without
        parameters to train; and as :func:`~pyro_manifold.training.fit`.
    :warns TrainingWarning: as :func:`~pyro_manifold.training.fit`.

    >>> import pyro.distributions as dist
    >>> from pyro_manifold.flows import Spline
    >>> x = torch.randn(200, 1).sinh()
    >>> base = dist.Normal(torch.zeros(1), 1.0).to_event(1)
    >>> history = fit_likelihood(Spline(1), x, base=base, epochs=5, disable_progbar=True)
    >>> history.losses["likelihood"][-1] < history.start["likelihood"]
    True
    """
    density = _log_prob(flow, base, log_prob, context)
    model = _module(flow, base)
    parameters = trainable(model)
    check_rows(data, context, parameters[0], _codomain(flow))
    phase = Phase(
        "likelihood",
        lambda x, c=None: -density(x, c).mean(),
        parameters,
        optimizer=optimizer or default_optimizer(model, lr),
        schedule=schedule,
        lr=lr,
        warmup=warmup,
        clip=clip,
        epochs=epochs,
        seconds=seconds,
    )
    settings = dict(lr=lr, warmup=warmup)
    history = Loop(
        [phase], (data, context), model=model, settings=settings, description="fit_likelihood", **loop
    ).run()
    for message in history.warnings:
        warnings.warn(message, TrainingWarning, stacklevel=3)
    return history


@checked(steps=1, batch_size=1, seconds=0, lr=0, warmup=0, clip=0, seed=0)
def fit_reverse_kl(
    flow: Any,
    base: Distribution,
    log_density: Callable[[Tensor], Tensor],
    steps: int = 2000,
    *,
    batch_size: int = 256,
    seconds: float = math.inf,
    lr: float = 5e-3,
    warmup: float = 0.05,
    clip: float = 5.0,
    optimizer: Callable[..., Any] | None = None,
    schedule: Callable[..., Any] | None = None,
    seed: int = 0,
    **loop: Any,
) -> History:
    r"""Train ``flow`` in place so that draws of ``base``, mapped by it, have a given density.

    Each step takes fresh draws. About every 50 steps the loss is computed from as many draws as a tenth of
    them took, the same each time; the weights for which it was lowest are restored in the end. Modes of the
    density that no draw comes near stay unseen, as in all fits of this divergence.

    :param flow: a bijection.
    :param Distribution base: what z is drawn from, on the flow's domain.
    :param log_density: :math:`\log q` up to a constant, a function of x, shape ``(n,) + event``, with one
        value for each point, w.r.t. the measure of the flow's codomain.
    :param int steps: at least so many (passes are of equal length).
    :param loop: what else :func:`~pyro_manifold.training.fit` takes: ``clock``, ``checkpoint``, ``fabric``,
        ``validation``, ``disable_progbar``; and for the other arguments see :func:`fit_likelihood`.
    :return: losses of the phase ``"reverse_kl"``: with a normalised q, the divergence of q from the model, in
        nats.
    :raises ValueError: for a flow that is not a bijection of the base's draws or has no parameters to train,
        values of ``log_density`` that are not one for each point; and as :func:`~pyro_manifold.training.fit`,
        where they are not finite.
    :warns TrainingWarning: as :func:`~pyro_manifold.training.fit`.

    >>> import pyro.distributions as dist
    >>> from pyro_manifold.flows import Spline
    >>> flow, base = Spline(1), dist.Normal(torch.zeros(1), 1.0).to_event(1)
    >>> target = dist.Normal(torch.full((1,), 0.5), 0.7).to_event(1)
    >>> history = fit_reverse_kl(flow, base, target.log_prob, steps=200, disable_progbar=True)
    >>> history.losses["reverse_kl"][-1] < history.start["reverse_kl"]
    True
    """
    bijection = _bijection(flow, base)
    model = _module(flow)
    parameters = trainable(model)
    like = parameters[0]

    def loss(index: Tensor) -> Tensor:
        n = torch.Size([len(index)])
        if torch.is_grad_enabled():
            return _divergence(bijection, base, log_density, n)
        devices = [like.device] if like.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # the same draws for validation after each pass
            torch.manual_seed(seed + int(index[0]))
            return _divergence(bijection, base, log_density, n)

    passes = max(1, round(steps / REVIEWED))
    validation = loop.pop("validation", 0.1)
    rows = batch_size * math.ceil(steps / passes)
    count = math.floor(rows / (1 - (validation or 0.0)))
    index = torch.arange(count, dtype=torch.float64, device=like.device)
    phase = Phase(
        "reverse_kl",
        loss,
        parameters,
        optimizer=optimizer or default_optimizer(model, lr),
        schedule=schedule,
        lr=lr,
        warmup=warmup,
        clip=clip,
        epochs=passes,
        seconds=seconds,
    )
    history = Loop(
        [phase],
        index,
        model=model,
        batch_size=batch_size,
        validation=validation,
        seed=seed,
        settings=dict(lr=lr, warmup=warmup),
        description="fit_reverse_kl",
        **loop,
    ).run()
    for message in history.warnings:
        warnings.warn(message, TrainingWarning, stacklevel=3)
    return history


def _divergence(
    flow: Any, base: Distribution, log_density: Callable[[Tensor], Tensor], n: torch.Size
) -> Tensor:
    z = base.rsample(n) if base.has_rsample else base.sample(n)
    x, log_volume = flow.forward_and_log_volume(z)
    target = log_density(x)
    if not isinstance(target, Tensor) or target.shape != log_volume.shape:
        seen = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
        raise ValueError(
            f"log_density: got {seen} for points of shape {tuple(x.shape)}; expected {tuple(log_volume.shape)}, "
            "one value for each point."
        )
    return (base.log_prob(z) - log_volume - target).mean()


# --- what is trained ------------------------------------------------------------------------------------------
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


def _module(flow: Any, base: Any = None) -> nn.Module:
    """``flow``, or the modules among its transforms, and a base that is one, as one module."""
    if isinstance(flow, nn.Module) and not isinstance(base, nn.Module):
        return flow
    parts = [flow] if isinstance(flow, nn.Module) else getattr(flow, "transforms", [flow])
    parts = [p if isinstance(p, nn.Module | Transform) else getattr(p, "transform", p) for p in parts]
    return submodules([*parts, base])


def _bijection(flow: Any, base: Any) -> Any:
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


def _log_prob(
    flow: Any, base: Any, log_prob: Callable[..., Tensor] | None, context: Tensor | None
) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Log density of rows and their contexts."""
    if log_prob is not None:
        if base is not None:
            raise ValueError("base, log_prob: got both; expected one of them.")
        return lambda x, c: log_prob(x) if c is None else log_prob(x, c)
    if base is None and not (hasattr(flow, "condition") or hasattr(flow, "log_prob")):
        raise ValueError(
            f"flow: got {type(flow).__name__}, which has no log_prob; expected a distribution or a module with a "
            "density. Give the base of a bijection (base=...), or the density of a batch (log_prob=...)."
        )
    if base is not None and not (hasattr(base, "condition") or hasattr(base, "log_prob")):
        raise ValueError(
            f"base: got {type(base).__name__}, expected a distribution, or one with condition(context)."
        )
    lacking = next((part for part in (flow, base) if _reads_context(part)), None)
    if context is None and lacking is not None:
        raise ValueError(
            f"context: {type(lacking).__name__} depends on a context and none was given; give a row for each of "
            "data."
        )
    if context is not None and lacking is None and not (base is None and hasattr(flow, "log_prob")):
        raise ValueError(
            f"context: got shape {tuple(context.shape)}, but {type(flow).__name__} reads no context; leave it out, "
            "or make the flow depend on it: Conditional(flow, context_dim)."
        )
    if base is None:
        if hasattr(flow, "condition"):
            return lambda x, c: flow.condition(c).log_prob(x)
        return lambda x, c: flow.log_prob(x) if c is None else flow.log_prob(x, c)
    if lacking is None:
        _bijection(flow, base)

    def density(x: Tensor, c: Tensor | None) -> Tensor:
        own = _given(base, c)
        z, log_volume = _bijection(_given(flow, c), own).inverse_and_log_volume(x)
        return own.log_prob(z) - log_volume

    return density


def _reads_context(part: Any) -> bool:
    return hasattr(part, "condition") and getattr(part, "context_dim", 1) > 0


def _given(part: Any, context: Tensor | None) -> Any:
    return part.condition(context) if hasattr(part, "condition") else part


def _codomain(flow: Any) -> Any:
    """The constraint that rows of data must satisfy, if it is known."""
    if isinstance(flow, Distribution):
        return flow.support
    return getattr(getattr(flow, "layer", flow), "codomain", None)


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
