"""Wrapped normals: mass, windings, truncation, moments, conventions, and life inside Pyro."""

import itertools
import math

import geoopt
import mpmath as mp
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases.base import GeometryCase
from cases.geometries import GEOMETRIES
from pyro.infer import (
    SVI,
    JitTrace_ELBO,
    Predictive,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from scipy import integrate, stats
from torch.distributions import kl_divergence

from pyro_manifold.distributions import RiemannianNormal, WrappedNormal
from pyro_manifold.distributions.truncated import TruncatedTangentNormal
from pyro_manifold.geometry import Torus, geometry
from pyro_manifold.transforms import PolarExpMap

F64 = torch.float64
FULL = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=F64)
MU = {
    "sphere": torch.tensor([0.6, 0.0, 0.8], dtype=F64),
    "ball": torch.tensor([0.3, -0.4], dtype=F64),
}


@pytest.mark.parametrize("case", GEOMETRIES, ids=lambda c: c.name)
def test_single_precision_is_double_precision_rounded(case: GeometryCase) -> None:
    """On every manifold with a logarithm: densities of points that float32 holds are those that float64 gives at these
    points, and their gradients in the location too."""
    geo, shape = geometry(case.manifold()), case.event_shape()
    if not geo.has_log:
        pytest.skip("no logarithm, no density")
    torch.manual_seed(0)
    d = geo.dim(shape)
    p = geo.exp_frame(geo.base_point(shape, dtype=F64).expand(4, *shape), 0.3 * torch.randn(4, d, dtype=F64))
    q = geo.exp_frame(p, 0.1 * torch.randn(4, d, dtype=F64))
    p, q = (geo.project(x.float()) for x in (p, q))
    found = []
    for scale in (0.1, 0.1 + 0.02 * torch.arange(d) / d):
        for dtype in (torch.float32, F64):
            loc = geo.project(p.to(dtype)).requires_grad_()
            s = scale.to(dtype) if isinstance(scale, torch.Tensor) else scale
            density = WrappedNormal(geo.manifold, loc, s).log_prob(geo.project(q.to(dtype)))
            (slope,) = torch.autograd.grad(density.sum(), loc)
            found.append((density.detach().double(), geo.project_tangent(loc.detach(), slope).double()))
    for single, double in (found[:2], found[2:]):
        torch.testing.assert_close(single[0], double[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(single[1], double[1], rtol=1e-4, atol=1e-4 * float(double[1].abs().max()))


def sphere_mass(d, n=400, m=256):
    """Integral of exp(log_prob) over S^2 in polar coordinates about loc: Gauss-Legendre x trapezoid."""
    x, w = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(n))
    r, phi = math.pi * (x + 1) / 2, torch.arange(m, dtype=F64) * 2 * math.pi / m
    grid = torch.stack([r[:, None].expand(n, m), phi.cos().expand(n, m), phi.sin().expand(n, m)], -1)
    density = d.log_prob(PolarExpMap(geoopt.Sphere(), d.loc)(grid)).exp()
    return float((density * (w * math.pi / 2 * r.sin())[:, None]).sum() * 2 * math.pi / m)


@pytest.mark.parametrize(
    "spread",
    [{"scale": 0.3}, {"scale": 2.0}, {"covariance_matrix": FULL}, {"covariance_matrix": 4 * torch.eye(2, dtype=F64)},
     {"scale": 2.0, "truncated": True}],
)  # fmt: skip
def test_mass_on_the_sphere_is_one(spread):
    assert abs(sphere_mass(WrappedNormal(geoopt.Sphere(), MU["sphere"], **spread)) - 1) < 1e-8


def test_one_winding_loses_mass():
    """The figures of the reference: without the windings 0.988 and 0.709 of the mass are left."""
    geo, mu = geometry(geoopt.Sphere()), MU["sphere"]
    for sigma, expected in ((FULL, 0.988), (4 * torch.eye(2, dtype=F64), 0.709)):

        class Single(WrappedNormal):
            def log_prob(self, value):
                v = geo.log_frame(self.loc, value)
                return self.base_dist.log_prob(v) - geo.log_det_exp(self.loc, v)

        assert sphere_mass(Single(geoopt.Sphere(), mu, covariance_matrix=sigma)) == pytest.approx(
            expected, abs=1e-3
        )


def test_circle_against_scipy_theta_sum():
    """On S^1 the distribution is the wrapped normal of the circle."""
    loc, angle = torch.tensor([1.0, 0.0], dtype=F64), torch.linspace(-3.1, 3.1, 40, dtype=F64)
    for sigma in (0.2, 1.0, 5.0):
        p = sum(stats.norm(0, sigma).pdf(angle.numpy() + 2 * math.pi * k) for k in range(-12, 13))
        d = WrappedNormal(geoopt.Sphere(), loc, torch.tensor(sigma, dtype=F64))
        assert torch.allclose(
            d.log_prob(torch.stack([angle.cos(), angle.sin()], -1)), torch.from_numpy(p).log(), atol=1e-12
        )


@pytest.mark.parametrize(
    "dim,scale", [(1, 0.3), (2, 0.1), (2, 3.0), (5, 1.3), (5, 100.0), (30, 0.5), (30, 1.0)]
)
def test_truncated_radius_distribution(dim, scale):
    """Kolmogorov-Smirnov against the chi cdf; false-alarm rate 1e-3 for each of 7 cells, seeds fixed."""
    torch.manual_seed(dim)
    base = TruncatedTangentNormal(torch.tensor(scale, dtype=F64), math.pi, dim)
    r = base.rsample((20000,)).norm(dim=-1).numpy()
    top = stats.chi(dim).cdf(math.pi / scale)
    assert stats.kstest(r, lambda x: stats.chi(dim).cdf(x / scale) / top).pvalue > 1e-3


def test_truncated_second_derivative_raises():
    """Also where the scale is reached by a second path, whose derivative alone would be silently wrong."""
    s, bound = torch.tensor([0.5, 2.0], requires_grad=True), torch.tensor(math.pi, requires_grad=True)
    r = TruncatedTangentNormal(s, bound, 3).rsample().norm(dim=-1)
    for x in (s, bound):
        (d,) = torch.autograd.grad((x**2 * r).sum(), x, create_graph=True, retain_graph=True)
        with pytest.raises(NotImplementedError, match="last order"):
            torch.autograd.grad(d.sum(), x, retain_graph=True)


def test_truncated_gradient_against_quadrature():
    def mean(s, bound):
        num = integrate.quad(lambda r: r**3 * math.exp(-r * r / 2 / s / s), 0, bound)[0]
        return num / integrate.quad(lambda r: r**2 * math.exp(-r * r / 2 / s / s), 0, bound)[0]

    torch.manual_seed(0)
    s, bound = (
        torch.tensor(1.5, dtype=F64, requires_grad=True),
        torch.tensor(math.pi, dtype=F64, requires_grad=True),
    )
    r = TruncatedTangentNormal(s.expand(400000), bound, 3).rsample().norm(dim=-1)
    ds, db = torch.autograd.grad(r.mean(), [s, bound])
    h = 1e-4
    assert float(ds) == pytest.approx((mean(1.5 + h, math.pi) - mean(1.5 - h, math.pi)) / 2 / h, rel=0.01)
    assert float(db) == pytest.approx((mean(1.5, math.pi + h) - mean(1.5, math.pi - h)) / 2 / h, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_finite_at_centre_and_antipode(dtype):
    for sign in (1, -1):
        mu = MU["sphere"].to(dtype).clone().requires_grad_()
        d = WrappedNormal(geoopt.Sphere(), mu, torch.tensor(0.7, dtype=dtype))
        lp = d.log_prob(sign * mu.detach())
        lp.backward()
        assert lp.isfinite() and mu.grad.isfinite().all()


def test_sphere_ambient_mean_and_scale_shapes():
    """Monte Carlo mean within 5 standard errors (9 numbers: false-alarm rate 5e-6)."""
    torch.manual_seed(0)
    d = WrappedNormal(geoopt.Sphere(), MU["sphere"], torch.tensor([[0.5], [1.0], [2.0]], dtype=F64))
    assert d.batch_shape == (3,) and d.event_shape == (3,)
    x = d.rsample((200000,))
    assert ((x.mean(0) - d.mean).abs() <= 5 * x.std(0) / 200000**0.5).all()


def test_kl_of_concentric_distributions_is_that_of_the_normals():
    """Against the Monte Carlo estimate, 5 standard errors."""
    torch.manual_seed(0)
    ball, mu = geoopt.PoincareBall(c=torch.tensor(1.4, dtype=F64)), MU["ball"]
    p, q = (
        WrappedNormal(ball, mu, torch.tensor([0.5, 1.0], dtype=F64)),
        WrappedNormal(ball, mu, covariance_matrix=FULL),
    )
    x = p.rsample((100000,))
    diff = p.log_prob(x) - q.log_prob(x)
    assert abs(float(kl_divergence(p, q) - diff.mean())) < 5 * float(diff.std()) / 100000**0.5
    assert float(kl_divergence(p, p)) == 0


def test_kl_without_closed_form_says_so():
    s, mu = geoopt.Sphere(), MU["sphere"]
    with pytest.raises(NotImplementedError, match="have the same manifold and centre"):
        kl_divergence(WrappedNormal(s, mu, 1.0), WrappedNormal(s, mu, 2.0))
    ball, mu = geoopt.PoincareBall(), MU["ball"]
    with pytest.raises(NotImplementedError, match="have the same manifold and centre"):
        kl_divergence(WrappedNormal(ball, mu, 1.0), WrappedNormal(ball, -mu, 1.0))


def test_kl_in_flat_space_is_that_of_normals_with_other_means():
    e, a = geoopt.Euclidean(ndim=1), torch.tensor([[0.3, -0.4], [2.0, 0.1]], dtype=F64)
    b, scale = torch.tensor([1.0, 0.5], dtype=F64), torch.tensor([0.5, 1.2], dtype=F64)
    normal = dist.MultivariateNormal

    def exact(p, q):
        return kl_divergence(*(normal(d.loc, d.covariance_matrix) for d in (p, q)))

    full = WrappedNormal(e, b, covariance_matrix=FULL)
    for p, q in (
        (WrappedNormal(e, a, scale), WrappedNormal(e, b, 0.8)),
        (WrappedNormal(e, a, scale), full),
        (full, WrappedNormal(e, a, scale)),
    ):
        torch.testing.assert_close(kl_divergence(p, q), exact(p, q))
    p, q = RiemannianNormal(e, a, scale), RiemannianNormal(e, b, torch.tensor(0.8, dtype=F64))
    wrapped = [WrappedNormal(e, d.loc, d.scale.unsqueeze(-1)) for d in (p, q)]
    torch.testing.assert_close(kl_divergence(p, q), exact(*wrapped))


def test_kl_of_log_euclidean_normals():
    """Against the Monte Carlo estimate, 5 standard errors: the means differ by a parallel vector of the frames."""
    torch.manual_seed(0)
    with pytest.warns(UserWarning):
        manifold = geoopt.SymmetricPositiveDefinite("LEM")
    a, b = geometry(manifold).chart(torch.tensor([[0.3, -0.5, 0.4], [-0.2, 0.6, 0.1]], dtype=F64))
    p = WrappedNormal(manifold, a, torch.tensor([0.4, 0.7, 1.0], dtype=F64))
    q = WrappedNormal(manifold, b, torch.tensor(0.9, dtype=F64))
    x = p.rsample((50000,))
    diff = p.log_prob(x) - q.log_prob(x)
    assert abs(float(kl_divergence(p, q) - diff.mean())) < 5 * float(diff.std()) / 50000**0.5


@pytest.mark.parametrize("c", [0.5, 1.4])
def test_entropy_and_mode_on_the_ball(c):
    torch.manual_seed(0)
    d = WrappedNormal(geoopt.PoincareBall(c=torch.tensor(c, dtype=F64)), MU["ball"], 0.8)
    lp = d.log_prob(d.rsample((100000,)))
    assert abs(float(d.entropy() + lp.mean())) < 5 * float(lp.std()) / 100000**0.5
    assert torch.equal(d.mode, MU["ball"]) and torch.equal(d.frechet_mean, MU["ball"])
    assert (lp <= d.log_prob(d.mode)).all()


def test_product_couples_factors():
    """A joint covariance over sphere x ball: the sphere marginal, estimated by importance weights, keeps mass
    1."""
    torch.manual_seed(0)
    m = geoopt.ProductManifold((geoopt.Sphere(), 3), (geoopt.PoincareBall(), 2))
    loc = torch.cat([MU["sphere"], MU["ball"]])
    a = torch.randn(4, 4, dtype=F64)
    cov = 0.3 * (a @ a.T) / 4 + 0.1 * torch.eye(4, dtype=F64)
    p = WrappedNormal(m, loc, covariance_matrix=cov)
    q = WrappedNormal(m, loc, covariance_matrix=1.3 * cov)
    x = q.rsample((100000,))
    w = (p.log_prob(x) - q.log_prob(x)).exp()  # E_q[p/q] = 1, bounded weights
    assert abs(float(w.mean()) - 1) < 5 * float(w.std()) / 100000**0.5
    parts = geometry(m).split(p.rsample((10,)))
    assert parts[0].shape == (10, 3) and parts[1].shape == (10, 2)


@pytest.mark.parametrize(
    "kwargs,message",
    [
        ({"scale": -1.0}, "scale: got -1, expected positive"),
        ({"scale": float("nan")}, "scale: got nan"),
        ({"scale": torch.ones(5, dtype=F64)}, r"scale: got shape \(5,\).*dim = 2"),
        ({}, "exactly one of scale"),
        ({"scale": 1.0, "scale_tril": FULL}, "exactly one of scale"),
        ({"scale_tril": torch.ones(2, 2, dtype=F64)}, "lower triangular"),
        ({"scale_tril": torch.eye(3, dtype=F64)}, r"scale_tril: got shape \(3, 3\)"),
        ({"covariance_matrix": -FULL}, "positive definite"),
        ({"covariance_matrix": FULL + torch.tensor([[0, 1], [0, 0]])}, "symmetric"),
        ({"scale": torch.ones(2, dtype=torch.float32)}, "dtype torch.float32 but loc"),
        ({"scale": torch.ones(2, dtype=torch.int64)}, "expected a floating dtype"),
        ({"scale": torch.ones(2, dtype=F64, device="meta")}, "scale: got .* on meta"),
        ({"scale": "wide"}, "scale: got 'wide'"),
        ({"scale": torch.ones(2, dtype=F64), "truncated": True}, "isotropic"),
        ({"loc": 2 * MU["sphere"], "scale": 1.0}, "loc: got 1.2, 0, 1.6, expected points of Sphere. Project"),
        ({"loc": torch.full((3,), math.nan, dtype=F64), "scale": 1.0}, "loc: got nan"),
        ({"loc": torch.tensor(1.0), "scale": 1.0}, r"loc: got shape \(\)"),
        ({"loc": torch.ones(1), "scale": 1.0}, "dimension at least 1"),
        ({"loc": torch.tensor([0, 1, 0]), "scale": 1.0}, "floating dtype"),
        ({"loc": MU["sphere"].expand(4, 3), "scale": torch.ones(3, 2, dtype=F64)}, "do not broadcast"),
    ],
)
def test_bad_input(kwargs, message):
    kwargs = {"loc": MU["sphere"], **kwargs}
    with pytest.raises(ValueError, match=message):
        WrappedNormal(geoopt.Sphere(), **kwargs)


def test_bad_manifold_and_value():
    with pytest.raises(ValueError, match="manifold: got 3, expected a manifold"):
        WrappedNormal(3, MU["sphere"], 1.0)
    with pytest.raises(ValueError, match="class Sphere itself"):
        WrappedNormal(geoopt.Sphere, MU["sphere"], 1.0)
    with pytest.raises(ValueError, match="nothing to truncate"):
        WrappedNormal(geoopt.PoincareBall(), MU["ball"], 1.0, truncated=True)
    with pytest.raises(ValueError, match="support"):
        WrappedNormal(geoopt.Sphere(), MU["sphere"], 1.0, validate_args=True).log_prob(2 * MU["sphere"])


# --- life inside Pyro ---------------------------------------------------------------------------------------
def _problem(manifold, loc):
    """A latent on the manifold, seen through distances to it; plates, a discrete site enumerated in
    parallel."""
    geo, dim = geometry(manifold), geometry(manifold).dim(loc.shape)

    def model(data=None):
        with pyro.plate("n", 3):
            z = pyro.sample("z", WrappedNormal(manifold, loc, 0.5))
            pyro.sample("x", dist.Normal(geo.dist(z, loc), 0.1), obs=data)

    def guide(data=None):
        q = pyro.param("q", loc.expand(3, -1).clone(), constraint=WrappedNormal(manifold, loc, 1.0).support)
        s = pyro.param("s", torch.full((3, dim), 0.2, dtype=loc.dtype), constraint=dist.constraints.positive)
        with pyro.plate("n", 3):
            pyro.sample("z", WrappedNormal(manifold, q, s))

    return model, guide


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize(
    "name, elbo",
    [
        ("ball", Trace_ELBO),
        ("ball", JitTrace_ELBO),
        pytest.param("sphere", TraceMeanField_ELBO, marks=pytest.mark.slow),
        pytest.param("sphere", Trace_ELBO, marks=pytest.mark.slow),
        pytest.param("sphere", JitTrace_ELBO, marks=pytest.mark.slow),
        pytest.param("ball", TraceMeanField_ELBO, marks=pytest.mark.slow),
    ],
)
def test_svi(name, elbo):
    manifold = {"sphere": geoopt.Sphere(), "ball": geoopt.PoincareBall()}[name]
    model, guide = _problem(manifold, MU[name])
    data = torch.tensor([0.3, 0.8, 1.2], dtype=F64)
    kwargs = {} if elbo is TraceMeanField_ELBO else {"num_particles": 4, "vectorize_particles": True}
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), elbo(**kwargs))
    losses = torch.tensor([svi.step(data) for _ in range(150)])
    assert losses.isfinite().all() and losses[-30:].mean() < losses[:30].mean() - 1
    draws = Predictive(model, guide=guide, num_samples=50, parallel=True)(data)["z"]
    assert draws.shape[:2] == (50, 3)
    assert (geometry(manifold).dist(draws, MU[name]).mean(0) - data).abs().max() < 0.2


