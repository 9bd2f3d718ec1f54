"""The density of an isotropic wrapped normal from the distance alone, against that from tangent coordinates."""

import geoopt
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_manifold.geometry import geometry

F64 = torch.float64
CASES = {
    "ball": (geoopt.PoincareBall(c=0.7), 3, 1.5),
    "ball, far out": (geoopt.PoincareBall(), 2, 10.0),
    "ball of many dimensions": (geoopt.PoincareBall(), 30, 0.5),
    "stereographic": (geoopt.Stereographic(-1.3), 2, 1.0),
    "sphere": (geoopt.Sphere(), 2, 1.0),
    "sphere of many dimensions": (geoopt.Sphere(), 20, 0.5),
}


def from_coordinates(manifold: geoopt.Manifold, p: Tensor, q: Tensor, scale: Tensor) -> Tensor:
    geo = geometry(manifold)
    p = p.expand_as(q)
    v = geo.log_frame(p, q)
    base = dist.Normal(torch.zeros_like(v), scale.unsqueeze(-1).expand_as(v)).to_event(1)
    return geo.log_wrapped(p, v, base)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str) -> None:
    manifold, dim, length = CASES[name]
    geo = geometry(manifold)
    origin = geo.base_point(geo.point_shape(dim), dtype=F64)
    p = geo.exp_frame(origin, 0.5 * length * torch.randn(dim, dtype=F64) / dim**0.5).requires_grad_()
    v = length * torch.randn(6, dim, dtype=F64) / dim**0.5
    q = geo.exp_frame(p.detach().expand(6, *p.shape), v).requires_grad_()
    scale = torch.linspace(0.3, 3.0, 6, dtype=F64).requires_grad_()
    ours = geo.log_isotropic(p, q, scale)
    expected = from_coordinates(manifold, p, q, scale)
    assert ours is not None
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
    for ambient, a, b in zip(
        (p, q, scale),
        torch.autograd.grad(ours.sum(), (p, q, scale)),
        torch.autograd.grad(expected.sum(), (p, q, scale)),
        strict=True,
    ):
        if ambient is not scale:  # derivatives along the manifold
            at = ambient.detach()
            a, b = geo.project_tangent(at, a), geo.project_tangent(at, b)
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6 * float(b.abs().max()))


def test_second_derivative_at_the_centre_of_a_ball() -> None:
    """The density of flat space times that of the chart: in R^2, with |v| = 2 artanh |x| and
    sinh(r)/r = 1 + r^2/6, the Hessian is -(4/s^2 + 4/3) I."""
    geo = geometry(geoopt.PoincareBall())
    zero, scale = torch.zeros(2, dtype=F64), torch.tensor(0.5, dtype=F64)
    hessian = torch.func.hessian(lambda x: geo.log_isotropic(zero, x, scale))(zero)
    torch.testing.assert_close(hessian, -(16.0 + 4.0 / 3.0) * torch.eye(2, dtype=F64))


def test_tiny_scales_do_not_underflow() -> None:
    geo = geometry(geoopt.PoincareBall())
    zero, x = torch.zeros(2), torch.tensor([3e-25, 4e-25])
    out = geo.log_isotropic(zero, x, torch.tensor(1e-25))
    assert out is not None
    assert float(out) == pytest.approx(-50.0 - 2 * (-57.5646273) - 1.8378771, rel=1e-5)


def test_large_batches_and_circles_take_coordinates() -> None:
    ball, circle = geometry(geoopt.PoincareBall()), geometry(geoopt.Sphere())
    one = torch.tensor(1.0)
    assert ball.log_isotropic(torch.zeros(2), torch.zeros(5000, 2), one) is None
    assert circle.log_isotropic(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]), one) is None
