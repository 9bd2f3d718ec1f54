r"""Are ranks uniform? The tests and the picture behind simulation-based calibration.

For S ranks on :math:`\{0,\dots,L\}`, with :math:`N_k = \#\{s : r_s < k\}` binomial,
:math:`N_k\sim\mathrm{Bin}(S, k/(L+1))`:

.. math:: \gamma = \min_k 2\min\{F_k(N_k),\, 1-F_k(N_k-1)\}

is the smallest pointwise two-sided tail, and its null distribution (simulated) gives a p-value and a
simultaneous band [1].

[1] Säilynoja, Bürkner & Vehtari, *Graphical test for discrete uniformity*, Stat. Comput. 32 (2022), section
2.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["Band", "bins_for", "chi_square", "ecdf_band", "ecdf_test"]

_TRIALS = 10_000  # simulations of the null: p-values are resolved to 1e-4


@dataclass(frozen=True)
class Band:
    """Simultaneous bounds for the empirical distribution of uniform ranks:
    ``lower <= ecdf(points) <= upper``."""

    points: Tensor
    lower: Tensor
    upper: Tensor


def bins_for(simulations: int, num_draws: int) -> int:
    """Most equal bins (at most 32) of the ``num_draws + 1`` ranks with at least 5 expected simulations
    each."""
    values = num_draws + 1
    return max(
        b for b in range(1, min(32, values) + 1) if values % b == 0 and (b <= 2 or simulations >= 5 * b)
    )


def chi_square(ranks: Tensor, num_draws: int, bins: int | None = None) -> float:
    r"""p-value of :math:`\sum_b (O_b - S/B)^2/(S/B)` against :math:`\chi^2_{B-1}`.

    >>> chi_square(torch.arange(64) % 8, 7), chi_square(torch.zeros(64, dtype=torch.long), 7) < 1e-20
    (1.0, True)
    """
    bins = bins_for(len(ranks), num_draws) if bins is None else bins
    if (num_draws + 1) % bins or bins < 2:
        raise ValueError(
            f"bins: got {bins}; expected a divisor, at least 2, of the {num_draws + 1} possible ranks."
        )
    seen = torch.bincount(ranks.long() * bins // (num_draws + 1), minlength=bins).double()
    expected = len(ranks) / bins
    x2 = ((seen - expected).square() / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((bins - 1) / 2, dtype=torch.float64), x2 / 2))


@lru_cache(16)
def _tails(simulations: int, num_draws: int) -> tuple[Tensor, Tensor]:
    """Two-sided tail of each count 0..S at each point 1..L, shape ``(L, S + 1)``; and the sorted null
    distribution of the smallest."""
    s, f64 = simulations, torch.float64
    n = torch.arange(s + 1, dtype=f64)
    z = torch.arange(1, num_draws + 1, dtype=f64).unsqueeze(-1) / (num_draws + 1)
    choose = torch.lgamma(torch.tensor(s + 1.0, dtype=f64)) - torch.lgamma(n + 1) - torch.lgamma(s - n + 1)
    pmf = (choose + n * z.log() + (s - n) * torch.log1p(-z)).exp()
    below, above = pmf.cumsum(-1), pmf.flip(-1).cumsum(-1).flip(-1)
    tail = (2 * torch.minimum(below, above)).clamp(max=1.0)
    null, generator = [], torch.Generator().manual_seed(0)
    for start in range(0, _TRIALS, 1000):
        r = torch.randint(num_draws + 1, (min(1000, _TRIALS - start), s), generator=generator)
        null.append(_smallest(r, num_draws, tail))
    return tail, torch.cat(null).sort().values


def _smallest(ranks: Tensor, num_draws: int, tail: Tensor) -> Tensor:
    """The statistic for each row of ranks."""
    flat = ranks + (num_draws + 1) * torch.arange(len(ranks)).unsqueeze(-1)
    seen = torch.bincount(flat.flatten(), minlength=len(ranks) * (num_draws + 1)).reshape(len(ranks), -1)
    counts = seen.cumsum(-1)[:, :-1]
    return tail.expand(len(ranks), -1, -1).gather(-1, counts.unsqueeze(-1)).amin((-1, -2))


def ecdf_test(ranks: Tensor, num_draws: int) -> float:
    """Simulated p-value that the whole empirical distribution is one of uniform ranks; sensitive to any
    departure.

    >>> ecdf_test(torch.arange(64) % 8, 7) > 0.5, ecdf_test(torch.arange(64) % 4, 7) < 1e-3
    (True, True)
    """
    tail, null = _tails(len(ranks), num_draws)
    smallest = _smallest(ranks.long().unsqueeze(0), num_draws, tail)[0]
    return float((1 + torch.searchsorted(null, smallest * (1 + 1e-12), right=True)) / (1 + _TRIALS))


def ecdf_band(simulations: int, num_draws: int, prob: float = 0.95) -> Band:
    """The band that contains the whole empirical distribution of uniform ranks with probability ``prob``.

    >>> band = ecdf_band(100, 9)
    >>> bool(((band.lower < band.points) & (band.points < band.upper)).all())
    True
    """
    if not 0 < prob < 1:
        raise ValueError(f"prob: got {prob}, expected a probability between 0 and 1.")
    tail, null = _tails(simulations, num_draws)
    inside = tail >= null[int((1 - prob) * len(null))]
    n = torch.arange(simulations + 1)
    lower = torch.where(inside, n, simulations + 1).amin(-1)
    upper = torch.where(inside, n, -1).amax(-1)
    points = torch.arange(1, num_draws + 1, dtype=torch.float64) / (num_draws + 1)
    return Band(points, lower.double() / simulations, upper.double() / simulations)
