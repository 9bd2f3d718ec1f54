"""Fréchet means against closed forms, geodesic R-hat and ESS against ArviZ's, conversion to ArviZ of either
signature."""

import math
from types import SimpleNamespace

import geoopt
import pytest
import torch
from cases import INFERENCE_GEOMETRIES

from pyro_manifold.geometry import SpecialOrthogonal, Torus, geometry
from pyro_manifold.infer import (
    align_axes,
    frechet_mean,
    geodesic_ess,
    geodesic_r_hat,
    manifold_summary,
    to_inference_data,
)
from pyro_manifold.infer import arviz as interop
from pyro_manifold.infer.mcmc import ConvergenceError

F64 = torch.float64
SPHERE = geoopt.Sphere()
BALL = geoopt.PoincareBall(torch.tensor(1.0, dtype=F64))
WITH_LOG = [case for case in INFERENCE_GEOMETRIES.values() if "stiefel" not in case.name]  # frames: next test


def cloud(manifold, shape, n, scale=0.7):
    geo = geometry(manifold)
    o = geo.base_point(shape, dtype=F64)
    v = scale * torch.randn(*n, geo.dim(shape), dtype=F64)
    return geo.exp_frame(o.expand(n + tuple(o.shape)), v)


@pytest.mark.parametrize("case", WITH_LOG, ids=lambda case: case.name)
def test_mean_is_where_the_logarithms_cancel(case):
    manifold, shape = case.manifold(), case.event_shape()
    geo = geometry(manifold)
    x = cloud(manifold, shape, (40, 3))
    mean, variance = frechet_mean(manifold, x)
    v = geo.log_frame(mean.expand_as(x), x)
    assert v.mean(0).abs().max() < 1e-9 and torch.allclose(variance, v.square().sum(-1).mean(0))
    w = torch.rand(40, dtype=F64)
    m = frechet_mean(manifold, x, w).mean
    assert (w[:, None, None] * geo.log_frame(m.expand_as(x), x)).sum(0).abs().max() < 1e-7
    single = frechet_mean(manifold, x[:, 1]).mean
    assert torch.allclose(single, mean[1], atol=1e-8)


@pytest.mark.parametrize("case", WITH_LOG, ids=lambda case: case.name)
def test_mean_stops_where_rounding_does(case):
    """However small the tolerance, the descent ends where no step improves."""
    manifold, shape = case.manifold(), case.event_shape()
    x = cloud(manifold, shape, (15, 24))
    mean = frechet_mean(manifold, x, tolerance=1e-300).mean
    assert geometry(manifold).log_frame(mean.expand_as(x), x).mean(0).abs().max() < 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("case", WITH_LOG, ids=lambda case: case.name)
def test_mean_of_points_that_rounding_hardly_tells_apart(case, dtype):
    """One point, the same point thrice, and points 1e-5 apart: their mean is there, to the rounding of float32 a unit
    from the origin."""
    manifold, shape = case.manifold(), case.event_shape()
    geo = geometry(manifold)
    p = geo.project(cloud(manifold, shape, (6,), 0.4).to(dtype))
    for x in (
        p[None],
        p[None].expand(3, *p.shape),
        geo.project(p + 1e-5 * torch.randn(4, *p.shape, dtype=dtype)),
    ):
        mean, variance = frechet_mean(manifold, x)
        assert geo.dist(mean, p).max() < 1e-4 and variance.max() < 1e-8


def test_mean_on_the_circle_is_global():
    """Against a grid search, for angles all around."""
    x = (2 * torch.rand(15, 50, 1, dtype=F64) - 1) * math.pi
    variance = frechet_mean(Torus(), x).variance
    grid = torch.linspace(-math.pi, math.pi, 5001, dtype=F64)
    d = (x - grid + math.pi).remainder(2 * math.pi) - math.pi
    best = d.square().mean(0).amin(-1)
    assert ((variance <= best + 1e-12) & (variance > best - 1e-5)).all()


def test_axes_are_aligned_and_hopeless_means_raise():
    x = geometry(SPHERE).project(torch.tensor([4.0, 0.0, 0.0]) + torch.randn(2, 100, 3))
    flipped = x * torch.randn(2, 100, 1).sign()
    aligned = align_axes(flipped)
    assert frechet_mean(SPHERE, aligned.flatten(0, 1), tolerance=1e-4).mean[0].abs() > 0.9
    with pytest.raises(ConvergenceError, match="have not converged in 1 steps.*align_axes"):
        frechet_mean(SPHERE, flipped.flatten(0, 1), max_steps=1)


