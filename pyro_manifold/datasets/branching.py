"""Noisy observations of a branching diffusion: data with a hidden tree."""

import torch
from torch import Tensor

from ..ops.arguments import checked

__all__ = ["branching_diffusion"]


@checked(dim=1, depth=0, children=1, copies=1, variance=0, noise_factor=0, seed=0)
def branching_diffusion(
    *,
    dim: int = 50,
    depth: int = 6,
    children: int = 2,
    variance: float = 1.0,
    copies: int = 5,
    noise_factor: float = 5.0,
    standardize: bool = True,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""Noisy copies of the nodes of a tree whose children diffuse away from their parent.

    .. math::
        y_0 = 0, \qquad y_i \sim N(y_{\mathrm{parent}(i)},\, \sigma^2 I), \qquad
        x_{ij} \sim N(y_i,\, \tfrac{\sigma^2}{f} I), \quad j = 1, \dots, m

    and then every coordinate of the rows :math:`x_{ij}` is standardised to mean 0 and (population) standard
    deviation 1. With the defaults: 127 nodes, 635 rows of 50 numbers. The nodes themselves are not in the
    data.

    Simulated here by the protocol of E. Mathieu et al., "Continuous hierarchical representations with
    Poincaré variational auto-encoders", NeurIPS 2019 (section 5.1; the sizes are those of the published
    script).

    :param dim: number of coordinates.
    :param depth: number of generations below the root.
    :param children: children of each node.
    :param variance: :math:`\sigma^2`, a variance.
    :param copies: m, the rows per node.
    :param noise_factor: f, how much smaller the variance of the copies is.
    :param standardize: standardise the coordinates.
    :param seed: the tree and the noise; torch's global generator is not touched.
    :return: rows of shape (nodes * copies, dim) in torch's default dtype, and the node of each row. Nodes are
        numbered level by level from the root 0: the parent of node i is ``(i - 1) // children``.
    :raises ValueError: for sizes below 1 (depth below 0) or variances that are not positive.

    >>> x, node = branching_diffusion()
    >>> tuple(x.shape), int(node.max())
    ((635, 50), 126)
    """
    for name, value in (("variance", variance), ("noise_factor", noise_factor)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}: got {value!r}; expected a positive finite number.")
    if standardize and depth == 0 and copies == 1:
        raise ValueError(
            "standardize: a single row has no standard deviation; expected more copies, or standardize=False."
        )
    gen = torch.Generator().manual_seed(seed)

    def noise(rows: int, var: float) -> Tensor:
        return var**0.5 * torch.randn(rows, dim, generator=gen, dtype=torch.float64)

    level = torch.zeros(1, dim, dtype=torch.float64)
    levels = [level]
    for _ in range(depth):
        level = level.repeat_interleave(children, 0)
        level = level + noise(len(level), variance)
        levels.append(level)
    nodes = torch.cat(levels)
    node = torch.arange(len(nodes)).repeat_interleave(copies)
    x = nodes[node] + noise(len(node), variance / noise_factor)
    if standardize:
        x = (x - x.mean(0)) / x.std(0, correction=0)
    return x.to(torch.get_default_dtype()), node
