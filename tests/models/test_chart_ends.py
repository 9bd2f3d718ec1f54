"""Ends of charts: where rows are missing in a cell, and nowhere else; values beyond them."""

import torch
from torch import nn

from pyro_manifold.datasets import SwissRoll
from pyro_manifold.models import VQFlow
from pyro_manifold.models.chart_ends import chart_ends, limiting_directions
from pyro_manifold.nn import NeighbourRegions, VectorQuantizer


def test_a_square_ends_at_its_one_border_inside_the_cell() -> None:
    """300 rows of the unit square in a cell that ends at .8 to the left, right and below, and nowhere above: the one
    limit is at the top, one row's room (1/300 on average) beyond the last, and corners of rows are not cut off."""
    torch.manual_seed(0)
    u, normals = torch.rand(300, 2), limiting_directions(2)
    reach = chart_ends(u, normals, lambda p: (p[:, 0] > 0.2) & (p[:, 0] < 0.8) & (p[:, 1] > 0.2))
    (up,) = reach.isfinite().nonzero().squeeze(-1).tolist()
    assert normals[up, 1] > 0.99
    assert 0 < float(reach[up] - (u @ normals[up]).max()) < 0.02
    assert abs(float(reach[up]) - 1) < 0.03
    everywhere = chart_ends(u, normals, lambda p: torch.ones(len(p), dtype=torch.bool))
    corners = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    assert 4 <= int(everywhere.isfinite().sum()) <= 12
    assert float((corners @ normals.mT - everywhere).amax()) < 0.15  # none is cut off deeper
    assert not bool(chart_ends(u, normals, lambda p: (p > 0.1).all(-1) & (p < 0.9).all(-1)).isfinite().any())


def test_an_interval_and_many_dimensions() -> None:
    torch.manual_seed(0)
    u = torch.rand(200, 1)
    right, left = chart_ends(u, limiting_directions(1), lambda p: p[:, 0] > 0.5).tolist()
    assert 0 < right - float(u.max()) < 0.03 and left == float("inf")
    x = torch.randn(50, 5)
    normals = limiting_directions(5)
    torch.testing.assert_close(chart_ends(x, normals, lambda p: p[:, 0] > 9), (x @ normals.mT).amax(0))


def test_values_beyond_an_end_go_to_its_nearest_point() -> None:
    """Of a quarter plane: beyond one side, to the nearest point; beyond the corner, along the way to the centre."""
    codes = VectorQuantizer(torch.zeros(1, 2))
    normals, inf = torch.eye(2), torch.inf
    sides = NeighbourRegions(
        nn.Identity(), codes, normals=torch.cat([normals, -normals]), reach=torch.tensor([[1.0, 1.0, inf, inf]]),
        centres=torch.tensor([[0.0, -1.0]]),
    )  # fmt: skip
    u = torch.tensor([[3.0, 0.5], [0.5, 2.0], [2.0, 3.0], [0.3, -9.0]])
    moved = sides.clip(u, 0)
    torch.testing.assert_close(moved[:2], torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    torch.testing.assert_close(moved[2], torch.tensor([1.0, 1.0]))  # (0, -1) + t (2, 4), t = 1/2
    assert torch.equal(moved[3], u[3]) and bool(sides.domain(moved - 1e-6, 0).all())


def test_a_swiss_roll_is_reconstructed_to_its_noise_before_anything_is_learned() -> None:
    """Quadrics by least squares, with the projections of test rows to the true roll (.050) for comparison. Charts do
    not reach farther beyond the roll than three standard deviations of noise, but for 1 % of what their cells hold."""
    roll = SwissRoll()
    x, y = (roll.sample(n, seed=s, noise=0.05).float() for n, s in ((5000, 0), (2000, 101)))
    flow = VQFlow.from_data(x, 2, 64, eps=0.5)
    with torch.no_grad():
        error = flow.ood_score(y).square().mean().sqrt()
        best = (y - roll.project(y)).square().sum(-1).mean().sqrt()
        assert error < 1.12 * best
        regions, over = flow.regions(), []
        for k, c in enumerate(flow.contexts):
            middle = flow.centres[k]
            u = middle + 6 * (torch.rand(400, 2, generator=torch.Generator().manual_seed(k)) - 0.5)
            p = flow.transform.condition(c)._call(u)
            over.append(roll.overshoot(p[regions.domain(u, k) & regions(p)[:, k]]))
    assert float((torch.cat(over) > 0.15).double().mean()) < 0.01
