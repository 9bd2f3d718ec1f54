r"""Maximum likelihood of flows.

.. math::
    \min_\theta\; -\mathbb E_{\text{data}} \log p_\theta(x \mid c), \qquad
    \log p_\theta(x) = \log p_{\text{base}}(z) - \log\mathrm{vol}_{f_\theta}(z), \quad x = f_\theta(z)

It is the divergence of the model from the data, up to their entropy.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from ..ops.arguments import checked
from .flow_parts import bijection_of, check_rows, module_of, train, trainable
from .run import History

__all__ = ["fit_likelihood"]


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
        * a module with ``log_prob(x)``, ``log_prob(x, context)`` or ``condition(context).log_prob(x)``; a context
          is needed where its ``context_dim`` is not 0 or, if it has none, where ``condition`` asks for one;
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
    model = module_of(flow, base)
    check_rows(data, context, trainable(model)[0], _codomain(flow))
    phase = dict(
        lr=lr,
        warmup=warmup,
        clip=clip,
        epochs=epochs,
        seconds=seconds,
        optimizer=optimizer,
        schedule=schedule,
    )
    return train("likelihood", lambda x, c=None: -density(x, c).mean(), (data, context), model, phase, **loop)


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
    reads = any(_reads_context(part) for part in (flow, base))
    lacking = next((part for part in (flow, base) if _needs_context(part)), None)
    if context is None and lacking is not None:
        raise ValueError(
            f"context: {type(lacking).__name__} depends on a context and none was given; give a row for each of "
            "data."
        )
    if context is not None and not reads and not (base is None and hasattr(flow, "log_prob")):
        raise ValueError(
            f"context: got shape {tuple(context.shape)}, but {type(flow).__name__} reads no context; leave it out, "
            "or make the flow depend on it: Conditional(flow, context_dim)."
        )
    if base is None:
        if hasattr(flow, "condition"):
            return lambda x, c: _given(flow, c).log_prob(x)
        return lambda x, c: flow.log_prob(x) if c is None else flow.log_prob(x, c)
    if not reads:
        bijection_of(flow, base)

    def density(x: Tensor, c: Tensor | None) -> Tensor:
        own = _given(base, c)
        z, log_volume = bijection_of(_given(flow, c), own).inverse_and_log_volume(x)
        return own.log_prob(z) - log_volume

    return density


def _reads_context(part: Any) -> bool:
    return hasattr(part, "condition") and getattr(part, "context_dim", 1) > 0


def _needs_context(part: Any) -> bool:
    """Is there no density of ``part`` without a context? Its ``context_dim`` says so; where it has none, a
    ``condition`` that can be called without an argument says that there is one."""
    size = getattr(part, "context_dim", None)
    return _reads_context(part) and (size is not None or not _has_default(part.condition))


def _has_default(condition: Callable[..., Any]) -> bool:
    """Can it be called without an argument?"""
    try:
        inspect.signature(condition).bind()
    except TypeError:
        return False
    return True


def _given(part: Any, context: Tensor | None) -> Any:
    if not hasattr(part, "condition"):
        return part
    return part.condition() if context is None and _has_default(part.condition) else part.condition(context)


def _codomain(flow: Any) -> Any:
    """The constraint that rows of data must satisfy, if it is known."""
    if isinstance(flow, Distribution):
        return flow.support
    return getattr(getattr(flow, "layer", flow), "codomain", None)
