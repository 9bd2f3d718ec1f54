"""Flows on spheres, tori and rotations: mass 1, draws that have the density, no jump at poles and seams, all
dimensions, contexts, state."""

import copy
import math
from collections.abc import Callable
from typing import Any

import geoopt
import pyro.distributions as dist
import pytest
import torch
from cases.transforms import SMALL, learned
from torch import Tensor

from pyro_manifold import flows
from pyro_manifold.distributions import ManifoldUniform
from pyro_manifold.flows.frame_flow import _carried
from pyro_manifold.geometry import SpecialOrthogonal, Torus, geometry
from pyro_manifold.ops.orthogonal import reflected
from pyro_manifold.testing import manifold_rule

F64 = torch.float64
CASES: dict[str, tuple[Callable[[], Any], geoopt.Manifold, tuple[int, ...]]] = {
    "S1": (lambda: flows.SphereFlow(1, 2, **SMALL), geoopt.Sphere(), (2,)),
    "S2": (lambda: flows.SphereFlow(2, 2, **SMALL), geoopt.Sphere(), (3,)),
    "S3": (lambda: flows.SphereFlow(3, 1, **SMALL), geoopt.Sphere(), (4,)),
    "T1": (lambda: flows.TorusFlow(1, 2, bins=6), Torus(), (1,)),
    "T2": (lambda: flows.TorusFlow(2, 2, **SMALL), Torus(), (2,)),
    "T2-autoregressive": (lambda: flows.TorusFlow(2, 2, kind="autoregressive", **SMALL), Torus(), (2,)),
    "SO3": (lambda: flows.RotationFlow(2, **SMALL), SpecialOrthogonal(3), (3, 3)),
}


def on_uniform(name: str, size: float = 0.2, dtype: torch.dtype = F64) -> Any:
    make, manifold, event = CASES[name]
    torch.manual_seed(0)
    flow = learned(make(), size).to(dtype)
    return dist.TransformedDistribution(ManifoldUniform(manifold, event, dtype=dtype), [flow])


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_mass(name: str) -> None:
    """By quadrature (S^3 and SO(3) with fewer digits, their rules being coarser)."""
    d = on_uniform(name)
    geo = geometry(CASES[name][1])
    centre = geo.base_point(torch.Size(CASES[name][2]), dtype=F64)
    fine = 100 if geo.dim(centre.shape) < 3 else 40
    rule = manifold_rule(CASES[name][1], centre, math.pi, n_radial=fine, n_angular=fine)
    mass = rule.integrate(d.log_prob(rule.points).exp())
    torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=3e-3)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_draws_have_the_density(name: str) -> None:
    """The mean of a function over draws is that under the density, by importance sampling from the uniform
    distribution: within five standard errors of each of the coordinates (false alarm 6e-7 each)."""
    d = on_uniform(name, 0.4)
    x, u = d.sample((4_000,)), d.base_dist.sample((4_000,))
    geo = geometry(CASES[name][1])
    weight = (d.log_prob(u) - d.base_dist.log_prob(u)).exp().unsqueeze(-1)
    f, g = geo.ambient_coordinates(x).flatten(1), weight * geo.ambient_coordinates(u).flatten(1)
    error = (f.mean(0) - g.mean(0)) / ((f.var(0) + g.var(0)) / len(x)).sqrt()
    assert float(error.abs().max()) < 5
    assert float(weight.std()) > 0.1


def ring(centre: Tensor, radius: float, n: int = 24) -> Tensor:
    """Points of S^2 around one of them."""
    geo = geometry(geoopt.Sphere())
    t = torch.arange(n, dtype=centre.dtype) * (2 * math.pi / n)
    return geo.exp_frame(centre.expand(n, 3), radius * torch.stack([t.cos(), t.sin()], -1))


@pytest.mark.parametrize("side", [1.0, -1.0])
@pytest.mark.parametrize("inverse", [False, True])
@torch.no_grad()
def test_nothing_jumps_at_the_poles(side: float, inverse: bool) -> None:
    """On rings about a pole of a layer, image and log volume vary less and less, and tend to those of the pole."""
    d = on_uniform("S2", 1.0)
    layer = d.transforms[0].layers[0]
    pole = side * reflected(torch.eye(3, dtype=F64)[0], layer.mirrors, back=True)
    f = layer.inverse_and_log_volume if inverse else layer.forward_and_log_volume
    at_pole = f(pole)
    for radius in (1e-2, 1e-4, 1e-6):
        x, log_volume = f(ring(pole, radius))
        assert float((x - at_pole[0]).norm(dim=-1).max()) < 30 * radius
        assert float((log_volume - at_pole[1]).abs().max()) < 300 * radius


