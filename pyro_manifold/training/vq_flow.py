r"""Training of an atlas in three phases: codes, charts, densities.

.. math::
    \text{AE:}\;& \min_{E, D, v} \mathbb E\,|x - D(v_{k(x)})|^2 + \beta\,\mathbb E\,|E(x) - v_{k(x)}|^2 \\
    \text{M:}\;& \min_g \mathbb E_{(x, k):\, x \in U_k} |x - g_k(g_k^{-1}(x))|^2 \\
    \text{D:}\;& \min_q -\mathbb E_{(x, k):\, x \in U_k} \log q(g_k^{-1}(x) \mid v_k)

Regions and charts would move under the phases that follow if the codes went on learning: each phase fixes what the
ones before it have learned.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.vq_flow import VQFlow
from ..ops.arguments import checked
from ..ops.checks import check_all
from .loop import Loop
from .phase import Phase
from .run import History
from .verdict import verdict, warned

__all__ = ["fit_vq"]

_MOST = 4  # charts in which the density of a row is learned: those of its nearest codes


@checked(epochs=0, seconds=0, lr=0, commitment=0)
def fit_vq(
    flow: VQFlow,
    x: Tensor,
    *,
    epochs: int | tuple[int | None, int | None, int | None] | None = None,
    seconds: float | tuple[float, float, float] = math.inf,
    lr: float | tuple[float, float, float] = (1e-3, 5e-3, 5e-3),
    commitment: float = 0.25,
    checkpoint: str | Path | None = None,
    **loop: Any,
) -> History:
    r"""Train ``flow`` in place: first the codes, then the charts around them by reconstruction, then the densities of
    the coordinates by maximum likelihood, each with the phases before it fixed.

    Between the phases each chart is turned to the principal axes of its rows, codes with too few rows for a chart
    are given up (``flow.autoencoder.quantizer.active`` says which are in use), and weights and the limits of the
    coordinates are set to those of the rows.

    :param Tensor x: rows, shape ``(rows, d)``.
    :param epochs: passes over the data, for all phases or for each; None for as many as make 2000 batches, at least
        10.
    :param seconds: budget of time, likewise; what ends first ends the phase.
    :param lr: learning rate of AdamW, likewise.
    :param float commitment: :math:`\beta`.
    :param checkpoint: each phase has a file of its own, with the phase's name as suffix; an interrupted call with the
        same model, data and settings goes on from them.
    :param loop: what else :func:`~pyro_manifold.training.fit` takes: ``batch_size``, ``validation`` (a share),
        ``seed``, ``clock``, ``disable_progbar``.
    :return: losses by phase ("AE", "M", "D"), those before the first pass, and warnings. M is the mean squared error
        in units of the rows' spread within charts.
    :raises ValueError: for rows of another shape, dtype or number, or that are not finite; where the rows of a chart
        span fewer dimensions than it has; and as :func:`~pyro_manifold.training.fit`.
    :warns TrainingWarning: as :func:`~pyro_manifold.training.fit`.

    >>> t = 6.28 * torch.rand(300, 1)
    >>> x = torch.cat([t, (2 * t).sin()], 1)
    >>> flow = VQFlow.from_data(x, dim=1, charts=3, depth=2, hidden=(32,), latent_hidden=(8,))
    >>> before = flow.ood_score(x).mean()
    >>> history = fit_vq(flow, x, epochs=(1, 30, 5), lr=1e-2, batch_size=50, disable_progbar=True)
    >>> bool(flow.ood_score(x).mean() < before), sorted(history.losses)
    (True, ['AE', 'D', 'M'])
    """
    _check_rows(flow, x)
    each = [v if isinstance(v, tuple) else (v,) * 3 for v in (epochs, seconds, lr)]
    settings = dict(zip(("epochs", "seconds", "lr"), each, strict=True))
    history = History()

    def run(i: int, phase: Phase) -> None:
        path = None if checkpoint is None else f"{checkpoint}.{phase.name}"
        if not phase.parameters:
            return
        own = dict(phase=phase.name, lr=float(settings["lr"][i]), commitment=commitment)  # type: ignore[arg-type]
        part = Loop(
            [phase], x, model=flow, settings=own, description=f"fit_vq {phase.name}", checkpoint=path, **loop
        ).run()
        history.losses.update(part.losses)
        history.start.update(part.start)
        history.seconds += part.seconds
        history.warnings += part.warnings

    def options(i: int) -> dict[str, Any]:
        return {name: v[i] for name, v in settings.items()}

    vq, charts, density = flow.autoencoder, flow.manifold_parameters(), flow.density_parameters()
    learns = [p for p in vq.parameters() if p.requires_grad]
    run(0, Phase("AE", lambda rows: vq.loss(rows, commitment), learns, review=lambda *_: [], **options(0)))
    vq.requires_grad_(False)
    flow.place_charts(x)
    unit = _spread_in_charts(flow, x)
    loss = _reconstruction_loss(flow, unit)
    run(1, Phase("M", loss, [p for p in charts if p.requires_grad], review=_review("M"), **options(1)))
    flow.place_densities(x)
    loss = _density_loss(flow)
    prepare = _coordinates(flow)
    learns = [p for p in density if p.requires_grad]
    run(2, Phase("D", loss, learns, prepare=prepare, review=_review("D", 0.1), **options(2)))
    flow.fit_weights(x)
    return warned(history, stacklevel=3)


def _review(name: str, margin: float = 0.0) -> Any:
    return lambda loop, start, losses: verdict(name, start, losses, margin)


def _check_rows(flow: VQFlow, x: Tensor) -> None:
    d, like = flow.transform.layer.codomain_dim, flow.weights
    if x.dim() != 2 or x.shape[1] != d or len(x) < len(flow.weights):
        raise ValueError(
            f"x: got shape {tuple(x.shape)}; expected (rows, {d}), and at least {len(flow.weights)} rows, "
            "one for each code."
        )
    if (x.dtype, x.device) != (like.dtype, like.device):
        raise ValueError(
            f"x: got {x.dtype} on {x.device}; the flow has {like.dtype} on {like.device}. Convert one."
        )
    check_all(x.isfinite().all(-1), "x", x, "finite rows", "Remove or impute them.")


def _pairs(flow: VQFlow, x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and contexts of the charts that are trained on them."""
    cover = flow.cover(x)
    row, chart = cover.nonzero(as_tuple=True)
    return row, flow.contexts[chart]


