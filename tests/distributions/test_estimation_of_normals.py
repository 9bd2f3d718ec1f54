"""Estimators of normal distributions on manifolds, against closed forms and independent maxima."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import geoopt
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import torch

from pyro_manifold.distributions import (
    IsotropicGaussian,
    ManifoldUniform,
    ProductDistribution,
    RiemannianNormal,
    VonMisesFisher,
    Watson,
    WrappedNormal,
    standard_errors,
)
from pyro_manifold.geometry import SpecialOrthogonal, Torus
from pyro_manifold.testing import check_fit

LINE, SPHERE, BALL, TORUS = geoopt.Euclidean(ndim=1), geoopt.Sphere(), geoopt.PoincareBall(), Torus()
E = torch.eye(4, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_in_flat_space() -> None:
    """Mean and covariance, with their textbook errors."""
    x = torch.randn(100, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64)
    fit = WrappedNormal.fit(LINE, x)
    torch.testing.assert_close(fit.loc, x.mean(0), atol=1e-12, rtol=0)
    torch.testing.assert_close(fit.covariance_matrix, x.T.cov(correction=0), atol=1e-11, rtol=0)
    diagonal = WrappedNormal.fit(LINE, x, covariance="diagonal")
    torch.testing.assert_close(diagonal.scale, x.std(0, correction=0), atol=1e-12, rtol=0)
    errors = standard_errors(diagonal, x)
    torch.testing.assert_close(errors["loc"], diagonal.scale / 10, atol=1e-12, rtol=0)
    torch.testing.assert_close(errors["scale"], diagonal.scale / math.sqrt(200), atol=1e-12, rtol=0)
    full = standard_errors(fit, x)
    torch.testing.assert_close(full["loc"], diagonal.scale / 10, atol=1e-12, rtol=0)
    assert full["scale_tril"].shape == (3, 3) and float(full["scale_tril"].triu(1).abs().max()) == 0
    # of the first entry of the Cholesky factor, a standard deviation
    assert float(full["scale_tril"][0, 0]) == pytest.approx(float(diagonal.scale[0]) / math.sqrt(200))
    round_ = RiemannianNormal.fit(LINE, x)
    assert float(round_.scale) == pytest.approx(float(x.var(0, correction=0).mean().sqrt()))
    assert float(standard_errors(round_, x)["scale"]) == pytest.approx(
        float(round_.scale) / math.sqrt(600), rel=1e-6
    )


@pytest.mark.parametrize("sign, manifold", [(1, SPHERE), (-1, geoopt.Lorentz())])
def test_riemannian_by_quadrature(sign: int, manifold: geoopt.Manifold) -> None:
    """The scale maximises a likelihood whose normaliser is scipy's quadrature."""
    loc = E[0, :3]
    x = RiemannianNormal(manifold, loc, 0.8).sample((50,))
    fit = RiemannianNormal.fit(manifold, x)
    square = float(fit.geometry.dist(fit.loc, x).square().mean())

    def cost(scale: float) -> float:
        area = math.sin if sign > 0 else math.sinh
        end = math.pi if sign > 0 else 12.0
        z = scipy.integrate.quad(lambda r: area(r) * math.exp(-0.5 * (r / scale) ** 2), 0, end, limit=200)[0]
        return 0.5 * square / scale**2 + math.log(2 * math.pi * z)

    best = scipy.optimize.minimize_scalar(cost, bounds=(0.2, 2.0), method="bounded", options=dict(xatol=1e-9))
    assert float(fit.scale) == pytest.approx(best.x, abs=1e-6)
    curvature = (cost(best.x + 1e-3) - 2 * cost(best.x) + cost(best.x - 1e-3)) / 1e-6
    assert float(standard_errors(fit, x)["scale"]) == pytest.approx((50 * curvature) ** -0.5, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-5, 1.0])
