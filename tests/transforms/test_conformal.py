"""Conformal embeddings: volume against differentiation, spheres by their area, digits near the pole, learning
a sphere."""

import math

import pytest
import torch
from torch import Tensor

from pyro_manifold.transforms import ConformalEmbedding
from pyro_manifold.transforms.jvp import forward_mode_jvp

F64 = torch.float64


def moved(n: int, d: int, blocks: int = 1, size: float = 0.3) -> ConformalEmbedding:
    g = ConformalEmbedding(n, d, blocks=blocks).double()
    with torch.no_grad():
        for p in (g.pull, g.shift, g.log_scale):
            p.add_(size * torch.randn_like(p))
    return g


def plain(n: int, d: int, shift: list[float], pull: list[float]) -> ConformalEmbedding:
    """No scale, and reflections along the first axes."""
    g = ConformalEmbedding(n, d).double()
    with torch.no_grad():
        g.reflectors[0] = torch.eye(n, d)
        g.shift[0], g.pull[0] = torch.tensor(shift, dtype=F64), torch.tensor(pull, dtype=F64)
    return g


@pytest.mark.parametrize("n, d, blocks", [(1, 2, 1), (2, 3, 1), (2, 3, 5), (14, 40, 5), (3, 3, 2)])
def test_volume_and_push(n: int, d: int, blocks: int) -> None:
    g, u = moved(n, d, blocks), torch.randn(50, n, dtype=F64)
    eye = torch.eye(n, dtype=F64).expand(50, n, n)
    x, J = forward_mode_jvp(g, u, eye)
    gram = J @ J.mT
    torch.testing.assert_close(g.log_volume(u), 0.5 * torch.logdet(gram), rtol=0, atol=1e-10)
    torch.testing.assert_close(
        gram, torch.exp(2 * g.log_volume(u) / n)[:, None, None] * eye, rtol=1e-10, atol=1e-10
    )  # conformal
    for ours, auto in zip(g.jvp(u, eye), (x, J), strict=True):
        torch.testing.assert_close(ours, auto, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(g.inv(x), u, rtol=1e-7, atol=1e-7)


def test_area_of_the_sphere() -> None:
    """The image of the plane is a sphere, found from four points; the volumes add up to its area."""
    g = plain(2, 3, [0.0, 0.0, 1.0], [0.2, -0.1, 0.7])
    x = g(torch.randn(60, 2, dtype=F64)).detach()
    solution = torch.linalg.lstsq(
        torch.cat([2 * x, torch.ones(60, 1, dtype=F64)], -1), x.square().sum(-1, keepdim=True)
    ).solution
    radius = float((solution[3] + solution[:3].square().sum()).sqrt())
    a = (torch.arange(400, dtype=F64) + 0.5) / 400
    angle = 2 * math.pi * torch.arange(64, dtype=F64) / 64
    r = torch.tan(a * math.pi / 2)  # the plane by polar coordinates, midpoint rule
    area = 2 * math.pi * r * (1 + r * r) * math.pi / 2 / 400
    u = torch.stack([r[:, None] * angle.cos(), r[:, None] * angle.sin()], -1)
    total = (g.log_volume(u).exp().mean(-1) * area).sum().item()
    assert total == pytest.approx(4 * math.pi * radius**2, rel=1e-4)


@pytest.mark.parametrize("gap", [1e-3, 1e-7])
def test_near_the_pole(gap: float) -> None:
    """The plane through the pole b/|b|^2 = (1/2, 0): the factor is 1/(4 gap^2) there, to all digits that the
    gap has."""
    g = plain(1, 2, [0.0, 0.0], [2.0, 0.0])
    u = torch.tensor([-(0.5 + gap)], dtype=F64)  # the reflection turns the axis round
    assert g.log_volume(u).item() == pytest.approx(-math.log(4 * gap**2), abs=1e-14 / gap)
    assert g.inv(g(u)).item() == pytest.approx(u.item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_pole_raises(dtype: torch.dtype) -> None:
    g = plain(1, 2, [0.0, 0.0], [2.0, 0.0]).to(dtype)
    pole = torch.tensor([[1.0], [-0.5]], dtype=dtype)
    for f in (g, g.log_volume):
        with pytest.raises(ValueError, match="pole"):
            f(pole)
    with pytest.raises(ValueError, match="pole"):
        g.inv(torch.tensor([-0.5, 0.0], dtype=dtype))
    with pytest.raises(ValueError, match="NaN"):
        g.log_volume(torch.tensor([math.nan], dtype=dtype))
    with pytest.raises(ValueError, match="blocks: got 0"):
        ConformalEmbedding(1, 2, blocks=0)


def test_composition_is_one_block() -> None:
    """Liouville: five blocks still make a sphere."""
    x = moved(2, 4, blocks=5)(torch.randn(80, 2, dtype=F64)).detach()
    flat = torch.cat([2 * x, torch.ones(80, 1, dtype=F64)], -1)
    q = x.square().sum(-1, keepdim=True)
    singular = torch.linalg.svdvals(x - x.mean(0))
    assert singular[3] < 1e-10 * singular[0] < singular[2]  # in three dimensions,
    q_fit = flat @ torch.linalg.lstsq(flat, q, driver="gelsd").solution
    torch.testing.assert_close(q_fit, q, rtol=1e-7, atol=1e-9)  # |x|^2 is an affine function there


def test_learns_a_sphere() -> None:
    torch.manual_seed(0)
    z: Tensor = torch.nn.functional.normalize(torch.randn(300, 3), dim=-1)
    x = 2 * z @ torch.linalg.qr(torch.randn(5, 5))[0][:3] + torch.randn(5)
    g = ConformalEmbedding.from_pca(x, 2)
    assert g.reconstruction_error(x).mean() > 0.5
    adam = torch.optim.Adam(g.parameters(), lr=0.03)
    for step in range(400):
        adam.param_groups[0]["lr"] = 0.03 * (1 - step / 400)
        adam.zero_grad()
        (g.project(x) - x).square().sum(-1).mean().backward()
        adam.step()
    assert g.reconstruction_error(x).max() < 1e-3
