"""The tutorial on hidden trees: models side by side are what each would be alone, and the script runs."""

import json
from pathlib import Path

import geoopt
import pytest
import torch
from scripts import EXPERIMENTS, load, run
from torch import nn

from pyro_manifold.nn import GyroplaneLayer

SCRIPT = EXPERIMENTS / "branching_diffusion.py"


@pytest.mark.parametrize(
    "manifold", [geoopt.PoincareBall(torch.tensor(1.2)), geoopt.Euclidean(1)], ids=["ball", "plane"]
)
def test_stacked_layers_are_layers_side_by_side(manifold: geoopt.Manifold) -> None:
    tutorial = load(SCRIPT)
    net = nn.Sequential(GyroplaneLayer(manifold, 2, 7), nn.ReLU(), nn.Linear(7, 3))
    tutorial.stack(net, 4)
    z = 0.2 * torch.randn(5, 4, 6, 2).clamp(-2, 2)  # draws, seeds, rows, inside the ball
    out = net(z)
    for seed in range(4):
        alone = nn.Sequential(net[0].layers[seed], nn.ReLU(), nn.Linear(7, 3))
        alone[2].weight.data, alone[2].bias.data = net[2].weight.data[seed].mT, net[2].bias.data[seed, 0]
        torch.testing.assert_close(out[:, seed], alone(z[:, seed]))
    first, second = net[0].layers[:2]
    assert not torch.equal(first.weight, second.weight)


@pytest.mark.parametrize("decoder", ["wrapped", "gyroplane"])
def test_it_runs(tmp_path: Path, decoder: str) -> None:
    out = tmp_path / "rows.jsonl"
    run(SCRIPT, "--smoke", "--decoder", decoder, "--out", out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["curvature"] for row in rows] == [0.0, 1.0] and {row["decoder"] for row in rows} == {decoder}
    assert all(
        60 < score < 75 for row in rows for score in row["score"]
    )  # three passes: a little below the trivial 71.45