def test_render_model():
    model, _ = _problem(geoopt.Sphere(), MU["sphere"])
    graph = pyro.render_model(model, model_args=(torch.ones(3, dtype=F64),), render_distributions=True)
    assert "WrappedNormal" in graph.source and "z" in graph.source


def test_enumeration_of_other_sites():
    locs = torch.stack([MU["sphere"], -MU["sphere"]])

    @config_enumerate
    def model():
        k = pyro.sample("k", dist.Categorical(torch.ones(2, dtype=F64)))
        z = pyro.sample("z", WrappedNormal(geoopt.Sphere(), MU["sphere"], 1.0))
        pyro.sample("x", WrappedNormal(geoopt.Sphere(), locs[k], 0.5), obs=MU["sphere"])
        return z

    def guide():
        pyro.sample("z", WrappedNormal(geoopt.Sphere(), MU["sphere"], 1.0))

    loss = TraceEnum_ELBO(max_plate_nesting=0).loss(model, guide)
    d = WrappedNormal(geoopt.Sphere(), locs, 0.5)
    assert loss == pytest.approx(-float(d.log_prob(MU["sphere"]).exp().mean().log()), rel=1e-6)


# --- high dimension, wide scales, broadcasting --------------------------------------------------------------
def polar_mass(d: WrappedNormal) -> float:
    r"""Mass of a density of the angle t to ``loc`` = e_1 on :math:`S^d`:
    :math:`|S^{d-1}|\int p(t)\sin^{d-1}t\,dt`."""
    dim = d.event_shape[-1] - 1
    t, w = (torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(600))
    t, w = (t + 1) * math.pi / 2, w * math.pi / 2
    x = torch.nn.functional.pad(torch.stack([t.cos(), t.sin()], -1), (0, dim - 1))
    area = math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)
    return float((w * (d.log_prob(x) + (dim - 1) * t.sin().log() + area).exp()).sum())


