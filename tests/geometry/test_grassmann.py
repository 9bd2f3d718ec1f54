"""Grassmann manifolds: volumes, principal angles, and everything above geometry/ that works by
capabilities."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, SVI, Predictive, Trace_ELBO
from torch import Tensor

from pyro_manifold.constraints import on
from pyro_manifold.distributions import ManifoldUniform, WrappedNormal
from pyro_manifold.geometry import Grassmann, geometry
from pyro_manifold.infer import (
    AmbientReparam,
    AutoManifoldNormal,
    GeodesicNUTS,
    VectorizedMCMC,
    frechet_mean,
    manifold_summary,
    to_inference_data,
)
from pyro_manifold.testing import manifold_rule

F64 = torch.float64
A = torch.tensor(
    [[2.0, 0.5, 0.0, 0.3], [0.5, 0.0, 0.4, 0.0], [0.0, 0.4, -1.0, 0.2], [0.3, 0.0, 0.2, 0.5]], dtype=F64
)


def span(y: Tensor) -> Tensor:
    q = torch.linalg.qr(y).Q
    return q @ q.mT


def legendre(n: int, a: float, b: float) -> tuple[Tensor, Tensor]:
    x, w = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy(a + (b - a) * (x + 1) / 2), torch.from_numpy(w * (b - a) / 2)


@pytest.mark.parametrize("n, volume", [(2, math.pi), (3, 2 * math.pi), (4, math.pi**2)])
def test_lines_have_half_the_volume_of_the_sphere(n: int, volume: float) -> None:
    geo = geometry(Grassmann(n, 1))
    assert math.exp(geo.log_volume((n, n))) == pytest.approx(volume)
    rule = manifold_rule(geo.manifold, geo.base_point((n, n), dtype=F64), 2.0, 24, 24)
    assert float(rule.weights.sum()) == pytest.approx(volume, rel=1e-8)


def test_volume_of_planes_in_four_dimensions() -> None:
    r"""Twice covered by :math:`S^2\times S^2` of radius :math:`\sqrt{1/2}`: :math:`2\pi^2`; and the integral
    of the volume change over singular values below π/2, with :math:`dB = |a^2 - b^2|\,da\,db\,dU\,dV`."""
    geo = geometry(Grassmann(4, 2))
    assert math.exp(geo.log_volume((4, 4))) == pytest.approx(2 * math.pi**2)
    a, wa = legendre(40, 0.0, math.pi / 2)
    t, wt = legendre(40, -1.0, 1.0)
    a, b = a.unsqueeze(-1).expand(40, 40), a.unsqueeze(-1) * t
    v = torch.stack([a, torch.zeros_like(a), torch.zeros_like(a), b], -1)
    density = geo.log_det_exp(geo.base_point((4, 4), dtype=F64), v).exp() * (a**2 - b**2) * a
    total = 2 * math.pi**2 * float((density * wa.unsqueeze(-1) * wt).sum())
    assert total == pytest.approx(2 * math.pi**2, rel=1e-10)


@pytest.mark.parametrize("n, k", [(3, 1), (4, 2), (5, 2), (5, 3)])
def test_distance_is_that_of_principal_angles(n: int, k: int) -> None:
    torch.manual_seed(n + k)
    geo = geometry(Grassmann(n, k))
    x, y = torch.randn(2, 50, n, k, dtype=F64)
    p, q = span(x), span(y)
    cos = torch.linalg.svdvals(torch.linalg.qr(x).Q.mT @ torch.linalg.qr(y).Q).clamp(max=1)
    torch.testing.assert_close(geo.dist(p, q), cos.acos().norm(dim=-1), rtol=0, atol=1e-9)
    u = geo.log(p, q)
    torch.testing.assert_close(geo.exp(p, u), q, rtol=0, atol=1e-10)
    torch.testing.assert_close(geo.inner(p, u, u).sqrt(), geo.dist(p, q), rtol=0, atol=1e-10)
    omega = u @ p - p @ u
    turn = torch.linalg.matrix_exp(omega)
    w = geo.random_tangent(p)
    torch.testing.assert_close(geo.transport(p, q, w), turn @ w @ turn.mT, rtol=0, atol=1e-8)


def test_a_right_angle_has_a_shortest_vector() -> None:
    geo = geometry(Grassmann(3, 1))
    p, q = torch.diag(torch.tensor([1.0, 0, 0], dtype=F64)), torch.diag(torch.tensor([0, 0, 1.0], dtype=F64))
    assert float(geo.dist(p, q)) == pytest.approx(math.pi / 2)
    torch.testing.assert_close(geo.exp(p, geo.log(p, q)), q)
    v = torch.randn(5, 2, dtype=F64)  # the frame at a point orthogonal to the origin is a frame there
    u = geo.to_tangent(q.expand(5, 3, 3), v)
    torch.testing.assert_close(geo.project_tangent(q, u), u)
    torch.testing.assert_close(geo.from_tangent(q.expand(5, 3, 3), u), v)


@pytest.mark.parametrize("n, k", [(4, 2), (6, 3), (5, 2)])
def test_several_right_angles_have_a_shortest_vector(n: int, k: int) -> None:
    """Among points with generic angles in one batch; the vector leads to the point and is as long as the
    distance."""
    torch.manual_seed(0)
    geo = geometry(Grassmann(n, k))
    turn = torch.linalg.qr(torch.randn(n, n, dtype=F64)).Q
    p = turn[:, :k] @ turn[:, :k].mT
    q = torch.stack([turn[:, -k:] @ turn[:, -k:].mT, span(torch.randn(n, k, dtype=F64))])
    u = geo.log(p, q)
    torch.testing.assert_close(geo.exp(p, u), q)
    torch.testing.assert_close(geo.inner(p, u, u).sqrt(), geo.dist(p, q))
    assert float(geo.dist(p, q)[0]) == pytest.approx(k**0.5 * math.pi / 2)


def test_projection_has_the_derivative_of_the_eigenvectors() -> None:
    torch.manual_seed(0)
    geo = geometry(Grassmann(4, 2))
    p = span(torch.randn(4, 2, dtype=F64))
    direction = torch.randn(4, 4, dtype=F64)
    slope = torch.func.jvp(geo.project, (p,), (direction,))[1]
    torch.testing.assert_close(slope, geo.project_tangent(p, direction))


def test_uniform_moments() -> None:
    torch.manual_seed(0)
    d = ManifoldUniform(Grassmann(5, 2), (5, 5), dtype=F64)
    x = d.sample((40_000,))
    assert bool(((x.mean(0) - d.mean).abs() < 5 * (d.variance / len(x)).sqrt()).all())
    spread = (x - d.mean).square()
    assert bool(((spread.mean(0) - d.variance).abs() < 5 * spread.std(0) / len(x) ** 0.5).all())


def test_wide_normals_are_refused_when_made() -> None:
    planes, loc = Grassmann(4, 2), torch.diag(torch.tensor([1.0, 1, 0, 0]))
    with pytest.raises(ValueError, match=r"scale: got .* on Gr\(4, 2\).*truncated=True"):
        WrappedNormal(planes, loc, 1.0)
    wide = WrappedNormal(planes, loc, 1.0, truncated=True)
    assert bool(wide.log_prob(wide.sample((100,))).isfinite().all())
    with pytest.raises(ValueError, match="n, k: got 3 and 3"):
        Grassmann(3, 3)


def model() -> None:
    """Density exp tr(A P) with respect to the uniform distribution."""
    p = pyro.sample("p", ManifoldUniform(Grassmann(4, 2), (4, 4), dtype=F64))
    pyro.factor("bingham", 2 * (A * p).sum((-1, -2)))


def expected() -> Tensor:
    """E[P], by importance sampling."""
    x = ManifoldUniform(Grassmann(4, 2), (4, 4), dtype=F64).sample((50_000,))
    return ((2 * (A * x).sum((-1, -2))).softmax(0)[:, None, None] * x).sum(0)


@pytest.mark.parametrize("reparam", [pytest.param(False, marks=pytest.mark.slow), True])
def test_nuts(reparam: bool) -> None:
    pyro.set_rng_seed(0)
    target = pyro.poutine.reparam(model, {"p": AmbientReparam()}) if reparam else model
    if reparam:
        mcmc = MCMC(
            pyro.infer.NUTS(target, max_tree_depth=3), num_samples=80, warmup_steps=40, disable_progbar=True
        )
    else:
        kernel = GeodesicNUTS(model, chains=8)
        mcmc = VectorizedMCMC(kernel, num_samples=30, warmup_steps=30, disable_progbar=True)
    mcmc.run()
    samples = mcmc.get_samples()
    x = Predictive(target, samples)()["p"] if reparam else samples["p"]
    assert x.shape[1:] == (4, 4) and bool(geometry(Grassmann(4, 2)).contains(x).all())
    assert float((x.mean(0) - expected()).abs().max()) < 0.12
    if reparam:
        return
    summary = manifold_summary(mcmc)["p"]
    assert float(summary["n_eff"]) > 20 and bool(on(Grassmann(4, 2)).check(summary["mean"]))
    data = to_inference_data(mcmc, coords="chart")
    assert data.posterior["p"].shape == (8, 30, 4)


def test_reparametrised_prior_is_uniform() -> None:
    pyro.set_rng_seed(0)
    manifold = Grassmann(4, 2)

    def prior() -> None:
        pyro.sample("p", ManifoldUniform(manifold, (4, 4), dtype=F64))

    draws = Predictive(pyro.poutine.reparam(prior, {"p": AmbientReparam()}), num_samples=400)()
    uniform = ManifoldUniform(manifold, (4, 4), dtype=F64)
    assert bool(((draws["p"].mean(0) - uniform.mean).abs() < 5 * (uniform.variance / 400).sqrt()).all())
    trace = pyro.poutine.trace(pyro.poutine.reparam(prior, {"p": AmbientReparam()})).get_trace()
    y = trace.nodes["p_ambient"]["value"]
    torch.testing.assert_close(span(y.reshape(4, 2)), trace.nodes["p"]["value"])


def test_guide_finds_the_mean_subspace() -> None:
    pyro.set_rng_seed(1)
    pyro.clear_param_store()
    manifold = Grassmann(4, 2)
    truth = span(torch.randn(4, 2, dtype=F64))
    data = WrappedNormal(manifold, truth, torch.tensor(0.1, dtype=F64)).sample((50,))

    def fit() -> None:
        p = pyro.sample("p", ManifoldUniform(manifold, (4, 4), dtype=F64))
        with pyro.plate("rows", 50):
            pyro.sample("x", WrappedNormal(manifold, p, torch.tensor(0.1, dtype=F64)), obs=data)

    guide = AutoManifoldNormal(fit)
    svi = SVI(fit, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(60):
        svi.step()
    mean = frechet_mean(manifold, data).mean
    assert float(geometry(manifold).dist(guide.median()["p"], mean)) < 0.05
    pyro.clear_param_store()


def test_wrapped_normal_on_lines_has_mass_one() -> None:
    lines = Grassmann(3, 1)
    d = WrappedNormal(
        lines, torch.diag(torch.tensor([1.0, 0, 0], dtype=F64)), torch.tensor([0.8, 0.4], dtype=F64)
    )
    rule = manifold_rule(lines, d.loc, 2.0, 48, 48)
    assert float(rule.integrate(d.log_prob(rule.points).exp())) == pytest.approx(1, abs=2e-3)
    assert isinstance(d, dist.TransformedDistribution)
