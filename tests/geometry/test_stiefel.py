"""Stiefel manifold: frames, exact geodesics in both metrics, logarithms, volumes, Haar distribution,
optimisers, errors."""

import math

import geoopt
import pyro
import pytest
import torch
from scipy import stats
from torch.distributions import biject_to, transform_to

from pyro_manifold.constraints import on
from pyro_manifold.distributions import ManifoldUniform, WrappedNormal
from pyro_manifold.geometry import SpecialOrthogonal, StiefelGeometry, geometry
from pyro_manifold.ops.orthogonal import hat
from pyro_manifold.testing import manifold_rule

F64, PI = torch.float64, math.pi
METRICS = {"canonical": geoopt.Stiefel(canonical=True), "euclidean": geoopt.Stiefel(canonical=False)}
SHAPES = [(3, 2), (4, 2), (5, 3), (6, 1), (3, 3)]
both = pytest.mark.parametrize("metric", METRICS)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def draws(metric, shape, n=8, length=1.0, dtype=F64):
    torch.manual_seed(0)
    geo = geometry(METRICS[metric])
    p = geo.uniform_sample((n,), shape, dtype=dtype)
    v = torch.randn(n, geo.dim(shape), dtype=dtype)
    return geo, p, length * v / v.norm(dim=-1, keepdim=True)


@both
@shapes
def test_frame_is_orthonormal_in_geoopts_metric(metric, shape):
    geo, p, v = draws(metric, shape)
    w = torch.randn_like(v)
    u, z = geo.to_tangent(p, v), geo.to_tangent(p, w)
    assert torch.allclose(METRICS[metric].inner(p, u, z), (v * w).sum(-1), atol=1e-12)
    assert torch.allclose(geo.from_tangent(p, u), v, atol=1e-12)
    assert torch.allclose(geo.project_tangent(p, u), u, atol=1e-12)
    assert torch.allclose(
        (geo.embed_tangent(p, v) * geo.embed_tangent(p, w)).sum((-1, -2)), (v * w).sum(-1), atol=1e-12
    )
    x = torch.randn_like(p)
    a = p.mT @ geo.project_tangent(p, x)
    assert (a + a.mT).abs().max() < 1e-12


def test_complement_is_orthonormal_even_far_from_the_origin():
    """At -E and near it I + X is singular: other signs take over, without loss of digits."""
    e = torch.eye(5, 3, dtype=F64)
    turn = torch.linalg.matrix_exp(
        hat(torch.randn(20, 10, dtype=F64)) * torch.logspace(-16, 0, 20, dtype=F64)[:, None, None]
    )
    for sign in (torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([1.0, -1.0, 1.0])):
        x = turn @ (e * sign.double())
        q = torch.cat([x, StiefelGeometry.complement(x)], -1)
        assert (q.mT @ q - torch.eye(5, dtype=F64)).abs().max() < 1e-12


@both
@shapes
def test_geodesics_solve_their_equation(metric, shape):
    """Canonical and Euclidean geodesic equations [Edelman et al., eq. 2.7 and 2.41], by central differences
    of the velocity."""
    geo, p, v = draws(metric, shape, length=1.3)
    u, h = geo.to_tangent(p, v), 1e-5
    y, w = geo.geodesic(p, u, 0.7)
    acceleration = (geo.geodesic(p, u, 0.7 + h)[1] - geo.geodesic(p, u, 0.7 - h)[1]) / (2 * h)
    gram = w.mT @ w
    rest = acceleration + y @ gram
    if metric == "canonical":
        a = y.mT @ w
        rest = acceleration + w @ w.mT @ y + y @ (a @ a + gram)
    assert rest.abs().max() < 1e-8
    assert ((y.mT @ y) - torch.eye(shape[1], dtype=F64)).abs().max() < 1e-13
    assert torch.allclose(METRICS[metric].inner(y, w), torch.full((8,), 1.69, dtype=F64), atol=1e-12)
    if metric == "euclidean":  # geoopt's is exact in this metric
        assert torch.allclose(geo.exp(p, u), METRICS[metric].expmap(p, u), atol=1e-12)


def test_long_geodesics_stay_on_the_manifold():
    for metric in METRICS:
        geo, p, v = draws(metric, (5, 3), length=20.0)
        assert geo.contains(geo.exp_frame(p, v), 1e-11).all()
        still, at_rest = geo.geodesic(p, geo.to_tangent(p, 0 * v), 1.0)
        assert torch.allclose(still, p, atol=1e-15) and at_rest.abs().max() == 0