@pytest.mark.parametrize("truncated", [False, True])
def test_mass_in_any_dimension(truncated):
    """The windows of the sums know that a normal of d coordinates has length sd (sqrt d + 9), not 9 sd."""
    for dim in (1, 2, 3, 64, 100, 128, 256, 512, 1024):
        loc = torch.eye(dim + 1, dtype=F64)[0]
        for scale in (0.1, 0.5, 1.0, 2.0, 12.4, 12.6, 1e6):
            d = WrappedNormal(geoopt.Sphere(), loc, torch.tensor(scale, dtype=F64), truncated=truncated)
            if dim < 3 or (
                0.3 < scale < 1e3 and not truncated
            ):  # else 600 nodes are too few for so narrow a shell
                assert polar_mass(d) == pytest.approx(1, abs=1e-9), (dim, scale)


def test_a_remembered_draw_scores_as_its_copy():
    """In dimension 1, 2, 64 and 1024, on the sphere, its projection, a scaled one and a product."""
    torch.manual_seed(0)
    for dim in (1, 2, 64, 1024):
        e = torch.eye(dim + 1, dtype=F64)[0]
        product = geoopt.ProductManifold((geoopt.Sphere(), dim + 1), (Torus(), 2))
        cases = [
            (geoopt.Sphere(), e),
            (geoopt.Scaled(geoopt.Sphere(), 2.0), e),
            (geoopt.SphereProjection(k=0.7), torch.zeros(dim, dtype=F64)),
            (product, torch.cat([e, torch.ones(2, dtype=F64)])),
        ]
        for manifold, loc in cases:
            for scale in (0.2, 1.0, 3.0):
                d = WrappedNormal(manifold, loc, torch.tensor(scale, dtype=F64))
                x = d.sample((3,))
                torch.testing.assert_close(d.log_prob(x), d.log_prob(x.clone()), rtol=1e-6, atol=1e-6)


