"""Estimators: generic checks on every case of the registry, scipy, independent maxima, extremes, bad input."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import geoopt
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import torch
from cases import DISTRIBUTIONS, DistributionCase, tensors

import pyro_manifold.distributions as md
from pyro_manifold.distributions import (
    AngularCentralGaussian,
    Bingham,
    Kent,
    MatrixFisher,
    PowerSpherical,
    ProductDistribution,
    ProjectedNormal,
    RiemannianNormal,
    VonMisesFisher,
    WrappedCauchy,
    WrappedNormal,
    standard_errors,
)
from pyro_manifold.distributions.estimation.likelihood import derivatives
from pyro_manifold.ops.special import bessel_ratio
from pyro_manifold.testing import check_fit

# families that are given, not estimated; flows are trained
NONE_NEEDED = {
    "Atlas",
    "ConditionalPushforward",
    "ManifoldDistribution",
    "ManifoldUniform",
    "Pushforward",
    "UniformOn",
}
SPHERE = geoopt.Sphere()
E = torch.eye(6, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def case(name: str) -> Any:
    (found,) = (c for c in DISTRIBUTIONS if c.name == name)
    return found.make(**tensors(found.params, dtype=torch.float64))


def fit_of(d: Any) -> Callable[..., Any]:
    """The estimator of the family of ``d``, of covariances of the same kind."""
    if isinstance(d, ProductDistribution):
        return lambda x, w=None: type(d).fit(d.manifold, x, [fit_of(part) for part in d.parts], w)
    if isinstance(d, WrappedNormal):
        kind = "isotropic" if d._isotropic else "diagonal" if d._diagonal else "full"
        return partial(type(d).fit, d.manifold, covariance=kind, truncated=d.truncated)
    return partial(type(d).fit, d.manifold) if isinstance(d, RiemannianNormal) else type(d).fit


def has_maximum(d: Any) -> bool:
    """Wrapped normals have poles on compact curved manifolds."""
    if not isinstance(d, WrappedNormal):
        return True
    return not d.truncated and (d._injective or d.geometry.is_flat or d._dim == 1)


# further members of a family cost the default run time and seldom find anything more
DEFAULT = {
    "acg-S2",
    "inverse-wishart",
    "bingham-S2",
    "kent-S2",
    "matrix-fisher",
    "power-spherical-S3",
    "product-S1xS2",
    "projected-normal-S2",
    "riemannian-S2",
    "riemannian-ball",
    "vmf-S2",
    "watson-S2",
    "wrapped-ball",
    "wrapped-cauchy",
    "wrapped-torus",
    "wrapped-S2",
}
CASES = [
    pytest.param(c, id=c.name, marks=[] if c.name in DEFAULT else [pytest.mark.slow])
    for c in DISTRIBUTIONS
    if type(case(c.name)).__name__ not in NONE_NEEDED
]


def test_every_family_has_an_estimator() -> None:
    classes = [x for x in (getattr(md, n) for n in md.__all__) if isinstance(x, type)]
    lacking = {x.__name__ for x in classes if not hasattr(x, "fit")} - NONE_NEEDED
    assert not lacking, (
        f"give {lacking} a fit(x, weights) and a chart in estimation/families.py, or name it above"
    )


@pytest.mark.parametrize("c", CASES)
def test_registry(c: DistributionCase) -> None:
    d = case(c.name)
    check_fit(fit_of(d), d, n=200, maximum=has_maximum(d))


@pytest.mark.parametrize("n, k", [(2, 0.5), (3, 1e4), (5, 20.0), (40, 20.0), (40, 1e4)])
def test_scipy(n: int, k: float) -> None:
    """scipy solves the same equations for the same maximum, to 1e-6 or so."""
    x = VonMisesFisher(torch.nn.functional.one_hot(torch.tensor(n - 1), n).double(), k).sample((500,))
    mu, kappa = scipy.stats.vonmises_fisher.fit(x.numpy())
    fit = VonMisesFisher.fit(x)
    np.testing.assert_allclose(fit.loc.numpy(), mu, atol=1e-12)
    np.testing.assert_allclose(float(fit.concentration), kappa, rtol=1e-5)


def test_published_numbers() -> None:
    """Glacial striae of Finland (Davis 1986, p. 316), as documented in R's tectonicr: mean resultant length 0.8003694;
    standard error of the mean direction 0.09244732, with the concentration of a series. Mean resultant lengths of
    0.5, 0.8 and 0.9 belong to the concentrations 1.15932, 2.87129 and 5.3047 on the circle, and 0.5 to 1.79676 on
    the sphere: Mardia & Jupp (2000), appendices 2.2 and 3.2."""
    groups = [
        23,
        27,
        53,
        58,
        64,
        83,
        85,
        88,
        93,
        99,
        100,
        105,
        113,
        113,
        114,
        117,
        121,
        123,
        125,
        126,
        126,
        126,
    ]
    groups += [
        127,
        127,
        128,
        128,
        129,
        132,
        132,
        132,
        134,
        135,
        137,
        144,
        145,
        145,
        146,
        153,
        155,
        155,
        155,
        157,
    ]
    groups += [163, 165, 171, 172, 179, 181, 186, 190, 212]
    angle = torch.tensor(groups).double().deg2rad()
    x = torch.stack([angle.cos(), angle.sin()], -1)
    fit = VonMisesFisher.fit(x)
    assert float(fit.mean.norm()) == pytest.approx(0.8003694, abs=1e-7)
    assert float(standard_errors(fit, x)["loc"]) == pytest.approx(0.09244732, rel=3e-3)
    for length, concentration, n in (
        (0.5, 1.15932, 2),
        (0.8, 2.87129, 2),
        (0.9, 5.3047, 2),
        (0.5, 1.79676, 3),
    ):
        pair = torch.zeros(2, n, dtype=torch.float64)
        pair[:, 0], pair[:, 1] = length, torch.tensor([1.0, -1.0]) * math.sqrt(1 - length**2)
        assert float(VonMisesFisher.fit(pair).concentration) == pytest.approx(concentration, abs=6e-5)


def newton_free(f: Callable[[np.ndarray], float], start: Any) -> Any:
    """An independent maximum, without derivatives."""
    options = dict(xatol=1e-7, fatol=1e-12, maxiter=20000, maxfev=20000, adaptive=True)
    return scipy.optimize.minimize(lambda p: -f(p), start, method="Nelder-Mead", options=options)


def test_independent_maxima() -> None:
    """Densities written down here, or scipy's, maximised without derivatives."""
    t = WrappedCauchy(torch.tensor(2.0).double(), 0.7).sample((200,)).numpy()
    best = newton_free(
        lambda p: np.sum(np.log((1 - p[1] ** 2) / (1 + p[1] ** 2 - 2 * p[1] * np.cos(t - p[0])))), [1.5, 0.5]
    )
    fit = WrappedCauchy.fit(torch.tensor(t))
    np.testing.assert_allclose([float(fit.loc), float(fit.concentration)], best.x, atol=1e-5)
    y = PowerSpherical(E[:2, 0], 4.0).sample((200,)).numpy()
    angle = np.arctan2(y[:, 1], y[:, 0])

    def power(p: np.ndarray) -> float:
        norm = p[1] * np.log(2) + scipy.special.betaln(p[1] + 0.5, 0.5)  # over the angle, by hand
        return float(np.sum(p[1] * np.log1p(np.cos(angle - p[0]))) - 200 * norm)

    best, power_fit = newton_free(power, [0.1, 2.0]), PowerSpherical.fit(torch.tensor(y))
    found = [math.atan2(float(power_fit.loc[1]), float(power_fit.loc[0])), float(power_fit.concentration)]
    np.testing.assert_allclose(found, best.x, rtol=1e-4, atol=1e-4)
    z = ProjectedNormal(torch.tensor([1.0, -0.5]).double()).sample((200,)).numpy()

    def projected(p: np.ndarray) -> float:  # Mardia & Jupp, eq. 3.5.48
        a = z @ p
        phi, cdf = scipy.stats.norm.pdf(a), scipy.stats.norm.cdf(a)
        return float(np.sum(-0.5 * p @ p + np.log1p(a * cdf / phi)))

    best = newton_free(projected, [0.5, 0.0])
    np.testing.assert_allclose(ProjectedNormal.fit(torch.tensor(z)).concentration.numpy(), best.x, atol=1e-5)