def test_canonical_metric_of_nearly_square_frames_is_that_of_rotations():
    """V_{3,2} in the canonical metric is SO(3): complete the frame by its cross product."""
    so3 = geometry(SpecialOrthogonal(3))
    geo, p, v = draws("canonical", (3, 2), length=2.5)
    q = geo.exp_frame(p, v)
    r, s = (torch.cat([x, torch.linalg.cross(x[..., 0], x[..., 1]).unsqueeze(-1)], -1) for x in (p, q))
    assert torch.allclose(geo.dist(p, q), so3.dist(r, s), atol=1e-12)
    assert torch.allclose(geo.log_det_exp(p, v), so3.log_det_exp(r, v), atol=1e-12)
    assert geo.log_volume((3, 2)) == pytest.approx(so3.log_volume((3, 3)))


@both
@pytest.mark.parametrize("shape", [(3, 2), (4, 2), (5, 3), (3, 3)], ids=str)
def test_log_inverts_exp_within_the_injectivity_radius(metric, shape):
    geo, p, v = draws(metric, shape)
    v = 0.9 * geo.injectivity_radius(shape) * v
    assert (geo.log_frame(p, geo.exp_frame(p, v)) - v).abs().max() < 1e-12


def test_log_has_the_implicit_derivatives():
    geo, p, v = draws("euclidean", (3, 2), n=1)
    q = geo.exp_frame(p, v)
    project = geo.project
    p_, q_ = p.clone().requires_grad_(), q.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: geo.log_frame(project(a), project(b)), (p_, q_))
    assert torch.autograd.gradgradcheck(lambda b: geo.dist(p, geo.exp_frame(p, b)), (v.requires_grad_(),))
    jacobian = torch.func.jacfwd(lambda x: geo.log_frame(p, geo.exp_frame(p, x)))(v.detach())
    assert torch.allclose(jacobian.reshape(3, 3), torch.eye(3, dtype=F64))
    lengths = torch.func.vmap(lambda x: geo.dist(p[0], x))(q.expand(2, 3, 2))
    assert torch.allclose(lengths, v.detach().norm(dim=-1))


def test_log_that_does_not_exist_is_an_error():
    """O(3) has two components: no geodesic leads from one to the other."""
    geo = geometry(METRICS["canonical"])
    eye = torch.eye(3, dtype=F64)
    with pytest.raises(
        ValueError, match="q: no geodesic found from p for 1 of 2 pairs; .* injectivity radius"
    ):
        geo.log_frame(eye.expand(2, 3, 3), torch.stack([eye, eye.flip(0)]))


@both
def test_uniform_distribution(metric):
    """Mean 0, second moment 1/n of each entry, invariance of the volume: 5 standard errors; volumes against
    known ones."""
    torch.manual_seed(0)
    x = ManifoldUniform(METRICS[metric], (4, 2), dtype=F64).sample((50_000,))
    assert geometry(METRICS[metric]).contains(x).all()
    for f, expected in ((x, 0.0), (x**2, 0.25), (x[..., :1] * x[..., 1:], 0.0)):
        assert ((f.mean(0) - expected).abs() < 5 * f.std(0) / 50_000**0.5).all()
    geo = geometry(METRICS[metric])
    assert math.exp(geo.log_volume((4, 1))) == pytest.approx(2 * PI**2)
    double = 1.0 if metric == "canonical" else 2**0.5
    assert math.exp(geo.log_volume((4, 2))) == pytest.approx(2 * PI**2 * 4 * PI * double)
    assert math.exp(geo.log_volume((2, 2))) == pytest.approx(2 * 2 * PI * double)


@both
def test_volume_of_balls(metric):
    """Haar draws within 1.5 of a point, counted by the logarithm, against quadrature of exp(log_det_exp): 5
    standard errors."""
    torch.manual_seed(0)
    m, geo = METRICS[metric], geometry(METRICS[metric])
    loc = geo.uniform_sample((), (3, 2), dtype=F64)
    part = float(manifold_rule(m, loc, 1.5, 16, 16).weights.sum()) / math.exp(geo.log_volume((3, 2)))
    x = geo.uniform_sample((4000,), (3, 2), dtype=F64)
    x = x[
        (x - loc).square().sum((-1, -2)) < 2 * 1.5**2
    ]  # a geodesic is no shorter than its chord (over sqrt 2 if canonical)
    count = float((geo.dist(loc.expand_as(x), x) < 1.5).sum()) / 4000
    assert 0.05 < part < 0.5 and abs(count - part) < 5 * (part * (1 - part) / 4000) ** 0.5


