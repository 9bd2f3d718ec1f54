r"""Triangulations of the sphere: an icosahedron whose edges are divided into f parts, :math:`10f^2+2` vertices."""

import torch
from torch import Tensor

from .pairwise import pairwise_distances

__all__ = ["icosphere"]


def icosphere(frequency: int) -> tuple[Tensor, Tensor]:
    """Vertices, unit vectors (v, 3) in float64, and triangles, indices (t, 3), outwards counterclockwise.

    >>> vertices, triangles = icosphere(2)
    >>> vertices.shape, triangles.shape
    (torch.Size([42, 3]), torch.Size([80, 3]))
    """
    g = (1 + 5**0.5) / 2
    signs = [(a, b) for a in (-1.0, 1.0) for b in (-1.0, 1.0)]
    corners = [(a, b * g, 0.0) for a, b in signs] + [(0.0, a, b * g) for a, b in signs]
    corners += [(b * g, 0.0, a) for a, b in signs]
    x = torch.tensor(corners, dtype=torch.float64)
    near = (pairwise_distances(x, x) - 2).abs() < 1e-6
    triples = torch.combinations(torch.arange(12), 3)
    a, b, c = triples.unbind(-1)
    faces = triples[near[a, b] & near[b, c] & near[a, c]]
    faces = torch.where(torch.linalg.det(x[faces])[:, None] > 0, faces, faces.flip(-1))
    f = frequency
    steps = torch.tensor(
        [(a, b, f - a - b) for a in range(f + 1) for b in range(f + 1 - a)], dtype=torch.float64
    )
    number = {(int(a), int(b)): i for i, (a, b, _) in enumerate(steps.tolist())}
    small = [(number[a, b], number[a + 1, b], number[a, b + 1]) for a in range(f) for b in range(f - a)]
    small += [
        (number[a + 1, b], number[a + 1, b + 1], number[a, b + 1])
        for a in range(f - 1)
        for b in range(f - 1 - a)
    ]
    points = steps / f @ x[faces]  # (20, n, 3)
    points = points / points.norm(dim=-1, keepdim=True)
    flat = points.flatten(0, 1)
    _, index = (flat * 1e8).round().long().unique(dim=0, return_inverse=True)
    vertices = torch.zeros(int(index.max()) + 1, 3, dtype=torch.float64)
    vertices[index] = flat
    offset = len(steps) * torch.arange(20)[:, None, None]
    return vertices, index[(torch.tensor(small) + offset).flatten(0, 1)]