def ar1(rho, shape=(4, 400)):
    x = torch.randn(*shape, 2, dtype=F64)
    for t in range(1, shape[1]):
        x[:, t] = rho * x[:, t - 1] + (1 - rho**2) ** 0.5 * x[:, t]
    return x


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_of_autoregressive_coordinates(rho):
    """N (1 - rho) / (1 + rho) draws in effect; chains a distance apart by the ratio of variances. One seed:
    the least of three statistics lies within 25% of the value of either coordinate (21% lower at most in
    twenty other seeds)."""
    v = ar1(rho, (4, 2000))
    x = geometry(SPHERE).exp_frame(torch.tensor([1.0, 0, 0], dtype=F64).expand(4, 2000, 3), 0.1 * v)
    assert float(geodesic_ess(SPHERE, x)) == pytest.approx(8000 * (1 - rho) / (1 + rho), rel=0.25)
    assert float(geodesic_r_hat(SPHERE, x)) < 1.01
    assert float(geodesic_r_hat(SPHERE, x[:1])) < 1.03


def test_r_hat_of_chains_a_distance_apart():
    """Centres at +-0.3 standard deviations: the eight halves have variance 0.09 * 8 / 7 between them. Noise:
    0.003."""
    shifts = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]], dtype=F64)
    v = ar1(0.0, (4, 2000)) + 0.3 * shifts[:, None]
    x = geometry(SPHERE).exp_frame(torch.tensor([1.0, 0, 0], dtype=F64).expand(4, 2000, 3), 0.1 * v)
    assert float(geodesic_r_hat(SPHERE, x)) == pytest.approx((1 + 0.09 * 8 / 7) ** 0.5, abs=0.012)


def test_chains_that_disagree_or_stand_still():
    x = geometry(SPHERE).uniform_sample((4, 100), (3,), dtype=F64)
    north = torch.cat([x[:2, :, :2], x[:2, :, 2:].abs()], -1)
    assert geodesic_r_hat(SPHERE, torch.cat([north, -north])) > 1.2
    still = x[:, :1].expand(4, 100, 3)
    assert geodesic_r_hat(SPHERE, still, x[0, 5]) > 1e6
    one = x[:1, :1].expand(4, 100, 3)
    assert geodesic_ess(SPHERE, one) == 0 and geodesic_r_hat(SPHERE, one) == math.inf
    s = manifold_summary({"x": x + 0.0, "y": torch.randn(4, 100)}, {"x": SPHERE})
    assert list(s) == ["x"] and s["x"]["mean"].shape == (3,)


def test_summary_of_frames_in_copies_of_sign():
    """Convergence is judged, the mean is left out with the site's name; the other sites have everything."""
    geo = geometry(geoopt.Stiefel())
    frames = geo.project(torch.eye(5, 2, dtype=F64) + 0.05 * torch.randn(4, 50, 5, 2, dtype=F64))
    signs = torch.randn(4, 50, 1, 2, dtype=F64).sign()
    draws = {"frames": frames, "copies": frames * signs, "x": cloud(SPHERE, (3,), (4, 50))}
    with pytest.warns(
        UserWarning, match="copies: the draws have no clear mean on .*below 0.5.*column by column"
    ):
        s = manifold_summary(draws, {"frames": geo.manifold, "copies": geo.manifold, "x": SPHERE})
    assert list(s["copies"]) == ["n_eff", "r_hat"] and list(s["x"]) == list(s["frames"]) == [
        "mean",
        "scale",
        "n_eff",
        "r_hat",
    ]
    assert s["copies"]["n_eff"] > 50 and s["copies"]["r_hat"] < 1.1  # signs and noise are independent draws
    stuck = frames * signs[:, :1]  # each chain keeps to its own copy
    with pytest.warns(UserWarning, match="copies: "):
        assert manifold_summary({"copies": stuck}, {"copies": geo.manifold})["copies"]["r_hat"] > 1.5


