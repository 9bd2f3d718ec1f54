"""Inverses of mean resultant lengths, put back into what they invert."""

import pytest
import torch

from pyro_manifold.ops.gamma_ratio import digamma_difference
from pyro_manifold.ops.inverse_ratio import inverse_bessel_ratio, inverse_digamma_difference
from pyro_manifold.ops.special import bessel_ratio

K = torch.logspace(-6, 14, 60, dtype=torch.float64)


@pytest.mark.parametrize("order", [0.0, 0.5, 1.0, 9.0, 149.5, 511.0])
def test_bessel(order: float) -> None:
    """The rounding of 1 - A limits small concentrations, that of nothing the large ones."""
    back = inverse_bessel_ratio(bessel_ratio(K, order)[1], order)
    allowed = 1e-12 * K + 1e-14 * (2 * order + 2)
    assert bool(((back - K).abs() <= allowed).all()), ((back - K) / K).abs().max()
    assert float(inverse_bessel_ratio(torch.tensor(1.0).double(), order)) == 0
    assert float(inverse_bessel_ratio(torch.tensor(1e-9).double(), order, most=10.0)) == 10


@pytest.mark.parametrize("b", [0.5, 1.0, 7.5, 149.5])
def test_digamma(b: float) -> None:
    back = inverse_digamma_difference(digamma_difference(K + b, b), b)
    assert bool(((back - K).abs() <= 1e-9 * K + 1e-13 * b).all()), ((back - K) / K).abs().max()
