"""Log densities of directions that NumPy computes, in one block and in many, against the same composed of torch's
operators."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_manifold.distributions import (
    Bingham,
    FisherBingham,
    Kent,
    MatrixFisher,
    PowerSpherical,
    ProjectedNormal,
    VonMisesFisher,
    Watson,
    bingham,
    fisher_bingham,
    kent,
    matrix_fisher,
    power_spherical,
    projected_normal,
    von_mises_fisher,
    watson,
)
from pyro_manifold.geometry import SpecialOrthogonal, geometry
from pyro_manifold.ops import numpy_operator

FAMILIES: dict[str, tuple[Any, Callable[[Tensor, Tensor], Any]]] = {
    "von Mises-Fisher": (von_mises_fisher, lambda mu, k: VonMisesFisher(mu, k, validate_args=False)),
    "power spherical": (power_spherical, lambda mu, k: PowerSpherical(mu, k, validate_args=False)),
    "watson": (watson, lambda mu, k: Watson(mu, k, validate_args=False)),
    "girdle": (watson, lambda mu, k: Watson(mu, -k, validate_args=False)),
    "projected normal": (
        projected_normal,
        lambda mu, k: ProjectedNormal(k.unsqueeze(-1) * mu, validate_args=False),
    ),
}


def unit(*shape: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("n", [2, 3, 8, 20])
@pytest.mark.parametrize("block", [numpy_operator.BLOCK, 32])
def test_values_and_gradients(name: str, n: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one axis, from one for each point and from broadcast ones; at, near and opposite to the axis; at
    concentrations from 0 to 1e4; with the second derivatives, which are composed."""
    monkeypatch.setattr(numpy_operator, "BLOCK", block)
    module, make = FAMILIES[name]
    points = torch.cat([unit(12, n), torch.eye(n, dtype=torch.float64)[:1]])
    points[1] = torch.nn.functional.normalize(points[0] + 1e-5 * points[1], dim=-1)
    points[2] = torch.nn.functional.normalize(1e-3 * points[2] - points[0], dim=-1)
    for mu, k in (
        (points[0], torch.tensor(0.0)),
        (points[0], torch.tensor(5.0)),
        (points[-1], torch.tensor(300.0)),
        (unit(13, n), torch.logspace(-3, 4, 13)),
        (unit(2, 1, n), torch.tensor([[0.5], [50.0]])),
        (points[0], torch.linspace(0.1, 9, 26).reshape(2, 13)),
    ):
        found = []
        for by_numpy in (True, False):
            leaves = [x.detach().clone().double().requires_grad_() for x in (points, mu, k)]
            with monkeypatch.context() as patch:
                calls: list[int] = []
                patch.setattr(module, "by_numpy", lambda *xs, on=by_numpy, calls=calls: calls.append(1) or on)
                out = make(*leaves[1:]).log_prob(leaves[0])
                assert calls
            weights = torch.linspace(0.5, 2, out.numel(), dtype=torch.float64).reshape(out.shape)
            found.append([out, *torch.autograd.grad((out * weights).sum(), leaves, retain_graph=True)])
            in_x = found[-1][1]  # along the sphere: beyond it the two are continued differently
            found[-1][1] = in_x - (in_x * leaves[0]).sum(-1, keepdim=True) * leaves[0]
            (g,) = torch.autograd.grad(out[..., 3:].sum(), leaves[2], create_graph=True)
            found[-1].append(torch.autograd.grad(g.sum(), leaves[2], allow_unused=True)[0])
        for a, b in zip(*found, strict=True):
            if b is None:
                assert a is None
            else:
                torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11 * (1 + float(b.detach().abs().max())))


@pytest.mark.parametrize("name", FAMILIES)
def test_float32_loses_no_digits(name: str) -> None:
    _, make = FAMILIES[name]
    mu = unit(3)
    for k in (0.125, 4.0, 128.0, 8192.0):  # products with which have no rounding
        spread = min(1.0, k**-0.5)
        x = torch.nn.functional.normalize(
            mu + spread * torch.randn(500, 3, dtype=torch.float64), dim=-1
        ).float()
        values = []
        for dtype in (torch.float32, torch.float64):
            leaves = [
                t.to(dtype).requires_grad_() for t in (x, mu.float(), torch.tensor(k, dtype=torch.float32))
            ]
            out = make(*leaves[1:]).log_prob(leaves[0])
            values.append([out, *torch.autograd.grad(out.sum(), leaves[1:])])
        for a, b in zip(*values, strict=True):
            torch.testing.assert_close(
                a.double(), b, rtol=2e-6, atol=2e-6 * (1 + float(b.detach().abs().max()))
            )


@pytest.mark.parametrize("k", [0.0, 2.0])
def test_the_antipode_of_a_power_spherical_has_no_gradient(k: float) -> None:
    mu = torch.tensor([0.0, 0.6, 0.8])
    x = torch.stack([-mu, mu, -mu]).requires_grad_()
    concentration = torch.tensor(k, requires_grad=True)
    out = PowerSpherical(mu, concentration).log_prob(x)
    assert out.isneginf().tolist() == [k > 0, False, k > 0]
    g_x, g_k = torch.autograd.grad(out.sum(), (x, concentration))
    assert g_x[0].abs().max() == 0 and bool(g_k.isfinite())


@pytest.mark.parametrize("block", [numpy_operator.BLOCK, 32])
@pytest.mark.parametrize("batch", [(), (7,)])
def test_quadratic_families(batch: tuple[int, ...], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_operator, "BLOCK", block)
    frame = torch.linalg.qr(torch.randn(*batch, 4, 4, dtype=torch.float64))[0]
    form = torch.randn(*batch, 4, 4, dtype=torch.float64)
    k = 5 + torch.rand(batch, dtype=torch.float64)
    rotations = geometry(SpecialOrthogonal(3)).uniform_sample((7,), (3, 3), dtype=torch.float64)
    for module, cls, points, parameters in (
        (bingham, Bingham, unit(7, 4), [form + form.mT]),
        (kent, Kent, unit(7, 4), [frame, k, k / 3]),
        (fisher_bingham, FisherBingham, unit(7, 4), [unit(*batch, 4), k, form + form.mT]),
        (matrix_fisher, MatrixFisher, rotations, [form[..., :3, :3]]),
    ):
        found = []
        for on in (True, False):
            leaves = [x.clone().requires_grad_() for x in (points, *parameters)]
            with monkeypatch.context() as patch:
                calls: list[int] = []
                patch.setattr(module, "by_numpy", lambda *xs, on=on, calls=calls: calls.append(1) or on)
                out = cls(*leaves[1:], validate_args=False).log_prob(leaves[0])
                assert calls
            total = out @ torch.linspace(0.5, 2, 7, dtype=torch.float64)
            (g,) = torch.autograd.grad(total, leaves[1], create_graph=True)
            second = torch.autograd.grad(g.square().sum(), leaves[0], retain_graph=True)
            found.append([out, *torch.autograd.grad(total, leaves), *second])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * (1 + float(b.detach().abs().max())))
