"""Layers against geoopt's operations, closed forms and their flat limits."""

import geoopt
import pytest
import torch

from pyro_manifold.geometry import geometry
from pyro_manifold.nn import (
    ExpMapHead,
    GyroplaneLayer,
    LogMapLayer,
    ManifoldDecoder,
    ManifoldEncoder,
    MobiusLinear,
)

C = 0.7


def ball() -> geoopt.PoincareBall:
    return geoopt.PoincareBall(torch.tensor(C, dtype=torch.float64))


def hyperboloid() -> geoopt.Lorentz:
    return geoopt.Lorentz(torch.tensor(1 / C, dtype=torch.float64))  # geoopt's k is the squared radius


def points(manifold: geoopt.Manifold, n: int = 50, dim: int = 3, radius: float = 2.0) -> torch.Tensor:
    return geometry(manifold).chart(radius * torch.randn(n, dim, dtype=torch.float64))


def test_gyroplane_is_geoopts_signed_distance_times_the_riemannian_norm() -> None:
    manifold = ball()
    layer = GyroplaneLayer(manifold, 3, 7).double()
    z = points(manifold)
    geo = geometry(manifold)
    normal = layer.weight / layer.weight.norm(dim=-1, keepdim=True)
    p = geo.chart(layer.offset.unsqueeze(-1) * normal)  # the frame at p is parallel to that at the origin
    distance = manifold.dist2plane(z.unsqueeze(1), p, normal, signed=True)
    riemannian = manifold.norm(p, geo.to_tangent(p, layer.weight))
    assert torch.allclose(layer(z), riemannian * distance, rtol=1e-9, atol=1e-11)


def test_gyroplane_distance_is_the_infimum_over_the_plane() -> None:
    manifold = ball()
    layer = GyroplaneLayer(manifold, 2, 1).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.6, 0.8]], dtype=torch.float64))
        layer.offset.fill_(0.4)
    geo = geometry(manifold)
    foot = geo.chart(0.4 * torch.tensor([0.6, 0.8], dtype=torch.float64))
    t = torch.linspace(-8, 8, 40001, dtype=torch.float64).unsqueeze(-1)
    plane = geo.exp_frame(foot.expand(len(t), 2), t * torch.tensor([-0.8, 0.6], dtype=torch.float64))
    assert layer(plane[::100]).abs().max() < 1e-9  # it vanishes on the plane
    for z in points(manifold, 5, 2, 1.0):
        nearest = geo.dist(z.expand_as(plane), plane).min()
        assert (
            abs(float(layer(z).detach().square() - nearest.square())) < 1e-6
        )  # squares: quadratic in the grid's step


def test_gyroplane_is_the_same_function_on_ball_and_hyperboloid() -> None:
    layer = GyroplaneLayer(ball(), 3, 5).double()
    other = GyroplaneLayer(hyperboloid(), 3, 5).double()
    other.load_state_dict({**other.state_dict(), **{k: layer.state_dict()[k] for k in ("weight", "offset")}})
    v = torch.randn(40, 3, dtype=torch.float64)
    a, b = layer(geometry(layer.manifold).chart(v)), other(geometry(other.manifold).chart(v))
    assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("k", [0.0, 1e-9, -1e-9])
def test_gyroplane_is_a_linear_layer_in_the_flat_limit(k: float) -> None:
    manifold = geoopt.Stereographic(torch.tensor(k, dtype=torch.float64))
    layer = GyroplaneLayer(manifold, 2, 4).double()
    v = torch.randn(10, 2, dtype=torch.float64)
    linear = v @ layer.weight.mT - layer.weight.norm(dim=-1) * layer.offset
    assert torch.allclose(layer(geometry(manifold).chart(v)), linear, rtol=1e-7, atol=1e-8)
    flat = GyroplaneLayer(geoopt.Euclidean(1), 2, 4).double()
    flat.load_state_dict({k: layer.state_dict()[k] for k in ("weight", "offset")}, strict=False)
    assert torch.allclose(flat(v), linear, rtol=1e-12, atol=1e-12)


def test_gyroplane_gradients_and_curvature_gradient() -> None:
    manifold = geoopt.Stereographic(torch.tensor(-C, dtype=torch.float64), learnable=True)
    v = torch.randn(6, 2, dtype=torch.float64)
    layer = GyroplaneLayer(manifold, 2, 3).double()

    def f(k: torch.Tensor, w: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        state = {"manifold.k": k, "weight": w, "offset": r}
        z = (
            torch.tanh(0.5 * (-k).sqrt() * v.norm(dim=-1, keepdim=True))
            / (-k).sqrt()
            * v
            / v.norm(dim=-1, keepdim=True)
        )
        return torch.func.functional_call(layer, state, (z,))

    inputs = [x.detach().clone().requires_grad_() for x in (manifold.k, layer.weight, layer.offset)]
    assert torch.autograd.gradcheck(f, inputs)


def test_gyroplane_is_finite_at_the_origin_zero_weight_and_far_out() -> None:
    manifold = ball()
    layer = GyroplaneLayer(manifold, 2, 3).double()
    with torch.no_grad():
        layer.weight[0] = 0
        layer.offset[1] = 0
    z = torch.cat(
        [
            torch.zeros(1, 2, dtype=torch.float64),
            geometry(manifold).chart(torch.tensor([[30.0, 0.0]]).double()),
        ]
    )
    z.requires_grad_()
    out = layer(z)
    out.sum().backward()
    assert out.isfinite().all() and z.grad is not None and z.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in (layer.weight, layer.offset))