@torch.no_grad()
def _spread_in_charts(flow: VQFlow, x: Tensor) -> float:
    """Root mean variance of a coordinate within charts."""
    cover, square, count = flow.cover(x), 0.0, 0
    for own in cover.unbind(-1):
        rows = x[own]
        square += float((rows - rows.mean(0)).square().sum())
        count += rows.numel()
    return math.sqrt(square / count)


def _reconstruction_loss(flow: VQFlow, unit: float) -> Any:
    def loss(x: Tensor) -> Tensor:
        row, context = _pairs(flow, x)
        g = flow.transform.condition(context)
        own = x[row]
        return ((own - g._call(g._inverse(own))) / unit).square().mean()

    return loss


def _coordinates(flow: VQFlow) -> Any:
    """The data of the density phase, computed once: for each row its coordinates in the charts that are trained on it,
    at most four, and their numbers; -1 where there are fewer."""

    @torch.no_grad()
    def prepare(x: Tensor) -> list[Tensor | None]:
        cover = flow.cover(x)
        most = min(_MOST, int(cover.sum(-1).max()))
        distance = flow.regions(training=True).distances(x)
        chart = distance.where(cover, math.inf).topk(most, largest=False).indices
        inside = cover.gather(-1, chart)
        flat = flow.coordinates_in(x.repeat_interleave(most, 0), flow.contexts[chart.reshape(-1)])
        u = torch.where(inside.unsqueeze(-1), flat.reshape(len(x), most, -1), 0.0)
        return [u, torch.where(inside, chart, -1)]

    return prepare


def _density_loss(flow: VQFlow) -> Any:
    def loss(u: Tensor, chart: Tensor) -> Tensor:
        on = chart >= 0
        return -flow.latent.condition(flow.contexts[chart[on]]).log_prob(u[on]).mean()

    return loss
