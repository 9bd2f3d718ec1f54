"""Distances of points far from the origin, and that the whole package takes them from one place."""

from pathlib import Path

import pytest
import torch

import pyro_manifold
from pyro_manifold.ops.pairwise import pairwise_distances


@pytest.mark.parametrize("d", [1, 3, 64, 65, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_from_the_origin(d: int, dtype: torch.dtype) -> None:
    """To some roundings of the coordinates, for more points than torch computes one by one."""
    generator = torch.Generator().manual_seed(0)
    near = torch.randint(-8, 8, (40, d), generator=generator).to(dtype)
    x, y = near[:30] + 2.0**20, near[10:] + 2.0**20  # exact in float32
    exact = (near[:30].unsqueeze(1) - near[10:]).double().norm(dim=-1)
    found = pairwise_distances(x, y)
    assert found.dtype == dtype
    least = exact[exact > 0].min()
    assert float((found - exact).abs().max() / least) < (1e-5 if d <= 64 or dtype == torch.float64 else 0.05)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(pairwise_distances(leaf, y).sum(), leaf)
    assert gradient.isfinite().all()


def test_no_other_distances() -> None:
    """``torch.cdist`` alone loses the digits: nothing else in the package calls it, but for the check of geometries,
    whose tangent vectors are at the origin."""
    root = Path(pyro_manifold.__file__).parent
    users = {p.relative_to(root).as_posix() for p in root.rglob("*.py") if "cdist(" in p.read_text()}
    assert users == {"ops/pairwise.py", "testing/check_geometry.py"}
