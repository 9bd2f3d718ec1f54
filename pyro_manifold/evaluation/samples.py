"""What tells two samples apart without a kernel: energy distance, and the number of pieces."""

import torch
from torch import Tensor

from ..ops.arguments import checked
from ..ops.pairwise import pairwise_distances

__all__ = ["connected_components", "energy_distance", "two_samples"]


def two_samples(x: Tensor, y: Tensor, least: int = 2, why: str = "") -> tuple[Tensor, Tensor]:
    """Both samples in float64, shapes ``(n, d)`` and ``(m, d)``, n and m at least ``least``; ``(n,)`` is ``(n, 1)``.

    :raises ValueError: for other shapes, or rows that are not finite.
    """
    x, y = (s.unsqueeze(-1) if s.dim() == 1 else s for s in (x, y))
    if (
        x.dim() != 2
        or y.dim() != 2
        or x.shape[1] != y.shape[1]
        or not x.shape[1]
        or min(len(x), len(y)) < least
    ):
        raise ValueError(
            f"x, y: got shapes {tuple(x.shape)} and {tuple(y.shape)}; expected (n, d) and (m, d), n and m at least "
            f"{least}{why}."
        )
    return finite_rows("x", x), finite_rows("y", y)


def finite_rows(name: str, sample: Tensor) -> Tensor:
    bad = int((~sample.isfinite().all(-1)).sum())
    if bad:
        raise ValueError(
            f"{name}: {bad} of {len(sample)} rows are not finite; leave them out and say how many."
        )
    return sample.detach().double()


@checked
def energy_distance(x: Tensor, y: Tensor) -> float:
    r"""Energy distance of two samples in Euclidean space, unbiased.

    .. math:: 2\,\mathrm E|x - y| - \mathrm E|x - x'| - \mathrm E|y - y'|

    It has no scale to choose, and the units of the data.

    :param x: sample, (n, d) or (n,).
    :param y: sample, (m, d) or (m,).
    :return: may be slightly negative. Two samples of the truth give the floor to read it against.
    :raises ValueError: for samples of fewer than two points or of different dimension, or values that are not finite.

    Reference: Szekely and Rizzo, J. Stat. Plan. Inference 143 (2013), eq. 2.

    >>> a = torch.randn(500, generator=torch.Generator().manual_seed(0))
    >>> abs(energy_distance(a[:250], a[250:])) < 0.02, energy_distance(a, a + 2) > 1
    (True, True)
    """
    x, y = two_samples(x, y)
    cross = sum(float(pairwise_distances(part, y).sum()) for part in x.split(1024)) / (len(x) * len(y))
    return 2 * cross - float(torch.pdist(x).mean()) - float(torch.pdist(y).mean())


@checked(least=0)
def connected_components(x: Tensor, radius: float, *, least: float = 0.01) -> int:
    """How many pieces a sample has, if points nearer to each other than ``radius`` are of one piece.

    :param x: sample, (n, d).
    :param radius: longer than the gaps between neighbouring points of a piece, shorter than those between pieces.
    :param least: share of the points that a piece must have to count; the others are stray.
    :raises ValueError: for another shape, values that are not finite, or a radius that is not positive.

    >>> connected_components(torch.tensor([[0.0], [0.1], [0.2], [5.0], [5.1]]), radius=0.5)
    2
    """
    if x.dim() != 2 or not len(x) or not radius > 0:
        raise ValueError(
            f"x, radius: got shape {tuple(x.shape)} and {radius}; expected (n, d), n at least 1, and a positive length."
        )
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components as components

    x = finite_rows("x", x)
    near = pairwise_distances(x, x) < radius
    _, label = components(csr_matrix(near.cpu().numpy()), directed=False)
    return int((torch.from_numpy(label).long().bincount() >= least * len(x)).sum())
