"""Hyperbolic space in its three forms: accuracy against mpmath, agreement between models, limits, bad
input."""

import math
from collections.abc import Iterator

import geoopt
import mpmath as mp
import pytest
import torch
from torch import Tensor

from pyro_manifold.geometry import geometry
from pyro_manifold.transforms import BallToHyperboloid

F64 = torch.float64


@pytest.fixture(autouse=True)
def _digits() -> Iterator[None]:
    """Other files set mpmath's digits too."""
    with mp.workdps(60):
        yield


def spatial(radius: float, n: int, d: int, dtype: torch.dtype) -> Tensor:
    u = torch.randn(n, d, dtype=F64)
    return (u / u.norm(dim=-1, keepdim=True) * math.sinh(radius)).to(dtype)


def lift(x: Tensor, k: float = 1.0) -> Tensor:
    return torch.cat([(k + x.square().sum(-1, keepdim=True)).sqrt(), x], -1)


def exact_dist(x: Tensor, y: Tensor, k: float = 1.0) -> list[float]:
    out = []
    for a, b in zip(x.double().tolist(), y.double().tolist(), strict=True):
        a, b = [mp.mpf(t) for t in a], [mp.mpf(t) for t in b]
        ta, tb = (mp.sqrt(k + sum(t * t for t in z)) for z in (a, b))
        out.append(
            float(mp.sqrt(k) * mp.acosh((ta * tb - sum(s * t for s, t in zip(a, b, strict=True))) / k))
        )
    return out