def test_log_mass_of_the_truncated_normal():
    """The mass within the injectivity radius underflows in float32 (and float64): log P(75, pi^2/2) = -137.03
    on S^150."""
    for dtype, tol in ((torch.float32, 1e-6), (F64, 1e-12)):
        for dim, scale in (
            (1, 1.0),
            (2, 100.0),
            (20, 100.0),
            (64, 1.0),
            (100, 2.0),
            (150, 1.0),
            (1024, 0.5),
            (1024, 1e6),
        ):
            s = torch.tensor(scale, dtype=dtype, requires_grad=True)
            d = WrappedNormal(geoopt.Sphere(), torch.eye(dim + 1, dtype=dtype)[0], s, truncated=True)
            with mp.workdps(30):
                log_mass = mp.log(
                    mp.gammainc(mp.mpf(dim) / 2, 0, mp.pi**2 / 2 / mp.mpf(scale) ** 2, regularized=True)
                )
            expected = -dim / 2 * math.log(2 * math.pi) - dim * math.log(scale) - float(log_mass)
            value = d.base_dist.log_prob(torch.zeros(dim, dtype=dtype))
            assert value.item() == pytest.approx(expected, rel=tol, abs=tol)
            x = d.rsample((4,))
            assert all(
                g.isfinite().all()
                for y in (x, d.log_prob(x.detach()))
                for g in torch.autograd.grad(y.sum(), s)
            )


