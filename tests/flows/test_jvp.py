"""Tangents pushed in closed form against forward-mode differentiation; conditional layers; the spline against
its own inverse."""

import pytest
import torch
from cases import injective_flow, learned
from torch import Tensor

from pyro_manifold import flows
from pyro_manifold.ops.splines import rational_quadratic, spline_gradient
from pyro_manifold.transforms import LinearEmbedding, Pad
from pyro_manifold.transforms.chain import as_map
from pyro_manifold.transforms.jvp import forward_mode_jvp, half_log_det_gram

LAYERS = {
    "spline": lambda: flows.Coupling(6, [0, 2, 5]),
    "spline-wide": lambda: flows.Coupling(6, [0], hidden=(40,)),
    "affine": lambda: flows.Coupling(6, [1, 2], kind="affine"),
    "lu": lambda: flows.LULinear(6),
    "among": lambda: flows.Partial(6, 3, [flows.Coupling(3, [1], kind="affine"), flows.LULinear(3)]),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("k", [1, 6])
def test_jvp(name: str, k: int) -> None:
    layer = learned(LAYERS[name]()).double()
    x, t = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, k, 6, dtype=torch.float64)
    for ours, auto in zip(layer.jvp(x, t), forward_mode_jvp(layer, x, t), strict=True):
        torch.testing.assert_close(ours, auto, rtol=1e-12, atol=1e-12)


def test_volume_of_a_wide_flow() -> None:
    """40 coordinates, 14 latent: closed form and vmap(jvp) agree to 1e-10; so do their gradients."""
    layers = [
        m for i in range(2) for m in (flows.Coupling(40, range(i, 40, 2), hidden=(32,)), flows.LULinear(40))
    ]
    g = learned(flows.InjectiveFlow(Pad(14, 40), layers)).double()
    u = torch.randn(6, 14, dtype=torch.float64)
    auto = half_log_det_gram(forward_mode_jvp(g, u, torch.eye(14, dtype=torch.float64).expand(6, 14, 14))[1])
    ours = g.log_volume(u)
    torch.testing.assert_close(ours, auto, rtol=0, atol=1e-10)
    parameters = list(g.parameters())
    for a, b in zip(
        *(torch.autograd.grad(v.sum(), parameters, allow_unused=True) for v in (ours, auto)), strict=True
    ):
        assert (a is None or not bool(a.any())) == (b is None or not bool(b.any()))
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_volume_under_functorch() -> None:
    """Gradients of the volume: reverse and forward mode under vmap, against autograd; an empty batch has an
    empty volume."""
    layers = [m for i in range(2) for m in (flows.Coupling(5, [i, 3]), flows.LULinear(5))]
    g = learned(flows.InjectiveFlow(Pad(2, 5), layers)).double()
    u = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(g.log_volume(u).sum(), u)
    for derivative in (torch.func.grad, torch.func.jacfwd):
        torch.testing.assert_close(
            torch.func.vmap(derivative(g.log_volume))(u.detach()), wanted, rtol=1e-9, atol=1e-10
        )
    assert g.log_volume(u[:0]).shape == (0,)


def test_volume_of_foreign_transforms() -> None:
    """Pyro's own layers take the generic way."""
    from pyro.distributions.transforms import Permute, affine_coupling

    chain = [affine_coupling(3).double(), Permute(torch.tensor([2, 0, 1]))]
    g = flows.InjectiveFlow(Pad(2, 3), chain)
    u = torch.randn(4, 2, dtype=torch.float64)
    J = torch.func.vmap(torch.func.jacfwd(g))(u)
    torch.testing.assert_close(g.log_volume(u), 0.5 * torch.logdet(J.mT @ J))
    torch.testing.assert_close(g.inv(g(u)), u)


