"""Charts of a learned manifold, trained by hard EM: each row goes to its nearest chart, each chart learns its
rows."""

import warnings
from typing import Any

import torch
from torch import Tensor

from ..models.manifold_mixture import ManifoldMixture
from ..ops.arguments import checked
from ..ops.pairwise import pairwise_distances
from .manifold_density import fit_md
from .md_checks import check_rows, pair, ratio_rows
from .run import History
from .verdict import TrainingWarning

__all__ = ["fit_charts"]


@checked(rounds=1, epochs=0)
def fit_charts(
    mixture: ManifoldMixture,
    x: Tensor,
    context: Tensor | None = None,
    *,
    rounds: int = 2,
    epochs: int | tuple[int | None, int | None] | None = None,
    score: Tensor | None = None,
    ratio: tuple[Tensor, Tensor] | None = None,
    validation: float | None = 0.1,
    **kwargs: Any,
) -> list[History]:
    r"""Train ``mixture`` in place by hard EM: rows go to their nearest chart, charts learn their rows; then
    densities.

    Rows are assigned by the centres at first, by reconstruction error in later rounds. In the end the weights
    are the charts' shares of the rows and ``atol`` is the distance within which 99% of them are from their
    own chart.

    :param Tensor x: rows, shape ``(rows, d)``.
    :param Tensor context: a row for each, if the flows are conditional (weights are the same for all); ``score`` and
        ``ratio`` as in :func:`~pyro_manifold.training.fit_md`.
    :param int rounds: assignments, each followed by ``epochs`` passes of the M phase.
    :param epochs: passes for either phase, or for each, with the default of
        :func:`~pyro_manifold.training.fit_md`, to which the other arguments go (``checkpoint`` gets a suffix
        for each round and chart).
    :param float validation: share of each chart's rows.
    :return: a history for each chart: its last round and its density.
    :warns TrainingWarning: as :func:`~pyro_manifold.training.fit_md`, for each chart by its number: one badly
        fitted chart takes rows from its neighbours.
    :raises ValueError: if a chart is left with fewer rows than its dimension + 2, and as
        :func:`~pyro_manifold.training.fit_md`.

    >>> line = torch.randn(50, 1) * torch.tensor([1.0, 0.5])
    >>> x = torch.cat([line, 9 + line])
    >>> mixture = ManifoldMixture.from_data(x, dim=1, charts=2, hidden=(8,))
    >>> len(fit_charts(mixture, x, epochs=1, disable_progbar=True)), mixture.weights
    (2, tensor([0.5000, 0.5000]))
    """
    if rounds < 1:
        raise ValueError(f"rounds: got {rounds}; expected at least 1.")
    manifold_epochs, density_epochs = pair(epochs)
    check_rows(x, context, score, mixture)
    if (context is None) != (mixture.context_dim == 0):
        raise ValueError(
            f"context: got {'none' if context is None else tuple(context.shape)}; expected "
            f"{f'({len(x)}, {mixture.context_dim})' if mixture.context_dim else 'none, since the flows read none'}."
        )
    other, log_ratio = ratio_rows(ratio, context)
    which = pairwise_distances(x, mixture.centres).argmin(-1)
    histories: list[History] = []
    path = kwargs.pop("checkpoint", None)
    for turn in range(rounds):
        last = turn == rounds - 1
        histories = []
        for k, flow in enumerate(mixture.flows):
            own = which == k
            rows = x[own]
            if len(rows) < flow.transform.dim + 2:  # type: ignore[union-attr, operator]
                raise ValueError(
                    f"mixture: chart {k} is left with {len(rows)} rows in round {turn}; use fewer charts, "
                    "other centres (seed), or rounds=1, which keeps the clusters."
                )
            if path is not None:
                kwargs["checkpoint"] = f"{path}.{turn}.{k}"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", TrainingWarning)
                history = fit_md(
                    flow,  # type: ignore[arg-type]
                    rows,
                    None if context is None else context[own],
                    score=None if score is None else score[own],
                    ratio=None if other is None or log_ratio is None else (other[own], log_ratio[own]),
                    validation=validation,
                    epochs=(manifold_epochs, density_epochs if last else 0),
                    **kwargs,
                )
            histories.append(history)
            for message in history.warnings if last else ():
                warnings.warn(
                    f"chart {k}, {message}", TrainingWarning, stacklevel=3
                )  # the checked call's own
        if not last:
            with torch.no_grad():
                which = mixture.assign(x)
    with torch.no_grad():
        error = mixture._projections(x)[1].gather(-1, which.unsqueeze(-1)).squeeze(-1)
        mixture.weights.copy_(which.bincount(minlength=len(mixture.flows)).to(x) / len(x))
        mixture.atol.copy_((error / (1 + x.norm(dim=-1))).quantile(0.99))
    return histories
