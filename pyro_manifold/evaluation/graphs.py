r"""How well points of a manifold stand for the nodes of a graph.

.. math::
    \mathrm{distortion} = \operatorname*{mean}_{i<j} \frac{|s\,d_{ij} - D_{ij}|}{D_{ij}}, \qquad
    \mathrm{mAP} = \operatorname*{mean}_i \operatorname*{mean}_{j \in N_i}
    \frac{|N_i \cap \{k: d_{ik} \le d_{ij}\}|}{|\{k \ne i: d_{ik} \le d_{ij}\}|}

Reference: Sala, De Sa, Gu and Ré, *Representation tradeoffs for hyperbolic embeddings*, ICML 2018, section 2.
"""

from typing import Any

import torch
from torch import Tensor

from ..ops.arguments import checked

__all__ = ["distortion", "graph_map"]


def _check(distances: Tensor, other: Tensor, name: str) -> None:
    n = distances.shape[-1]
    if distances.dim() < 2 or distances.shape[-2] != n or n < 2 or other.shape != (n, n):
        raise ValueError(
            f"distances, {name}: got shapes {tuple(distances.shape)} and {tuple(other.shape)}; expected (..., n, n) "
            "and (n, n), n at least 2."
        )
    if not torch.equal(other, other.mT):
        raise ValueError(f"{name}: got a matrix that is not symmetric; expected {name} = {name}.mT.")


@checked
def distortion(distances: Tensor, graph: Tensor, *, scale: float | None = None) -> Tensor:
    """Mean relative error of the distances between points, of those between nodes.

    :param distances: between points, ``batch + (n, n)``, such as
        ``geometry(manifold).dist(z.unsqueeze(-2), z.unsqueeze(-3))``.
    :param graph: between nodes, (n, n), positive off the diagonal.
    :param scale: s; by default that of the least mean square of the relative errors, since only ratios of lengths are
        given by a graph.
    :return: shape ``batch``.
    :raises ValueError: for shapes that do not fit, or distances between nodes that are not positive and finite.

    >>> chain = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]])
    >>> distortion(3 * chain, chain), distortion(3 * chain, chain, scale=1.0)
    (tensor(0.), tensor(2.))
    """
    _check(distances, graph, "graph")
    if scale is not None and not 0 < scale < torch.inf:
        raise ValueError(f"scale: got {scale}; expected a positive finite number, or None for the best.")
    i, j = torch.triu_indices(len(graph), len(graph), 1)
    between = graph[i, j].to(distances)
    if not bool(((between > 0) & between.isfinite()).all()):
        raise ValueError("graph: got distances that are not positive and finite; expected a connected graph.")
    ratio = distances[..., i, j] / between
    square = ratio.square().sum(-1, keepdim=True)
    best = ratio.sum(-1, keepdim=True) / torch.where(square > 0, square, 1.0)
    return ((best if scale is None else scale) * ratio - 1).abs().mean(-1)


@checked
def graph_map(distances: Tensor, adjacency: Any) -> Tensor:
    """Mean average precision of neighbours: 1 if those of each node are nearer to it than all others.

    :param distances: between points, ``batch + (n, n)``.
    :param adjacency: which nodes are neighbours, (n, n), symmetric booleans; each node has one at least.
    :return: shape ``batch``.
    :raises ValueError: for shapes that do not fit, or nodes without neighbours.

    >>> line = torch.tensor([0.0, 1.0, 1.5])
    >>> graph_map((line - line[:, None]).abs(), torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]]) == 1)
    tensor(1.)
    """
    if not isinstance(adjacency, Tensor) or adjacency.is_complex() or adjacency.is_meta:
        raise ValueError(f"adjacency: got {type(adjacency).__name__}; expected a tensor of booleans.")
    if not bool(((adjacency == 0) | (adjacency == 1)).all()):
        raise ValueError("adjacency: got other numbers than 0 and 1; expected a tensor of booleans.")
    _check(distances, adjacency, "adjacency")
    near = adjacency.bool() & ~torch.eye(len(adjacency), dtype=torch.bool, device=adjacency.device)
    degree = near.sum(-1)
    if not bool((degree > 0).all()):
        raise ValueError(
            "adjacency: some nodes have no neighbour; expected at least one for each. Leave them out."
        )
    out = []
    for a in range(len(near)):  # one node at a time: n^2 numbers at once, not n^3
        d = distances[..., a, :]
        others = torch.arange(len(near), device=near.device) != a
        within = d[..., others].unsqueeze(-2) <= d[..., near[a]].unsqueeze(-1)
        hits = d[..., near[a]].unsqueeze(-2) <= d[..., near[a]].unsqueeze(-1)
        precision = hits.sum(-1).to(distances.dtype) / within.sum(-1)
        out.append(precision.mean(-1))
    return torch.stack(out, -1).mean(-1)