def test_scales(scale: float) -> None:
    loc = torch.tensor([0.3, -0.2]).double()
    check_fit(partial(RiemannianNormal.fit, BALL), RiemannianNormal(BALL, loc, scale), n=60)
    near = WrappedNormal(BALL, loc, scale * torch.tensor([1.0, 0.5]).double())
    check_fit(partial(WrappedNormal.fit, BALL, covariance="diagonal"), near, n=60)


def test_spread_rows_have_a_wide_and_finite_scale() -> None:
    """About their Fréchet mean rows never spread more than uniform ones, whose variance is the mean of that about
    all points."""
    axes = torch.cat([E[:3, :3], -E[:3, :3]])
    assert 5 < float(RiemannianNormal.fit(SPHERE, axes).scale) < math.inf
    nearly = RiemannianNormal.fit(SPHERE, torch.cat([axes, E[1:2, :3]]))
    assert 1.5 < float(nearly.scale) < 5
    crossed = torch.stack([E[0, :2], -E[0, :2], E[1, :2], -E[1, :2]])
    assert 2 < float(RiemannianNormal.fit(SPHERE, crossed).scale) < math.inf


def test_on_the_circle() -> None:
    """A wrapped normal of one angle, against scipy without derivatives and windings written down."""
    angle = (1.4 * torch.randn(80, dtype=torch.float64) + 3.0).numpy()
    turns = 2 * math.pi * np.arange(-4, 5)

    def cost(p: np.ndarray) -> float:
        u = (angle[:, None] - p[0] + turns + math.pi) / 1.0 - math.pi
        one = np.exp(-0.5 * (u / p[1]) ** 2).sum(1) / (p[1] * math.sqrt(2 * math.pi))
        return -float(np.log(one).sum())

    best = scipy.optimize.minimize(
        cost, [3.0, 1.0], method="Nelder-Mead", options=dict(xatol=1e-8, fatol=1e-11)
    )
    fit = WrappedNormal.fit(TORUS, torch.tensor(angle).unsqueeze(-1))
    assert float(fit.scale) == pytest.approx(best.x[1], abs=1e-5)
    assert math.cos(float(fit.loc) - best.x[0]) == pytest.approx(1, abs=1e-9)
    x = torch.tensor(np.stack([np.cos(angle), np.sin(angle)], -1))
    same = WrappedNormal.fit(SPHERE, x)
    assert float(same.scale) == pytest.approx(best.x[1], abs=1e-5)


def test_where_there_are_poles() -> None:
    """On a sphere: the Fréchet mean, and the best covariance for it."""
    d = WrappedNormal(SPHERE, E[2, :3], torch.tensor([0.9, 0.4]).double())
    x = d.sample((300,))
    fit = WrappedNormal.fit(SPHERE, x, covariance="diagonal")
    v = fit.geometry.log_frame(fit.loc.expand_as(x), x)
    torch.testing.assert_close(v.mean(0), torch.zeros(2).double(), atol=1e-9, rtol=0)
    value = fit.log_prob(x).mean()
    for factor in ([1.01, 1.0], [0.99, 1.0], [1.0, 1.01], [1.0, 0.99]):
        other = WrappedNormal(SPHERE, fit.loc, fit.scale * torch.tensor(factor).double())
        assert float(other.log_prob(x).mean()) < float(value)
    assert standard_errors(fit, x)["loc"].shape == (2,)
    wide = WrappedNormal.fit(SPHERE, x, covariance="isotropic", truncated=True)
    assert wide.truncated and abs(float(wide.scale[0]) - 0.7) < 0.15


