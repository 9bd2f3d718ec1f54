"""Continuous flows against closed forms, quadrature and automatic differentiation."""

import copy
import io
import math
from typing import Any

import geoopt
import pyro.distributions as dist
import pytest
import torch
from cases.transforms import learned
from torch import Tensor

import pyro_manifold.distributions as md
from pyro_manifold.flows import Conditional, ContinuousFlow
from pyro_manifold.flows.solvers import IntegrationError
from pyro_manifold.geometry import SpecialOrthogonal, Torus, geometry
from pyro_manifold.nn import KillingField, TangentField
from pyro_manifold.testing import manifold_rule
from pyro_manifold.testing._tools import log_volume_change

D = torch.float64
SPHERE = geoopt.Sphere()


def points(manifold: Any, shape: Any, n: int = 6, dtype: torch.dtype = D) -> Tensor:
    torch.manual_seed(0)
    return geometry(manifold).scatter((n,), shape, dtype=dtype)


def flow_of(
    manifold: Any, shape: Any, size: float = 0.5, kind: Any = TangentField, **options: Any
) -> ContinuousFlow:
    torch.manual_seed(0)
    field = kind(manifold, shape, (8,))
    learned(field.net, size)
    field.net.to(D)
    return ContinuousFlow(field, **options)


# --- closed forms -----------------------------------------------------------------------------------------------
def turn(t: Tensor, x: Tensor) -> Tensor:
    """Around the third axis, faster and faster: by 1 + 1/2 radians in all."""
    return (1 + t) * torch.stack([-x[..., 1], x[..., 0], torch.zeros_like(x[..., 0])], -1)


