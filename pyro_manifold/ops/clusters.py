r"""Clusters of rows by k-means, started from rows that are far apart (k-means++).

.. math:: \min_{c_1, \dots, c_K} \sum_i \min_k |x_i - c_k|^2

Reference: Arthur and Vassilvitskii, *k-means++: the advantages of careful seeding*, SODA 2007.
"""

import torch
from torch import Tensor

from .checks import check_all
from .pairwise import pairwise_distances

__all__ = ["k_means"]


def k_means(x: Tensor, k: int, seed: int = 0, steps: int = 100) -> tuple[Tensor, Tensor]:
    """Centres ``(k, d)`` and the number of the nearest centre for each row of ``x``.

    :raises ValueError: unless ``x`` has the shape ``(rows, d)`` with at least k rows, all of them finite.

    >>> centres, which = k_means(torch.tensor([[0.0], [1.0], [9.0]]), 2)
    >>> centres[which].squeeze(-1)
    tensor([0.5000, 0.5000, 9.0000])
    """
    if x.dim() != 2 or not 1 <= k <= len(x):
        raise ValueError(
            f"x, charts: got shape {tuple(x.shape)} and {k}; expected (rows, d) and 1 to as many charts as "
            f"rows."
        )
    check_all(x.isfinite().all(-1), "x", x, "finite rows", "Remove or impute them.")
    draws = torch.Generator().manual_seed(seed)
    centres = x[torch.randint(len(x), (1,), generator=draws)]
    for _ in range(k - 1):
        far = pairwise_distances(x, centres).amin(-1).square().double().cpu()
        centres = torch.cat([centres, x[torch.multinomial(far + 1e-300, 1, generator=draws).to(x.device)]])
    which = pairwise_distances(x, centres).argmin(-1)
    for _ in range(steps):
        one = torch.nn.functional.one_hot(which, k).to(x)
        count = one.sum(0).unsqueeze(-1)
        centres = torch.where(count > 0, one.mT @ x / count.clamp_min(1), centres)
        new = pairwise_distances(x, centres).argmin(-1)
        if torch.equal(new, which):
            break
        which = new
    return centres, which
