"""Credible balls, cones of confidence, regions on the sphere: closed forms, published numbers, coverage."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import geoopt
import pyro.distributions as dist
import pytest
import torch

from pyro_manifold.distributions import (
    Bingham,
    Kent,
    ManifoldUniform,
    ProjectedNormal,
    RiemannianNormal,
    VonMisesFisher,
    WrappedNormal,
    kernel_mixture,
)
from pyro_manifold.geometry import SpecialOrthogonal, geometry
from pyro_manifold.infer import (
    confidence_cone,
    credible_ball,
    credible_region,
    frechet_mean,
    kernel_density,
    manifold_summary,
)
from pyro_manifold.ops.chi import chi_quantile
from pyro_manifold.ops.lon_lat import from_lon_lat

SPHERE, BALL = geoopt.Sphere(), geoopt.PoincareBall()
E = torch.eye(4, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("manifold, center", [(SPHERE, E[0, :3]), (BALL, torch.tensor([0.3, 0.4]).double())])
@pytest.mark.parametrize("kind", ["mean", "medoid"])
def test_balls(manifold: geoopt.Manifold, center: torch.Tensor, kind: str) -> None:
    """It holds the share, and none with a smaller radius does; weights are repetitions; a batch is a loop."""
    x = RiemannianNormal(manifold, center, 0.3).sample((101, 2))
    ball = credible_ball(manifold, x, 0.9, center=kind)
    geo = geometry(manifold)
    distance = geo.dist(ball.center.expand_as(x), x)
    share = (distance <= ball.radius * (1 + 1e-12)).double().mean(0)
    assert bool((share >= 0.9).all()) and bool((share <= 0.9 + 1 / 101).all())
    counts = torch.randint(0, 3, (101,))
    one = credible_ball(manifold, x[:, 1], 0.9, counts.double(), center=kind)
    many = credible_ball(manifold, x[:, 1].repeat_interleave(counts, 0), 0.9, center=kind)
    torch.testing.assert_close(one.center, many.center, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(one.radius, many.radius, atol=1e-7, rtol=1e-7)
    single = credible_ball(manifold, x[:, 1], 0.9, center=kind)
    torch.testing.assert_close(ball.center[1], single.center)
    if kind == "mean":
        torch.testing.assert_close(ball.center, frechet_mean(manifold, x).mean)
    else:
        cost = (
            geo.dist(x[:, None, 1].expand(101, 101, -1), x[None, :, 1].expand(101, 101, -1)).square().sum(1)
        )
        assert torch.equal(single.center, x[cost.argmin(), 1])


def test_radius_of_rotations() -> None:
    """95% of the rotation vectors of a narrow normal lie within 2.795 standard deviations."""
    d = WrappedNormal(SpecialOrthogonal(3), E[:3, :3], torch.tensor([0.01]).double())
    ball = credible_ball(SpecialOrthogonal(3), d.sample((20000,)), unit="degrees")
    expected = math.degrees(0.01 * chi_quantile(0.95, 3))
    assert float(ball.radius) == pytest.approx(expected, rel=0.02)  # a standard error is 0.4%


def test_published_cone() -> None:
    """The documented output of PmagPy's ``fisher_mean``."""
    declination = torch.tensor([140.0, 127.0, 142.0, 136.0]).double().deg2rad()
    inclination = torch.tensor([21.0, 23.0, 19.0, 22.0]).double().deg2rad()
    x = from_lon_lat(declination, inclination)
    cone = confidence_cone(x, unit="degrees")
    assert float(cone.angle) == pytest.approx(7.292891411309177, abs=1e-10)
    lon = torch.atan2(cone.direction[1], cone.direction[0]).rad2deg()
    assert float(lon) == pytest.approx(136.30838974272072, abs=1e-10)
    assert float(cone.direction[2].asin().rad2deg()) == pytest.approx(21.347784026899987, abs=1e-10)
    assert float(x.sum(0).norm()) == pytest.approx(3.9812138971889026, abs=1e-12)


