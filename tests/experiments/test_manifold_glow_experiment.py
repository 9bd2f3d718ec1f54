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


def test_shares_of_calibrated_draws(experiment: ModuleType) -> None:
    """Where the truth is one more draw, its rank among 39 is uniform: a share of at most .5 and of at most .9 have just
    these probabilities; 4000 draws of 45 coordinates, within 4 standard errors. Of draws 15 % too narrow both are far
    off, since distances in 45 dimensions hardly vary."""
    torch.manual_seed(0)
    pole = torch.eye(46)[0]

    def cap(n: int, scale: float) -> Tensor:
        return experiment.SPHERES.exp_frame(pole.expand(n, 4000, 46), scale * torch.randn(n, 4000, 45))

    x = cap(1, 0.02)[0]
    share = experiment.nearer_share(cap(39, 0.02), x)
    for level in (0.5, 0.9):
        bound = 4 * (level * (1 - level) / 4000) ** 0.5
        assert float((share <= level).float().mean()) == pytest.approx(level, abs=bound)
    narrow = experiment.nearer_share(cap(39, 0.017), x)
    assert (narrow <= 0.5).float().mean() < 0.15 and (narrow <= 0.9).float().mean() < 0.5


def test_script_in_smoke_mode(tmp_path: Path) -> None:
    args = ("--smoke", "--data", "simulated", "--out", tmp_path)
    printed = run(SCRIPT, *args)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 7 and printed.count("| simulated, S^20 |") == 14
    again = run(SCRIPT, *args, "--pictures", "--calibration")
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 7 and again.count("| ridge |") == 1
    assert (tmp_path / "manifold_glow_simulated.png").exists()


def test_patches_lie_in_the_mask(experiment: ModuleType) -> None:
    field = torch.arange(2 * 3 * 2.0).reshape(2, 3, 2)
    mask = torch.ones(2, 3, 2, dtype=torch.bool)
    mask[0, 0, 1] = False
    found = experiment.patches(field, mask, 2, 1)
    assert found.shape == (3, 1, 2, 2)
    assert torch.equal(found[0, 0], field[:2, :2, 0]) and torch.equal(found[2, 0], field[:, 1:, 1])
