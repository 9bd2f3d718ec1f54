"""Energy distance against a closed form and a loop; pieces of samples."""

import math

import pytest
import torch

from pyro_manifold.evaluation import connected_components, energy_distance


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


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"x, y: got shapes \(5, 3\) and \(5, 2\)"):
        energy_distance(torch.zeros(5, 3), torch.zeros(5, 2))
    with pytest.raises(ValueError, match="x, radius: got shape"):
        connected_components(torch.zeros(5, 3), 0.0)