def test_cones_agree_on_large_samples() -> None:
    """Of 2000 rows all methods give the same angle, to the error of the bootstrap and of the concentration."""
    x = VonMisesFisher(E[2, :3], 20.0).sample((2000,))
    fit = VonMisesFisher.fit(x)
    cones = {m: confidence_cone(x, method=m) for m in ("fisher", "large_sample", "bootstrap")}
    cones["likelihood"] = confidence_cone(x, method="likelihood", distribution=fit)
    expected = chi_quantile(0.95, 2) / math.sqrt(2000 * float(fit.concentration * fit.mean.norm()))
    for name, cone in cones.items():
        assert float(cone.angle) == pytest.approx(expected, rel=0.1 if name == "bootstrap" else 0.03), name
        torch.testing.assert_close(cone.direction, fit.loc)
    w = torch.full((2000,), 4.0, dtype=torch.float64)
    assert float(confidence_cone(x, w).angle) == pytest.approx(float(cones["fisher"].angle) / 2, rel=1e-3)
    batch = confidence_cone(torch.stack([x[:30], x[30:60]], 1), method="bootstrap", resamples=50)
    assert batch.direction.shape == (2, 3) and batch.angle.shape == (2,)
    one = confidence_cone(x[:30], method="bootstrap", resamples=50)
    assert float(one.angle) == float(batch.angle[0])


def test_cones_by_other_families() -> None:
    """The ellipse of a Kent distribution: its longer axis, of the spread along the major axis."""
    d = Kent(E[:3, :3], 100.0, 40.0)
    x = d.sample((3000,))
    cone = confidence_cone(x, method="likelihood", distribution=Kent.fit(x))
    expected = chi_quantile(0.95, 2) * math.sqrt(1 / (100 - 80) / 3000)
    assert float(cone.angle) == pytest.approx(expected, rel=0.1)
    y = ProjectedNormal(5 * E[0]).sample((500,))
    other = confidence_cone(y, method="likelihood", distribution=ProjectedNormal.fit(y))
    plain = confidence_cone(y, method="large_sample")
    assert float(other.angle) == pytest.approx(float(plain.angle), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method, n, d", [("fisher", 5, 3), ("large_sample", 50, 5), ("bootstrap", 50, 3), ("likelihood", 100, 3)]
)
def test_coverage_of_cones(method: str, n: int, d: int) -> None:
    """In 1000 data sets the 95% cone holds the true direction 950 times, up to 5 standard errors (35; false alarm
    6e-7) and one per cent for samples of finite size."""
    loc = torch.nn.functional.one_hot(torch.tensor(0), d).double()
    x = VonMisesFisher(loc, 10.0).sample((n, 1000))
    options: dict[str, Any] = {}
    if method == "likelihood":
        options["distribution"] = VonMisesFisher.fit(x)
    cone = confidence_cone(x, method=method, resamples=200, **options)
    off = geometry(SPHERE).dist(cone.direction, loc.expand(1000, d))
    assert abs(float((off <= cone.angle).double().mean()) - 0.95) < 0.045


@pytest.mark.parametrize(
    "k, prob",
    [
        (0.5, 0.95),
        (1e8, 0.5),
        *(pytest.param(k, p, marks=pytest.mark.slow) for k in (10.0, 1e3) for p in (0.5, 0.95)),
    ],
)
def test_area_of_caps(k: float, prob: float) -> None:
    """Of a von Mises-Fisher distribution the region is a cap, of area 2 pi s with 1 - exp(-k s) = p (1 - exp(-2k))."""
    s = -math.log1p(-prob * -math.expm1(-2 * k)) / k
    axis = torch.tensor([0.36, 0.48, 0.8]).double()
    region = credible_region(VonMisesFisher(axis, k), prob)
    assert region.area == pytest.approx(2 * math.pi * s, rel=2e-3)
    level = float(VonMisesFisher(E[0, :3], k).log_prob(E[0, :3])) - k * s
    assert region.level == pytest.approx(level, abs=0.01)
    squares = credible_region(VonMisesFisher(axis, k), prob, unit="square degrees")
    assert squares.area == pytest.approx(math.degrees(math.degrees(2 * math.pi * s)), rel=2e-3)


def test_regions_of_several_parts() -> None:
    """Two caps and a uniform share; an unnormalised function; the whole sphere."""
    pair = dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.5, 0.5]).double()),
        VonMisesFisher(E[:2, :3], torch.tensor([1e4, 1e4]).double()),
    )
    area = -2 * 2 * math.pi * math.log(0.1) / 1e4
    region = credible_region(pair, 0.9)
    assert region.area == pytest.approx(area, rel=5e-3)
    inside = region.contains(torch.stack([E[0, :3], E[1, :3], E[2, :3]]))
    assert inside.tolist() == [True, True, False]
    shifted = credible_region(lambda x: pair.log_prob(x) + 7.0, 0.9, draws=pair.sample((2000,)))
    assert shifted.area == pytest.approx(area, rel=5e-3) and shifted.level == pytest.approx(
        region.level, abs=0.02
    )
    axes = Bingham(torch.diag(torch.tensor([0.0, -50.0, -50.0]).double()))
    both = credible_region(axes, 0.5)
    x = axes.sample((20000,))
    assert float(both.contains(x).double().mean()) == pytest.approx(0.5, abs=5 * 0.0036)
    whole = credible_region(ManifoldUniform(SPHERE, 3), 0.5)
    assert whole.area == pytest.approx(4 * math.pi) or whole.area == pytest.approx(2 * math.pi, rel=0.01)