def test_a_site_without_a_mean_is_named(monkeypatch):
    def fails(*args, **kwargs):
        raise ConvergenceError("no mean")

    x = cloud(SPHERE, (3,), (4, 50))
    monkeypatch.setattr("pyro_manifold.infer.diagnostics.convergence.frechet_mean", fails)
    monkeypatch.setattr(interop, "frechet_mean", fails)
    with pytest.warns(UserWarning, match="x: the draws have no clear mean on Sphere"):
        s = manifold_summary({"x": x}, {"x": SPHERE})
    assert list(s["x"]) == ["n_eff", "r_hat"] and s["x"]["r_hat"] < 1.1
    with pytest.raises(ConvergenceError, match="x: no mean Or use coords='ambient'"):
        to_inference_data({"x": x}, manifolds={"x": SPHERE}, coords="chart")


SAMPLES = {
    "x": cloud(SPHERE, (3,), (2, 20)),
    "r": cloud(SpecialOrthogonal(3), (3, 3), (2, 20)),
    "t": torch.randn(2, 20, 4, 2),
    "b": cloud(BALL, (2,), (2, 20)),
    "m": torch.randn(2, 20),
}
SITES = {"x": SPHERE, "r": SpecialOrthogonal(3), "t": Torus(), "b": BALL}


@pytest.mark.parametrize("signature", ["0.x", "1.x"])
@pytest.mark.parametrize("coords", ["ambient", "chart", "angles"])
def test_conversion(coords, signature, monkeypatch):
    """ArviZ 1.x needs Python 3.12 (these tests pass there with 1.3.0); arviz-base 0.8 runs on 3.11, same
    ``from_dict``."""
    if signature == "1.x":
        base = pytest.importorskip("arviz_base")
        monkeypatch.setattr(interop, "_arviz", lambda: SimpleNamespace(from_dict=base.from_dict))
    data = to_inference_data(
        SAMPLES,
        manifolds=SITES,
        coords=coords,
        prior={"x": SAMPLES["x"][0]},
        observed_data={"y": torch.ones(3)},
    )
    p = data["posterior"]
    assert p["m"].dims == ("chain", "draw") and p["t"].dims == ("chain", "draw", "t_dim_0", "t_coord")
    assert p["x"].shape == (2, 20, 3 if coords == "ambient" else 2) and "y" in data["observed_data"]
    assert data["prior"]["x"].shape[:2] == (1, 20)
    if coords == "angles":
        polar, azimuth = torch.as_tensor(p["x"].values.copy()).unbind(-1)
        back = torch.stack([polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin(), polar.cos()], -1)
        assert torch.allclose(back, SAMPLES["x"], atol=1e-12)
        assert list(p["r_coord"].values) == ["rotation_x", "rotation_y", "rotation_z"]
        assert p.attrs["circular"] == ["x[azimuth]", "t[azimuth_1]", "t[azimuth_2]"] and p.attrs[
            "circ_var_names"
        ] == ["t"]
    elif coords == "chart":
        v = geometry(SITES["b"]).chart_inv(SAMPLES["b"])
        assert torch.allclose(torch.as_tensor(p["b"].values.copy()), v)


def test_seam_with_a_fake_module(monkeypatch):
    calls = []

    def from_dict(data, *, dims=None, coords=None):
        calls.append(data)
        return {"posterior": SimpleNamespace(attrs={})}

    monkeypatch.setattr(interop, "_arviz", lambda: SimpleNamespace(from_dict=from_dict))
    to_inference_data({"m": torch.randn(2, 5)})
    assert list(calls[0]) == ["posterior"]


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: to_inference_data(SAMPLES, coords="polar"), "coords: got 'polar', expected one of"),
        (lambda: to_inference_data([1]), "source: got list"),
        (
            lambda: to_inference_data({"x": torch.ones(2, 5, 3)}, manifolds={"x": SPHERE}),
            "not all points of Sphere",
        ),
        (
            lambda: to_inference_data({"x": torch.ones(2, 5)}, log_likelihood=True),
            "log_likelihood: needs an MCMC run",
        ),
        (lambda: frechet_mean(SPHERE, torch.ones(4, 3)), "some points are not on Sphere"),
        (lambda: frechet_mean(SPHERE, torch.eye(3), torch.ones(2)), r"weights: got shape \(2,\)"),
        (
            lambda: frechet_mean(SPHERE, torch.eye(3), -torch.ones(3)),
            "weights: expected finite, non-negative",
        ),
        (lambda: geodesic_ess(SPHERE, torch.eye(3)), r"expected \(chains, draws\)"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
