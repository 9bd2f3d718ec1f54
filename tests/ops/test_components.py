"""Component-first layouts, and operators in blocks against the same in one piece."""

import geoopt
import pyro
import pytest
import torch

from pyro_manifold.geometry import geometry
from pyro_manifold.ops import components as co


@pytest.mark.parametrize("n", [0, 1, 7, 40000])
@pytest.mark.parametrize("d", [1, 3, 20])
def test_by_components(n: int, d: int) -> None:
    x, y = torch.randn(n, d, requires_grad=True), torch.randn(2, 1, d)
    v, s = co.by_components(lambda a, b: (a * b, (a * b).sum(0)), x, y)
    torch.testing.assert_close(v, x * y)
    torch.testing.assert_close(s, (x * y).sum(-1), rtol=1e-4, atol=1e-4)
    assert v.shape == (2, n, d) and s.shape == (2, n)
    (g,) = torch.autograd.grad(v.sum(), x)
    torch.testing.assert_close(g, y.sum(0).expand(n, d))


def far_points(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs on S^d, among them some beyond 120 degrees."""
    x = torch.nn.functional.normalize(torch.randn(2, n, d + 1, dtype=torch.float64), dim=-1)
    return x[0], x[1]


@pytest.mark.parametrize("d", [2, 9])
@pytest.mark.parametrize("name", ["exp", "log", "exp_frame", "log_frame"])
@pytest.mark.parametrize("make", [geoopt.Sphere, geoopt.Lorentz, geoopt.PoincareBall])
def test_few_points_give_what_many_give(
    make: type, name: str, d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifold = make() if make is geoopt.Sphere else make(1.3, learnable=True)
    geo = geometry(manifold.double())
    n, params = 301, list(manifold.parameters())
    o = geo.origin(d, dtype=torch.float64)
    p, q = far_points(n, d) if not params else (geo.exp_frame(o, torch.randn(n, d).double()) for _ in "pq")
    v = torch.randn(n, d, dtype=torch.float64)
    z = {"exp": geo.to_tangent(p, v), "exp_frame": v}.get(name, q).detach().requires_grad_()
    p = p.detach().requires_grad_()

    def all_of_it() -> list[torch.Tensor]:
        y = getattr(geo, name)(p, z)
        weight = torch.arange(y.numel(), dtype=y.dtype).reshape(y.shape).cos()
        return [y, *torch.autograd.grad((weight * y).sum(), [p, z, *params])]

    monkeypatch.setattr(co, "_ENOUGH", 1)
    many = all_of_it()
    monkeypatch.setattr(co, "_ENOUGH", 1 << 20)
    for a, b in zip(many, all_of_it(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(getattr(geo, name)(p, z), many[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("d", [2, 6])
@pytest.mark.parametrize("name", ["exp", "log"])
@pytest.mark.parametrize("make", [geoopt.Sphere, geoopt.Lorentz, geoopt.PoincareBall])
def test_ambient_gradients_of_first_and_second_order(make: type, name: str, d: int) -> None:
    geo = geometry(make().double())
    p, q = (
        far_points(6, d)
        if make is geoopt.Sphere
        else (
            geo.exp_frame(geo.origin(d, dtype=torch.float64), torch.randn(6, d).double()).detach()
            for _ in "pq"
        )
    )
    if make is geoopt.Sphere:
        q[:2] = geo.exp_frame(
            p[:2], torch.tensor(2.8) * torch.nn.functional.normalize(torch.randn(2, d).double(), dim=-1)
        )
    z = q if name == "log" else geo.to_tangent(p, torch.randn(6, d).double())
    args = tuple(a.detach().clone().requires_grad_() for a in (p, z))

    def f(
        p: torch.Tensor, z: torch.Tensor
    ) -> torch.Tensor:  # on the sphere only gradients along it have a meaning
        on = torch.nn.functional.normalize if make is geoopt.Sphere else torch.clone
        return getattr(geo, name)(on(p), on(z) if name == "log" else geo.project_tangent(on(p), z))

    assert torch.autograd.gradcheck(f, args) and torch.autograd.gradgradcheck(f, args)


@pytest.mark.parametrize("d", [2, 9])
@pytest.mark.parametrize("name", ["exp", "log", "exp_frame", "log_frame"])
@pytest.mark.parametrize("make", [geoopt.Sphere, geoopt.Lorentz, geoopt.PoincareBall])
def test_several_gradients_at_once(make: type, name: str, d: int) -> None:
    """Batched by autograd itself, whose batches hide from what asks whether memory may be written over."""
    geo = geometry(make().double())
    v = torch.randn(2, 20, d, dtype=torch.float64)
    p, q = far_points(20, d) if make is geoopt.Sphere else geo.exp_frame(geo.origin(d).double(), v)
    z = {"exp": geo.to_tangent(p, v[0]), "exp_frame": v[0]}.get(name, q)
    args = [t.detach().requires_grad_() for t in (p, z)]
    y = getattr(geo, name)(*args)
    g = torch.randn(3, *y.shape, dtype=y.dtype)
    together = torch.autograd.grad(y, args, g, is_grads_batched=True, retain_graph=True)
    for i in range(3):
        torch.testing.assert_close(
            [t[i] for t in together], list(torch.autograd.grad(y, args, g[i], retain_graph=True))
        )


@pytest.mark.slow
@pytest.mark.parametrize("d", [3, 9])
@pytest.mark.parametrize("make", [geoopt.Sphere, geoopt.Lorentz, geoopt.PoincareBall])
def test_compiled_maps_and_their_gradients(make: type, d: int) -> None:
    """In one graph, which the compiler really makes; far points too, which uncompiled code picks out."""
    geo, n = geometry(make().double()), 50
    v = torch.randn(2, n, d, dtype=torch.float64)
    p, q = far_points(n, d) if make is geoopt.Sphere else geo.exp_frame(geo.origin(d).double(), v)
    u = geo.to_tangent(p, 0.5 * torch.randn(n, d).double())

    def maps(p: torch.Tensor, u: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        return geo.exp(p, u).sin().sum(-1) + geo.log(p, q).cos().sum(-1)

    torch._dynamo.reset()
    leaves = [t.detach().requires_grad_() for t in (p, u, q)]
    with pyro.validation_enabled(False):  # the compiler switches torch's off, and leaves it so
        value, compiled = maps(*leaves), torch.compile(maps, fullgraph=True)(*leaves)
    torch.testing.assert_close(compiled, value)
    torch.testing.assert_close(
        torch.autograd.grad(compiled.sum(), leaves), torch.autograd.grad(value.sum(), leaves)
    )


def test_lanes_that_are_replaced() -> None:
    """Values and gradients of one formula in some lanes and of another in the others; what was there before is not
    written over while a gradient may need it."""
    x = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    y = x.exp()
    before = y.detach().clone()
    out = co.replace_lanes(x[0], y, lambda z: 3 * z, x)
    torch.testing.assert_close(out, torch.where(x < 0, 3 * x, before))
    assert torch.equal(y, before)
    (g,) = torch.autograd.grad(out.sum() + y.sum(), x)
    torch.testing.assert_close(g, before + torch.where(x < 0, 3.0, before))
    with torch.no_grad():
        torch.testing.assert_close(co.replace_lanes(x[0], x.exp(), lambda z: 3 * z, x), out.detach())