@pytest.mark.parametrize("solver", ["dopri5", "rk4"])
def test_a_killing_field_is_a_rotation_and_keeps_volume(solver: str) -> None:
    x = points(SPHERE, (3,))
    flow = ContinuousFlow(turn, SPHERE, solver=solver, rtol=1e-9, atol=1e-9)
    y, log_volume = flow.forward_and_log_volume(x)
    c, s = math.cos(1.5), math.sin(1.5)
    rotation = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=D)
    torch.testing.assert_close(y, x @ rotation.mT, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(log_volume, torch.zeros(6, dtype=D), atol=1e-12, rtol=0)


def test_the_gradient_flow_of_a_height_is_a_conformal_map() -> None:
    """Of z on the sphere: tan(theta / 2) shrinks by e^-1 (a Mobius map), the volume by (sin theta' / sin theta)^2."""

    def rise(t: Tensor, x: Tensor) -> Tensor:
        up = torch.tensor([0.0, 0.0, 1.0], dtype=x.dtype)
        return up - x * x[..., 2:]

    x = points(SPHERE, (3,))
    y, log_volume = ContinuousFlow(rise, SPHERE, rtol=1e-10, atol=1e-10).forward_and_log_volume(x)
    half, other = (torch.atan2(p[:, :2].norm(dim=-1), p[:, 2]) / 2 for p in (x, y))
    torch.testing.assert_close(other.tan(), half.tan() * math.exp(-1), rtol=1e-8, atol=0)
    expected = 2 * ((2 * other).sin() / (2 * half).sin()).log()
    torch.testing.assert_close(log_volume, expected, rtol=1e-8, atol=1e-9)


def test_a_linear_field_of_flat_space_is_the_matrix_exponential() -> None:
    a = torch.tensor([[0.3, -1.0], [0.5, -0.2]], dtype=D)
    flow = ContinuousFlow(lambda t, x: x @ a.mT, geoopt.Euclidean(ndim=1), rtol=1e-10, atol=1e-10)
    x = points(geoopt.Euclidean(ndim=1), (2,))
    y, log_volume = flow.forward_and_log_volume(x)
    torch.testing.assert_close(y, x @ torch.linalg.matrix_exp(a).mT, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(log_volume, torch.full((6,), 0.1, dtype=D))


def test_a_constant_field_of_the_torus_and_of_the_line() -> None:
    one = ContinuousFlow(lambda t, x: torch.ones_like(x), Torus())
    y, log_volume = one.forward_and_log_volume(torch.tensor([[3.0], [0.0]]))
    torch.testing.assert_close(y, torch.tensor([[4.0 - 2 * math.pi], [1.0]]))
    assert not bool(log_volume.any())


def test_scaling_of_positive_definite_matrices_keeps_their_volume() -> None:
    """P to e^2 P is an isometry."""
    spd = geoopt.SymmetricPositiveDefinite()
    x = points(spd, (2, 2), 3)
    y, log_volume = ContinuousFlow(lambda t, p: 2 * p, spd, rtol=1e-7, atol=1e-7).forward_and_log_volume(x)
    torch.testing.assert_close(y, math.exp(2) * x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_volume, torch.zeros(3, dtype=D), atol=1e-8, rtol=0)


# --- volumes ----------------------------------------------------------------------------------------------------
H2 = geoopt.Lorentz()
PRODUCT = geoopt.ProductManifold((geoopt.Sphere(), 2), (geoopt.PoincareBall(), 2))
MANIFOLDS = [
    ("S1", SPHERE, (2,)),
    ("S3", SPHERE, (4,)),
    ("T3", Torus(), (3,)),
    ("ball", geoopt.PoincareBall(), (2,)),
    ("SO3", SpecialOrthogonal(3), (3, 3)),
    pytest.param("S1xH2", PRODUCT, (4,), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("kind", [TangentField, KillingField])
@pytest.mark.parametrize("name, manifold, shape", MANIFOLDS)
def test_volumes_are_those_of_autograd(name: str, manifold: Any, shape: Any, kind: Any) -> None:
    flow = flow_of(manifold, shape, 0.3, kind=kind, solver="rk4", steps=6)
    x = points(manifold, shape, 2)
    y, log_volume = flow.forward_and_log_volume(x)
    assert bool(flow.codomain.check(y).all()) and float((y - x).detach().abs().max()) > 1e-2
    expected = log_volume_change(flow._call, flow.domain, flow.codomain, x)
    torch.testing.assert_close(log_volume, expected, rtol=1e-3, atol=1e-3)
    back, same = flow.inverse_and_log_volume(y)
    off = geometry(manifold).log(x, back)  # angles may have gone round
    torch.testing.assert_close(off, torch.zeros_like(off), rtol=0, atol=1e-3)
    torch.testing.assert_close(same, log_volume, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_volume_on_positive_definite_matrices() -> None:
    spd = geoopt.SymmetricPositiveDefinite()
    flow = flow_of(spd, (2, 2), solver="rk4", steps=4)
    x = points(spd, (2, 2), 2)
    expected = log_volume_change(flow._call, flow.domain, flow.codomain, x)
    torch.testing.assert_close(flow.forward_and_log_volume(x)[1], expected, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("manifold, shape, center", [(SPHERE, 3, [0.0, 0.6, 0.8]), (Torus(), 2, [0.0, 0.0])])
def test_densities_integrate_to_one(manifold: Any, shape: int, center: list[float]) -> None:
    flow = flow_of(manifold, shape, 0.8, rtol=1e-5, atol=1e-5)
    rule = manifold_rule(manifold, torch.tensor(center, dtype=D), 4.0, 48, 48)
    base = md.ManifoldUniform(manifold, shape)
    with torch.no_grad():
        z, log_volume = flow.inverse_and_log_volume(rule.points)
        log_prob = base.log_prob(z.to(torch.get_default_dtype())).to(D) - log_volume
    assert float(log_prob.std()) > 0.15  # far from uniform
    assert float(rule.integrate(log_prob.exp())) == pytest.approx(1, abs=1e-3)


def test_probes_estimate_the_volume_without_bias() -> None:
    """On S^12: the mean over fresh probes, against the exact volume, within four standard errors; the same probes in
    each call otherwise."""
    x = points(SPHERE, (13,), 1)
    flow = flow_of(SPHERE, 13, 1.0, solver="rk4", steps=4, divergence="exact")
    estimated = ContinuousFlow(flow.field, solver="rk4", steps=4, seed=None, probes=2)
    with torch.no_grad():
        exact = flow.forward_and_log_volume(x)[1]
        draws = estimated.forward_and_log_volume(x.expand(4000, 13))[1]
    error = float(draws.std()) / 4000**0.5
    assert abs(float(draws.mean()) - float(exact)) < 4 * error < 0.2 * float(draws.std())
    seeded = ContinuousFlow(flow.field, solver="rk4", steps=4)
    assert torch.equal(seeded.forward_and_log_volume(x)[1], seeded.forward_and_log_volume(x.clone())[1])
    assert not torch.equal(
        estimated.forward_and_log_volume(x)[1], estimated.forward_and_log_volume(x.clone())[1]
    )


# --- solvers ----------------------------------------------------------------------------------------------------
def test_fixed_steps_are_of_order_four_and_adaptive_ones_to_tolerance() -> None:
    flow, x = flow_of(SPHERE, 3, 1.0), points(SPHERE, (3,))
    with torch.no_grad():
        exact = torch.cat(
            [v.reshape(6, -1) for v in flow.with_solver(rtol=1e-10, atol=1e-10).forward_and_log_volume(x)], 1
        )
        errors = []
        for steps in (8, 16):
            other = flow.with_solver("rk4", steps=steps).forward_and_log_volume(x)
            errors.append(float((torch.cat([v.reshape(6, -1) for v in other], 1) - exact).abs().max()))
        assert 8 < errors[0] / errors[1] < 40
        loose = flow.with_solver(rtol=1e-4, atol=1e-4)
        loose(x)
        few = loose.evaluations
        tight = flow.with_solver(rtol=1e-8, atol=1e-8)
        y, log_volume = tight.forward_and_log_volume(x)
    assert float((torch.cat([y, log_volume.unsqueeze(-1)], 1) - exact).abs().max()) < 1e-6
    assert few < tight.evaluations
    assert torch.equal(tight.field.net.last.weight, flow.field.net.last.weight)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler has many to give
def test_a_compiled_field_gives_the_same_values_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)  # the compiler turns it off
    x = points(SPHERE, (3,))
    results = []
    for compiled in (False, True):
        flow = flow_of(SPHERE, 3, solver="rk4", steps=2, compile=compiled)
        y, log_volume = flow.forward_and_log_volume(x)
        grads = torch.autograd.grad((y * x.flip(-1)).sum() + log_volume.sum(), list(flow.parameters()))
        results.append((y.detach(), log_volume.detach(), *grads))
        assert flow.evaluations == 8
        assert torch.equal(copy.deepcopy(flow)(x), y) or compiled
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver, tolerance", [("rk4", 1e-12), ("dopri5", 1e-6)])
def test_adjoint_gradients_are_direct_ones(solver: str, tolerance: float) -> None:
    x = points(SPHERE, (3,), 3)
    grads = []
    for adjoint in (False, True):
        flow = flow_of(SPHERE, 3, adjoint=adjoint, solver=solver, steps=4, rtol=1e-9, atol=1e-9)
        z = x.clone().requires_grad_()
        y, log_volume = flow.forward_and_log_volume(z)
        loss = log_volume.sum() + (y * torch.tensor([1.0, 2.0, 3.0], dtype=D)).sum()
        grads.append(torch.autograd.grad(loss, [z, *flow.parameters()]))
    # of a point on a sphere only the tangent part of a gradient means something
    grads = [(geometry(SPHERE).project_tangent(x, g[0]), *g[1:]) for g in grads]
    torch.testing.assert_close(grads[0], grads[1], rtol=tolerance, atol=tolerance)


def test_float32_stays_on_the_manifold() -> None:
    rotations = SpecialOrthogonal(3)
    for manifold, shape in ((SPHERE, (3,)), (rotations, (3, 3))):
        for solver in ("rk4", "dopri5"):
            flow = flow_of(manifold, shape, 1.0, solver=solver).float()
            x = points(manifold, shape, 100, torch.float32)
            with torch.no_grad():
                y = flow(x)
            assert y.dtype == torch.float32 and bool(geometry(manifold).contains(y, 2e-6).all())
            assert 0 < flow.drift < 1e-3


def test_fields_are_never_evaluated_outside_of_unit_time() -> None:
    seen = []

    def field(t: Tensor, x: Tensor) -> Tensor:
        seen.append(float(t))
        return x.sin()

    flow = ContinuousFlow(field, Torus())
    flow.inv(flow(torch.ones(1)))
    assert min(seen) == 0 and max(seen) == 1


# --- what goes wrong --------------------------------------------------------------------------------------------
def test_running_out_of_steps_says_what_to_do() -> None:
    x = points(SPHERE, (3,))
    with pytest.raises(IntegrationError, match="max_steps: .*more than 2 steps.*allow more"):
        ContinuousFlow(lambda t, x: 300 * turn(t, x), SPHERE, max_steps=2)(x)

    class Explosive(torch.nn.Module):
        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            return x * x.abs() * 1e3

    for adjoint in (False, True):
        flow = ContinuousFlow(Explosive(), geoopt.Euclidean(ndim=1), adjoint=adjoint)
        with pytest.raises(IntegrationError, match="not finite|no step is short enough|max_steps"):
            flow.forward_and_log_volume(torch.ones(1, 2))
    for solver in ("rk4", "dopri5"):
        with pytest.raises(IntegrationError, match="field: 1 of 2 points are not finite at time"):
            ContinuousFlow(lambda t, x: x / (x - 1), geoopt.Euclidean(ndim=1), solver=solver)(
                torch.tensor([[1.0], [0.0]])
            )


@pytest.mark.parametrize(
    "message, call",
    [
        ("field: 6 of 6 vectors at time 0 are not tangent", lambda: ContinuousFlow(lambda t, x: x, SPHERE)(points(SPHERE, (3,)))),
        ("field: got .*of shape", lambda: ContinuousFlow(lambda t, x: x[..., :1], SPHERE)(points(SPHERE, (3,)))),
        ("field: got float", lambda: ContinuousFlow(lambda t, x: 0.0, Torus())(torch.zeros(1))),
        ("manifold: got None", lambda: ContinuousFlow(turn)),
        ("manifold: .*the field's own", lambda: ContinuousFlow(TangentField(SPHERE, 3), Torus())),
        ("adjoint: got True for a function", lambda: ContinuousFlow(turn, SPHERE, adjoint=True)),
        ("compile: got True", lambda: ContinuousFlow(turn, SPHERE, compile=True)),
        ("solver: got 'euler'", lambda: ContinuousFlow(turn, SPHERE, solver="euler")),
        ("divergence: got 'none'", lambda: ContinuousFlow(turn, SPHERE, divergence="none")),
        (r"value: got shape \(4,\)", lambda: ContinuousFlow(TangentField(SPHERE, 3))(torch.zeros(4))),
        ("value: got dtype torch.float64", lambda: ContinuousFlow(TangentField(SPHERE, 3))(points(SPHERE, (3,)))),
        ("context: .*was given none", lambda: Conditional(ContinuousFlow(TangentField(SPHERE, 3)), 2).layer(torch.eye(3))),
        ("layer: got", lambda: Conditional(ContinuousFlow(turn, SPHERE), 2)),
    ],
)  # fmt: skip
def test_bad_input(message: str, call: Any) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --- as part of models ------------------------------------------------------------------------------------------
def test_empty_batches_copies_and_files() -> None:
    flow = flow_of(SPHERE, 3)
    y, log_volume = flow.forward_and_log_volume(torch.zeros(0, 3, dtype=D))
    assert y.shape == (0, 3) and log_volume.shape == (0,)
    x = points(SPHERE, (3,))
    y = flow(x)
    file = io.BytesIO()
    torch.save(flow.state_dict(), file)
    other = flow_of(SPHERE, 3, 0.0)
    assert not torch.equal(other(x), y)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    for twin in (copy.deepcopy(flow), other):
        assert torch.equal(twin(x), y)


def test_one_dimension_and_many() -> None:
    for n in (2, 65):
        flow = flow_of(SPHERE, n, solver="rk4", steps=3)
        x = points(SPHERE, (n,), 3)
        y, log_volume = flow.forward_and_log_volume(x)
        assert bool(geometry(SPHERE).contains(y).all()) and bool(log_volume.isfinite().all())


def test_a_context_moves_the_flow_and_pyro_scores_it() -> None:
    torch.manual_seed(0)
    flow = Conditional(ContinuousFlow(TangentField(SPHERE, 3, (8,)), solver="rk4", steps=4), context_dim=2)
    learned(flow.layer.field.net)
    base = md.ManifoldUniform(SPHERE, 3, batch_shape=(5,))
    c = torch.randn(5, 2)
    d = dist.ConditionalTransformedDistribution(base, [flow]).condition(c)
    x = d.sample((3,))
    assert x.shape == (3, 5, 3)
    log_prob = d.log_prob(x)
    for i in range(5):
        own = dist.TransformedDistribution(md.ManifoldUniform(SPHERE, 3), [flow.condition(c[i])])
        torch.testing.assert_close(own.log_prob(x[:, i]), log_prob[:, i], rtol=1e-4, atol=1e-4)
    assert flow.condition(c)(x[0, 0]).shape == (5, 3)


def test_draws_without_gradients_need_no_divergence_and_are_remembered() -> None:
    flow = flow_of(SPHERE, 3, solver="rk4", steps=3, cache_size=1)
    x = points(SPHERE, (3,))
    with torch.no_grad():
        y = flow(x)
        assert flow.inv(y) is x
        torch.testing.assert_close(flow.log_abs_det_jacobian(x, y), flow.forward_and_log_volume(x)[1])
        calls = flow.evaluations
        z = flow.inv(y.clone())
        flow._report.evaluations = 0
        flow.log_abs_det_jacobian(z, y)
        assert flow.evaluations in (0, calls)


def test_a_change_of_solver_forgets_what_another_made() -> None:
    flow = flow_of(SPHERE, 3, 2.0, solver="rk4", steps=1, cache_size=1)
    y = flow(points(SPHERE, (3,)))
    other = flow.with_solver("rk4", steps=64)
    assert not torch.allclose(other.inv(y), flow.inv(y), atol=1e-6)
