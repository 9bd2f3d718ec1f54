r"""How close to the rows can any smooth surface of dimension n come? The distances to planes through near
neighbours.

.. math::
    e^2 = \frac{k}{k - n - 1} \operatorname{mean}_i \big(\lambda^{(i)}_{n+1} + \dots + \lambda^{(i)}_d\big),
    \qquad \lambda^{(i)}_1 \ge \lambda^{(i)}_2 \ge \dots \text{ the variances of the } k \text{ rows nearest
    to } x_i

Few neighbours are a cloud as round as the noise is, many bend with the surface; k is the number at which the
rows look most like a surface, :math:`\lambda_n / \lambda_{n+1}` largest. References: Fukunaga and Olsen, IEEE
Trans. Computers 1971 (local principal components); Little, Maggioni and Rosasco, *Multiscale geometric
methods*, ACHA 2017 (scales).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.manifold_flow import ManifoldFlow
from ..ops.pairwise import pairwise_distances
from ..transforms.injective import principal_axes
from .loop import Loop
from .md_losses import spread
from .verdict import verdict

__all__ = ["distances", "local_noise", "review_manifold"]

ROWS, CENTRES, MOST = 2000, 128, 256  # enough for a share of ten per cent


def local_noise(x: Tensor, dim: int) -> float:
    """The root mean squared distance e of the rows ``x`` from a surface of dimension ``dim``; NaN where they
    look like none: at no scale are they three times as wide along it as across.

    >>> _ = torch.manual_seed(0)
    >>> t = 6 * torch.rand(1000)
    >>> x = torch.stack([t.cos(), t.sin()], -1)
    >>> local_noise(x, 1) < 0.001, 0.008 < local_noise(x + 0.01 * torch.randn_like(x), 1) < 0.015
    (True, True)
    """
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:ROWS].to(x.device)
    rows = x[order].double()
    rows = (rows - rows.mean(0)) / (rows - rows.mean(0)).abs().amax()
    near = pairwise_distances(rows[:CENTRES], rows).topk(min(MOST, len(rows)), largest=False).indices
    best, noise = 9.0, torch.nan
    k = 4 * (dim + 1)
    while k <= min(near.shape[1], len(rows) // 2):
        chunks = near[:, :k].split(max(1, 2**22 // (k * x.shape[1])))  # a few tens of megabytes
        variance = torch.cat([_variances(rows[index]) for index in chunks])
        across = variance[:, dim:].sum(-1)
        ratio = float((variance[:, dim - 1] / variance[:, dim].clamp_min(1e-30)).log().mean().exp())
        if ratio > best:
            best, noise = ratio, float((across.mean() * k / (k - dim - 1)).sqrt())
        k *= 2
    return noise * float((x[order] - x[order].mean(0)).abs().amax())


def _variances(part: Tensor) -> Tensor:
    """Principal variances of sets of rows, shape ``(sets, rows, d)``, the largest first."""
    part = part - part.mean(1, keepdim=True)
    gram = part @ part.mT if part.shape[1] < part.shape[2] else part.mT @ part
    return torch.linalg.eigvalsh(gram).flip(-1).clamp_min(0) / part.shape[1]


@torch.no_grad()
def distances(flow: ManifoldFlow, loop: Loop) -> tuple[float, float]:
    """Root mean squared distances of the validation rows from the manifold and from the principal subspace."""
    x, train = loop.rows(loop.val_index), loop.rows(loop.train_index)
    error = torch.cat([flow.denoise(part) - part for part in x.split(4 * loop.batch_size)])
    loc, axes, _ = principal_axes(train)
    rest = (x - loc) @ axes[:, flow.transform.dim :]
    ours, plane = (t.double().square().sum(-1).mean().sqrt().item() for t in (error, rest))
    return ours, plane


def review_manifold(flow: ManifoldFlow, loop: Loop, start: float, losses: Sequence[float]) -> list[str]:
    """What is wrong with a fitted manifold: its losses, and that it is far from the rows. Nothing where it is
    as near as the rows are to any smooth surface."""
    if not losses:
        return []
    ours, plane = distances(flow, loop)
    train = loop.rows(loop.train_index)
    noise = local_noise(train, flow.transform.dim)
    if ours < max(1e-3 * spread(train), 0.05 * plane) or ours < 1.5 * noise:
        return []
    said = verdict("M", start, losses)
    if not ours < 0.95 * plane or ours > max(3 * noise, plane / 3):
        near = f"that of planes through near neighbours is {noise:.4g}"
        said.append(
            f"phase M: the manifold is far from the rows: rms distance {ours:.4g} on validation rows, "
            f"where that of the principal subspace of dimension {flow.transform.dim} is {plane:.4g} and "
            f"{near if noise == noise else 'near neighbours are on no plane'}. Training has stalled, or no one "
            "chart covers the rows; try more passes, depth=, kind='spline', another seed, or several charts "
            "(ManifoldMixture)."
        )
    return said