def test_a_scale_of_any_width_costs_the_same():
    """The limit: direction and angle uniform, 1 / (2 pi^2 sin t) on S^2; within 1/s^2 of it; on products and
    at a radius too."""
    x = torch.nn.functional.normalize(torch.randn(100, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    loc = torch.tensor([1.0, 0.0, 0.0])
    expected = -math.log(2 * math.pi**2) - 0.5 * torch.log1p(-(x[:, 0] ** 2))
    for scale in (1e4, 1e6, 1e30):
        torch.testing.assert_close(
            WrappedNormal(geoopt.Sphere(), loc, scale).log_prob(x), expected, rtol=1e-4, atol=1e-5
        )
        scaled = WrappedNormal(geoopt.Scaled(geoopt.Sphere(), 2.0), loc, scale)
        torch.testing.assert_close(scaled.log_prob(x), expected - math.log(4), rtol=1e-4, atol=1e-5)
        product = WrappedNormal(
            geoopt.ProductManifold((geoopt.Sphere(), 3), (Torus(), 1)), torch.cat([loc, loc[:1]]), scale
        )
        both = product.log_prob(torch.cat([x, x[:, :1]], -1))
        torch.testing.assert_close(both, expected - math.log(2 * math.pi), rtol=1e-4, atol=1e-5)
    joint = WrappedNormal(product.manifold, product.loc, scale_tril=1e6 * torch.eye(3))
    with pytest.raises(ValueError, match="turns"):
        joint.log_prob(product.loc)


def test_enumerated_scales_of_one_centre():
    """A mixture over five scales by TraceEnum_ELBO is its sum written out: the scales broadcast, they are no
    windings."""
    scales = torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0])
    loc = torch.tensor([0.0, 0.0, 1.0])
    x = WrappedNormal(geoopt.Sphere(), loc, 0.5).sample((10,))

    def model():
        k = pyro.sample("k", dist.Categorical(torch.ones(5)))
        with pyro.plate("n", 10):
            pyro.sample("x", WrappedNormal(geoopt.Sphere(), loc, scales[k].unsqueeze(-1)), obs=x)

    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(config_enumerate(model), lambda: None)
    each = torch.stack([WrappedNormal(geoopt.Sphere(), loc, s).log_prob(x).sum() for s in scales])
    assert loss == pytest.approx(-float(torch.logsumexp(each, 0) - math.log(5)), rel=1e-5)


