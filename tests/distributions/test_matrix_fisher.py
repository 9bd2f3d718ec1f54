"""The matrix Fisher distribution of SO(3). Statistical bounds are 5 standard errors (false alarm 6e-7
each)."""

import math

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor
from torch.distributions import kl_divergence

import pyro_manifold.distributions as mdist
from pyro_manifold.geometry import SpecialOrthogonal, geometry

SO3 = SpecialOrthogonal(3)


def within_5_se(draws: Tensor, expected: Tensor) -> None:
    error = (draws.mean(0) - expected).abs() / (draws.std(0) / math.sqrt(len(draws)) + 1e-12)
    assert float(error.max()) < 5, f"{float(error.max()):.1f} standard errors off"


def one_dimensional(s: tuple[float, float, float]) -> float:
    """log c(diag s), by Lee's integral over one variable (2018, thm 2.1), for Riemannian volume: Gauss's rule of 64
    nodes in each of five pieces."""
    a, b, c = s
    cuts = np.array([-1, -0.9, 0, 0.9, 0.99, 1])
    x, w = np.polynomial.legendre.leggauss(64)
    half = np.diff(cuts)[:, None] / 2
    u = cuts[:-1, None] + half * (1 + x)
    factors = [
        abs(a - b) * (1 - u) / 2,
        abs(a + b) * (1 + u) / 2,
    ]  # of Bessel functions, scaled by exponentials
    weights = half * w * special.ive(0, factors[0]) * special.ive(0, factors[1]) / 2
    return math.log(8 * math.pi**2) + float(special.logsumexp(sum(factors) + c * u, b=weights))


@pytest.mark.parametrize(
    "s", [(0.0, 0.0, 0.0), (1.0, 0.5, -0.2), (10.0, 3.0, 1.0), (50.0, 20.0, -20.0), (100.0, 100.0, 100.0)]
)
def test_normaliser(s: tuple[float, float, float]) -> None:
    distribution = mdist.MatrixFisher(torch.diag(torch.tensor(s, dtype=torch.float64)))
    eye = torch.eye(3, dtype=torch.float64)
    assert abs(float(distribution.log_prob(eye)) - (sum(s) - one_dimensional(s))) < 1e-11


@pytest.mark.parametrize("scale", [0.0, 1.0, 20.0, 1000.0])
def test_moments_of_draws(scale: float) -> None:
    distribution = mdist.MatrixFisher(scale * torch.randn(3, 3, dtype=torch.float64))
    r = distribution.sample((40_000,))
    assert bool(distribution.support.check(r).all())
    within_5_se(r.flatten(1), distribution.mean.flatten())
    within_5_se(-distribution.log_prob(r), distribution.entropy())
    assert bool((distribution.log_prob(distribution.mode) >= distribution.log_prob(r) - 1e-9).all())


def test_mode_is_the_nearest_rotation() -> None:
    f = torch.randn(20, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(mdist.MatrixFisher(f).mode, geometry(SO3).project(f))


def test_concentrated_is_normal() -> None:
    r = mdist.MatrixFisher(1e4 * torch.eye(3, dtype=torch.float64)).sample((20_000,))
    v = geometry(SO3).log_frame(torch.eye(3, dtype=torch.float64), r)
    within_5_se(v.square(), torch.full((3,), 1 / 2e4, dtype=torch.float64))


def test_translation() -> None:
    """R -> U R V carries the distribution of F to that of U F V."""
    f, (u, v) = (
        torch.randn(3, 3, dtype=torch.float64),
        geometry(SO3).uniform_sample((2,), (3, 3), dtype=torch.float64),
    )
    r = mdist.MatrixFisher(f).sample((10,))
    torch.testing.assert_close(
        mdist.MatrixFisher(u @ f @ v).log_prob(u @ r @ v), mdist.MatrixFisher(f).log_prob(r)
    )


def test_gradients_at_repeated_singular_values() -> None:
    f = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    r = geometry(SO3).uniform_sample((), (3, 3), dtype=torch.float64)
    (g,) = torch.autograd.grad(mdist.MatrixFisher(f).log_prob(r), f)
    torch.testing.assert_close(g, r)  # the uniform distribution has mean 0
    f = torch.eye(3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: mdist.MatrixFisher(f).log_prob(r), f)
    assert torch.autograd.gradcheck(lambda f: mdist.MatrixFisher(f).entropy(), f)
    assert torch.autograd.gradcheck(lambda f: mdist.MatrixFisher(f).mean, f)


def test_kl() -> None:
    p, q = (mdist.MatrixFisher(2 * torch.randn(3, 3, dtype=torch.float64)) for _ in range(2))
    uniform = mdist.ManifoldUniform(SO3, (3, 3), dtype=torch.float64)
    r = p.sample((40_000,))
    for other in (q, uniform):
        within_5_se(p.log_prob(r) - other.log_prob(r), kl_divergence(p, other))
    assert abs(float(kl_divergence(p, p))) < 1e-12
    assert abs(float(kl_divergence(mdist.MatrixFisher(torch.zeros(3, 3).double()), uniform))) < 1e-12


def test_float32() -> None:
    f = torch.diag(torch.tensor([1e4, 5e3, 5e3]))
    r = mdist.MatrixFisher(f).sample((1000,))
    exact = mdist.MatrixFisher(f.double()).log_prob(geometry(SO3).project(r.double()))
    assert float((mdist.MatrixFisher(f).log_prob(r) - exact).abs().max()) < 1e-4


@pytest.mark.parametrize(
    "matrix, match",
    [
        (torch.zeros(2, 2), r"matrix: got shape \(2, 2\), expected \(..., 3, 3\)"),
        (torch.full((3, 3), math.inf), "matrix: got inf.*expected finite numbers"),
    ],
)
def test_errors(matrix: Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        mdist.MatrixFisher(matrix, validate_args=True)


def test_a_reflection_is_rejected() -> None:
    distribution = mdist.MatrixFisher(torch.zeros(3, 3), validate_args=True)
    with pytest.raises(ValueError, match="support"):
        distribution.log_prob(-torch.eye(3))
