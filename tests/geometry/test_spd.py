"""SPD matrices beyond the generic checks: against mpmath and geoopt, at repeated eigenvalues, far away, and
bad input."""

import math
import warnings

import geoopt
import mpmath
import pytest
import torch
from torch.distributions import biject_to

import pyro_manifold.transforms  # noqa: F401  registers what biject_to answers
from pyro_manifold.constraints import check_point, on
from pyro_manifold.geometry import geometry
from pyro_manifold.testing import check_geometry

F64 = torch.float64
AIM = geoopt.SymmetricPositiveDefinite()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    LEM = geoopt.SymmetricPositiveDefinite("LEM")
METRICS = pytest.mark.parametrize("manifold", [AIM, LEM], ids=["AIM", "LEM"])


def draws(manifold, n, count, spread=0.7, dtype=F64):
    geo = geometry(manifold)
    return geo.chart(spread * torch.randn(count, n * (n + 1) // 2, dtype=dtype))


@METRICS
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_contract(manifold, n):
    check_geometry(manifold, n * (n + 1) // 2)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_agrees_with_geoopt_where_geoopt_is_right(n):
    geo = geometry(AIM)
    p, q = draws(AIM, n, 8), draws(AIM, n, 8)
    u = geo.to_tangent(p, torch.randn(8, n * (n + 1) // 2, dtype=F64))
    close = dict(rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(geo.dist(p, q), AIM.dist(p, q), **close)
    torch.testing.assert_close(geo.exp(p, u), AIM.expmap(p, u), **close)
    torch.testing.assert_close(geo.log(p, q), AIM.logmap(p, q), **close)
    torch.testing.assert_close(geo.from_tangent(p, u).square().sum(-1), AIM.inner(p, u), **close)
    torch.testing.assert_close(geometry(LEM).dist(p, q), LEM.dist(p, q), **close)


@METRICS
def test_gradients_at_coinciding_points_and_repeated_eigenvalues(manifold):
    """geoopt gives NaN for the first of these."""
    geo, eye = geometry(manifold), torch.eye(3, dtype=F64)
    x = eye.clone().requires_grad_()
    assert not torch.autograd.grad(AIM.dist(x, eye), x)[0].isfinite().all()
    for p, q in ((eye, eye), (eye, 2 * eye), (torch.diag(torch.tensor([1.0, 1.0, 5.0], dtype=F64)), eye)):
        a, b = p.clone().requires_grad_(), q.clone().requires_grad_()
        v = geo.log_frame(p, q).requires_grad_()
        moved = geo.exp_frame(a, v).sum() + geo.log_det_exp(a, v)
        for value in (geo.dist(a, b), geo.log(a, b).sum(), geo.log_frame(a, b).sum(), moved):
            grads = torch.autograd.grad(value, (a, b, v), allow_unused=True)
            assert all(g is None or bool(g.isfinite().all()) for g in grads)
        assert torch.autograd.gradcheck(lambda y, p=p: geo.dist(p, (y + y.mT) / 2 + 1e-3 * eye).square(), b)
        assert torch.autograd.gradcheck(lambda y, p=p: geo.exp_frame(p, y), v)


@METRICS
def test_squared_distance_has_the_right_hessian_at_its_zero(manifold):
    """At the identity it is |V|^2 for both metrics: twice the identity in orthonormal coordinates."""
    geo, eye = geometry(manifold), torch.eye(2, dtype=F64)
    square = lambda v: geo.log_frame(eye, geo.exp_frame(eye, v)).square().sum()  # noqa: E731
    hessian = torch.autograd.functional.hessian(square, torch.zeros(3, dtype=F64))
    torch.testing.assert_close(hessian, 2 * torch.eye(3, dtype=F64))


@pytest.mark.parametrize("dtype, tol", [(torch.float32, 3e-6), (F64, 1e-14)])
@pytest.mark.parametrize("size", [1e-3, 1e-6])
def test_distance_of_close_points_is_relatively_accurate(dtype, tol, size):
    """Truth at 50 digits from the rounded points themselves."""
    p = draws(AIM, 3, 1, dtype=dtype)[0]
    step = torch.tensor([[1.0, 0.5, 0.0], [0.5, -1.0, 0.25], [0.0, 0.25, 0.5]], dtype=dtype)
    q = p + size * step
    with mpmath.workdps(50):
        a, b = (mpmath.matrix(x.double().tolist()) for x in (p, q))
        lower = mpmath.cholesky(a) ** -1
        expected = mpmath.sqrt(
            sum(mpmath.log(x) ** 2 for x in mpmath.eigsy(lower * b * lower.T, eigvals_only=True))
        )
    assert float(geometry(AIM).dist(p, q)) == pytest.approx(float(expected), rel=tol * 10)


@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_scale_invariance(factor):
    geo = geometry(AIM)
    p, q = draws(AIM, 3, 16), draws(AIM, 3, 16)
    torch.testing.assert_close(geo.dist(factor * p, factor * q), geo.dist(p, q), rtol=1e-12, atol=1e-12)
    far = geo.dist(p, factor * p)
    torch.testing.assert_close(
        far, torch.full_like(far, abs(math.log(factor)) * 3**0.5), rtol=1e-12, atol=1e-12
    )


def test_congruence_invariance_and_inversion():
    geo, a = geometry(AIM), torch.randn(3, 3, dtype=F64)
    p, q = draws(AIM, 3, 16), draws(AIM, 3, 16)
    torch.testing.assert_close(geo.dist(a @ p @ a.mT, a @ q @ a.mT), geo.dist(p, q), rtol=1e-8, atol=1e-8)
    for g in (geo, geometry(LEM)):
        torch.testing.assert_close(g.dist(p.inverse(), q.inverse()), g.dist(p, q), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_volume_in_the_entries_of_the_matrix(n):
    """det(X)^{-(n+1)/2} 2^{n(n-1)/4} prod_{i<=j} dX_ij: the Jacobian of the chart, plain coordinates to
    entries."""
    geo, d = geometry(AIM), n * (n + 1) // 2
    i, j = torch.triu_indices(n, n)
    for v in torch.randn(5, d, dtype=F64):
        jacobian = torch.autograd.functional.jacobian(lambda y: geo.chart(y)[i, j], v)
        lebesgue = torch.linalg.slogdet(jacobian).logabsdet
        lebesgue = lebesgue - (n + 1) / 2 * torch.logdet(geo.chart(v)) + n * (n - 1) / 4 * math.log(2)
        torch.testing.assert_close(
            geo.log_det_exp(torch.eye(n, dtype=F64), v), lebesgue, rtol=1e-9, atol=1e-9
        )


@METRICS
def test_bijection_for_inference(manifold):
    t = biject_to(on(manifold))
    v = torch.randn(5, 6, dtype=F64)
    x = t(v)
    assert x.shape == (5, 3, 3) and bool(on(manifold).check(x).all())
    torch.testing.assert_close(t.inv(x), v, rtol=1e-9, atol=1e-9)
    assert t.log_abs_det_jacobian(v, x).shape == (5,)
    assert t.forward_shape((5, 6)) == (5, 3, 3) and t.inverse_shape((5, 3, 3)) == (5, 6)


def test_membership_is_per_element():
    good = torch.diag(torch.tensor([1.0, 1e-5]))
    indefinite, singular = torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.ones(2, 2)
    asymmetric, infinite = (
        torch.tensor([[1.0, 0.1], [0.0, 1.0]]),
        torch.diag(torch.tensor([1.0, float("inf")])),
    )
    batch = torch.stack(
        [good, indefinite, singular, asymmetric, infinite, good * torch.nan, torch.zeros(2, 2)]
    )
    assert geometry(AIM).contains(batch).tolist() == [True] + [False] * 6


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_projection_floors_the_spectrum(dtype):
    geo = geometry(AIM)
    x = torch.stack([torch.randn(3, 3), torch.zeros(3, 3), -torch.eye(3), torch.ones(3, 3)]).to(dtype)
    y = geo.project(x)
    assert bool(geo.contains(y).all())
    torch.testing.assert_close(y[3], x[3], rtol=1e-4, atol=1e-4)
    a = torch.tensor([[2.0, 1.0], [0.0, -1.0]], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(geo.project, a)


def test_batches_broadcast():
    geo = geometry(AIM)
    p, q = draws(AIM, 2, 3), draws(AIM, 2, 4).unsqueeze(1)
    expected = torch.stack([geo.dist(p, x.expand_as(p)) for x in q])
    torch.testing.assert_close(geo.dist(p, q), expected)
    torch.testing.assert_close(geo.dist(p[0].expand(4, 2, 2), q[:, 0]), expected[:, 0])
    assert geo.log(p, q).shape == (4, 3, 2, 2)


def test_bad_input():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stein = geoopt.SymmetricPositiveDefinite("SM")
    with pytest.raises(ValueError, match="manifold: .*'SM'.*'AIM'.*'LEM'"):
        geometry(stein)
    with pytest.raises(ValueError, match="dim: got 4, expected"):
        geometry(AIM).point_shape(4)
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        check_point(AIM, "loc", torch.ones(2, 3))
    for bad in (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), torch.tensor([[1.0, 2.0], [2.0, 1.0]])):
        with pytest.raises(ValueError, match="loc: got 1, .* expected points of SymmetricPositiveDefinite"):
            check_point(AIM, "loc", bad)