def test_exp_head_and_log_layer_are_inverse() -> None:
    for manifold in (ball(), hyperboloid(), geoopt.Euclidean(1)):
        head = ExpMapHead(manifold, 5, 3).double()
        h = torch.randn(4, 5, dtype=torch.float64)
        assert geometry(manifold).contains(head(h)).all()
        assert torch.allclose(LogMapLayer(manifold)(head(h)), head.linear(h), atol=1e-10)


def test_mobius_linear_is_the_textbook_formula() -> None:
    manifold = ball()
    layer = MobiusLinear(manifold, 3, 4).double()
    with torch.no_grad():
        layer.bias.normal_()
    z = points(manifold, 20, 3, 0.5)
    w = manifold.logmap0(z) @ layer.weight.mT
    x, y = manifold.expmap0(w), manifold.expmap0(layer.bias)
    xy, x2, y2 = (
        (x * y).sum(-1, keepdim=True),
        x.square().sum(-1, keepdim=True),
        y.square().sum(-1, keepdim=True),
    )
    expected = ((1 + 2 * C * xy + C * y2) * x + (1 - C * x2) * y) / (1 + 2 * C * xy + C * C * x2 * y2)
    assert torch.allclose(layer(z), expected, atol=1e-10)
    zero = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    layer(zero).sum().backward()
    assert zero.grad is not None and zero.grad.isfinite().all()


def test_decoders_have_the_capacity_of_a_perceptron() -> None:
    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters() if p.requires_grad)

    perceptron = 2 * 200 + 200 + 200 * 64 + 64
    z = torch.zeros(3, 2)
    for first in ("gyroplane", "wrapped", "mobius", "linear"):
        decoder = ManifoldDecoder(geoopt.PoincareBall(), 2, 200, 64, first)
        assert count(decoder) == perceptron and decoder(z).shape == (3, 64)


def test_encoder_scale_is_positive_and_isotropic_on_request() -> None:
    x = torch.zeros(2, 6)
    loc, scale = ManifoldEncoder(geoopt.PoincareBall(), 6, 10, 3)(x)
    assert loc.shape == (2, 3) and scale.shape == (2, 3)
    encoder = ManifoldEncoder(geoopt.PoincareBall(), 6, 10, 3, isotropic=True)
    assert encoder(x)[1].shape == (2, 1)
    torch.nn.init.constant_(encoder.scale[0].bias, -1e3)
    assert (encoder(torch.randn(20, 6))[1] == 1e-5).all()


PRODUCT = geoopt.ProductManifold((geoopt.PoincareBall(), 2), (geoopt.Euclidean(1), 2))


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: ExpMapHead(geoopt.Sphere(), 5, 2), "manifold: got Sphere, which has no global chart"),
        (lambda: LogMapLayer(geoopt.Sphere()), "manifold: got Sphere, which has no global chart"),
        (lambda: ExpMapHead(geoopt.PoincareBall(), 5, 0), "dim: got 0"),
        (
            lambda: ExpMapHead(geoopt.PoincareBall(), 5, 2)(torch.zeros(3, 4)),
            r"h: got shape \(3, 4\).*size 5",
        ),
        (lambda: GyroplaneLayer(PRODUCT, 4, 3), "manifold: got .* expected a manifold of constant curvature"),
        (lambda: GyroplaneLayer(geoopt.PoincareBall(), 2, -1), "out_features: got -1"),
        (lambda: GyroplaneLayer(geoopt.PoincareBall(), 2, 3)(torch.zeros(5, 3)), r"z: got shape \(5, 3\)"),
        (lambda: MobiusLinear(geoopt.Lorentz(), 2, 3), "manifold: got Lorentz"),
        (lambda: MobiusLinear(geoopt.PoincareBall(), 2, 3)(torch.zeros(3)), r"z: got shape \(3,\)"),
        (lambda: ManifoldDecoder(geoopt.PoincareBall(), 2, 5, 6, "geo"), "first: got 'geo'"),
        (
            lambda: ManifoldEncoder(geoopt.PoincareBall(), 6, 5, 2)(torch.zeros(3, 5)),
            r"x: got shape \(3, 5\)",
        ),
    ],
)
def test_bad_input(call, match) -> None:
    with pytest.raises(ValueError, match=match):
        call()


def test_product_of_charts_is_accepted_where_curvature_is_not_needed() -> None:
    decoder = ManifoldDecoder(PRODUCT, 4, 5, 6, "wrapped")
    assert decoder(torch.zeros(3, 4)).shape == (3, 6)
