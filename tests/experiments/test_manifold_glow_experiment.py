"""The experiment on tensors and ODFs: its scores are right for a model that is known, and it runs and goes on."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from scripts import EXPERIMENTS, load, run
from torch import Tensor

SCRIPT = EXPERIMENTS / "manifold_glow.py"


@pytest.fixture(scope="module")
def experiment() -> ModuleType:
    return load(SCRIPT)


class Oracle:
    """Knows the truth and the noise, and takes the mirror image every second time."""

    def __init__(self, data: Any, scale: float) -> None:
        self.data, self.scale = data, scale

    def rows(self, t: Tensor, y: Tensor) -> Tensor:
        first = next(i for i in range(len(t)) if torch.equal(self.data.test.y[i], y[0]))
        return t[first : first + len(y)]

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        from pyro_manifold.distributions import WrappedNormal

        centre = self.rows(self.data.truth, y)
        return WrappedNormal(self.data.sphere, centre, self.scale).log_prob(x).sum((-1, -2, -3))

    def sample(self, y: Tensor, n: int) -> Tensor:
        a, b = (self.rows(t, y) for t in (self.data.truth, self.data.mirrored))
        x = torch.stack([a if i % 2 else b for i in range(n)])
        geo = self.data.spheres
        return geo.project(geo.exp_frame(x, self.scale * torch.randn(*x.shape[:-1], x.shape[-1] - 1)))

    def predict(self, y: Tensor, draws: Tensor) -> Tensor:
        return self.rows(self.data.truth, y)


def test_scores_of_an_oracle(experiment: ModuleType) -> None:
    """Its negative log density is the entropy of the noise, its answer has distance 0, half of its draws are nearer to
    the truth, and almost all are near either."""
    sizes = experiment.Sizes(fields=6, test=12, draws=16, size=2, frequency=2)
    data = experiment.simulated(sizes, 0)
    data.sphere, data.spheres = experiment.SPHERE, experiment.SPHERES
    found = experiment.scores(Oracle(data, 0.01), data, sizes, 0)
    assert found["nll"] == pytest.approx(data.noise_entropy, abs=1e-2)
    assert found["distance"] < 1e-6 and found["peak_angle"] < 0.1
    assert found["nearer_truth"] == pytest.approx(0.5, abs=0.02) and found["near_either"] > 0.99
    assert 0.2 < found["inside_half"] < 0.8


def test_scores_of_calibrated_draws(experiment: ModuleType) -> None:
    """Without the mirror image the truth is in the inner half of the draws half of the time: 48 voxels, within 4
    standard errors."""
    sizes = experiment.Sizes(fields=6, test=12, draws=64, size=2, frequency=2)
    data = experiment.simulated(sizes, 0)
    data.sphere, data.spheres, data.mirrored = experiment.SPHERE, experiment.SPHERES, data.truth
    found = experiment.scores(Oracle(data, 0.01), data, sizes, 0)
    assert found["inside_half"] == pytest.approx(0.5, abs=4 * 0.5 / 48**0.5)
    assert found["inside_nine_tenths"] > 0.7


def test_script_in_smoke_mode(tmp_path: Path) -> None:
    args = ("--smoke", "--data", "simulated", "--out", tmp_path)
    printed = run(SCRIPT, *args)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and printed.count("| simulated, S^20 |") == 12
    again = run(SCRIPT, *args, "--pictures")
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 6 and again.count("| ridge |") == 1
    assert (tmp_path / "manifold_glow_simulated.png").exists()


def test_patches_lie_in_the_mask(experiment: ModuleType) -> None:
    field = torch.arange(2 * 3 * 2.0).reshape(2, 3, 2)
    mask = torch.ones(2, 3, 2, dtype=torch.bool)
    mask[0, 0, 1] = False
    found = experiment.patches(field, mask, 2, 1)
    assert found.shape == (3, 1, 2, 2)
    assert torch.equal(found[0, 0], field[:2, :2, 0]) and torch.equal(found[2, 0], field[:, 1:, 1])
