"""Manifolds with known densities: mass by chords and triangles, draws against the density, distances against a
search."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from pyro_manifold.datasets import (
    GaussianOnCircle,
    Helix,
    InterlockedCircles,
    PolynomialSurface,
    SphereMixture,
    SwissRoll,
    TorusOfRevolution,
    TrefoilKnot,
)
from pyro_manifold.datasets.curves import KnownCurve
from pyro_manifold.datasets.known_manifold import KnownManifold

F64 = torch.float64
CURVES = [TrefoilKnot, InterlockedCircles, Helix]
SURFACES = [SphereMixture, TorusOfRevolution, SwissRoll]


def chords(curve: KnownCurve, i: int, n: int = 4001) -> tuple[Tensor, Tensor]:
    """Middles of the chords of a fine polygon, and the probability of each: density times length."""
    t = torch.linspace(0, curve.length, n, dtype=F64)
    x = curve.curve(t, i)[0]
    middle = curve.curve((t[1:] + t[:-1]) / 2, i)[0]
    return middle, curve.log_prob(middle).exp() * (x[1:] - x[:-1]).norm(dim=-1)


ALL: list[Any] = [*CURVES, *SURFACES, GaussianOnCircle, PolynomialSurface]


@pytest.mark.parametrize("make", ALL)
def test_numbers_and_shapes_that_do_not_fit(make: Any) -> None:
    known = make()
    log_prob = partial(known.log_prob, theta=0.0) if make is PolynomialSurface else known.log_prob
    for n in (0, 1):
        assert log_prob(known.sample(n)).shape == (n,)
    for n in (-1, 2.5, "a", True, None):
        with pytest.raises(ValueError, match="n: got .*expected an integer"):
            known.sample(n)
    with pytest.raises(ValueError, match="seed: got -1"):
        known.sample(2, seed=-1)
    d = known.sample(1).shape[-1]
    functions = [
        log_prob,
        *(getattr(known, f) for f in ("distance", "project", "component") if hasattr(known, f)),
    ]
    for f in functions:
        for bad in (torch.zeros(4, d + 1), torch.zeros(d - 1), torch.tensor(0.0)):
            with pytest.raises(ValueError, match="x: got shape .*expected points"):
                f(bad)
    if make is not SphereMixture:  # whose distributions say that it is no point
        assert log_prob(torch.full((2, d), math.nan)).isnan().all()


@pytest.mark.parametrize("make", CURVES)
def test_mass_and_draws_of_curves(make: type[KnownCurve]) -> None:
    """Shares of the mass by chords, and the draws' distribution function on each piece: Kolmogorov-Smirnov tests
    with a false-alarm rate of 1e-3 each, at a fixed seed."""
    curve = make()
    x = curve.sample(4000, seed=1)
    which = curve.component(x)
    for i, w in enumerate(curve.weights):
        middle, p = chords(curve, i)
        assert float(p.sum()) == pytest.approx(w, abs=1e-5)  # second order in the step
        assert float((which == i).double().mean()) == pytest.approx(w, abs=0.04)  # 5 standard errors
        place = torch.cdist(x[which == i], middle).argmin(-1)
        below = (
            p.cumsum(0) - p + p * torch.rand(len(p), dtype=F64, generator=torch.Generator().manual_seed(0))
        )
        assert kstest((below[place] / w).numpy(), "uniform").pvalue > 1e-3
    assert float(curve.distance(x).max()) < 1e-9


@pytest.mark.parametrize("make", CURVES)
def test_derivatives_of_curves(make: type[KnownCurve]) -> None:
    curve, t = make(), torch.tensor([0.3, 1.1, 5.0], dtype=F64)
    for i in range(curve.components):
        _, v = torch.func.jvp(lambda s, i=i: curve.curve(s, i)[0], (t,), (torch.ones_like(t),))
        torch.testing.assert_close(curve.curve(t, i)[1], v)


@pytest.mark.parametrize("make", [*CURVES, *SURFACES])
def test_distance(make: type[KnownManifold]) -> None:
    """The nearest of 200000 draws is no nearer than the projection, and hardly farther."""
    truth = make()
    x = truth.sample(50, seed=2) + 0.1 * torch.randn(
        50, 3, dtype=F64, generator=torch.Generator().manual_seed(3)
    )
    dense = truth.sample(200_000, seed=4)
    nearest = torch.cdist(x, dense).amin(-1)
    d = truth.distance(x)
    assert bool((d <= nearest + 1e-9).all())
    size = (dense.amax(0) - dense.amin(0)).max()
    # rare places have few draws; a neighbour at distance s along the manifold is s^2 / 2d farther away
    assert float((nearest - d).median()) < 2e-3 * float(size)
    assert float(truth.distance(truth.project(x)).max()) < 1e-9


def test_mass_of_the_torus() -> None:
    """Area of triangles that know no Jacobian."""
    torus, n = TorusOfRevolution(), 241
    a = torch.linspace(-math.pi, math.pi, n, dtype=F64)
    x = torus.point(*torch.meshgrid(a, a, indexing="ij"))
    o, b, c, e = x[:-1, :-1], x[1:, :-1], x[:-1, 1:], x[1:, 1:]
    area = sum(torch.linalg.cross(p - s, q - s).norm(dim=-1) / 2 for s, p, q in ((o, b, c), (e, b, c)))
    p = torus.log_prob(x).exp()
    mean = (p[:-1, :-1] + p[1:, :-1] + p[:-1, 1:] + p[1:, 1:]) / 4
    assert float((mean * area).sum()) == pytest.approx(1, abs=2e-3)
    angles = torus.angles(torus.sample(20_000, seed=0))
    # moments of 1 + a cos: E cos = a / 2; 5 standard errors
    assert float(angles[0].cos().mean()) == pytest.approx(0.3, abs=0.025)
    assert float((angles[1] - 1).cos().mean()) == pytest.approx(0.3, abs=0.025)


def test_mass_of_the_swiss_roll() -> None:
    roll, n = SwissRoll(), 2001
    t = torch.linspace(*roll.ends, n, dtype=F64)
    x = torch.stack([t * t.cos(), torch.full_like(t, 3.0), t * t.sin()], -1)
    p = roll.log_prob((x[1:] + x[:-1]) / 2).exp()
    assert float((p * (x[1:] - x[:-1]).norm(dim=-1)).sum()) * roll.height == pytest.approx(1, abs=1e-4)


def test_mass_and_draws_of_the_sphere() -> None:
    """Mass by Monte Carlo over the sphere (5 standard errors); the same draws as from the components."""
    sphere = SphereMixture()
    even = torch.nn.functional.normalize(
        torch.randn(200_000, 3, dtype=F64, generator=torch.Generator()), dim=-1
    )
    p = sphere.log_prob(even).exp() * 4 * math.pi
    assert float(p.mean()) == pytest.approx(1, abs=5 * float(p.std()) / len(p) ** 0.5)
    x = sphere.sample(20_000, seed=0)
    exact = 0.3 * (1 / math.tanh(10) - 0.1)  # of vMF: coth k - 1/k
    assert x.mean(0).tolist() == pytest.approx([exact, 0, -exact], abs=0.02)


def test_overshoot_of_the_swiss_roll() -> None:
    roll = SwissRoll()
    for end, out in ((roll.ends[0], -0.1), (roll.ends[1], 0.1)):
        t = torch.tensor(end + out, dtype=F64)
        x = torch.stack([t * t.cos(), t * 0 + 1, t * t.sin()], -1)
        assert float(roll.overshoot(x)) == pytest.approx(0.1 * end, rel=1e-6)
    assert roll.overshoot(torch.tensor([5.0, -2.0, 0.0])) == 2.0