def test_moments_match() -> None:
    """Maximum likelihood of exponential families matches moments."""
    x = Bingham(torch.diag(torch.tensor([3.0, 0.0, -5.0, 1.0]).double())).sample((300,))
    second = torch.einsum("ni,nj->ij", x, x) / 300
    torch.testing.assert_close(Bingham.fit(x).second_moment, second, rtol=1e-10, atol=1e-12)
    r = case("matrix-fisher").sample((300,))
    torch.testing.assert_close(MatrixFisher.fit(r).mean, r.mean(0), rtol=1e-10, atol=1e-12)
    u = VonMisesFisher(E[0], 7.0).sample((50,))
    torch.testing.assert_close(VonMisesFisher.fit(u).mean, u.mean(0), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("k", [1e-3, 1.0, 1e3, 1e6, 1e12])
@pytest.mark.parametrize("n", [2, 3, 300])
def test_concentrations(k: float, n: int) -> None:
    """The solution of each equation is exact at any concentration: rows whose statistics are those of k give k."""
    loc = torch.nn.functional.one_hot(torch.tensor(0), n).double()
    x = VonMisesFisher(loc, k).sample((200,))
    fit = VonMisesFisher.fit(x)
    fall = 0.5 * (x - fit.loc).square().sum(-1).mean()
    torch.testing.assert_close(bessel_ratio(fit.concentration, n / 2 - 1)[1], fall, rtol=1e-9, atol=0)
    power = PowerSpherical.fit(PowerSpherical(loc, k).sample((200,)))
    assert bool(power.concentration.isfinite())
    if k >= 10 and n < 300:  # a standard error is at most k / sqrt(200) here; 6 of them
        assert abs(float(power.concentration) / k - 1) < 6 / math.sqrt(200)
        assert abs(float(fit.concentration) / k - 1) < 6 / math.sqrt(200)


@pytest.mark.slow
@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 1e3, 1e6])
def test_sizes(size: float) -> None:
    """Likelihoods of fits near uniformity and far from it are at least those of the truth, and stationary."""
    p = ProjectedNormal(size * E[0, :3])
    check_fit(ProjectedNormal.fit, p, n=100)
    check_fit(Bingham.fit, Bingham(size * torch.diag(torch.tensor([1.0, 0.0, -2.0]).double())), n=100)
    check_fit(MatrixFisher.fit, MatrixFisher(size * E[:3, :3]), n=100)
    scale = torch.tensor([1.0, 1 + size, 1.0]).double()
    check_fit(AngularCentralGaussian.fit, AngularCentralGaussian(torch.diag(scale)), n=100)


