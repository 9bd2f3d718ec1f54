"""Rotations: angles near 0 and pi, any n, Haar distribution, wrapped normals on SO(3) against quadrature,
optimisers, errors."""

import copy
import math
import pickle

import geoopt
import pyro
import pytest
import torch
from scipy import integrate, linalg, stats
from torch.distributions import biject_to, transform_to

from pyro_manifold.constraints import on
from pyro_manifold.distributions import ManifoldUniform, WrappedNormal
from pyro_manifold.geometry import SpecialOrthogonal, geometry
from pyro_manifold.ops.orthogonal import hat, polar, rotation_log3, vee
from pyro_manifold.ops.rotation_exp_log import log_det_dexp, rotation_log
from pyro_manifold.testing import manifold_rule

F64, PI = torch.float64, math.pi
SO3 = SpecialOrthogonal(3)
ANGLES = [0.0, 1e-12, 1e-6, 0.1, 1.0, PI / 2 - 1e-9, PI / 2 + 1e-9, 3.0, PI - 1e-6, PI - 1e-12, PI]


def rotation(n, angles):
    """A rotation and its generator with the given plane angles, in a random orthonormal basis."""
    w, a = polar(torch.randn(n, n, dtype=F64), proper=True), torch.zeros(n, n, dtype=F64)
    for k, t in enumerate(angles):
        a[2 * k + 1, 2 * k] = t
    a = w @ (a - a.mT) @ w.mT
    return polar(torch.linalg.matrix_exp(a), proper=True), (a - a.mT) / 2


# --- logarithms ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("angle", ANGLES)
def test_exp_and_log_of_so3_at_every_angle(angle, dtype):
    geo, eps = geometry(SO3), torch.finfo(dtype).eps
    w = torch.tensor([[0.6, 0.0, 0.8], [-1.0, 0.0, 0.0], [0.48, -0.6, -0.64]], dtype=F64) * angle
    w = w.to(dtype).requires_grad_()
    eye = torch.eye(3, dtype=dtype).expand(3, 3, 3)
    r = geo.exp_frame(eye, w)
    back = geo.log_frame(eye, r)
    flip = (back.detach() * w.detach()).sum(
        -1, keepdim=True
    ) < 0  # at the cut itself (pi, rounded) either axis is right
    assert (torch.where(flip, -back, back) - w).abs().max() < 8 * eps * 1
    assert not flip.any() or angle > PI - 1e-6
    assert (geo.dist(eye, r) - w.norm(dim=-1)).abs().max() < 8 * eps
    j = torch.func.vmap(torch.func.jacrev(lambda v: geo.log_frame(eye[0], geo.exp_frame(eye[0], v))))(
        w.detach()
    )
    if not flip.any():
        assert (j - torch.eye(3, dtype=dtype)).abs().max() < 100 * eps


