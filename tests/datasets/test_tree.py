"""Trees: distances against breadth-first search, starts whose edges have their length, and the two figures of merit."""

import math
from collections import deque

import geoopt
import pytest
import torch

from pyro_manifold.datasets import exception_tree, sarkar_embedding, tree_distances, tree_layout
from pyro_manifold.evaluation import distortion, graph_map
from pyro_manifold.geometry import geometry

D = torch.float64
PARENTS = [0, 0, 0, 1, 1, 2, 3, 3, 3, 6]


def distances(manifold: geoopt.Manifold, z: torch.Tensor) -> torch.Tensor:
    return geometry(manifold).dist(z.unsqueeze(-2), z.unsqueeze(-3))


def search(parents: list[int]) -> torch.Tensor:
    n = len(parents)
    near: list[set[int]] = [set() for _ in range(n)]
    for i in range(1, n):
        near[i].add(parents[i])
        near[parents[i]].add(i)
    out = torch.full((n, n), math.inf)
    for start in range(n):
        out[start, start], queue = 0.0, deque([start])
        while queue:
            i = queue.popleft()
            for j in near[i]:
                if out[start, j] == math.inf:
                    out[start, j] = out[start, i] + 1
                    queue.append(j)
    return out


def test_distances_are_those_of_a_search() -> None:
    names, parents = exception_tree()
    assert torch.equal(tree_distances(PARENTS), search(PARENTS))
    assert torch.equal(tree_distances(parents), search(parents))
    assert tree_distances([0]).shape == (1, 1)
    assert len(names) == len(parents) > 50 and issubclass(FileNotFoundError, OSError)
    assert names[parents[names.index("FileNotFoundError")]] == "OSError"


@pytest.mark.parametrize(
    "manifold", [geoopt.Lorentz(), geoopt.PoincareBall(), geoopt.Euclidean(1)], ids=lambda m: m.name
)
def test_edges_have_their_length(manifold) -> None:
    z = sarkar_embedding(manifold, PARENTS, 1.5)
    assert z.dtype == D and geometry(manifold).contains(z).all()
    edge = distances(manifold, z)[range(1, 10), PARENTS[1:]]
    torch.testing.assert_close(edge, torch.full_like(edge, 1.5), rtol=1e-6, atol=0)
    flat = tree_layout(PARENTS, 2.0)
    assert torch.allclose(flat.norm(dim=-1), 2 * tree_distances(PARENTS)[0])


def test_long_edges_make_a_good_embedding_and_too_long_ones_are_refused() -> None:
    names, parents = exception_tree()
    graph = tree_distances(parents).to(D)
    short, long = (
        distances(geoopt.Lorentz(), sarkar_embedding(geoopt.Lorentz(), parents, e)) for e in (1.0, 4.0)
    )
    assert distortion(long, graph) < 0.11 < 0.2 < distortion(short, graph)
    assert graph_map(long, graph == 1) == 1.0 > graph_map(short, graph == 1)
    with (
        pytest.warns(RuntimeWarning, match="beyond the radius"),
        pytest.raises(ValueError, match="edge: got 20.*shorter"),
    ):
        sarkar_embedding(geoopt.PoincareBall(), parents, 20.0)


def test_distortion_and_precision_by_loops() -> None:
    torch.manual_seed(0)
    z = torch.randn(4, 10, 2, dtype=D)
    d, graph = torch.cdist(z, z), tree_distances(PARENTS).to(D)
    adjacency = graph == 1
    for k in range(4):
        errors, grid = [], torch.linspace(0.01, 3, 3000, dtype=D)
        for i in range(10):
            errors += [d[k, i, j] / graph[i, j] for j in range(i)]
        ratio = torch.stack(errors)
        best = grid[(grid[:, None] * ratio - 1).square().mean(-1).argmin()]
        assert float(distortion(d, graph)[k]) == pytest.approx(
            float((best * ratio - 1).abs().mean()), abs=2e-3
        )
        precision = []
        for i in range(10):
            near = [j for j in range(10) if adjacency[i, j]]
            own = []
            for j in near:
                ball = [m for m in range(10) if m != i and d[k, i, m] <= d[k, i, j]]
                own.append(len(set(ball) & set(near)) / len(ball))
            precision.append(sum(own) / len(own))
        assert float(graph_map(d, adjacency)[k]) == pytest.approx(sum(precision) / 10)
    assert distortion(2 * graph, graph) == 0 and graph_map(graph, adjacency) == 1


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: tree_distances([0, 2, 0]), r"parents: got \[0, 2, 0\].*earlier one"),
        (lambda: tree_layout([]), "parents: got"),
        (lambda: distortion(torch.zeros(3, 3), torch.zeros(2, 2)), r"shapes \(3, 3\) and \(2, 2\)"),
        (lambda: distortion(torch.ones(2, 2), torch.zeros(2, 2)), "graph: .*not positive"),
        (lambda: graph_map(torch.ones(2, 2), torch.zeros(2, 2)), "adjacency: some nodes have no neighbour"),
    ],
)
def test_bad_input(call, match) -> None:
    with pytest.raises(ValueError, match=match):
        call()