def exact_log_density(loc, x, scale, truncated):
    """Of points of the sphere as they are stored, scaled to length 1, in 40 digits: the sum over windings, or
    its one term."""
    with mp.workdps(40):
        p, q = ([mp.mpf(t) for t in row.double().tolist()] for row in (loc, x))
        lengths = [mp.sqrt(mp.fsum(t * t for t in row)) for row in (p, q)]
        p, q = ([t / length for t in row] for row, length in zip((p, q), lengths, strict=True))
        d, s = len(p) - 1, mp.mpf(scale.item())
        below, above = (
            mp.sqrt(mp.fsum((a + sign * b) ** 2 for a, b in zip(p, q, strict=True))) for sign in (-1, 1)
        )
        r, sine = 2 * mp.atan2(below, above), below * above / 2
        turns = [abs(r + 2 * mp.pi * k) for k in ((0,) if truncated else range(-20, 21))]
        total = mp.fsum((t / sine) ** (d - 1) * mp.exp(-((t / s) ** 2) / 2) for t in turns)
        a, z = mp.mpf(d) / 2, mp.pi**2 / (2 * s * s)
        mass, term, n = mp.mpf(1), mp.exp(a * mp.log(z) - z - mp.loggamma(a + 1)), 0
        if truncated and z < 1000:  # else it is 1 to all digits
            mass = mp.mpf(0)
            while term > mass * mp.mpf(10) ** -40:
                mass, n = mass + term, n + 1
                term *= z / (a + n)
        return float(mp.log(total) - mp.mpf(d) / 2 * mp.log(2 * mp.pi * s * s) - mp.log(mass))