@pytest.mark.parametrize("k, ratio", [(1e-2, 0.0), (5.0, 0.5), (1e3, 0.3), (1e6, 0.499)])
def test_kent_sizes(k: float, ratio: float) -> None:
    """Also where the condition of one mode holds with equality: there the likelihood has a slope outwards only."""
    d = Kent(E[:3, :3], k, ratio * k)
    x = d.sample((200,))
    fit = Kent.fit(x)
    assert float((fit.log_prob(x) - d.log_prob(x)).mean()) > -1e-10
    assert float(2 * fit.axis_ovalness.max()) <= float(fit.concentration) * (1 + 1e-12)
    for name, change in (("concentration", 1.001), ("axis_ovalness", 0.999)):
        other = {"concentration": fit.concentration, "axis_ovalness": fit.axis_ovalness}
        other[name] = change * other[name]
        worse = Kent(fit.frame, **other)
        assert float((fit.log_prob(x) - worse.log_prob(x)).mean()) > 0


def test_many_dimensions() -> None:
    """200 directions in 301 dimensions."""
    x = VonMisesFisher(torch.nn.functional.one_hot(torch.tensor(5), 301).float(), 500.0).sample((200,))
    fit = VonMisesFisher.fit(x)
    assert fit.loc.dtype == torch.float32 and fit.loc.shape == (301,)
    assert abs(float(fit.concentration) / 500 - 1) < 0.2  # biased upwards by d / n, and its error
    for family, message in (
        (AngularCentralGaussian, "got 200 rows on the sphere in R.301, expected more than 301"),
        (Bingham, "rows lie in a subspace"),
        (Kent, "no spread along some axis"),
    ):
        with pytest.raises(ValueError, match=message):
            family.fit(x)


