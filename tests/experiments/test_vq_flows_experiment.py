"""The experiment of VQ-flows: it runs, goes on where it stopped, and its figures are right where they are known."""

import json
from pathlib import Path

import pytest
import torch
from scripts import EXPERIMENTS, load, run

from pyro_manifold.datasets import InterlockedCircles

pytestmark = pytest.mark.filterwarnings(
    "ignore::pyro_manifold.training.TrainingWarning"
)  # few passes are meant
SCRIPT = EXPERIMENTS / "vq_flows.py"


def test_runs_and_resumes(tmp_path: Path) -> None:
    options = ("--smoke", "--out", tmp_path, "--sets", "circles", "--methods", "VQ-flow", "RealNVP")
    text = run(SCRIPT, *options)
    rows = [json.loads(line) for line in (tmp_path / "vq_flows.jsonl").read_text().splitlines()]
    assert [r["method"] for r in rows] == ["VQ-flow", "RealNVP"] and text.count("| circles |") == 3
    assert rows[0]["mass"] == pytest.approx(1, abs=5 * rows[0]["mass error"] + 0.02)
    assert (tmp_path / "vq_flows.png").exists()
    before = (tmp_path / "vq_flows.jsonl").read_text()
    run(SCRIPT, *options)
    assert (tmp_path / "vq_flows.jsonl").read_text() == before


def test_pieces_of_the_truth() -> None:
    """Draws of the truth are in as many pieces as it has, at the radius that the experiment chooses."""
    experiment = load(SCRIPT)
    truth = InterlockedCircles()
    x, y = truth.sample(1000, seed=0), truth.sample(1000, seed=1)
    radius = experiment.radius_of_pieces(truth, x)
    assert experiment.connected_components(y, radius) == 2
    one, other = y[truth.component(y) == 0][0], y[truth.component(y) == 1][0]
    bridge = one + torch.linspace(0, 1, 300, dtype=torch.float64)[:, None] * (other - one)
    assert experiment.connected_components(torch.cat([y, bridge]), radius) == 1