def test_regions_of_draws() -> None:
    """The kernel estimate widens the region a little; it holds the share of new draws."""
    d = VonMisesFisher(E[2, :3], 200.0)
    x = d.sample((300,))
    region = credible_region(x.float(), 0.9)
    exact = -2 * math.pi * math.log(0.1) / 200
    assert 0.9 < region.area / exact < 1.4
    share = float(region.contains(d.sample((4000,)).float()).double().mean())
    assert 0.85 < share < 0.97
    assert kernel_density(x).component_distribution.concentration[0] > 200


def test_width_of_the_kernels() -> None:
    """It is about as good for new draws as the best of all widths."""
    d = VonMisesFisher(E[2, :3], 50.0)
    x, new = d.sample((2000,)), d.sample((2000,))
    best = max(float(kernel_mixture(x, 50 * 2.0**k, uniform=1e-6).log_prob(new).mean()) for k in range(10))
    limit = float(d.log_prob(new).mean())
    assert limit - float(kernel_density(x).log_prob(new).mean()) < 1.2 * (limit - best) + 1e-3


def test_summary_in_degrees() -> None:
    x = RiemannianNormal(SPHERE, E[2, :3], 0.1).sample((4, 50))
    y = RiemannianNormal(BALL, torch.zeros(2).double(), 0.1).sample((4, 50))
    plain, degrees = (
        manifold_summary({"x": x, "y": y}, {"x": SPHERE, "y": BALL}, unit=u) for u in ("radians", "degrees")
    )
    torch.testing.assert_close(degrees["x"]["scale"], plain["x"]["scale"].rad2deg())
    torch.testing.assert_close(degrees["y"]["scale"], plain["y"]["scale"])
    assert float(degrees["x"]["angles"][0]) < 2 and "angles" not in degrees["y"]
    with pytest.raises(ValueError, match="unit: got 'grad', expected 'radians' or 'degrees'"):
        manifold_summary({"x": x}, {"x": SPHERE}, unit="grad")


X = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0, 0.1], [1.0, 0.2, 0.0], [0.9, -0.1, 0.0]]), dim=-1)


@pytest.mark.parametrize(
    "call, message",
    [
        (partial(credible_ball, SPHERE, X, 1.0), "prob: got 1.0, expected a share between 0 and 1"),
        (partial(credible_ball, SPHERE, 2 * X), "draws: got 1.99"),
        (partial(credible_ball, SPHERE, X, center="mode"), "center: got 'mode', expected 'mean' or 'medoid'"),
        (partial(credible_ball, BALL, 0.1 * X, unit="degrees"), "unit: got 'degrees' on .*no angles"),
        (partial(credible_ball, SPHERE, X, weights=torch.ones(2)), "weights: got shape"),
        (partial(confidence_cone, X, method="exact"), "method: got 'exact', expected one of 'fisher'"),
        (partial(confidence_cone, torch.eye(4)), "method: got 'fisher' for directions in 4 dimensions"),
        (partial(confidence_cone, torch.cat([X, -X])), "x: the unit vectors cancel"),
        (partial(confidence_cone, X, method="likelihood"), "distribution: got None with method='likelihood'"),
        (partial(confidence_cone, X, unit="turns"), "unit: got 'turns'"),
        (partial(credible_region, X), r"source: got shape \(3, 3\), expected \(n, 3\), n >= 20"),
        (partial(credible_region, VonMisesFisher(X, 2.0)), r"source: got batch shape \(3,\)"),
        (partial(credible_region, lambda x: x.sum(-1)), "draws: got None with a log density"),
        (partial(credible_region, 3), "source: got int"),
        (partial(credible_region, VonMisesFisher(X[0], 2.0), unit="acres"), "unit: got 'acres'"),
    ],
)
def test_bad_input(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_axes_have_no_mean_direction() -> None:
    d = Bingham(torch.diag(torch.tensor([0.0, -5.0, -9.0]).double()))
    x = d.sample((200,))
    with pytest.raises(
        ValueError, match="distribution: got Bingham, whose mode is no differentiable function"
    ):
        confidence_cone(x, method="likelihood", distribution=Bingham.fit(x))