def test_hat_is_the_cross_product_and_lengths_are_angles():
    w, x = torch.randn(5, 3, dtype=F64), torch.randn(5, 3, dtype=F64)
    assert torch.allclose((hat(w) @ x.unsqueeze(-1)).squeeze(-1), torch.linalg.cross(w, x))
    for n in (2, 3, 4, 6):
        v = torch.randn(5, n * (n - 1) // 2, dtype=F64)
        assert torch.equal(vee(hat(v)), v) and torch.allclose(
            torch.linalg.matrix_norm(hat(v)) ** 2, 2 * v.square().sum(-1)
        )
    with pytest.raises(ValueError, match="dim: got 4, expected n"):
        hat(torch.zeros(4))


@pytest.mark.parametrize(
    "n, angles",
    [(2, (3.1,)), (4, (1.0, 2.0)), (4, (1.0, 1.0)), (4, (0.0, 0.0)), (5, (1e-9, 1.0)), (5, (3.0, 3.0 - 1e-9)),
     (4, (PI - 1e-9, 1.0)), (5, (PI - 1e-3, PI - 1e-3)), (6, (1.0, 1.0, 2.0)), (7, (0.5, 0.0, 0.0)), (8, (2.0, 2.0, 2.0, 2.0))],
)  # fmt: skip
def test_log_in_any_dimension_at_repeated_angles(n, angles):
    r, a = rotation(n, angles)
    tolerance = (
        1e-10 if sum(t > PI - 1e-2 for t in angles) > 1 else 1e-13
    )  # two planes near pi are ill conditioned
    assert (rotation_log(r) - a).abs().max() < tolerance


@pytest.mark.parametrize("n, angles", [(4, (PI, 1.0)), (5, (PI, PI)), (6, (PI, 0.0, 0.0)), (2, (PI,))])
def test_log_at_the_cut_is_one_of_the_shortest(n, angles):
    r, a = rotation(n, angles)
    out = rotation_log(r)
    assert (torch.linalg.matrix_exp(out) - r).abs().max() < 1e-14 * 10
    assert torch.linalg.matrix_norm(out).item() == pytest.approx(
        torch.linalg.matrix_norm(a).item(), abs=1e-13
    )


def test_gradients_of_logs_and_projections():
    torch.manual_seed(0)
    v = (0.8 * torch.randn(3, 6, dtype=F64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: vee(rotation_log(torch.linalg.matrix_exp(hat(x)))), (v,))
    for point in (
        torch.zeros(6, dtype=F64),
        torch.tensor([1.0, 0, 0, 0, 0, 1.0], dtype=F64),
    ):  # twice the same angle
        j = torch.autograd.functional.jacobian(
            lambda x: vee(rotation_log(torch.linalg.matrix_exp(hat(x)))), point
        )
        assert (j - torch.eye(6, dtype=F64)).abs().max() < 1e-13
    for shape, proper in (((4, 3, 3), True), ((4, 3, 3), False), ((4, 5, 2), False)):
        x = torch.randn(shape, dtype=F64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda y, proper=proper: polar(y, proper), (x,))
    x = torch.eye(
        3, dtype=F64
    ).requires_grad_()  # all singular values equal, where the derivative of an SVD is NaN
    (g,) = torch.autograd.grad(polar(x, True)[1, 0], x)
    assert torch.allclose(g, torch.tensor([[0, -0.5, 0], [0.5, 0, 0], [0, 0, 0]], dtype=F64))
    y = rotation(4, (1.0, 2.0))[0].requires_grad_()
    (g,) = torch.autograd.grad((polar(y).sum() * y.sum()), y, create_graph=True)
    with pytest.raises(NotImplementedError, match="last order implemented"):
        torch.autograd.grad(g.sum(), y)
    for point in (v[0].detach(), torch.zeros(6, dtype=F64), torch.tensor([1.0, 0, 0, 0, 0, 1.0], dtype=F64)):
        x = (
            point.clone().requires_grad_()
        )  # log of exp has no second derivative, log det d exp at 0 that of -|v|^2 / 12
        assert torch.autograd.gradgradcheck(
            lambda x: vee(rotation_log(torch.linalg.matrix_exp(hat(x)))), (x,)
        )
        assert torch.autograd.gradgradcheck(log_det_dexp, (x,))
    hessian = torch.func.hessian(log_det_dexp)(torch.zeros(6, dtype=F64))
    assert torch.allclose(hessian, -torch.eye(6, dtype=F64) / 3)  # tr(ad^2) / 24 = -8 |v|^2 / 48 on SO(4)


@pytest.mark.parametrize("n", [2, 4, 5, 6])
def test_log_beside_the_rotations_is_that_of_the_nearest(n):
    """Rounded to float32, and 1e-3 off: value against scipy's logarithm and polar factor, derivatives against
    differences."""
    torch.manual_seed(0)
    r = rotation(n, (0.9, 0.4, 2.0)[: n // 2])[0]
    move, weight = torch.randn(n, n, dtype=F64), torch.randn(n * (n - 1) // 2, dtype=F64)
    for near in (r.float().double(), r + 1e-6 * move, r + 1e-3 * move):
        expected = torch.from_numpy(linalg.logm(linalg.polar(near.numpy())[0]).real)
        assert (rotation_log(near) - expected).abs().max() < 1e-13

    def gradient(x):
        return torch.func.grad(lambda y: vee(rotation_log(y)) @ weight)(x)

    h = 1e-5
    for f in (lambda x: vee(rotation_log(x)) @ weight, gradient):
        slope = torch.func.jvp(f, (r,), (move,))[1]
        assert (slope - (f(r + h * move) - f(r - h * move)) / (2 * h)).abs().max() < 1e-8 * (
            1 + slope.abs().max()
        )


@pytest.mark.slow
def test_second_derivatives_along_geodesics_of_frames_and_wide_rotations():
    """Truncated and narrow normals on SO(2) to SO(5) and on frames, where the registry has one case:
    fourth-order differences."""
    torch.manual_seed(0)
    frames = [geoopt.Stiefel(canonical=c) for c in (True, False)]
    cases = [
        (SpecialOrthogonal(n), (n, n), s, t) for n in (2, 3, 4, 5) for s, t in ((0.6, True), (0.2, False))
    ]
    for manifold, event, scale, truncated in cases + [
        (m, (4, 2), s, t) for m in frames for s, t in ((0.3, True), (0.15, False))
    ]:
        geo = geometry(manifold)
        dim = geo.dim(event)
        loc = geo.uniform_sample((), event, dtype=F64)
        d = WrappedNormal(manifold, loc, torch.tensor([scale], dtype=F64), truncated=truncated)
        x, v = d.sample(), torch.nn.functional.normalize(torch.randn(dim, dtype=F64), dim=0)

        def line(t, d=d, geo=geo, x=x, v=v):
            return d.log_prob(geo.exp_frame(x, t * v))

        h = 4e-3
        a, b, c, e, f = (line(torch.tensor(i * h, dtype=F64)) for i in (-2, -1, 0, 1, 2))
        expected = (16 * (b + e) - (a + f) - 30 * c) / (12 * h * h)
        second = torch.func.hessian(line)(torch.zeros((), dtype=F64))
        assert (second - expected).abs() < 1e-7 * (1 + expected.abs()), (
            manifold.name,
            scale,
            second,
            expected,
        )


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_log_det_exp_against_autodiff(n):
    """To 1e-12, repeated and vanishing angles included; its gradient is finite at 0."""
    torch.manual_seed(0)
    m = SpecialOrthogonal(n)
    geo, d = geometry(m), n * (n - 1) // 2
    v = torch.randn(20, d, dtype=F64)
    v[0] = 0.0
    if n == 4:
        v[1] = torch.tensor([1.0, 0, 0, 0, 0, 1.0])
    p = geo.uniform_sample((20,), (n, n), dtype=F64)
    q = geo.exp_frame(p, v)
    j = torch.func.vmap(torch.func.jacrev(geo.exp_frame, argnums=1))(p, v)
    columns = torch.stack([geo.from_tangent(q, c) for c in j.unbind(-1)], -1)
    assert (geo.log_det_exp(p, v) - torch.linalg.slogdet(columns).logabsdet).abs().max() < 1e-12
    zero = torch.zeros(d, dtype=F64, requires_grad=True)
    (g,) = torch.autograd.grad(geo.log_det_exp(p[0], zero), zero, allow_unused=True) if n > 2 else (zero,)
    assert g.isfinite().all() and g.abs().max() == 0


# --- Haar ---------------------------------------------------------------------------------------------------
def test_haar_by_the_rotation_angle():
    """On SO(3) the angle has density (1 - cos t)/pi, so trace = 1 + 2 cos t is not what exp of a uniform
    tangent gives."""
    torch.manual_seed(0)
    x = ManifoldUniform(SO3, (3, 3), dtype=F64).sample((20_000,))
    angle = torch.arccos(((x.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1))
    assert (
        stats.kstest(angle.numpy(), lambda t: (t - torch.sin(torch.as_tensor(t)).numpy()) / PI).pvalue > 1e-3
    )  # seed fixed
    v = torch.randn(20_000, 3, dtype=F64)
    v = (
        v / v.norm(dim=-1, keepdim=True) * PI * torch.rand(20_000, 1, dtype=F64) ** (1 / 3)
    )  # uniform in the ball
    assert (
        stats.kstest(
            v.norm(dim=-1).numpy(), lambda t: (t - torch.sin(torch.as_tensor(t)).numpy()) / PI
        ).pvalue
        < 1e-6
    )


@pytest.mark.parametrize("n", [2, 4, 5])
def test_haar_by_moments_of_the_trace(n):
    """E tr = 0, E tr^2 = 1 (2 for n = 2): 5 standard errors."""
    torch.manual_seed(0)
    x = geometry(SpecialOrthogonal(n)).uniform_sample((50_000,), (n, n), dtype=F64)
    assert geometry(SpecialOrthogonal(n)).contains(x).all()
    t = x.diagonal(dim1=-2, dim2=-1).sum(-1)
    for f, expected in ((t, 0.0), (t * t, 2.0 if n == 2 else 1.0)):
        assert abs(float(f.mean()) - expected) < 5 * float(f.std()) / 50_000**0.5


def test_volume():
    """8 pi^2 on SO(3), by the metric in which lengths are angles; (2 pi)(8 pi^2)(2 pi^2)/2 pi on SO(4)."""
    assert math.exp(geometry(SO3).log_volume((3, 3))) == pytest.approx(8 * PI**2)
    shell = integrate.quad(lambda r: 4 * PI * (2 * math.sin(r / 2)) ** 2, 0, PI)[0]
    assert shell == pytest.approx(8 * PI**2)
    assert math.exp(geometry(SpecialOrthogonal(4)).log_volume((4, 4))) == pytest.approx(8 * PI**2 * 2 * PI**2)
    assert math.exp(geometry(SpecialOrthogonal(2)).log_volume((2, 2))) == pytest.approx(2 * PI)


# --- wrapped normals ----------------------------------------------------------------------------------------
LOC = torch.tensor([[0.0, -1.0, 0.0], [0.6, 0.0, -0.8], [0.8, 0.0, 0.6]], dtype=F64)
TRIL = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.7, 0.0], [-0.4, 0.2, 0.6]], dtype=F64)


@pytest.mark.parametrize(
    "spread",
    [{"scale": 0.3}, {"scale": 1.0}, {"scale": 2.0}, {"scale_tril": TRIL}, {"scale_tril": 2 * TRIL},
     {"scale": 2.0, "truncated": True}],
)  # fmt: skip
def test_mass_on_so3_is_one(spread):
    """Radial x spherical quadrature, to 1e-8; 96 angles around, as the narrowest axis has sd 0.45."""
    d = WrappedNormal(SO3, LOC, **spread)
    rule = manifold_rule(SO3, LOC, 4.0, 64, 96 if "scale_tril" in spread else 16)
    assert abs(float(rule.integrate(d.log_prob(rule.points).exp())) - 1) < 1e-8


def test_one_winding_loses_mass():
    """Without the windings only the part of the normal within pi is left, chi_3 cdf(pi / scale): 52% at scale
    2."""
    geo, rule = geometry(SO3), manifold_rule(SO3, LOC, 4.0, 64, 16)
    v = geo.log_frame(LOC, rule.points)
    for s in (0.7, 1.0, 2.0):
        d = WrappedNormal(SO3, LOC, s)
        single = d.base_dist.log_prob(v) - geo.log_det_exp(LOC, v)
        assert float(rule.integrate(single.exp())) == pytest.approx(stats.chi(3).cdf(PI / s), abs=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("scale", [1e-3, 0.5, 2.0])
def test_finite_at_the_centre_and_at_half_turns(dtype, scale):
    loc = LOC.to(dtype)
    half = loc @ torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=dtype))
    for x in (loc, half):
        p, value = loc.clone().requires_grad_(), x.clone().requires_grad_()
        lp = WrappedNormal(SO3, p, torch.tensor(scale, dtype=dtype)).log_prob(value)
        lp.backward()
        assert lp.isfinite() and p.grad.isfinite().all() and value.grad.isfinite().all()


def test_larger_rotations_truncated_or_narrow():
    """On SO(4) the truncated distribution integrates to 1 against Haar draws (5 standard errors); a narrow
    one is a push-forward."""
    torch.manual_seed(0)
    m = SpecialOrthogonal(4)
    geo, loc = geometry(m), rotation(4, (1.0, 2.0))[0]
    d = WrappedNormal(m, loc, torch.tensor(1.0, dtype=F64), truncated=True)
    x = geo.uniform_sample((20_000,), (4, 4), dtype=F64)
    w = d.log_prob(x).exp() * math.exp(geo.log_volume((4, 4)))
    assert abs(float(w.mean()) - 1) < 5 * float(w.std()) / 20_000**0.5
    narrow = WrappedNormal(m, loc, torch.tensor(0.2, dtype=F64))
    v = narrow.base_dist.sample((5,))
    expected = narrow.base_dist.log_prob(v) - geo.log_det_exp(loc, v)
    assert torch.allclose(narrow.log_prob(geo.exp_frame(loc.expand(5, 4, 4), v)), expected)
    with pytest.raises(ValueError, match=r"SO\(4\), expected at most 0.31: .*Use truncated=True"):
        WrappedNormal(m, loc, torch.tensor(1.0, dtype=F64))


def test_infer_shapes_of_matrix_events():
    shapes = WrappedNormal.infer_shapes(SO3, loc=(5, 1, 3, 3), scale_tril=(4, 3, 3))
    d = WrappedNormal(SO3, LOC.expand(5, 1, 3, 3), scale_tril=TRIL.expand(4, 3, 3))
    assert shapes == (d.batch_shape, d.event_shape) == ((5, 4), (3, 3))
    assert d.rsample((2,)).shape == (2, 5, 4, 3, 3) and d.log_prob(LOC).shape == (5, 4)


# --- optimisers, constraints, errors ------------------------------------------------------------------------
@pytest.mark.parametrize("n", [3, 4])
def test_manifold_parameter_and_riemannian_adam(n):
    torch.manual_seed(1)
    m = SpecialOrthogonal(n)
    target = m.random(n, n, dtype=F64).as_subclass(torch.Tensor)
    x = geoopt.ManifoldParameter(m.origin(dtype=F64), manifold=m)
    opt = geoopt.optim.RiemannianAdam([x], lr=0.05, stabilize=10)
    for _ in range(300):
        opt.zero_grad()
        (x - target).square().sum().backward()
        opt.step()
    assert m.dist(x, target) < 1e-3 and geometry(m).contains(x.detach())
    y = copy.deepcopy(x)
    assert y.manifold.n == n and torch.equal(y, x)
    assert pickle.loads(pickle.dumps(m)).n == n


def test_pyro_param_and_constraint():
    c = on(SO3)
    pyro.param("r", LOC, constraint=c)
    opt = torch.optim.SGD([pyro.param("r").unconstrained()], lr=0.3)
    for _ in range(200):
        opt.zero_grad()
        (pyro.param("r") - torch.eye(3, dtype=F64)).square().sum().backward()
        opt.step()
    r = pyro.param("r").detach()
    assert c.check(r) and (r - torch.eye(3)).abs().max() < 1e-3
    x = torch.randn(10, 3, 3)
    assert c.check(transform_to(c)(x)).all() and c.check(transform_to(c)(torch.zeros(3, 3)))
    with pytest.raises(NotImplementedError, match="no global chart"):
        biject_to(c)


def test_errors():
    bad = [
        (
            torch.diag(torch.tensor([1.0, 1.0, -1.0])),
            "got 1, 0, 0, 0, 1, 0, .* determinant \\+1\\). Project it first",
        ),
        (2 * torch.eye(3), "loc: got 2, 0, 0, .*orthogonal matrices"),
        (torch.full((3, 3), math.nan), "loc: got nan"),
        (torch.eye(4), r"got event shape \(4, 4\), expected \(3, 3\)"),
        (torch.ones(3), r"loc: got shape \(3,\), expected points of SO\(3\).*2 trailing axes"),
    ]
    for loc, message in bad:
        with pytest.raises(ValueError, match=message):
            WrappedNormal(SO3, loc, 1.0)
    for n in (1, 2.5, "3"):
        with pytest.raises(ValueError, match="n: got .* integer of at least 2"):
            SpecialOrthogonal(n)
    with pytest.raises(ValueError, match="event_shape: got"):
        ManifoldUniform(SO3, (3,))
    with pytest.raises(ValueError, match="not orthogonal|determinant"):
        SO3.assert_check_point_on_manifold(torch.ones(3, 3))
    assert rotation_log3(torch.eye(3)).abs().max() == 0


def test_shapes_of_points() -> None:
    """Batches of 3 x 3 matrices; the last two axes count, whatever is before them."""
    for shape in ((3, 3), (2, 3, 3), (4, 2, 3, 3)):
        assert SO3.check_point(torch.eye(3).expand(shape))
    for shape in ((4, 4), (2, 2), (3, 4), (3, 3, 2), (9,), (3,)):
        ok, reason = SO3.check_point(torch.zeros(shape), explain=True)
        assert not ok and f"trailing shape (3, 3), got {shape}" in reason
