r"""Which dimension has the manifold? Reconstruction errors of held-out rows by latent dimension, and where
they bend.

.. math::
    e(n) = \sqrt{\operatorname{mean}_x|x - g_n(g_n^{-1}(x))|^2}, \quad e(0) = \sqrt{\operatorname{mean}_x|x -
    \bar x|^2}, \qquad \hat n = \arg\max_n \log\frac{e(n-1)}{e(n)}
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.manifold_flow import ManifoldFlow
from ..ops.arguments import checked
from .manifold_density import fit_md
from .verdict import TrainingWarning

__all__ = ["scan_dimension"]


@dataclass
class DimensionScan:
    r"""Held-out errors by dimension.

    :param dims: dimensions n in ascending order, from 0 (the mean) on.
    :param errors: root mean squared distances e(n), in the units of the data.

    >>> DimensionScan([0, 1, 2, 3], [2.0, 1.1, 0.05, 0.04]).elbow
    2
    """

    dims: list[int]
    errors: list[float]

    @property
    def elbow(self) -> int:
        """The dimension at which the error falls by the largest factor (per dimension) from the one before
        it."""
        log = [math.log(max(e, 1e-300)) for e in self.errors]
        fall = [(log[i - 1] - log[i]) / (self.dims[i] - self.dims[i - 1]) for i in range(1, len(log))]
        return self.dims[1 + max(range(len(fall)), key=fall.__getitem__)]


@checked(epochs=0)
def scan_dimension(
    x: Tensor, dims: Sequence[int], *, make: Callable[[Tensor, int], ManifoldFlow] = ManifoldFlow.from_data,
    held_out: float = 0.2, seed: int = 0, epochs: int | None = None, checkpoint: str | Path | None = None,
    **kwargs: Any,
) -> DimensionScan:  # fmt: skip
    r"""Train the manifold (not the density) of each dimension and measure its error on rows held out.

    Returns ``dims``, ``errors`` and their ``elbow``, sharp where the data are on a manifold to within an
    error far below their spread and training gets there: look at it by :func:`~pyro_manifold.plotting.elbow`
    before believing it.

    :param Tensor x: rows, shape ``(rows, d)``.
    :param dims: latent dimensions, all below d.
    :param make: a flow from rows and a dimension.
    :param float held_out: share of the rows that only measure; another share of the rest is fit_md's
        ``validation``.
    :param int seed: of the split, and of the flows and their training; the caller's generator is left as it was.
    :param int epochs: passes of the M phase, with the default of :func:`~pyro_manifold.training.fit_md`, to
        which the other arguments go.
    :param checkpoint: as there, with the dimension as suffix.
    :warns TrainingWarning: where a dimension is not trained well enough for the elbow to be believed: its fit
        is no better than the principal subspace, or has a larger error than that of fewer dimensions.
    :raises ValueError: for a dimension outside 1 to d - 1 or a share outside (0, 1).

    >>> line = torch.randn(200, 1) * torch.tensor([1.0, 2.0, -1.0])
    >>> scan_dimension(line, [1, 2], epochs=1, disable_progbar=True).elbow
    1
    """
    dims = sorted(set(dims))
    if x.dim() != 2 or not dims or dims[0] < 1 or dims[-1] >= x.shape[-1]:
        raise ValueError(
            f"dims: got {dims} for x of shape {tuple(x.shape)}; expected dimensions from 1 to d - 1 and x of "
            f"shape (rows, d)."
        )
    count = int(held_out * len(x))
    if not 0 < count < len(x) - 1:
        raise ValueError(
            f"held_out: got {held_out} of {len(x)} rows; expected a share in (0, 1) that leaves rows on both "
            f"sides."
        )
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
    test, train = x[order[:count]], x[order[count:]]
    errors = [_rms(test - train.mean(0))]
    for n in dims:
        with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
            torch.manual_seed(seed + n)
            flow = make(train, n)
        path = None if checkpoint is None else f"{checkpoint}.{n}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TrainingWarning)
            history = fit_md(flow, train, epochs=(epochs, 0), seed=seed, checkpoint=path, **kwargs)
        with torch.no_grad():
            error = _rms(test - flow.denoise(test))
        messages = list(history.warnings)
        if error > max(1.1 * errors[-1], 1e-3 * errors[0]):
            messages.append(
                f"the error {error:.4g} on rows held out is above that of fewer dimensions, "
                f"{errors[-1]:.4g}: its training has not got there. Give more epochs or another lr."
            )
        for message in messages:
            warnings.warn(
                f"dimension {n}, {message}", TrainingWarning, stacklevel=3
            )  # the checked call's own
        errors.append(error)
    return DimensionScan([0, *dims], errors)


def _rms(gap: Tensor) -> float:
    return float(gap.square().sum(-1).mean().sqrt())
