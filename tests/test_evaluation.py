"""Energy distance against a closed form and a loop; pieces of samples."""

import math
from functools import partial
from typing import Any

import pytest
import torch

from pyro_manifold.evaluation import (
    classifier_two_sample,
    connected_components,
    distortion,
    energy_distance,
    frechet_distance,
    graph_map,
    grid_mmd2,
    mmd2,
    ood_auc,
    roc_auc,
)

TWO_SAMPLES: dict[str, Any] = {
    "energy_distance": energy_distance,
    "frechet_distance": frechet_distance,
    "mmd2": mmd2,
    "classifier_two_sample": lambda x, y: classifier_two_sample(x, y, folds=2, epochs=2)[0],
    "connected_components": lambda x, y: connected_components(torch.cat([x, y]), 0.4, least=0.0),
}


def test_energy_distance_of_normals() -> None:
    """E|x - y| of normals in one dimension is known: 2 sigma phi(m / sigma) + m (2 Phi(m / sigma) - 1) with sigma^2 = 2.
    5 standard errors of 4000 draws, about 0.06."""
    torch.manual_seed(0)
    m, s = 1.5, math.sqrt(2)
    apart = 2 * s * math.exp(-(m**2) / 4) / math.sqrt(2 * math.pi) + m * math.erf(m / 2)
    exact = 2 * apart - 2 * 2 / math.sqrt(math.pi)
    x, y = torch.randn(4000), torch.randn(4000) + m
    assert energy_distance(x, y) == pytest.approx(exact, abs=0.06)
    assert energy_distance(x, torch.randn(4000)) == pytest.approx(0, abs=0.01)


def test_energy_distance_against_a_loop() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(7, 3), torch.randn(5, 3) + 1

    def mean(a: torch.Tensor, b: torch.Tensor, same: bool) -> float:
        pairs = [
            float((p - q).norm()) for i, p in enumerate(a) for j, q in enumerate(b) if not (same and i == j)
        ]
        return sum(pairs) / len(pairs)

    exact = 2 * mean(x, y, False) - mean(x, x, True) - mean(y, y, True)
    assert energy_distance(x, y) == pytest.approx(exact, abs=1e-5)


def test_connected_components() -> None:
    x = torch.tensor([0.0, 0.1, 0.2, 1.0, 1.1, 9.0])[:, None]
    assert [connected_components(x, r) for r in (0.05, 0.2, 0.9, 10.0)] == [6, 3, 2, 1]
    assert connected_components(x, 0.2, least=0.3) == 2  # the lonely point is stray


@pytest.mark.parametrize("name", TWO_SAMPLES)
@pytest.mark.parametrize("d", [2, 70])
def test_samples_far_from_the_origin(name: str, d: int) -> None:
    """What compares two samples does not depend on the origin. A million away, float64 holds ten digits of what is
    between two points; the rounding of their squares would leave four."""
    x, y = torch.randn(2, 60, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 / d**0.5
    y = y + 0.3
    here, there = TWO_SAMPLES[name](x, y), TWO_SAMPLES[name](x + 1e6, y + 1e6)
    assert there == pytest.approx(here, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("name", TWO_SAMPLES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_rows_that_are_not_finite_are_named(name: str, value: float) -> None:
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    bad = x.index_fill(0, torch.tensor([3]), value)
    for pair in ((bad, x), (x, bad)):
        with pytest.raises(ValueError, match="[xy]: 1 of [24]0 rows are not finite"):
            TWO_SAMPLES[name](*pair)


HALF, CHAIN = torch.full((2,), 0.5), torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (partial(mmd2, CHAIN, CHAIN, scale=-1.0), "scale: got -1.0; expected a positive finite length.$"),
        (partial(mmd2, CHAIN, CHAIN, scale=math.inf), "scale: got inf"),
        (partial(mmd2, CHAIN, torch.ones(3, 3)), "scale: got 0.0; .* Is the sample y mostly one point"),
        (partial(grid_mmd2, HALF, HALF, torch.arange(2.0), scale=0.0), "scale: got 0.0"),
        (partial(grid_mmd2, -HALF, HALF, torch.arange(2.0)), "p: got .*expected probabilities"),
        (partial(grid_mmd2, HALF, 2 * HALF, torch.arange(2.0)), "truth: got .*expected probabilities"),
        (partial(grid_mmd2, HALF * math.nan, HALF, torch.arange(2.0)), "p: got .*expected probabilities"),
        (partial(distortion, CHAIN, CHAIN, scale=-1.0), "scale: got -1.0; expected a positive"),
        (partial(distortion, CHAIN, CHAIN.triu() + 1), "graph: got a matrix that is not symmetric"),
        (partial(graph_map, CHAIN, CHAIN.triu() == 1), "adjacency: got a matrix that is not symmetric"),
        (partial(graph_map, CHAIN, CHAIN), "adjacency: got other numbers than 0 and 1"),
        (partial(graph_map, CHAIN, [[0, 1], [1, 0]]), "adjacency: got list"),
        (partial(roc_auc, HALF, HALF * math.nan), "positive: got shape"),
        (partial(ood_auc, HALF, HALF[:0]), "outside: got shape"),
        (partial(connected_components, CHAIN, 1.0, least=-1.0), "least: got -1.0"),
    ],
)
def test_wrong_numbers(call: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()


def test_scores_of_two_dtypes() -> None:
    assert roc_auc(torch.tensor([0.0, 0.1], dtype=torch.float64), torch.tensor([0.1, 1.0])) == 1.0


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"x, y: got shapes \(5, 3\) and \(5, 2\)"):
        energy_distance(torch.zeros(5, 3), torch.zeros(5, 2))
    with pytest.raises(ValueError, match="x, radius: got shape"):
        connected_components(torch.zeros(5, 3), 0.0)