@pytest.mark.parametrize("dtype, tol", [(torch.float32, 3e-5), (torch.float64, 1e-13)])
def test_spline_inverse(dtype: torch.dtype, tol: float) -> None:
    x = torch.linspace(-4, 4, 2001, dtype=dtype)
    raw = 2 * torch.randn(2001, 29, dtype=dtype)
    y, log_slope = rational_quadratic(x, raw, 3.0)
    back, log_inverse = rational_quadratic(y, raw, 3.0, inverse=True)
    again, log_there = rational_quadratic(back, raw, 3.0)
    torch.testing.assert_close(again, y, rtol=0, atol=tol)  # backward error: slopes go down to 1e-6 here
    torch.testing.assert_close(log_inverse, -log_there, rtol=1e-3, atol=100 * tol)
    assert bool(log_slope.isfinite().all())
    assert bool((y[x.abs() >= 3] == x[x.abs() >= 3]).all())


def test_spline_gradient() -> None:
    """In closed form, against a backward pass: value, slope, parameters; and its own derivative, where
    volumes are trained."""
    x = torch.linspace(-3.5, 3.5, 401, dtype=torch.float64)
    raw = (2 * torch.randn(401, 17, dtype=torch.float64)).requires_grad_()
    y, log_slope = rational_quadratic(x, raw, 3.0)
    ours = spline_gradient(x, raw, 3.0)
    (auto,) = torch.autograd.grad(y.sum(), raw, create_graph=True)
    for a, b in zip(ours, (y, log_slope.exp(), auto), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    weight = torch.randn_like(raw)
    second, wanted = (torch.autograd.grad((weight * g).sum(), raw)[0] for g in (ours[2], auto))
    torch.testing.assert_close(second, wanted, rtol=1e-10, atol=1e-11)


def test_conditional_layers() -> None:
    """A conditional layer given one context is a layer of its own; contexts broadcast; the parameters are shared."""
    for conditional in (
        flows.Conditional(flows.Coupling(2, [0, 1]), context_dim=3),
        flows.Conditional(flows.LULinear(2), context_dim=3),
    ):
        learned(conditional)
        c, x = torch.randn(4, 3), torch.randn(4, 2)
        rows = [conditional.condition(ci)(xi) for ci, xi in zip(c, x, strict=True)]
        layer = conditional.condition(c)
        torch.testing.assert_close(layer(x), torch.stack(rows))
        torch.testing.assert_close(layer.inv(layer(x)), x, rtol=1e-4, atol=1e-4)
        assert layer(x[0]).shape == (4, 2)
        assert next(layer.parameters()) is next(conditional.parameters())


def test_pca_layer() -> None:
    x = (
        torch.randn(500, 3, dtype=torch.float64)
        @ torch.tensor([[2.0, 0.3, 0.0], [0.0, 0.5, 0.1], [0.0, 0.0, 0.1]]).double()
        + 1
    )
    z = flows.Affine.from_pca(x).inv(x).detach()
    torch.testing.assert_close(z.mT.cov(), torch.eye(3, dtype=torch.float64), rtol=1e-8, atol=1e-8)
    plane = LinearEmbedding.from_pca(x, 2)
    rest = plane.reconstruction_error(x).square().sum() / 499
    torch.testing.assert_close(rest, torch.linalg.eigvalsh(x.mT.cov())[0], rtol=1e-6, atol=0)


def test_volume_in_float32() -> None:
    g = injective_flow()
    u = torch.randn(50, 2)

    def volume(dtype: torch.dtype) -> Tensor:
        return g.to(dtype).log_volume(u.to(dtype)).detach()

    torch.testing.assert_close(volume(torch.float32).double(), volume(torch.float64), rtol=0, atol=1e-5)


def test_jvp_of_a_foreign_transform() -> None:
    x = torch.randn(3, 2)
    y, t = as_map(torch.distributions.AffineTransform(1.0, 3.0, event_dim=1)).jvp(
        x, torch.eye(2).expand(3, 2, 2)
    )
    torch.testing.assert_close(y, 1 + 3 * x)
    torch.testing.assert_close(t, 3 * torch.eye(2).expand(3, 2, 2))