def test_draws_are_scored_as_the_points_they_are_stored_as():
    """Exactly as their copies are, with a gradient or without; the two of float32 nearest to a pole within 64
    roundings."""
    torch.manual_seed(0)
    grid = itertools.product((1, 2, 64, 1024), (0.01, 0.5, 2.0), (False, True), (torch.float32, F64))
    for d, s, truncated, dtype in grid:
        loc = torch.nn.functional.normalize(torch.randn(d + 1, dtype=F64), dim=0).to(dtype)
        scale = torch.tensor([s], dtype=dtype, requires_grad=True)
        p = WrappedNormal(geoopt.Sphere(), loc, scale, truncated=truncated)
        for draw in (p.rsample, p.sample):
            x = draw((200,))
            assert torch.equal(p.log_prob(x), p.log_prob(x.clone())), (d, s, truncated, dtype)
        if dtype == F64:
            continue
        near = (x.double() @ loc.double()).abs().topk(2).indices
        expected = torch.tensor([exact_log_density(loc, y, scale, truncated) for y in x[near]], dtype=F64)
        error = (p.log_prob(x)[near].double() - expected).abs() / (1 + expected.abs())
        assert (error < 64 * torch.finfo(dtype).eps).all(), (d, s, truncated, error)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_draws_in_hyperbolic_and_flat_space_are_scored_as_their_copies(dtype):
    ball = geoopt.PoincareBall()
    for manifold, d in [(ball, 2), (ball, 64), (geoopt.Lorentz(), 64), (geoopt.Euclidean(ndim=1), 64)]:
        geo = geometry(manifold)
        loc = geo.exp_frame(
            geo.origin(d, dtype=dtype), torch.full((d,), 1 / math.sqrt(d), dtype=dtype)
        ).requires_grad_()
        for p in (WrappedNormal(manifold, loc, 0.9), RiemannianNormal(manifold, loc, 0.2)):
            x = p.rsample((200,))
            assert torch.equal(p.log_prob(x), p.log_prob(x.clone()))


def test_pathwise_gradient_of_the_density_of_draws_near_poles():
    """Of log q(x(loc, scale)), which does not depend on loc: 0 in loc, and in scale that through the
    point."""
    torch.manual_seed(0)
    for d, s, truncated in [(2, 2.0, False), (64, 0.5, True), (64, 2.0, True), (1024, 0.1, False)]:
        loc = torch.nn.functional.normalize(torch.randn(d + 1), dim=0).requires_grad_()
        scale = torch.tensor([s], requires_grad=True)
        p = WrappedNormal(geoopt.Sphere(), loc, scale, truncated=truncated)
        x = p.rsample((200,))
        in_loc, in_scale = torch.autograd.grad(
            p.log_prob(x).sum(), (loc, scale), allow_unused=True, retain_graph=True
        )
        assert in_loc is None or not in_loc.any()
        copy = torch.autograd.grad(p.log_prob(x.clone()).sum(), scale)[0]
        assert in_scale.item() == pytest.approx(copy.item(), rel=1e-3), (d, s, truncated)
