r"""Highest-density regions on the sphere :math:`S^2` and their area.

.. math:: R_p = \{x : \log p(x) \ge t_p\}, \qquad \int_{R_p} p\,dA = p, \qquad A_p = \int_{R_p} dA

The integrals are sums over cells of equal area between two meridians and two parallels, about an equator through
the mean direction of the draws. A cell with more than a few draws is divided into four, and so are, four times,
cells near the level :math:`t_p`: the cells are small where the density is large, however concentrated it is.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import geoopt
import torch
from torch import Tensor

from ...constraints import check_point
from ...distributions import VonMisesFisher, kernel_mixture
from ...geometry import geometry
from ...ops.arguments import checked
from ...ops.chunks import slices
from ...ops.highest_density import highest_density_levels
from ...ops.newton import householder_basis
from .credible_ball import check_prob
from .units import area_factor

__all__ = ["CredibleRegion", "credible_region", "kernel_density"]

_SPHERE = geoopt.Sphere()
_ROWS, _COLUMNS = 12, 24  # of the cells to start from
_FEW, _DEEPEST, _ROUNDS = 4, 45, 5
_DRAWS = 8000


class CredibleRegion(NamedTuple):
    """A highest-density region of :math:`S^2`: the share it holds, its area in the unit asked for, the log density
    at its boundary (per steradian, normalised), and the log density as a function.

    >>> region = credible_region(VonMisesFisher(torch.tensor([0.0, 0.0, 1.0]), 100.0), 0.5)
    >>> bool(region.contains(torch.tensor([0.0, 0.0, 1.0])))
    True
    """

    prob: float
    area: float
    level: float
    log_density: Callable[[Tensor], Tensor]

    def contains(self, x: Tensor) -> Tensor:
        """Which points ``x``, ``batch + (3,)``, lie in the region; shape ``batch``."""
        return self.log_density(x) >= self.level


def kernel_density(draws: Tensor) -> Any:
    """Kernel estimate of the density of draws ``(n, 3)``: von Mises-Fisher kernels of the width, of a few about the
    rule for normal distributions, that makes each half of the draws the most likely under the other.

    >>> x = VonMisesFisher(torch.tensor([0.0, 0.0, 1.0]), 50.0).sample((500,))
    >>> kernel_density(x).sample((2,)).shape
    torch.Size([2, 3])
    """
    concentration = float(VonMisesFisher.fit(draws).concentration)
    rule = max(concentration, 0.5) * len(draws) ** (1 / 3)
    halves = draws[::2], draws[1::2]

    def score(width: float) -> float:
        pairs = (halves, halves[::-1])
        return sum(float(kernel_mixture(a, width, uniform=1e-6).log_prob(b).sum()) for a, b in pairs)

    best = max((min(1e10, rule * 2.0**k) for k in range(-2, 8)), key=score)
    return kernel_mixture(draws, min(1e10, 2 ** (1 / 3) * best), uniform=1e-6)  # from n / 2 draws to n


class _Cells(NamedTuple):
    """Bounds of the cells, shape ``(cells,)`` each: heights (sines of latitude) and longitudes."""

    low: Tensor
    high: Tensor
    west: Tensor
    east: Tensor

    def points(self) -> Tensor:
        z, lon = (self.low + self.high) / 2, (self.west + self.east) / 2
        r = ((1 - z) * (1 + z)).clamp_min(0).sqrt()
        return torch.stack([r * lon.cos(), r * lon.sin(), z], -1)

    def area(self) -> Tensor:
        return (self.high - self.low) * (self.east - self.west)

    def chosen(self, which: Tensor) -> "_Cells":
        return _Cells(*(x[which] for x in self))

    def quarters(self) -> "_Cells":
        """Four in a row for each cell."""
        z, lon = (self.low + self.high) / 2, (self.west + self.east) / 2
        return _Cells(
            torch.stack([self.low, self.low, z, z], -1).flatten(),
            torch.stack([z, z, self.high, self.high], -1).flatten(),
            torch.stack([self.west, lon, self.west, lon], -1).flatten(),
            torch.stack([lon, self.east, lon, self.east], -1).flatten(),
        )


def _joined(parts: list[_Cells]) -> _Cells:
    return _Cells(*(torch.cat(x) for x in zip(*parts, strict=True)))


def _around(draws: Tensor) -> _Cells:
    """Cells with at most a few of the draws each, which are given about the equator."""
    z, lon = draws[:, 2], torch.atan2(draws[:, 1], draws[:, 0])
    edges = torch.linspace(-1, 1, _ROWS + 1, dtype=z.dtype, device=z.device)
    turns = torch.linspace(-math.pi, math.pi, _COLUMNS + 1, dtype=z.dtype, device=z.device)
    low, west = (x.flatten() for x in torch.meshgrid(edges[:-1], turns[:-1], indexing="ij"))
    high, east = (x.flatten() for x in torch.meshgrid(edges[1:], turns[1:], indexing="ij"))
    row = ((z + 1) / 2 * _ROWS).long().clamp(0, _ROWS - 1)
    column = ((lon + math.pi) / (2 * math.pi) * _COLUMNS).long().clamp(0, _COLUMNS - 1)
    cells, home, done = _Cells(low, high, west, east), row * _COLUMNS + column, []
    for _ in range(_DEEPEST):
        count = torch.bincount(home, minlength=len(cells.low))
        full = count > _FEW
        done.append(cells.chosen(~full))
        if not bool(full.any()):
            return _joined(done)
        inside = full[home]
        z, lon, home = z[inside], lon[inside], (full.cumsum(0) - 1)[home[inside]]
        cells = cells.chosen(full)
        north = z >= ((cells.low + cells.high) / 2)[home]
        right = lon >= ((cells.west + cells.east) / 2)[home]
        home = 4 * home + 2 * north.long() + right.long()
        cells = cells.quarters()
    return _joined([*done, cells])


@torch.no_grad()
@checked
def credible_region(
    source: Any, prob: float = 0.95, *, draws: Tensor | None = None, unit: str = "steradians"
) -> CredibleRegion:
    r"""The smallest region of :math:`S^2` that holds the share ``prob`` of a distribution, and its area.

    It may have several parts. For a von Mises-Fisher distribution it is a cap, for draws of an MCMC run the region
    above a level of their kernel estimate, which is a little wider than the true one.

    :param source: draws, shape (n, 3), n >= 20, whose density is estimated by :func:`kernel_density`; or a
        distribution on :math:`S^2` (with ``log_prob`` and ``sample``); or a function from points (..., 3) to log
        densities, normalised or not, with ``draws``.
    :param prob: the share, in (0, 1).
    :param draws: points about which the integration cells lie, shape (n, 3), where ``source`` is a function: some
        thousand draws of it, or at least points of every place where its density is large.
    :param unit: of the area, "steradians" or "square degrees" (the sphere has 41253).
    :raises ValueError: for draws off the sphere or too few, a batch of distributions, a function without
        ``draws``, another unit, a share outside (0, 1).

    The area of a given density is exact to about 0.1%. See :func:`~pyro_manifold.plotting.sphere_regions` for a
    picture.

    >>> pole = torch.tensor([0.0, 0.0, 1.0])
    >>> round(credible_region(VonMisesFisher(pole, 100.0), 0.95).area, 3)  # 2 pi log(20) / 100, up to exp(-200)
    0.188
    """
    check_prob(prob)
    factor = area_factor(unit)
    log_density, points = _density_and_draws(source, draws)
    x = geometry(_SPHERE).project(points.detach().double())
    axis = x.mean(0)
    turn = householder_basis(
        torch.where(axis.norm() > 1e-6, axis, x[0]).unsqueeze(-1)
    )  # its axis on the equator
    cells = _around(x @ turn).quarters()

    def values(cells: _Cells) -> Tensor:
        y = (cells.points() @ turn.mT).to(points.dtype)
        return torch.cat([log_density(y[part]).double() for part in slices(len(y), 1)])

    log = values(cells)
    for _ in range(_ROUNDS):
        level = highest_density_levels(log, cells.area(), [prob])[0]
        family = log.reshape(-1, 4)
        slack = 2 * (family.amax(-1) - family.amin(-1)).repeat_interleave(4)
        near = ((log - level).abs() <= slack) & (slack > 1e-9)  # not where the density is flat
        siblings = near.reshape(-1, 4).any(-1).repeat_interleave(4)
        fine = cells.chosen(siblings).quarters()
        cells, log = _joined([cells.chosen(~siblings), fine]), torch.cat([log[~siblings], values(fine)])
    area = cells.area()
    total = float((log + area.log()).logsumexp(0))
    level = highest_density_levels(log, area, [prob])[0]
    inside = float(area[log >= level].sum())
    return CredibleRegion(prob, inside * factor, level - total, lambda y: log_density(y) - total)


def _density_and_draws(source: Any, draws: Tensor | None) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The log density and points where it is large."""
    if draws is not None:
        _check_draws("draws", draws, 1)
    if isinstance(source, Tensor):
        _check_draws("source", source, 20)
        estimate = kernel_density(source)
        return estimate.log_prob, estimate.sample((_DRAWS,)) if draws is None else draws
    if isinstance(source, torch.distributions.Distribution):
        if source.batch_shape or source.event_shape != (3,):
            raise ValueError(
                f"source: got batch shape {tuple(source.batch_shape)} and event shape "
                f"{tuple(source.event_shape)}, expected one distribution on the sphere, of event shape (3,). "
                "Give one after the other."
            )
        return source.log_prob, source.sample((_DRAWS,)) if draws is None else draws
    if not callable(source):
        raise ValueError(
            f"source: got {type(source).__name__}, expected draws of shape (n, 3), a distribution on S^2, or a log "
            "density with draws=."
        )
    if draws is None:
        raise ValueError(
            "draws: got None with a log density, expected points where it is large, shape (n, 3)."
        )
    return source, draws


def _check_draws(name: str, x: Tensor, least: int) -> None:
    if x.dim() != 2 or x.shape[-1] != 3 or len(x) < least:
        raise ValueError(
            f"{name}: got shape {tuple(x.shape)}, expected (n, 3), n >= {least} points of the sphere; flatten chains."
        )
    check_point(_SPHERE, name, x)