def test_standard_errors_by_formula() -> None:
    """Of the von Mises-Fisher distribution: Mardia & Jupp, sec. 10.3.1."""
    for n in (2, 4):
        x = VonMisesFisher(E[1, :n], 3.0).sample((400,))
        w = torch.rand(400, dtype=torch.float64)
        fit = VonMisesFisher.fit(x, w)
        ratio, slope = fit.mean.norm(), fit._moments()[1]
        errors = standard_errors(fit, x, w)
        torch.testing.assert_close(errors["concentration"], (w.sum() * slope).rsqrt())
        expected = (w.sum() * fit.concentration * ratio).rsqrt().expand(n - 1)
        torch.testing.assert_close(errors["loc"], expected)
        twice = standard_errors(fit, x.repeat(4, 1), w.repeat(4))
        torch.testing.assert_close(twice["loc"], errors["loc"] / 2)
    pair = VonMisesFisher(E[:2, :3], 8.0).sample((50,))
    both = standard_errors(VonMisesFisher.fit(pair), pair)
    for i in range(2):
        one = standard_errors(VonMisesFisher.fit(pair[:, i]), pair[:, i])
        torch.testing.assert_close(both["loc"][i], one["loc"])
        torch.testing.assert_close(both["concentration"][i], one["concentration"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vmf-S3", "kent-S2", "bingham-S2", "acg-S2", "matrix-fisher"])
def test_standard_errors_are_calibrated(name: str) -> None:
    """The Wald regions of 300 data sets hold the truth: its squared distance from the fit in the metric of the
    information, a quadratic form of the gradient at the truth, has the mean k and the 95% quantile of a chi-square
    distribution, up to 5 standard errors (false alarm 6e-7) and 5% for data sets of finite size."""
    d, n, squares = case(name), 400, []
    for _ in range(300):
        x = d.sample((n,))
        fit = fit_of(d)(x)
        shares = torch.full((n,), 1 / n, dtype=x.dtype)
        _, gradient, _ = derivatives(d, x, shares)
        _, _, information = derivatives(fit, x, shares)
        squares.append(n * float(gradient @ torch.linalg.solve(information, gradient)))
    t, k = torch.tensor(squares), len(gradient)
    assert abs(float(t.mean()) - k) < 5 * math.sqrt(2 * k / 300) + 0.05 * k
    inside = float((t < scipy.stats.chi2(k).ppf(0.95)).double().mean())
    assert abs(inside - 0.95) < 5 * math.sqrt(0.95 * 0.05 / 300)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vmf-S2", "power-spherical-S3", "wrapped-cauchy", "projected-normal-S2"])
def test_errors_of_repeated_samples(name: str) -> None:
    """The spread of 400 fits is that of the mean standard error, to 20% (a standard deviation of 400 has an error
    of 3.5%: 5 of those; false alarm 1e-6)."""
    d = case(name)
    fits, errors = [], []
    for _ in range(400):
        x = d.sample((200,))
        fit = fit_of(d)(x)
        fits.append(torch.as_tensor(fit.concentration).reshape(-1))
        errors.append(standard_errors(fit, x)["concentration"].reshape(-1))
    spread = torch.stack(fits).std(0)
    torch.testing.assert_close(torch.stack(errors).mean(0), spread, rtol=0.2, atol=0)


def test_unidentified_parameters() -> None:
    """The direction of a uniform distribution, and the axes of a round one."""
    x = torch.cat([E[:3, :3], -E[:3, :3]])
    uniform = VonMisesFisher.fit(x)
    assert float(uniform.concentration) == 0
    with pytest.raises(ValueError, match="do not determine its loc: .*no standard error"):
        standard_errors(uniform, x)
    round_ = Kent(E[:3, :3], 5.0, 0.0)
    with pytest.raises(ValueError, match="do not determine its frame"):
        standard_errors(round_, round_.sample((5000,)))


FIRST = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.8, 0.0, 0.6], [0.6, 0.64, 0.48]])


