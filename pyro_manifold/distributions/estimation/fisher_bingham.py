r"""Maximum likelihood for the general Fisher-Bingham distribution, an exponential family.

.. math:: \log p(x) = b\cdot x + x^\top Ax - \log C(b, A), \qquad b = \kappa\mu

The log likelihood is concave in (b, A), with A up to a multiple of the identity: Newton's method finds its only
maximum from b = 0, A = 0 or from anywhere else.
"""

from typing import Any

import torch
from torch import Tensor

from ...ops.numerics import norm
from ..fisher_bingham import FisherBingham
from ..von_mises_fisher import VonMisesFisher
from .coordinates import CHARTS, Chart, Number, Symmetric
from .likelihood import ascend
from .sample import Sample

__all__ = ["fisher_bingham"]

_LARGEST = 1e12


class _Natural(FisherBingham):
    """The distribution in its natural parameters b, ``batch + (d,)``, and A."""

    def __init__(self, linear: Tensor, matrix: Tensor, *, validate_args: bool | None = None) -> None:
        self.linear = linear
        k = norm(linear, keepdim=True)
        first = torch.nn.functional.pad(torch.ones_like(k), (0, linear.shape[-1] - 1))
        loc = torch.where(k > 0, linear / torch.where(k > 0, k, 1.0), first)
        super().__init__(loc, k.squeeze(-1), matrix, validate_args=False)

    def _coefficients(self) -> tuple[Tensor, Tensor]:
        a = self.matrix.double()
        return self.linear.double(), 0.5 * (a + a.mT)


@CHARTS.register(_Natural)
def _natural(d: _Natural) -> Chart:
    values = {"linear": d.linear, "matrix": d.matrix}
    parameters = {"linear": Number(1), "matrix": Symmetric()}
    return Chart(parameters, values, lambda new: _Natural(new["linear"], new["matrix"]))


def _statistics_span(s: Sample) -> bool:
    """Are the statistics, x and its products, linearly independent on the rows, up to rounding?"""
    x = s.points
    d = x.shape[-1]
    i, j = torch.triu_indices(d, d, device=x.device)
    products = torch.cat([x, x[..., i] * x[..., j]], -1)  # the squares add up to 1, which is the constant
    root = (products * s.shares.sqrt().unsqueeze(-1)).movedim(1, 0)
    if root.shape[1] < root.shape[2]:
        return False
    values = torch.linalg.svdvals(root)
    return bool((values[..., -1] > 16 * s.rounding * values[..., 0]).all())


def fisher_bingham(s: Sample, start: VonMisesFisher) -> dict[str, Any]:
    """``loc`` (B, d), ``concentration`` (B,) and ``matrix`` (B, d, d), of trace 0.

    :param start: a distribution to start from, e.g. the fit of the simpler family.
    :raises ValueError: where the likelihood has no maximum.
    """
    d = s.points.shape[-1]
    lacking = (
        f"x: the rows do not determine the {d * (d + 3) // 2 - 1} parameters: they lie on a quadric (a circle, a great "
        "sphere, a few points), where the likelihood has no maximum. Expected more rows in general position; or fit "
        "Kent, Bingham or VonMisesFisher."
    )
    if not _statistics_span(s):
        raise ValueError(lacking)
    linear = (start.concentration.clamp_max(1e6).unsqueeze(-1) * start.loc).double()
    found = ascend(_Natural(linear, linear.new_zeros(linear.shape + (d,))), s)
    a = found.matrix
    a = a - torch.diag_embed(a.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True).expand(linear.shape))
    if bool((found.concentration > _LARGEST).any() | (a.abs() > _LARGEST).any()):
        raise ValueError(lacking)
    return {"loc": found.loc, "concentration": found.concentration, "matrix": a}
