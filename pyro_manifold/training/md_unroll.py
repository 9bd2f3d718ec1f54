r"""A start for the M phase: coordinates by lengths of paths along the rows, which unroll what is rolled up
(Isomap).

.. math::
    D_{ij} = \text{length of the shortest path from } x_i \text{ to } x_j \text{ along edges to near
    neighbours}, \qquad -\tfrac12 H D^2 H \approx C C^T, \quad C \in \mathbb R^{m \times n}, \qquad
    \min_g \mathbb E\,|x - g(c)|^2 + |e(c) - f^{-1}(x)|^2, \quad g = f \circ e

Edges beyond which paths from one row meet again from another side are cut, so that a circle or a torus comes
apart at a seam: the image of :math:`\mathbb R^n` covers all but that. Reconstruction errors alone leave a map
that starts as the principal subspace in the nearest fold: rows of two sheets have the same coordinates there.
With coordinates that are known, learning g is a regression, without such traps. Reference: Tenenbaum, de
Silva and Langford, *A global geometric framework for nonlinear dimensionality reduction*, Science 2000.
"""

import math

import torch
from torch import Tensor

from ..models.manifold_flow import ManifoldFlow
from ..ops.pairwise import pairwise_distances
from .loop import Loop, fit
from .md_floor import distances
from .md_losses import spread
from .phase import Phase

__all__ = ["geodesic_coordinates", "unroll_start"]

LANDMARKS = 600  # rows between which paths are measured


def geodesic_coordinates(x: Tensor, dim: int, neighbours: int = 10) -> tuple[Tensor, bool] | None:
    """Coordinates of the rows ``x`` with mean 0 and covariance 1, shape ``(rows, dim)``, and whether a seam
    was cut for them; None where rows are few, or the paths have fewer dimensions. More neighbours are taken
    where fewer leave the rows in pieces.

    >>> t = torch.linspace(0, 5, 100)  # an arc of a circle
    >>> c, cut = geodesic_coordinates(torch.stack([t.cos(), t.sin()], -1), 1)
    >>> bool(torch.corrcoef(torch.stack([c[:, 0], t]))[0, 1].abs() > 0.9999), cut
    (True, False)
    """
    rows, widest = len(x), (x - x.mean(0)).abs().amax()
    if rows < 10 * (dim + 1):
        return None
    x = ((x - x.mean(0)) / widest).double()
    apart = pairwise_distances(x, x)
    while True:
        near = min(neighbours, rows - 1)
        reach = apart.topk(near + 1, largest=False).values[:, -1:]
        edges = torch.where((apart <= reach) | (apart <= reach.mT), apart, torch.inf)
        paths = _lengths(edges)
        if bool(paths.isfinite().all()):
            break
        neighbours *= 2
    opened, cut = _cut(edges, paths), False
    if not torch.equal(opened, edges):
        longer = _lengths(opened)
        cut = bool(longer.isfinite().all())
        paths = longer if cut else paths
    gram = paths.square()
    gram = -0.5 * (gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean())
    value, vector = torch.linalg.eigh(gram)
    if not bool(value[-dim] > 1e-8 * value[-1]):
        return None
    return vector[:, -dim:] * rows**0.5, cut


def _lengths(edges: Tensor) -> Tensor:
    """Of shortest paths (Floyd and Warshall)."""
    paths = edges.clone()
    for k in range(len(paths)):
        torch.minimum(paths, paths[:, k : k + 1] + paths[k : k + 1], out=paths)
    return paths


def _cut(edges: Tensor, paths: Tensor) -> Tensor:
    """Edges without those whose ends are reached from row 0 on different sides: halfway the paths to them are
    apart by more than half of what is left to go, although the ends are neighbours."""
    far = paths[0]
    through = far.unsqueeze(-1) + edges
    before = through.fill_diagonal_(torch.inf).argmin(0)
    before[0] = 0
    halfway = torch.arange(len(far), device=far.device)
    while True:
        back = torch.where(far[halfway] > 0.5 * far, before[halfway], halfway)
        if torch.equal(back, halfway):
            break
        halfway = back
    length = 0.5 * (far.unsqueeze(-1) + far)
    around = (paths[halfway][:, halfway] > 0.5 * length) & (length > 3 * edges[edges.isfinite()].max())
    return torch.where(around, torch.inf, edges)


def unroll_start(flow: ManifoldFlow, loop: Loop) -> bool:
    """Fit the manifold to coordinates along the rows if it is as far from them as their principal subspace;
    True if that brings its image closer by a fifth (by a twentieth where a seam was cut)."""
    train = loop.rows(loop.train_index)
    ours, plane = distances(flow, loop)
    unit = spread(train)
    steps, phase = loop.passes[0] * loop.batches, loop.stages[0][0].phase
    if steps < 4 or ours < 0.5 * plane or plane < 1e-3 * unit:
        return False
    x = train[:LANDMARKS]
    found = geodesic_coordinates(x, flow.transform.dim)
    with torch.no_grad():
        now = flow.transform.inv(x).double()
    if found is None or not bool(now.isfinite().all()):
        return False
    c, cut = found
    share = 1.0 if cut else 0.25  # the two sides of a seam are close to each other: that takes longer
    left, _, right = torch.linalg.svd(c.mT @ (now - now.mean(0)))  # turned to be close to those of the flow
    c = (c @ left @ right).to(x)

    def loss(x: Tensor, c: Tensor) -> Tensor:
        forward = (flow.transform._call(c) - x) / unit
        back = flow.transform.preimage_error(x, c)
        return 100 * (forward.square().mean() + back.square().mean())

    passes = math.ceil(share * steps / math.ceil(len(x) / loop.batch_size))
    regression = Phase(
        "unroll", loss, phase.parameters, optimizer=phase.optimizer, lr=phase.lr, warmup=phase.warmup,
        epochs=passes, seconds=min(share, 0.5) * phase.seconds,
    )  # fmt: skip
    try:
        fit(
            [regression], (x, c), model=flow, batch_size=loop.batch_size, validation=None, seed=loop.seed,
            clock=loop.clock, disable_progbar=True,
        )  # fmt: skip
    except ValueError:  # of a loss that is not finite: what the phase itself says of it counts
        return False
    with torch.no_grad():
        image = float((flow.transform(c) - x).double().square().sum(-1).mean().sqrt())
    return image < (0.95 if cut else 0.8) * plane  # the shape is right, whether or not its inverse is yet
