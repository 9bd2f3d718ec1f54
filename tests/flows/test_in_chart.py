"""Learned maps of a manifold onto itself: a density by them has mass 1, their derivative is that of finite
differences, and the base point can be learned."""

from typing import Any

import geoopt
import pyro.distributions as dist
import pytest
import torch
from cases.transforms import learned
from torch.distributions import AffineTransform, ReshapeTransform, SoftmaxTransform

from pyro_manifold import flows
from pyro_manifold.distributions import WrappedNormal
from pyro_manifold.geometry import geometry

F64 = torch.float64
SPD = geoopt.SymmetricPositiveDefinite


def spd_flow(**kwargs: Any) -> flows.InChart:
    loc = torch.tensor([[1.5, 0.3], [0.3, 0.7]], dtype=F64)
    return flows.InChart(SPD(), learned(flows.Coupling(3, [0, 2])).double(), loc, **kwargs)


def test_mass_on_positive_definite_matrices() -> None:
    """By importance sampling from a wider wrapped normal: the mean of p/q is 1 within 5 standard errors, each
    less than 1 %."""
    eye, loc = torch.eye(2, dtype=F64), torch.tensor([[1.5, 0.3], [0.3, 0.7]], dtype=F64)
    f = flows.InChart(SPD(), learned(flows.Coupling(3, [0, 2], kind="affine").double(), 0.3), loc)
    p = dist.TransformedDistribution(WrappedNormal(f.manifold, eye, 0.5), [f])
    q = WrappedNormal(f.manifold, f(eye).detach(), 0.7)
    x = q.sample((20_000,))
    ratio = (p.log_prob(x) - q.log_prob(x)).exp()
    error = ratio.std() / len(x) ** 0.5
    assert error < 0.01
    assert (ratio.mean() - 1).abs() < 5 * error
    assert p.sample((3,)).shape == (3, 2, 2) and p.event_shape == (2, 2)


def test_derivative_along_tangents() -> None:
    f = spd_flow()
    geo = geometry(f.manifold)
    x = geo.exp_frame(torch.eye(2, dtype=F64).expand(4, 2, 2), 0.5 * torch.randn(4, 3, dtype=F64))
    u = torch.randn(4, 5, 2, 2, dtype=F64)
    u = u + u.mT
    y, moved = f.jvp(x, u)
    torch.testing.assert_close(y, f(x))
    h = 1e-5
    wanted = torch.stack([(f(x + h * t) - f(x - h * t)) / (2 * h) for t in u.unbind(1)], 1)
    torch.testing.assert_close(moved, wanted, rtol=1e-7, atol=1e-7)


def test_base_point_and_curvature_are_learned() -> None:
    """Both are parameters of the map, and ``to`` converts them."""
    ball = geoopt.PoincareBall(learnable=True)
    f = flows.InChart(
        ball, flows.LULinear(2), geoopt.ManifoldParameter(torch.zeros(2), manifold=ball)
    ).double()
    x = torch.tensor([[0.3, -0.2]], dtype=F64)
    f.layers[0].lu.data.fill_(0.3)
    (f(x).sum() + f.log_volume(x).sum()).backward()
    for name in ("loc", "manifold.isp_c", "_submodules.0.lu"):
        assert bool(dict(f.named_parameters())[name].grad.any()), name


def test_a_context() -> None:
    f = flows.Conditional(flows.InChart(SPD(), flows.Coupling(3, [0, 1, 2])), context_dim=2)
    f.layer.double()
    learned(f.layer.layers[0])
    c, x = torch.randn(4, 2, dtype=F64), torch.eye(2, dtype=F64).expand(4, 2, 2)
    y = f.condition(c)(x)
    torch.testing.assert_close(y, torch.stack([f.condition(row)(x[0]) for row in c]))
    assert not torch.allclose(y[0], y[1])
    torch.testing.assert_close(f.condition(c).inv(y), x)


@pytest.mark.parametrize(
    "make, match",
    [
        (
            lambda: flows.InChart(geoopt.CanonicalStiefel(), flows.LULinear(3)),
            "manifold: got .*Stiefel.*, which no exponential map covers",
        ),
        (lambda: flows.InChart(SPD(), SoftmaxTransform()), "layer: got SoftmaxTransform"),
        (lambda: flows.InChart(SPD(), ReshapeTransform((3,), (3, 1))), "layer: got ReshapeTransform"),
        (lambda: flows.InChart(SPD(), flows.LULinear(3), -torch.eye(2)), "loc: got -1"),
        (lambda: flows.InChart(SPD(), flows.LULinear(2))(torch.eye(2)), "expected vectors of size 2"),
        (lambda: flows.InChart(SPD(), flows.LULinear(3)).inv(torch.eye(2).double()), "value: got dtype"),
    ],
)
def test_errors(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_an_elementwise_layer() -> None:
    """Doubled tangent coordinates of the origin are squared matrices."""
    x = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=F64)
    f = flows.InChart(SPD(), AffineTransform(0.0, 2.0))
    torch.testing.assert_close(f(x), x @ x)
    assert f.log_volume(x).shape == ()