@torch.no_grad()
def test_nothing_jumps_at_the_seam() -> None:
    """On either side of the half plane where the angle of a layer's cylinder jumps by a turn, and of the seam of a
    torus."""
    layer = on_uniform("S2", 1.0).transforms[0].layers[0]
    z = torch.linspace(-0.95, 0.95, 9, dtype=F64)
    sides = [
        torch.stack([z, -(1 - z * z).sqrt() * math.cos(e), -(1 - z * z).sqrt() * math.sin(e)], -1)
        for e in (1e-9, -1e-9)
    ]
    for f in (layer.forward_and_log_volume, layer.inverse_and_log_volume):
        (x, a), (y, b) = (f(reflected(side, layer.mirrors, back=True)) for side in sides)
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    for name in ("T2", "T2-autoregressive"):
        d = on_uniform(name, 1.0)
        for i in range(2):
            left, right = (
                torch.full((9, 2), math.pi - 1e-9, dtype=F64),
                torch.full((9, 2), math.pi - 1e-9, dtype=F64),
            )
            left[:, 1 - i] = right[:, 1 - i] = z
            right[:, i] = -math.pi
            torch.testing.assert_close(d.log_prob(left), d.log_prob(right), rtol=0, atol=1e-5)


@torch.no_grad()
def test_nothing_jumps_where_hopf_coordinates_end() -> None:
    """Next to the two circles on which one of the phases means nothing, log volumes of all phases agree; quaternions
    of opposite sign have opposite images."""
    torch.manual_seed(0)
    layer = learned(flows.HopfSpline(**SMALL), 1.0).double()
    t = torch.arange(12, dtype=F64) * (math.pi / 6)
    for tiny in (1e-3, 1e-5):
        big = math.sqrt(1 - tiny**2)
        for order in ([0, 1, 2, 3], [1, 0, 3, 2]):  # (w, x, y, z): b is tiny, then a
            q = torch.stack(
                [torch.full_like(t, big), tiny * t.cos(), tiny * t.sin(), torch.zeros_like(t)], -1
            )
            q = reflected(q[:, order], layer.mirrors, back=True)
            y, log_volume = layer.forward_and_log_volume(q)
            assert float((y - y[0]).norm(dim=-1).max()) < 30 * tiny
            assert float((log_volume - log_volume[0]).abs().max()) < 300 * tiny
            torch.testing.assert_close(layer(-q), -y)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_inversion_error(name: str, dtype: torch.dtype) -> None:
    """At most 1e-5 in float32 and 1e-12 in float64, poles included."""
    d = on_uniform(name, 0.2, dtype)
    x = d.base_dist.sample((500,))
    x[0] = geometry(CASES[name][1]).base_point(torch.Size(CASES[name][2]), dtype=dtype)
    flow = d.transforms[0]
    for f, g in ((flow, flow.inv), (flow.inv, flow)):
        error = geometry(CASES[name][1]).dist(g(f(x).clone()), x)
        assert float(error.max()) < (1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize(
    "dim, options", [(4, {}), (6, dict(levels=6)), (1000, dict(bins=4)), (5, dict(levels=1))]
)
@torch.no_grad()
def test_spheres_of_any_dimension(dim: int, options: Any) -> None:
    """Inverse, and the log volume against the Jacobian in frames (d = 1000: against the inverse's)."""
    torch.manual_seed(0)
    flow = learned(flows.SphereFlow(dim, 2, **{**SMALL, **options}), 0.2).double()
    x = ManifoldUniform(geoopt.Sphere(), dim + 1, dtype=F64).sample((3,))
    y, log_volume = flow.forward_and_log_volume(x)
    back, log_back = flow.inverse_and_log_volume(y)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(log_back, log_volume, rtol=0, atol=1e-9)
    if dim < 10:
        geo = geometry(geoopt.Sphere())
        moved = flow.jvp(x, geo.frame(x))[1]
        coordinates = moved @ geo.frame(y).mT
        torch.testing.assert_close(torch.linalg.slogdet(coordinates)[1], log_volume)


FRAMES: dict[str, tuple[geoopt.Manifold, tuple[int, int]]] = {
    "SO2": (SpecialOrthogonal(2), (2, 2)),
    "SO4": (SpecialOrthogonal(4), (4, 4)),
    "V42": (geoopt.CanonicalStiefel(), (4, 2)),
    "V31": (geoopt.EuclideanStiefel(), (3, 1)),
}


@pytest.mark.parametrize("name", FRAMES)
@torch.no_grad()
def test_frames(name: str) -> None:
    """Mass 1 by Monte Carlo (five standard errors, each less than 2 %), frames stay frames, and the inverse."""
    manifold, event = FRAMES[name]
    torch.manual_seed(0)
    flow = learned(flows.FrameFlow(manifold, event, 2, **SMALL), 0.2).double()
    base = ManifoldUniform(manifold, event, dtype=F64)
    d = dist.TransformedDistribution(base, [flow])
    x = base.sample((3_000,))
    ratio = (d.log_prob(x) - base.log_prob(x)).exp()
    error = float(ratio.std()) / len(x) ** 0.5
    assert error < 0.02
    assert abs(float(ratio.mean()) - 1) < 5 * error
    y = d.sample((100,))
    torch.testing.assert_close(y.mT @ y, torch.eye(event[1], dtype=F64).expand(100, -1, -1))
    torch.testing.assert_close(flow(flow.inv(y)), y)
    far = flow.layers[0]  # an image next to the antipode of the direction: still a frame
    c = y[:1] @ far.direction.double()
    opposite = _carried(y[:1], c / c.norm(), -c / c.norm() + 1e-9)
    torch.testing.assert_close(opposite.mT @ opposite, torch.eye(event[1], dtype=F64).expand(1, -1, -1))


@torch.no_grad()
def test_product_of_sphere_and_torus() -> None:
    """A coupling of each factor makes them dependent; mass 1 by Monte Carlo; the other factor is not touched."""
    product = geoopt.ProductManifold((geoopt.Sphere(), 3), (Torus(), 2))
    torch.manual_seed(0)
    layers = [
        flows.FactorCoupling(product, 0, flows.SphereFlow(2, 1, **SMALL)),
        flows.FactorCoupling(product, 1, flows.TorusFlow(2, 2, **SMALL)),
    ]
    layers = [learned(layer, 0.3).double() for layer in layers]
    base = ManifoldUniform(product, (5,), dtype=F64)
    d = dist.TransformedDistribution(base, layers)
    x = base.sample((4_000,))
    ratio = (d.log_prob(x) - base.log_prob(x)).exp()
    assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / len(x) ** 0.5
    torch.testing.assert_close(layers[0](x)[:, 3:], x[:, 3:])
    other = torch.cat([x[:, :3], x[:, 3:].roll(1, 0)], -1)
    assert float((layers[0](other) - layers[0](x))[:, :3].abs().max()) > 1e-2
    with pytest.raises(ValueError, match="index: got 2"):
        flows.FactorCoupling(product, 2, flows.SphereFlow(2, 1))
    with pytest.raises(ValueError, match="can depend on a context"):
        flows.FactorCoupling(product, 0, flows.Spline(3))
    with pytest.raises(ValueError, match="orthonormal frames"):
        flows.FrameFlow(geoopt.SymmetricPositiveDefinite(), (3, 3))
    with pytest.raises(ValueError, match=r"SphereFlow\(2\)"):
        flows.DirectionLift(geoopt.CanonicalStiefel(), (3, 2), flows.Spline(2))


def test_gradients_are_finite_at_poles_in_float32() -> None:
    d = on_uniform("S2", 1.0, torch.float32)
    flow = d.transforms[0]
    poles = [reflected(torch.eye(3)[0], layer.mirrors, back=True) for layer in flow.layers]
    x = torch.stack([*poles, *(-p for p in poles), *torch.eye(3)]).requires_grad_()
    d.log_prob(x).sum().backward()
    assert bool(x.grad.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in flow.parameters() if p.grad is not None)


def test_context_changes_the_density_and_broadcasts() -> None:
    torch.manual_seed(0)
    conditional = learned(flows.Conditional(flows.SphereFlow(2, 2, **SMALL), context_dim=2))
    base = ManifoldUniform(geoopt.Sphere(), 3)
    d = dist.ConditionalTransformedDistribution(base, [conditional])
    x = base.sample((4,))
    c = torch.randn(5, 1, 2)
    together = d.condition(c).log_prob(x)
    assert together.shape == (5, 4)
    for i in range(5):
        torch.testing.assert_close(together[i], d.condition(c[i, 0]).log_prob(x))
    assert float(together.detach().std(0).min()) > 1e-3
    assert d.condition(torch.randn(6, 2)).sample((6,)).shape == (6, 3)


def test_saved_and_loaded() -> None:
    """The axes of the layers, which are drawn, travel with the state; copies and empty batches work."""
    a, b = (flows.SphereFlow(2, 2, **SMALL) for _ in range(2))
    learned(a)
    x = ManifoldUniform(geoopt.Sphere(), 3).sample((4,))
    assert not torch.allclose(a(x), b(x))
    b.load_state_dict(a.state_dict())
    torch.testing.assert_close(a(x), b(x))
    torch.testing.assert_close(copy.deepcopy(a)(x), a(x))
    y, log_volume = a.inverse_and_log_volume(x[:0])
    assert y.shape == (0, 3) and log_volume.shape == (0,)


def test_errors() -> None:
    with pytest.raises(ValueError, match="dim: got 0"):
        flows.SphereFlow(0)
    with pytest.raises(ValueError, match="levels: got 3; expected at most 2"):
        flows.SphereFlow(2, levels=3)
    with pytest.raises(ValueError, match="kind: got 'spline'"):
        flows.TorusFlow(2, kind="spline")
    with pytest.raises(ValueError, match="transformed_indices"):
        flows.CircularSpline(2, [0, 0])
    with pytest.raises(ValueError, match="size 3 on the last axis"):
        flows.SphereFlow(2, 1)(torch.zeros(4))
    with pytest.raises(ValueError, match=r"\(3, 3\) on the last axes"):
        flows.RotationFlow(1)(torch.zeros(4))
    with pytest.raises(ValueError, match="was given none"):
        flows.Conditional(flows.SphereFlow(2, 1), 2).layer(torch.eye(3))
    d = dist.TransformedDistribution(
        ManifoldUniform(geoopt.Sphere(), 3), [flows.SphereFlow(2, 1)], validate_args=True
    )
    with pytest.raises(ValueError, match="on\\(Sphere\\)"):
        d.log_prob(torch.tensor([1.0, 1.0, 0.0]))
