r"""The fit of a flow to an unnormalised density, by draws of the flow.

.. math::
    \min_\theta\; \mathbb E_{z \sim \text{base}}\big[\log p_{\text{base}}(z) - \log\mathrm{vol}_{f_\theta}(z)
    - \log q(f_\theta(z))\big]

It is the divergence of q from the model, up to the log of q's integral.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..ops.arguments import checked
from .flow_parts import bijection_of, module_of, same_draws_in_validation, train, trainable
from .run import History

__all__ = ["fit_reverse_kl"]

REVIEWED = 50  # steps of a pass, about


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
    validation: float | None = 0.1,
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
    :param float validation: share of the draws for validation; 0 or None as in :func:`~pyro_manifold.training.fit`.
    :param loop: what else :func:`~pyro_manifold.training.fit` takes: ``clock``, ``checkpoint``, ``fabric``,
        ``disable_progbar``; and for the other arguments see
        :func:`~pyro_manifold.training.fit_likelihood`.
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
    if validation is not None and not 0 <= validation < 1:
        raise ValueError(f"validation: got {validation}; expected a share in [0, 1), or None.")
    bijection = bijection_of(flow, base)
    model = module_of(flow)
    like = trainable(model)[0]

    def loss(index: Tensor) -> Tensor:
        with same_draws_in_validation(like.device, seed + int(index[0])):
            return _divergence(bijection, base, log_density, torch.Size([len(index)]))

    passes = max(1, round(steps / REVIEWED))
    rows = batch_size * math.ceil(steps / passes)
    count = math.floor(rows / (1 - (validation or 0.0)))
    index = torch.arange(count, dtype=torch.float64, device=like.device)
    phase = dict(
        lr=lr,
        warmup=warmup,
        clip=clip,
        epochs=passes,
        seconds=seconds,
        optimizer=optimizer,
        schedule=schedule,
    )
    loop = dict(batch_size=batch_size, validation=validation, seed=seed, **loop)
    return train("reverse_kl", loss, index, model, phase, **loop)


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