def test_products() -> None:
    """Part by part; errors are those of the parts, a uniform part has none."""
    manifold = geoopt.ProductManifold((SPHERE, 3), (SPHERE, 3), (BALL, 2))
    normal = RiemannianNormal(BALL, torch.zeros(2).double(), 0.5)
    truth = ProductDistribution(
        manifold, [VonMisesFisher(E[0, :3], 9.0), ManifoldUniform(SPHERE, 3).expand(()), normal]
    )
    x = torch.cat(
        [
            VonMisesFisher(E[0, :3], 9.0).sample((80,)),
            VonMisesFisher(E[0, :3], 0.0).sample((80,)),
            normal.sample((80,)),
        ],
        -1,
    )
    assert truth.event_shape == x.shape[-1:]
    fits = [VonMisesFisher.fit, lambda x, w: ManifoldUniform(SPHERE, 3), partial(RiemannianNormal.fit, BALL)]
    w = torch.rand(80, dtype=torch.float64)
    fit = ProductDistribution.fit(manifold, x, fits, w)
    errors = standard_errors(fit, x, w)
    assert list(errors) == ["0.loc", "0.concentration", "2.loc", "2.scale"]
    one = standard_errors(VonMisesFisher.fit(x[:, :3], w), x[:, :3], w)
    torch.testing.assert_close(errors["0.loc"], one["loc"])
    torch.testing.assert_close(errors["0.concentration"], one["concentration"])


def test_watson_girdle_and_bipolar() -> None:
    for k in (-1e6, -5.0, 5.0, 1e6):
        d = Watson(E[1], k)
        x = d.sample((200,))
        fit = Watson.fit(x)
        assert abs(float(fit.concentration) / k - 1) < 0.5
        assert abs(float(fit.loc @ E[1])) > 0.8
        assert float((fit.log_prob(x) - d.log_prob(x)).mean()) > -1e-10


@pytest.mark.slow
@pytest.mark.parametrize("manifold", [BALL, SPHERE], ids=["ball", "sphere"])
def test_errors_of_repeated_samples(manifold: geoopt.Manifold) -> None:
    """The spread of 300 fits of the scale is that of the mean standard error, to 20% (5 standard errors of a
    standard deviation; false alarm 1e-6)."""
    loc = torch.tensor([0.3, -0.2]).double() if manifold is BALL else E[0, :3]
    fits, errors = [], []
    for _ in range(300):
        x = RiemannianNormal(manifold, loc, 0.7).sample((100,))
        fit = RiemannianNormal.fit(manifold, x)
        fits.append(fit.scale)
        errors.append(standard_errors(fit, x)["scale"])
    torch.testing.assert_close(torch.stack(errors).mean(), torch.stack(fits).std(), rtol=0.2, atol=0)


ROWS = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.8, 0.0, 0.6]])


@pytest.mark.parametrize(
    "call, message",
    [
        (
            partial(RiemannianNormal.fit, TORUS, torch.zeros(5, 2)),
            "manifold: got Torus, expected one of constant",
        ),
        (partial(RiemannianNormal.fit, SPHERE, ROWS[:1].repeat(5, 1)), "x: all rows .* equal .* scale is 0"),
        (partial(RiemannianNormal.fit, SPHERE, ROWS[:1]), "x: got 1 rows, expected at least 2"),
        (partial(WrappedNormal.fit, SPHERE, ROWS[:2]), "x: the rows have no spread in some direction"),
        (partial(WrappedNormal.fit, SPHERE, 2 * ROWS), "x: got 2, 0, 0"),
        (
            partial(WrappedNormal.fit, SPHERE, ROWS, covariance="round"),
            "covariance: got 'round', expected one of",
        ),
        (
            partial(WrappedNormal.fit, SPHERE, ROWS, truncated=True),
            "covariance: got 'full' with truncated=True",
        ),
        (
            partial(WrappedNormal.fit, SpecialOrthogonal(4), E.expand(3, 4, 4)),
            "x: all rows of positive weight",
        ),
        (
            partial(IsotropicGaussian.fit, E[:3, :3].expand(3, 3, 3)),
            "x: all rows of positive weight are equal",
        ),
        (
            partial(ProductDistribution.fit, geoopt.ProductManifold((SPHERE, 3)), ROWS, []),
            "fits: got 0 functions; expected one for each of the 1 factors",
        ),
    ],
)
def test_bad_input(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