@pytest.mark.parametrize(
    "call, message",
    [
        (partial(VonMisesFisher.fit, FIRST[:1]), "x: got 1 rows, expected at least 2"),
        (partial(VonMisesFisher.fit, FIRST[:0]), "x: got 0 rows"),
        (partial(VonMisesFisher.fit, torch.tensor(1.0)), r"x: got shape \(\), expected \(n,\) \+ batch"),
        (partial(VonMisesFisher.fit, 2 * FIRST), "x: got 2, 0, 0 at index .*points of Sphere"),
        (partial(VonMisesFisher.fit, FIRST * math.nan), "x: got nan, nan, nan"),
        (partial(VonMisesFisher.fit, FIRST[:1].repeat(9, 1)), "all rows of positive weight are equal"),
        (partial(Kent.fit, FIRST[:1].repeat(9, 1)), "all rows of positive weight are equal"),
        (partial(Kent.fit, FIRST[:2, :2]), r"x: got shape \(2, 2\), expected directions in 3 dim"),
        (partial(VonMisesFisher.fit, FIRST, torch.ones(3)), r"weights: got shape \(3,\), expected \(4,\)"),
        (partial(VonMisesFisher.fit, FIRST, torch.tensor([1.0, -1.0, 1.0, 1.0])), "weights: got -1"),
        (partial(VonMisesFisher.fit, FIRST, torch.tensor([1.0, math.inf, 1.0, 1.0])), "weights: got inf"),
        (partial(VonMisesFisher.fit, FIRST, torch.zeros(4)), "weights: all are zero"),
        (partial(VonMisesFisher.fit, FIRST, torch.ones(4, dtype=torch.int64)), "weights: got dtype"),
        (partial(VonMisesFisher.fit, FIRST, torch.tensor([1.0, 0, 0, 0])), "got 1 rows of positive weight"),
        (partial(VonMisesFisher.fit, FIRST.numpy()), "x: got a numpy array"),
        (partial(Bingham.fit, FIRST[:2]), "x: all rows lie in a subspace of fewer dimensions"),
        (partial(MatrixFisher.fit, E[:3, :3].expand(5, 3, 3)), "x: all rows lie in a subspace"),
        (partial(AngularCentralGaussian.fit, FIRST[:3]), "x: got 3 rows on the sphere in R.3"),
        (partial(AngularCentralGaussian.fit, FIRST[[0, 0, 0, 0, 1, 2]]), "x: Tyler's iteration did not"),
        (partial(WrappedCauchy.fit, torch.tensor([1.0, 2.0])), "x: one angle has 0.5 of the weight"),
        (partial(WrappedCauchy.fit, torch.tensor([1.0, 2.0, math.nan])), "x: some angles are not finite"),
        (
            partial(standard_errors, md.ManifoldUniform(SPHERE, 3), FIRST),
            "distribution: got ManifoldUniform, expected one of .*VonMisesFisher",
        ),
        (
            partial(standard_errors, VonMisesFisher(FIRST[0], 1.0), FIRST[:, :2]),
            r"x: got shape \(4, 2\), expected \(n,\) \+ \(3,\)",
        ),
    ],
)
def test_bad_input(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_angles_at_the_seam_count_as_one() -> None:
    with pytest.raises(ValueError, match="one angle has 0.6"):
        WrappedCauchy.fit(torch.tensor([math.pi, -math.pi, math.pi, 0.3, 1.0]))


@pytest.mark.parametrize(
    "name", ["vmf-S2", "kent-S2", "acg-S2", "riemannian-S2", "wrapped-ball", "matrix-fisher"]
)
def test_empty_batch(name: str) -> None:
    d = case(name)
    x = d.sample((9,)).unsqueeze(1)[:, :0]
    fit = fit_of(d)(x)
    assert fit.batch_shape == (0,) and fit.event_shape == d.event_shape
    assert all(error.shape[0] == 0 for error in standard_errors(fit, x).values())
