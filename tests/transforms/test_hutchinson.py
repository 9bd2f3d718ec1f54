"""The random volume: unbiased in value and gradient, exact where it must be, bounded, clear when it fails."""

import math

import pytest
import torch
from cases import learned
from torch import Tensor

from pyro_manifold import flows
from pyro_manifold.transforms import Chart, LinearEmbedding, Pad, hutchinson_log_volume
from pyro_manifold.transforms.hutchinson import _solve

F64 = torch.float64


def small_flow() -> flows.InjectiveFlow:
    layers = [
        flows.Coupling(5, [0, 2, 4], hidden=(8,)),
        flows.LULinear(5),
        flows.Coupling(5, [1, 3], hidden=(8,)),
    ]
    return learned(flows.InjectiveFlow(Pad(3, 5), layers)).double()


def gradient(value: Tensor, g: torch.nn.Module) -> Tensor:
    return torch.cat(
        [p.flatten() for p in torch.autograd.grad(value.sum(), list(g.parameters()), retain_graph=True)]
    )


def test_unbiased() -> None:
    """Against the exact value and gradient, along 10 directions; |z| > 5 (Student, 49 degrees) by chance in 1
    of 10^4 runs."""
    g, u = small_flow(), torch.randn(3, 3, dtype=F64, requires_grad=True)
    exact = g.log_volume(u)
    wanted = torch.cat(
        [gradient(exact, g), torch.autograd.grad(exact.sum(), u, retain_graph=True)[0].flatten()]
    )
    directions = torch.randn(len(wanted), 10, dtype=F64)
    values, slopes = [], []
    for _ in range(50):
        h = hutchinson_log_volume(g, u, probes=4, rtol=1e-9)
        values.append(h.detach() - exact.detach())
        grad = torch.cat([gradient(h, g), torch.autograd.grad(h.sum(), u)[0].flatten()])
        slopes.append((grad - wanted) @ directions)
    for rows in (torch.stack(values), torch.stack(slopes)):
        assert rows.std(0).min() > 1e-4  # random it is
        z = rows.mean(0) / (rows.std(0) / 50**0.5)
        assert z.abs().max() < 5


def test_all_signs_average_to_the_exact_value() -> None:
    """A matrix that is not orthogonal, all 2^2 probes: no randomness is left but the choice of them."""
    g = LinearEmbedding(torch.tensor([[3.0, 1.0], [0.0, 2.0], [4.0, -1.0]], dtype=F64))
    J = g.matrix
    eigenvalues, vectors = torch.linalg.eigh(J.mT @ J)
    probes = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=F64)
    pair = 0.5 * ((probes @ vectors).square() * eigenvalues.log()).sum(-1)  # what each probe should give
    assert pair.mean().item() == pytest.approx(g.log_volume(torch.zeros(2, dtype=F64)).item(), abs=1e-12)
    for _ in range(10):
        value = hutchinson_log_volume(g, torch.zeros(2, dtype=F64), rtol=1e-10).item()
        assert min(abs(value - p) for p in pair.tolist()) < 1e-10


def test_rows_that_converge_early_are_kept() -> None:
    """Orthogonal columns of one length need one step, others more; together they give what each gives
    alone."""

    def bend(u: Tensor) -> Tensor:
        return torch.cat([u, u[..., :1] * u[..., 1:]], -1)

    g = Chart(bend, lambda x: x[..., :2], 2, 3)
    u = torch.tensor([[0.0, 0.0], [1.0, -2.0]], dtype=F64)
    assert g.log_volume(u)[0].item() == 0.0
    out = torch.stack([hutchinson_log_volume(g, u, rtol=1e-10) for _ in range(5)])
    assert bool((out[:, 0].abs() < 1e-12).all())
    alone = {round(hutchinson_log_volume(g, u[1], rtol=1e-10).item(), 8) for _ in range(40)}
    assert {round(x, 8) for x in out[:, 1].tolist()} <= alone and len(alone) == 2


def test_errors() -> None:
    g, u = small_flow(), torch.zeros(3, dtype=F64)
    with pytest.raises(ValueError, match=r"max_steps: .* after 1 steps .*log_volume, which is exact"):
        hutchinson_log_volume(g, u, max_steps=1)
    flat = Chart(lambda u: u[..., :1].expand(u.shape[:-1] + (3,)), lambda x: x[..., :2], 2, 3)
    with pytest.raises(ValueError, match="no full rank"):  # v = (1, -1) at once, (1, 1) after a step
        for _ in range(20):
            hutchinson_log_volume(flat, torch.zeros(4, 2, dtype=F64))
    with pytest.raises(ValueError, match="NaN"):
        hutchinson_log_volume(g, torch.full((3,), math.nan, dtype=F64))
    with pytest.raises(ValueError, match="probes, rtol: got 0"):
        hutchinson_log_volume(g, u, probes=0)
    with pytest.raises(ValueError, match=r"value: got shape \(4,\)"):
        hutchinson_log_volume(g, torch.zeros(4))


@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-8])
def test_the_solution_is_as_exact_as_asked(rtol: float) -> None:
    """|v - J^T J w| <= rtol |v| row by row, with J written out; and no step more than that takes."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(30, 20, generator=generator, dtype=torch.float64) * torch.logspace(
        0, 1.5, 20, dtype=torch.float64
    )
    v = torch.randn(6, 20, generator=generator, dtype=torch.float64)
    w, _ = _solve(LinearEmbedding(W), torch.zeros(6, 20, dtype=torch.float64), v, rtol, 200)
    residual = (v - w @ (W.mT @ W)).norm(dim=-1) / v.norm(dim=-1)
    assert bool((residual <= rtol * 1.01).all()) and float(residual.max()) > 1e-3 * rtol
