"""Weighted rows of data, checked once for all estimators."""

from dataclasses import dataclass

import geoopt
import torch
from torch import Tensor

from ...constraints import check_point
from ...geometry import geometry
from ...ops.checks import check_dtype

__all__ = ["Sample", "checked_weights", "gathered"]


@dataclass(frozen=True)
class Sample:
    """Rows of data in float64, several data sets at a time (B of them, the flattened batch).

    :param points: shape ``(n, B) + event``.
    :param shares: the weights divided by their sum, shape ``(n, B)``.
    :param batch: the batch shape as given.
    :param dtype: of the data as given; results are returned in it.
    """

    points: Tensor
    shares: Tensor
    batch: torch.Size
    dtype: torch.dtype

    def mean(self, f: Tensor) -> Tensor:
        """Weighted mean over the rows of ``f``, ``(n, B) + shape`` -> ``(B,) + shape``."""
        return (self.shares.reshape(self.shares.shape + (1,) * (f.dim() - 2)) * f).sum(0)

    def shaped(self, parameter: Tensor) -> Tensor:
        """A parameter ``(B,) + shape`` as ``batch + shape``, in the dtype of the data."""
        return parameter.reshape(self.batch + parameter.shape[1:]).to(self.dtype)

    @property
    def rounding(self) -> float:
        """The relative rounding error of the data."""
        return torch.finfo(self.dtype).eps


def checked_weights(x: Tensor, weights: Tensor | None, batch: torch.Size, least: int = 1) -> Tensor:
    """The weights in float64, shape ``(n,) + batch``; ones if there are none.

    :raises ValueError: for another shape or device, weights that are negative, not finite or all zero, and
        fewer than ``least`` rows of positive weight.
    """
    n = len(x)
    if weights is None:
        w = torch.ones((n,) + batch, dtype=torch.float64, device=x.device)
    else:
        w = torch.as_tensor(weights)
        check_dtype("weights", w)
        if w.device != x.device:
            raise ValueError(
                f"weights: got device {w.device} but x has device {x.device}; expected one device. "
                "Move one of them with .to(device=...)."
            )
        if w.shape not in (torch.Size([n]), torch.Size([n]) + batch):
            expected = f"({n},)" + (f" or {tuple([n, *batch])}" if batch else "")
            raise ValueError(
                f"weights: got shape {tuple(w.shape)}, expected {expected}, one for each row of x."
            )
        w = w.detach().double()
        w = w.reshape(w.shape + (1,) * (1 + len(batch) - w.dim())).expand((n,) + batch)
        if not bool(((w >= 0) & w.isfinite()).all()):
            bad = w[~((w >= 0) & w.isfinite())][0]
            raise ValueError(
                f"weights: got {float(bad):.6g}, expected finite numbers, zero or positive; they count "
                "how often a row was seen."
            )
        if not bool((w.sum(0) > 0).all()):
            raise ValueError("weights: all are zero, expected some positive ones; leave out such data sets.")
    rows = int((w > 0).sum(0).amin()) if w.numel() else 0
    if w.numel() and rows < least:
        raise ValueError(
            f"x: got {rows} rows of positive weight, expected at least {least} to estimate the parameters. "
            "Give more data."
        )
    return w


def gathered(
    manifold: geoopt.Manifold | None, x: Tensor, weights: Tensor | None, least: int = 2
) -> tuple[Sample, torch.Size]:
    """The rows ``x``, ``(n,) + batch + event``, as a :class:`Sample` of points projected in float64, and their
    event shape.

    :param manifold: of the points; ``None`` for angles, with an event shape of ``()``.
    :raises ValueError: for rows off the manifold or not finite, unfit weights, or fewer than ``least`` rows.
    """
    rank = 0 if manifold is None else geometry(manifold).event_dim
    if x.dim() < 1 + rank:
        raise ValueError(
            f"x: got shape {tuple(x.shape)}, expected (n,) + batch + event with {rank} event "
            f"{'axis' if rank == 1 else 'axes'}: the rows of data along the first axis."
        )
    x = x.detach().as_subclass(Tensor)
    batch, event = x.shape[1 : x.dim() - rank], x.shape[x.dim() - rank :]
    if len(x) < least:
        raise ValueError(f"x: got {len(x)} rows, expected at least {least}. Give more data.")
    if manifold is None:
        if not bool(x.isfinite().all()):
            raise ValueError("x: some angles are not finite, expected radians. Leave out missing rows.")
        points = x.double()
    else:
        check_point(manifold, "x", x)
        points = geometry(manifold).project(x.double())
    w = checked_weights(x, weights, batch, least)
    flat = (len(x), batch.numel())
    w = w.reshape(flat)
    return Sample(points.reshape(flat + event), w / w.sum(0), batch, x.dtype), event
