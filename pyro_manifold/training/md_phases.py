"""The two phases of M/D training, and the one of both at once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..models.ambient_flow import AmbientFlow
from ..models.manifold_flow import ManifoldFlow
from .loop import Loop
from .md_floor import review_manifold
from .md_losses import density_loss, reconstruction_loss, spread, whitener
from .md_unroll import unroll_start
from .phase import Phase
from .verdict import verdict

__all__ = ["density_phase", "joint_phase", "manifold_phase"]


def manifold_phase(
    flow: ManifoldFlow, x: Tensor, *, reconstruction_weight: float, huber_delta: float,
    whitening_fraction: float, unroll: bool, **settings: Any,
) -> Phase:  # fmt: skip
    """M: the manifold by reconstruction of the rows ``x``, whose spread is the unit of errors."""
    whiten = whitener(x) if whitening_fraction > 0 else None
    loss = reconstruction_loss(flow, reconstruction_weight, huber_delta, whiten, spread(x))

    def anneal(progress: float) -> dict[str, Any]:
        return {"power": max(0.0, 1 - progress / whitening_fraction)}

    return Phase(
        "M",
        loss,
        _trainable(flow.manifold_parameters()),
        anneal=anneal if whitening_fraction > 0 else None,
        start=(lambda loop: unroll_start(flow, loop)) if unroll and not whitening_fraction else None,
        review=lambda loop, start, losses: review_manifold(flow, loop, start, losses),
        **settings,
    )


def density_phase(
    flow: ManifoldFlow | AmbientFlow, *, score_weight: float, ratio_weight: float, score_delta: float,
    **settings: Any,
) -> Phase:  # fmt: skip
    """D: the density of the coordinates of rows, which are computed once while the manifold is fixed."""

    @torch.no_grad()
    def coordinates(x: Tensor, *rest: Tensor | None) -> list[Tensor | None]:
        return [torch.cat([flow.coordinates(part) for part in x.split(2048)]), *rest]

    def standardise(loop: Loop) -> bool:
        (u,) = coordinates(loop.rows(loop.train_index))
        assert u is not None
        if len(u) > 1 and bool(u.isfinite().all()):
            flow.standardise(u)
        return False  # unless the validation loss is lower

    return Phase(
        "D",
        density_loss(flow.relative_log_prob, score_weight, ratio_weight, score_delta),
        _trainable(flow.density_parameters()),
        prepare=coordinates,
        start=standardise,
        review=lambda loop, start, losses: verdict("D", start, losses, margin=0.1),
        **settings,
    )


def joint_phase(
    flow: ManifoldFlow, x: Tensor, *, reconstruction_weight: float, huber_delta: float, score_weight: float,
    ratio_weight: float, score_delta: float, **settings: Any,
) -> Phase:  # fmt: skip
    """MD: one loss for both."""
    reconstruction = reconstruction_loss(flow, reconstruction_weight, huber_delta, unit=spread(x))
    density = density_loss(flow.log_prob, score_weight, ratio_weight, score_delta)
    parameters = _trainable([*flow.manifold_parameters(), *flow.density_parameters()])
    return Phase("MD", lambda x, *rest: density(x, *rest) + reconstruction(x), parameters, **settings)


def _trainable(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    return [p for p in parameters if p.requires_grad]