@both
def test_wrapped_normals(metric):
    """Narrow distributions by importance weights (5 standard errors), the truncated one's proportion to them;
    wide ones say what to do."""
    torch.manual_seed(0)
    m, geo = METRICS[metric], geometry(METRICS[metric])
    loc = geo.uniform_sample((), (3, 2), dtype=F64)
    p, q = (WrappedNormal(m, loc, torch.tensor(s, dtype=F64)) for s in (0.25, 0.35))
    x = q.sample((400,))
    w = (p.log_prob(x) - q.log_prob(x)).exp()
    assert x.shape == (400, 3, 2) and abs(float(w.mean()) - 1) < 5 * float(w.std()) / 20
    d = WrappedNormal(m, loc, torch.tensor(1.5, dtype=F64), truncated=True)
    v = geo.log_frame(loc.expand(5, 3, 2), x[:5])
    expected = stats.chi(3).cdf(geo.injectivity_radius((3, 2)) / 1.5)
    normal = -v.square().sum(-1) / 4.5 - 1.5 * math.log(4.5 * PI) - geo.log_det_exp(loc, v)
    assert torch.allclose(d.log_prob(x[:5]), normal - math.log(expected))
    assert geo.contains(d.sample((50,))).all()
    with pytest.raises(
        ValueError, match="expected at most .*windings is not implemented there.*truncated=True"
    ):
        WrappedNormal(m, loc, torch.tensor(1.0, dtype=F64)).log_prob(loc)


@both
def test_riemannian_adam_and_pyro_param(metric):
    """Both reach the dominant two-dimensional subspace of a matrix."""
    torch.manual_seed(0)
    m = METRICS[metric]
    a = torch.diag(torch.tensor([3.0, 2.0, 0.5, 0.1], dtype=F64))
    x = geoopt.ManifoldParameter(geometry(m).uniform_sample((), (4, 2), dtype=F64), manifold=m)
    opt = geoopt.optim.RiemannianAdam([x], lr=0.05, stabilize=10)
    pyro.param("frame", geometry(m).uniform_sample((), (4, 2), dtype=F64), constraint=on(m))
    sgd = torch.optim.Adam([pyro.param("frame").unconstrained()], lr=0.05)
    for _ in range(300):
        for optimiser, frame in ((opt, x), (sgd, pyro.param("frame"))):
            optimiser.zero_grad()
            (-torch.trace(frame.mT @ a @ frame)).backward()
            optimiser.step()
    for frame in (x.detach(), pyro.param("frame").detach()):
        assert geometry(m).contains(frame) and float(torch.trace(frame.mT @ a @ frame)) == pytest.approx(
            5.0, abs=1e-3
        )
    assert on(m).check(transform_to(on(m))(torch.randn(5, 4, 2))).all()
    with pytest.raises(NotImplementedError, match="no global chart"):
        biject_to(on(m))


def test_products_know_the_shape():
    m = geoopt.ProductManifold((geoopt.Stiefel(), (4, 2)), (geoopt.Sphere(), 3))
    geo = geometry(m)
    origin = geo.origin(7, dtype=F64)
    assert geo.dim((11,)) == 7 and geo.contains(origin) and ManifoldUniform(m).sample().shape == (11,)


def test_errors():
    m = METRICS["canonical"]
    with pytest.raises(ValueError, match="loc: got 1, 1, .*orthonormal columns"):
        WrappedNormal(m, torch.ones(3, 2), 0.1)
    with pytest.raises(
        ValueError, match=r"points: got event shape \(2, 3\), expected \(n, p\) with p <= n; transpose"
    ):
        WrappedNormal(m, torch.eye(3)[:2], 0.1)
    with pytest.raises(
        ValueError, match="dim: .*members of different shapes and dimension 3.*ProductManifold"
    ):
        geometry(m).point_shape(3)
    with pytest.raises(ValueError, match="loc: got nan"):
        WrappedNormal(m, torch.full((3, 2), math.nan), 0.1)


@both
def test_derivative_of_exp_is_that_of_forward_mode(metric):
    """In closed form, since shooting takes dozens of them: -p at p = E took 4 s, log and distance."""
    torch.manual_seed(0)
    geo = geometry(METRICS[metric])
    for shape in ((4, 2), (5, 1), (3, 3)):
        p = geo.uniform_sample((3,), shape, dtype=F64)
        v = torch.randn(3, geo.dim(shape), dtype=F64)
        v[0] = 0
        axes = torch.eye(v.shape[-1], dtype=F64)
        columns = [torch.func.jvp(lambda x: geo.exp_frame(p, x), (v,), (e.expand_as(v),))[1] for e in axes]  # noqa: B023
        q = geo.exp_frame(p, v)
        expected = torch.stack([geo.from_tangent(q, c) for c in columns], -1)
        assert (geo.jacobian(p, v) - expected).abs().max() < 1e-13
    e = torch.eye(4, 2, dtype=F64)
    assert torch.allclose(geo.exp(e, geo.log(e, -e)), -e, atol=1e-10)


@both
def test_one_column_is_a_sphere(metric):
    """Wide normals on V_{n,1} are those of the sphere, windings included."""
    torch.manual_seed(0)
    loc, s = torch.eye(4, dtype=F64)[0], torch.tensor([2.0], dtype=F64)
    x = WrappedNormal(geoopt.Sphere(), loc, s).sample((5,))
    frames = WrappedNormal(METRICS[metric], loc.unsqueeze(-1), s).log_prob(x.unsqueeze(-1))
    torch.testing.assert_close(frames, WrappedNormal(geoopt.Sphere(), loc, s).log_prob(x.clone()))
