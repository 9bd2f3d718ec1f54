"""Learned vector fields: tangent, smooth, differentiated as autograd does, on every geometry."""

import geoopt
import pytest
import torch
from cases import GEOMETRIES, GeometryCase
from cases.transforms import learned
from torch import Tensor

from pyro_manifold.geometry import Torus, geometry
from pyro_manifold.nn import KillingField, TangentField
from pyro_manifold.testing._tools import batch_jacobian
from pyro_manifold.transforms.divergence import divergence

D = torch.float64


def made(kind: type[TangentField], case: GeometryCase, context_dim: int = 0) -> tuple[TangentField, Tensor]:
    torch.manual_seed(0)
    manifold = case.manifold()
    geo, shape = geometry(manifold), case.event_shape()
    if kind is KillingField and geo.killing_fields(geo.base_point(shape)) is None:
        pytest.skip("no isometries are known")
    field = kind(manifold, shape, (7,), context_dim=context_dim)
    learned(field.net).to(D)  # not the manifold, which other cases share
    return field, geo.scatter((4,), shape, dtype=D)


class Damped(TangentField):
    """Values of its own: shorter far from the time 0 and where they are long."""

    def forward(self, t: Tensor | float, x: Tensor, context: Tensor | None = None) -> Tensor:
        v = super().forward(t, x, context)
        rank = tuple(range(-len(self.event_shape), 0))
        return v / (1 + abs(float(t)) + v.square().sum(rank, keepdim=True))


@pytest.mark.parametrize("kind", [TangentField, KillingField, Damped])
@pytest.mark.parametrize("case", GEOMETRIES, ids=lambda c: c.name)
def test_fields_are_tangent_and_their_derivative_is_that_of_autograd(
    case: GeometryCase, kind: type[TangentField]
) -> None:
    field, x = made(kind, case)
    geo = geometry(field.manifold)
    v = field(0.3, x)
    assert v.shape == x.shape and float(v.detach().abs().max()) > 1e-3
    torch.testing.assert_close(geo.project_tangent(x, v), v, rtol=1e-9, atol=1e-9)
    tangents = geo.random_tangent(x, (2,)).movedim(0, 1)
    value, moved = field.jvp(0.3, x, tangents)
    torch.testing.assert_close(value, v)
    jacobian = batch_jacobian(lambda y: field(0.3, y), x)
    expected = (jacobian @ tangents.flatten(2).mT).mT.reshape(tangents.shape)
    torch.testing.assert_close(moved, expected, rtol=1e-8, atol=1e-8)
    if case.name == "SPD3-log-euclidean":  # derivatives of its frame are of the last order that is known
        return
    grads = torch.autograd.grad(
        divergence(geo, x, value, tangents, moved).sum(), list(field.net.parameters()), allow_unused=True
    )
    assert all(g is None or bool(g.isfinite().all()) for g in grads) and grads[0] is not None


def test_a_new_field_is_zero_and_training_can_start() -> None:
    field = TangentField(geoopt.Sphere(), 3)
    x = torch.eye(3)
    v = field(0.0, x)
    assert not bool(v.any())
    (v * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert bool(field.net.last.weight.grad.any())  # type: ignore[union-attr]


def test_times_and_contexts_broadcast() -> None:
    field = learned(TangentField(Torus(), 2, (8,), context_dim=3))
    x, t, c = torch.randn(5, 2), torch.rand(5), torch.randn(5, 3)
    v = field(t, x, c)
    for i in range(5):
        torch.testing.assert_close(v[i], field(float(t[i]), x[i], c[i]))
    assert field(0.1, x[0], c).shape == (5, 2)
    new = field.with_context_dim(1)
    assert new(t, x, c[:, :1]).shape == (5, 2) and new.net is not field.net


def test_the_field_of_a_sphere_is_smooth_at_the_antipode_of_the_origin() -> None:
    """Where the transported frame is not."""
    field = learned(TangentField(geoopt.Sphere(), 3, (8,)))
    angle = torch.linspace(0, 6.28, 9)
    ring = geometry(geoopt.Sphere()).project(
        torch.stack([-torch.ones(9), 1e-4 * angle.cos(), 1e-4 * angle.sin()], -1)
    )
    spread = field(0.5, ring).detach()
    assert float((spread - spread[0]).abs().max()) < 1e-3 < float(spread.norm(dim=-1).min())


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="event_shape: got .*one point of Sphere"):
        TangentField(geoopt.Sphere(), (3, 3))
    with pytest.raises(ValueError, match="context: got none; expected size 2"):
        TangentField(Torus(), 1, context_dim=2)(0.0, torch.zeros(1))
    with pytest.raises(ValueError, match="context: got shape .*expected none"):
        TangentField(Torus(), 1)(0.0, torch.zeros(1), torch.zeros(1))
    from cases.geometries import ellipse

    with pytest.raises(ValueError, match="manifold: .*no isometries are known.*Use TangentField"):
        KillingField(ellipse(), 2)
