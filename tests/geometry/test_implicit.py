"""Implicit and embedded manifolds: against closed forms, and what they say of constraints that cannot
work."""

import math
import pickle

import geoopt
import pytest
import torch

from pyro_manifold.constraints import on
from pyro_manifold.geometry import EmbeddedManifold, ImplicitManifold, geometry
from pyro_manifold.ops.newton import ConvergenceError, PointFunction, householder_basis
from pyro_manifold.transforms import Chart

F64 = torch.float64


def unit(x):
    return x.square().sum(-1) - 1


def make(dim=3):
    near = torch.zeros(dim, dtype=F64)
    near[-1] = 0.7
    return ImplicitManifold(unit, near, name="my sphere")


def test_the_sphere_as_a_level_set():
    m, s = make(), geometry(geoopt.Sphere())
    geo = geometry(m)
    p = s.uniform_sample((4,), (3,), dtype=F64)
    assert geo.dim((3,)) == m.dim == 2 and torch.equal(m.point, torch.tensor([0.0, 0, 1], dtype=F64))
    u = s.project_tangent(p, torch.randn(4, 3, dtype=F64))
    assert (geo.project_tangent(p, p + u) - u).abs().max() < 1e-14
    for a, b in zip(geo.geodesic(p, u, 0.7), s.geodesic(p, u, 0.7), strict=True):
        assert (a - b).abs().max() < 1e-11
    x = torch.randn(50, 3, dtype=F64) * 3
    assert (geo.project(x) - s.project(x)).abs().max() < 1e-12
    assert geo.contains(torch.stack([p[0], p[0] * 1.001, p[0] * torch.nan])).tolist() == [True, False, False]
    assert on(m).check(p).all()


def test_membership_does_not_depend_on_the_units_of_the_equations():
    x = torch.tensor([[1.0, 0.0], [1.0 + 1e-6, 0.0]], dtype=F64)
    for scale in (1e-9, 1.0, 1e9):
        m = ImplicitManifold(lambda y, scale=scale: scale * unit(y), torch.tensor([0.9, 0.1], dtype=F64))
        assert geometry(m).contains(x).tolist() == [True, False]