def steps(radius: float, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Pairs at random angles, near and far, along and across the radius, coordinates as rounded."""
    x = spatial(radius, 12, 3, dtype)
    u = torch.randn_like(x)
    pairs = [(x, spatial(radius, 12, 3, dtype)), (x, -x), (x, torch.zeros_like(x)), (x, 0.3 * x)]
    pairs += [(x, x * (1 + 2.0**-k)) for k in (2, 10)]
    pairs += [(x, x + s * u) for s in (1e-3, 1.0, 1e-3 * math.sinh(radius))]
    pairs += [(x, x * 1.5 + s * u) for s in (1e-3, 1.0)]  # radial and transversal parts count alike
    v = torch.randn(
        12, 3, dtype=F64
    )  # a unit step in a random direction: no subtraction of coordinates is exact
    q = geometry(geoopt.Lorentz()).exp_frame(lift(x.double()), v / v.norm(dim=-1, keepdim=True))
    pairs.append((x, q[:, 1:].to(dtype)))
    return [(a, b) for a, b in pairs if bool((a != b).any(-1).all())]


@pytest.mark.parametrize("dtype, tol", [(torch.float32, 1e-6), (F64, 1e-14)])
@pytest.mark.parametrize("radius", [1e-3, 1.0, 5.0, 8.0, 12.0, 16.0, 20.0])
@pytest.mark.parametrize("k", [1.0, 1.7])
def test_hyperboloid_distance_is_right_to_rounding(
    radius: float, k: float, dtype: torch.dtype, tol: float
) -> None:
    geo = geometry(geoopt.Lorentz(k=torch.tensor(k, dtype=dtype)))
    k = float(geo.manifold.k)
    for x, y in steps(radius, dtype):
        want = torch.tensor(exact_dist(x, y, k), dtype=F64)
        got = geo.dist(lift(x, k), lift(y, k)).double()
        assert ((got - want).abs() <= tol * want).all(), ((got - want) / want).abs().max()


@pytest.mark.parametrize("radius", [1.0, 5.0, 8.0, 12.0])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_hyperboloid_maps_are_right_to_the_rounding_of_coordinates(radius: float, dtype: torch.dtype) -> None:
    geo = geometry(geoopt.Lorentz())
    p = lift(spatial(radius, 200, 3, dtype))
    u = torch.randn(200, 3, dtype=dtype)
    home = -p[:, 1:] / p[:, 1:].norm(
        dim=-1, keepdim=True
    )  # towards the origin, where naive formulas lose e^{2r}
    for v in (u, 1e-3 * u, radius * home, (radius + 1.0) * home, 1.5 * home + 0.1 * u):
        q = geo.exp_frame(p, v)
        limit = 30 * torch.finfo(dtype).eps * math.cosh(radius)
        assert geo.contains(q).all()
        assert (geo.dist(p, q) - v.norm(dim=-1)).abs().max() <= limit * (1 + radius)
        assert (geo.log_frame(p, q) - v).norm(dim=-1).max() <= limit * math.cosh(
            float(v.norm(dim=-1).max()) / 2
        ) * 4
        y, w = geo.geodesic(p, geo.to_tangent(p, v), 1.0)
        assert (
            geo.dist(y, q) <= limit * v.norm(dim=-1).cosh()
        ).all()  # u itself is rounded at the size of its largest part
        assert (geo.from_tangent(y, w).norm(dim=-1) - v.norm(dim=-1)).abs().max() <= 4 * limit * (1 + radius)


def test_walk_to_the_origin_and_beyond_arrives() -> None:
    geo = geometry(geoopt.Lorentz())
    p = lift(spatial(12.0, 100, 2, F64))
    home = -p[:, 1:] / p[:, 1:].norm(dim=-1, keepdim=True)
    q = geo.exp_frame(p, 12.0 * home)
    assert (
        geo.dist(q, geo.origin(2, dtype=F64)) < 1e-9
    ).all()  # eps e^12 = 4e-11; a plain sum loses eps e^24 = 6e-6


@pytest.mark.parametrize("dtype, rtol", [(torch.float32, 2e-6), (F64, 4e-15)])
@pytest.mark.parametrize("radius", [1e-3, 1.0, 3.0, 5.5])
def test_ball_distance_as_good_as_the_coordinates(radius: float, dtype: torch.dtype, rtol: float) -> None:
    """Conditioning: an error eps in 1 - |x|^2 moves the point by eps cosh^2(r / 2) * 2."""
    geo = geometry(geoopt.Stereographic(k=torch.tensor(-1.0, dtype=dtype)))
    u = torch.randn(50, 3, dtype=F64)
    x = (u / u.norm(dim=-1, keepdim=True) * math.tanh(radius / 2)).to(dtype)
    for y in (x.roll(1, 0), -x, 0.9 * x, x + 1e-4 * (1 - x.square().sum(-1, keepdim=True)) * x.roll(1, -1)):
        want = []
        for a, b in zip(x.double().tolist(), y.double().tolist(), strict=True):
            a, b = [mp.mpf(t) for t in a], [mp.mpf(t) for t in b]
            n = sum((s - t) ** 2 for s, t in zip(a, b, strict=True))
            want.append(
                float(2 * mp.asinh(mp.sqrt(n / ((1 - sum(s * s for s in a)) * (1 - sum(t * t for t in b))))))
            )
        w = torch.tensor(want, dtype=F64)
        error = (geo.dist(x, y).double() - w).abs()
        assert (error <= w * rtol * (1 + math.cosh(radius / 2) ** 2)).all(), (error / w).max()


@pytest.mark.parametrize("c", [0.5, 1.0, 1.4])
def test_ball_and_hyperboloid_agree(c: float) -> None:
    torch.set_default_dtype(F64)
    try:
        ball, lorentz = geoopt.PoincareBall(c=c), geoopt.Lorentz(k=1 / c)
    finally:
        torch.set_default_dtype(torch.float32)
    a, b, f = geometry(ball), geometry(lorentz), BallToHyperboloid(ball, lorentz)
    p, q = (a.chart(torch.randn(300, 3, dtype=F64)) for _ in range(2))
    v = torch.randn(300, 3, dtype=F64)
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(f(a.exp_frame(p, v)), b.exp_frame(f(p), v), **close)
    torch.testing.assert_close(a.log_frame(p, q), b.log_frame(f(p), f(q)), **close)
    torch.testing.assert_close(a.dist(p, q), b.dist(f(p), f(q)), **close)
    torch.testing.assert_close(a.log_det_exp(p, v), b.log_det_exp(f(p), v), **close)
    _, u = torch.func.jvp(f, (p,), (a.to_tangent(p, v),))  # frames correspond under the differential
    torch.testing.assert_close(u, b.to_tangent(f(p), v), **close)
    y, w = a.geodesic(p, a.to_tangent(p, v), 0.7)
    z, w2 = b.geodesic(f(p), b.to_tangent(f(p), v), 0.7)
    torch.testing.assert_close(f(y), z, **close)
    torch.testing.assert_close(a.from_tangent(y, w), b.from_tangent(z, w2), **close)


@pytest.mark.parametrize("k", [-1.0, -1e-3, -1e-6, -1e-9, 0.0, 1e-9, 1e-6, 1e-3, 0.5])
@pytest.mark.parametrize("dtype, tol", [(torch.float32, 2e-6), (F64, 1e-13)])
def test_gradient_in_curvature(k: float, dtype: torch.dtype, tol: float) -> None:
    """d(dist)/dK for fixed coordinates against mpmath, through and at K = 0 (geoopt: 60% off at 1e-6 in
    float32)."""
    manifold = geoopt.Stereographic(k=torch.tensor(k, dtype=dtype), learnable=True)
    geo = geometry(manifold)
    x, y = torch.tensor([0.3, -0.2], dtype=dtype), torch.tensor([-0.1, 0.45], dtype=dtype)
    a, b = [mp.mpf(t) for t in x.tolist()], [mp.mpf(t) for t in y.tolist()]

    def exact(K: mp.mpf) -> mp.mpf:
        n = sum((s - t) ** 2 for s, t in zip(a, b, strict=True))
        r = mp.sqrt(mp.mpc(K))
        q = n / ((1 + K * sum(s * s for s in a)) * (1 + K * sum(t * t for t in b)))
        return mp.re(2 * mp.asin(r * mp.sqrt(q)) / r)

    h, K = mp.mpf(10) ** -15, mp.mpf(manifold.k.item()) + mp.mpf(10) ** -25
    want = float((exact(K + h) - exact(K - h)) / (2 * h))
    (g,) = torch.autograd.grad(geo.dist(x, y), manifold.k)
    assert abs(float(g) - want) <= tol * abs(want)
    for out in (geo.exp_frame(x, y), geo.log_frame(x, y), geo.log_det_exp(x, y), geo.geodesic(x, y, 0.3)[1]):
        (g,) = torch.autograd.grad(out.sum(), manifold.k)
        assert g.isfinite()


def test_one_distribution_through_zero_curvature() -> None:
    """exp and log are continuous in K at 0, where they are sums and differences in the metric 4 dx^2."""
    p, v = torch.randn(50, 3, dtype=F64), torch.randn(50, 3, dtype=F64)
    flat = geometry(geoopt.Stereographic(k=torch.tensor(0.0, dtype=F64)))
    torch.testing.assert_close(flat.exp_frame(p, v), p + v / 2)
    for k in (-1e-12, 1e-12):
        geo = geometry(geoopt.Stereographic(k=torch.tensor(k, dtype=F64)))
        torch.testing.assert_close(geo.exp_frame(p, v), p + v / 2, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(geo.log_frame(p, p + v / 2), v, rtol=1e-10, atol=1e-10)


def test_chart_follows_curvature() -> None:
    manifold = geoopt.Stereographic(k=-1.0, learnable=True)
    geo = geometry(manifold)
    assert geo.has_chart and geo.injectivity_radius((2,)) == math.inf
    with torch.no_grad():
        manifold.k.fill_(0.25)
    assert not geo.has_chart
    assert float(geo.injectivity_radius((2,))) == pytest.approx(2 * math.pi)
    assert geo.log_volume((2,)).item() == pytest.approx(math.log(16 * math.pi))
    assert geo.uniform_sample((5,), (2,)).shape == (5, 2)
    with torch.no_grad():
        manifold.k.zero_()
    assert geo.has_chart
    with pytest.raises(NotImplementedError, match="no finite volume"):
        geo.log_volume((2,))


@pytest.mark.parametrize("dtype, tol", [(torch.float32, 1e-6), (F64, 2e-15)])
@pytest.mark.parametrize("k", [0.7, 1.0])
def test_stereographic_sphere_near_the_point_at_infinity(k: float, dtype: torch.dtype, tol: float) -> None:
    geo = geometry(geoopt.SphereProjection(k=torch.tensor(k, dtype=dtype)))
    k = float(geo.curvature(torch.zeros((), dtype=dtype)))
    half = math.pi / math.sqrt(k)
    zero = torch.zeros(2, dtype=dtype)
    e = torch.tensor([0.6, 0.8], dtype=dtype)
    for gap in (0.0, 1e-6, 1e-3, 0.1, 1.0):
        q = geo.exp_frame(zero, (half - gap) * e)
        assert q.isfinite().all() and geo.contains(q)
        assert abs(float(geo.dist(zero, q)) - (half - gap)) <= 4 * tol
        v = geo.log_frame(zero, q)
        v = v * torch.sign(v @ e)  # float32's pi is beyond pi
        torch.testing.assert_close(v, (half - gap) * e, rtol=4 * tol, atol=4 * tol)
        back = geo.exp_frame(q, geo.log_frame(q, zero))  # from next to infinity to the origin
        assert float(back.abs().max()) <= 10 * tol
        r = geo.exp_frame(zero, (half - gap - 0.25) * e)
        assert abs(float(geo.dist(q, r)) - 0.25) <= 20 * tol
    p = torch.tensor([0.5, 0.1], dtype=dtype)
    antipode = -p / (k * p.square().sum())
    assert abs(float(geo.dist(p, antipode)) - half) <= 4 * tol
    v = geo.log_frame(p, antipode)
    assert abs(float(v.norm()) - half) <= 4 * tol
    a, b = p.clone().requires_grad_(), antipode.clone().requires_grad_()
    for g in torch.autograd.grad(geo.dist(a, b) + geo.log_frame(a, b).sum(), (a, b)):
        assert g.isfinite().all()


@pytest.mark.parametrize("dtype, radius", [(torch.float32, 25.0), (F64, 45.0)])
def test_beyond_the_ball_is_said_not_hidden(dtype: torch.dtype, radius: float) -> None:
    geo = geometry(geoopt.Stereographic(k=torch.tensor(-1.0, dtype=dtype)))
    v = torch.tensor([[0.6, 0.8], [0.0, 1.0]], dtype=dtype) * torch.tensor([[radius], [1.0]], dtype=dtype)
    with pytest.warns(RuntimeWarning, match="geoopt.Lorentz"):
        x = geo.exp_frame(torch.zeros(2, dtype=dtype), v)
    assert geo.contains(x).all() and geo.log_frame(torch.zeros_like(x), x).isfinite().all()
    with pytest.warns(RuntimeWarning):
        assert geo.contains(geo.exp_frame(x, torch.full_like(x, 1e4))).all()
    inside = {torch.float32: 14.0, F64: 33.0}[dtype]  # no warning: warnings are errors
    assert geo.contains(geo.exp_frame(torch.zeros(2, dtype=dtype), torch.tensor([0.0, inside], dtype=dtype)))
    lorentz = geometry(geoopt.Lorentz())
    o = lorentz.origin(2, dtype=dtype)
    torch.testing.assert_close(lorentz.log_frame(o, lorentz.exp_frame(o, v[0])), v[0])


def test_contains_is_for_each_element_and_relative() -> None:
    ball, lorentz = geometry(geoopt.PoincareBall()), geometry(geoopt.Lorentz())
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [math.nan, 0.0], [0.6, 0.79], [math.inf, 0.0]])
    assert ball.contains(x).tolist() == [True, False, False, True, False]
    far = lift(spatial(18.0, 4, 2, torch.float32))
    assert lorentz.contains(far).all()
    assert not lorentz.contains(far * torch.tensor([1.01, 1.0, 1.0])).any()
    assert not lorentz.contains(-far).any()
    assert lorentz.contains(torch.tensor([math.inf, math.inf, 0.0])).logical_not()


def test_curvature_is_read_in_the_dtype_of_the_points() -> None:
    ball = geoopt.PoincareBall(c=1.0, learnable=True)
    x = torch.tensor([0.3, 0.1], dtype=F64)
    d = geometry(ball).dist(x, -x)
    assert d.dtype == F64
    (g,) = torch.autograd.grad(d, ball.isp_c)
    assert g.isfinite() and g != 0
    exact = geometry(geoopt.Stereographic(k=-1.0))
    assert float(exact.curvature(x)) == -1.0
    assert abs(geometry(ball).curvature(x).item() + 1.0) < 1e-7


@pytest.mark.parametrize("make", [lambda k: geoopt.Lorentz(k=k), lambda k: geoopt.Stereographic(k=k)])
def test_bad_curvature(make: object) -> None:
    with pytest.raises(ValueError, match="manifold: "):
        geometry(make(torch.ones(3)))  # type: ignore[operator]
    with pytest.raises(ValueError, match="squared radius"):
        geometry(geoopt.Lorentz(k=-1.0))


@pytest.mark.parametrize("name", ["exp", "log", "exp_frame", "log_frame"])
@pytest.mark.parametrize("make", [geoopt.PoincareBall, geoopt.Lorentz])
def test_first_and_second_derivatives(make: type, name: str) -> None:
    """In the point, in the vector or the other point, and in a learned curvature, against finite differences."""
    manifold = make(torch.tensor(1.3, dtype=F64), learnable=True)
    geo, (parameter,) = geometry(manifold), manifold.parameters()
    v, w = 0.4 * torch.randn(2, 3, 2, dtype=F64)
    with torch.no_grad():
        origin = geo.origin(2, dtype=F64).expand(3, -1)
        p, q = geo.exp_frame(origin, v), geo.exp_frame(origin, w)
        z = {"exp": geo.to_tangent(p, w), "exp_frame": w}.get(name, q)
    inputs = (p.requires_grad_(), z.requires_grad_(), parameter)
    assert torch.autograd.gradcheck(lambda a, b, _: getattr(geo, name)(a, b), inputs)
    assert torch.autograd.gradgradcheck(lambda a, b, _: getattr(geo, name)(a, b), inputs)


@pytest.mark.parametrize(
    "manifold",
    [
        geoopt.PoincareBall(1.3),
        geoopt.Lorentz(2.0),
        geoopt.Stereographic(k=0.8),
        geoopt.Stereographic(k=-0.5),
    ],
)
def test_the_farthest_of_some_points(manifold: geoopt.Manifold) -> None:
    geo = geometry(manifold.double())
    origin = geo.origin(2, dtype=F64)
    x = geo.exp_frame(origin.expand(5, -1), 0.7 * torch.randn(5, 2, dtype=F64))
    assert geo.farthest(x) == pytest.approx(float(geo.dist(origin, x).max()), rel=1e-12)