def test_projection_and_steps_have_derivatives():
    geo = geometry(make())
    x = torch.randn(3, 3, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(geo.project, (x,))
    p = geo.project(x).detach()
    v = (0.3 * torch.randn(3, 2, dtype=F64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: geo.retract(p, geo.to_tangent(p, v))[0], (v,))
    q = p.requires_grad_()  # through the frame as well
    assert torch.autograd.gradcheck(lambda x, v: geo.to_tangent(geo.project(x), v), (q, v))


@pytest.mark.parametrize("shape", [(3, 1), (3, 2), (5, 3)])
def test_the_basis_is_lapacks_with_a_derivative(shape):
    a = torch.randn((3,) + shape, dtype=F64)
    a[0, 1:] = 0
    q = householder_basis(a)
    assert (householder_basis(a.requires_grad_()) - q).abs().max() < 1e-12
    assert (q.mT @ q - torch.eye(shape[0], dtype=F64)).abs().max() < 1e-13
    assert (q[..., shape[1] :].mT @ a).abs().max() < 1e-13
    assert torch.autograd.gradcheck(householder_basis, (a[1:].detach().requires_grad_(),))


@pytest.mark.parametrize(
    "f, direct",
    [(lambda x: torch.stack([x[0] * x[1], x[2].sin()]), False), (lambda x: x.sin()[..., :2], True)],
)
def test_point_functions_find_out_whether_they_take_batches(f, direct):
    g, x = PointFunction(f, torch.randn(3, dtype=F64)), torch.randn(3, 3, dtype=F64)
    assert g.direct == direct
    value, jac = g.jacobian(x)
    for i in range(3):
        assert torch.allclose(value[i], f(x[i])) and torch.allclose(
            jac[i], torch.autograd.functional.jacobian(f, x[i])
        )
    assert torch.allclose(torch.func.vmap(lambda y: g.jacobian(y.unsqueeze(0))[1][0])(x), jac)


def test_the_image_of_a_chart():
    def f(z):
        return torch.cat([z.cos(), z.sin(), z], -1)  # a helix

    m = EmbeddedManifold(Chart(f, lambda x: x[..., 2:], 1, 3), torch.zeros(1, dtype=F64))
    geo = geometry(m)
    p = f(torch.tensor([[0.3]], dtype=F64))
    q, w = geo.geodesic(
        p, geo.to_tangent(p, torch.ones(1, 1, dtype=F64)), 0.5
    )  # arc length sqrt 2 times the parameter
    sign = geo.to_tangent(p, torch.ones(1, 1, dtype=F64))[0, 2].sign()
    assert (q - f(torch.tensor([[0.3]], dtype=F64) + sign * 0.5 / 2**0.5)).abs().max() < 1e-11
    assert float(w.norm()) == pytest.approx(1.0)
    assert geo.contains(torch.stack([p[0], p[0] + 1e-3])).tolist() == [True, False]


def test_points_to_start_from_are_scattered_over_the_manifold():
    geo = geometry(make())
    x = geo.wander(geo.manifold.point.expand(400, 3))
    assert (
        geo.contains(x, 1e-12).all() and x.mean(0).abs().max() < 0.2
    )  # 4 standard errors of 1/sqrt(3 * 400) are 0.12


def test_riemannian_optimisers_and_pickling():
    m = pickle.loads(pickle.dumps(make()))
    x = geoopt.ManifoldParameter(m.projx(torch.tensor([0.3, 0.4, 0.8], dtype=F64)), manifold=m)
    optim = geoopt.optim.RiemannianAdam([x], lr=0.1)
    for _ in range(60):
        optim.zero_grad()
        (-x[0]).backward()
        optim.step()
    assert float(x.detach()[0]) > 0.99 and geometry(m).contains(x.detach())


TWICE = (lambda x: torch.stack([unit(x), 2 * unit(x)], -1), [0.0, 0.0, 1.0])


@pytest.mark.parametrize(
    "constraint, near, error, message",
    [
        (*TWICE, ValueError, r"Jacobian has rank 1 at .*, expected 2.*leave dependent equations out"),
        (lambda x: (x.norm() - 1) ** 2, [0.0, 0.0, 2.0], ValueError, r"rank 0 at .*\(\|x\| - 1, not"),
        (lambda x: x, [0.0, 1.0], ValueError, "got 2 equations for 2 coordinates, expected fewer"),
        (
            lambda x: x @ x[:2],
            [0.0, 0.0, 1.0],
            ValueError,
            r"constraint: it fails on a point of shape \(3,\)",
        ),
        (lambda x: x.sum().log(), [0.0, -1.0], ValueError, "not finite; start elsewhere"),
        (
            lambda x: x.square().sum() + 1,
            [0.3, 0.4],
            (ValueError, ConvergenceError),
            "rank|no solution of the constraint",
        ),
        (unit, 1.0, ValueError, "near: got 1.0, expected a floating tensor"),
    ],
)
def test_constraints_that_cannot_work(constraint, near, error, message):
    near = torch.tensor(near, dtype=F64) if isinstance(near, list) else near
    with pytest.raises(error, match=message):
        ImplicitManifold(constraint, near)


def test_what_is_not_known_says_what_to_do():
    geo = geometry(make())
    p = geo.manifold.point
    for f in (
        lambda: geo.log(p, p),
        lambda: geo.dist(p, p),
        lambda: geo.log_volume((3,)),
        lambda: geo.uniform_sample((), (3,)),
    ):
        with pytest.raises(
            NotImplementedError, match="my sphere: its .*ImproperUniform.*sample with GeodesicNUTS"
        ):
            f()
    with pytest.raises(ValueError, match=r"got event shape \(4,\), expected \(3,\)"):
        geo.contains(torch.zeros(4, dtype=F64))
    with pytest.raises(ConvergenceError, match="no point of my sphere was found from .* start nearer"):
        geo.project(torch.zeros(3, dtype=F64))
    with pytest.raises(ConvergenceError, match="retr: no point of my sphere"):
        geo.manifold.retr(p, torch.tensor([3.0, 0.0, 0.0], dtype=F64))


def sphere_(x):
    return x.norm(dim=-1) - 1


def torus_(x):
    return (x[..., :2].norm(dim=-1) - 1) ** 2 + x[..., 2] ** 2 - 0.25


def ellipsoid_(x):
    return x[..., 0] ** 2 + x[..., 1] ** 2 / 4 + x[..., 2] ** 2 / 9 - 1


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)])
def test_constraints_whose_gradient_vanishes_on_the_manifold(dtype):
    """Powers of an equation, and an equation that becomes dependent on the manifold alone, are refused; the
    equation itself is accepted from the same starts, in any units."""
    generator = torch.Generator().manual_seed(0)
    for f in (sphere_, torus_, ellipsoid_):
        for _ in range(2):
            near = torch.randn(3, generator=generator, dtype=torch.float64).to(dtype)
            near = near / near.norm() * (0.7 + 0.6 * torch.rand((), generator=generator).item())
            for unit in (1e-6, 1e6):
                m = ImplicitManifold(lambda x: unit * f(x), near=near)  # noqa: B023
                assert m.dim == 2 and bool(geometry(m).contains(m.point))

                def both(x, f=f, unit=unit):
                    return torch.stack([f(x), unit * x[..., 0] - unit * 0.1], -1)

                pair = ImplicitManifold(both, near=near)
                assert pair.dim == 1
            for bad in (
                lambda x: f(x) ** 2,  # noqa: B023
                lambda x: f(x) ** 3,  # noqa: B023
                lambda x: 1e6 * f(x) ** 2,  # noqa: B023
                lambda x: torch.stack([f(x) ** 2, x[..., 0] - 0.1], -1),  # noqa: B023
                lambda x: torch.stack([f(x), f(x) + (x[..., 0] - 0.1) ** 2], -1),  # noqa: B023
            ):
                with pytest.raises((ValueError, ConvergenceError)):
                    ImplicitManifold(bad, near=near)


def test_the_point_is_the_nearest_solution():
    """Against a fine grid of the ellipse with semi-axes 1 and 2, from inside and outside; a sphere keeps the
    direction."""
    t = torch.linspace(0, 2 * math.pi, 400_001, dtype=F64)
    grid = torch.stack([t.cos(), 2 * t.sin()], -1)
    for start in (
        [0.5, 0.2],
        [2.0, 2.0],
        [0.1, 0.9],
        [3.0, 0.2],
        [-0.4, 0.1],
        [0.1, 1.7],
        [-5.0, -9.0],
        [1.0, 0.0],
    ):
        near = torch.tensor(start, dtype=F64)
        m = ImplicitManifold(lambda x: x[..., 0] ** 2 + x[..., 1] ** 2 / 4 - 1, near=near)
        wanted = (grid - near).norm(dim=-1).min()
        assert abs(float((m.point - near).norm() - wanted)) < 1e-9
        assert float((m.point - grid[(grid - near).norm(dim=-1).argmin()]).norm()) < 1e-4
    near = torch.tensor([0.3, -2.0, 0.4], dtype=F64)
    torch.testing.assert_close(ImplicitManifold(sphere_, near=near).point, near / near.norm())
