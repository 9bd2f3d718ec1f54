"""The embedding VAE experiment: its oracles are right, models side by side are the models one by one, and it runs and
goes on from its file."""

import json
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch
from scripts import EXPERIMENTS, load, run

SCRIPT = EXPERIMENTS / "embedding_vae.py"


@pytest.fixture(scope="module")
def experiment() -> ModuleType:
    return load(SCRIPT)


def test_oracle_of_the_sphere_by_a_grid(experiment: ModuleType) -> None:
    """Importance sampling against evenly spread points of the sphere, and of the circle against them too."""
    torch.manual_seed(0)
    world = experiment.World.of("sphere", [0], 0.1)
    x, points = world.draw(20)
    t = torch.quasirandom.SobolEngine(2, scramble=True, seed=0).draw(1 << 16, dtype=torch.float64)
    grid = world.mean(experiment.MANIFOLDS["sphere"][2](t).unsqueeze(0))
    square = torch.cdist(x.double(), grid).square()
    expected = torch.logsumexp(-50 * square, -1) - 16 * math.log(2) - 50 * math.log(2 * math.pi * 0.01)
    torch.testing.assert_close(world.oracle(x, points), expected, rtol=0, atol=0.15)
    assert float((world.oracle(x, points) - expected).mean()) == pytest.approx(0, abs=0.03)


def test_oracle_is_the_best_on_data_with_noise(experiment: ModuleType) -> None:
    """It beats the same density of another world's network."""
    one, two = (experiment.World.of("circle", [seed], 0.1) for seed in (0, 1))
    x, points = one.draw(50)
    assert (one.oracle(x, points) > two.oracle(x, points)).all()


def test_side_by_side_is_one_by_one(experiment: ModuleType) -> None:
    options = {"data_dim": 100, "hidden": 7, "likelihood": "normal", "likelihood_scale": 0.1}
    x = experiment.World.of("circle", [0, 1], 0.0).batch(5)
    for name, make in experiment.rows("circle", options, True).items():
        if "learned" in name:
            continue  # trained for each: the run below has them
        models = [make(seed) for seed in (0, 1)]
        whole = experiment.stacked(models)
        together = whole.encode(x)
        for k, model in enumerate(models):
            alone = model.encode(x[k])
            if "VAE, R" in name:
                torch.testing.assert_close(together.loc[k], alone.loc)
            if name.startswith("manifold"):
                torch.testing.assert_close(whole.embed(x)[k], model.embed(x[k]))
            if name.startswith("ER"):
                torch.testing.assert_close(
                    whole.reconstruct(x)[k], model.reconstruct(x[k]), rtol=1e-4, atol=1e-5
                )


def test_correlation_of_angles(experiment: ModuleType) -> None:
    a = 2 * math.pi * torch.rand(3, 400)
    for b in (a + 1.0, -a + 2.0):
        torch.testing.assert_close(experiment.correlation(a, b.remainder(2 * math.pi)), torch.ones(3))
    assert (experiment.correlation(a, a[..., torch.randperm(400)]) < 0.3).all()  # 1 in 10^14 by chance


def test_runs_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    some = ("--only", "VAE, R^1", "ER, learned, group action")
    text = run(SCRIPT, "--smoke", "--quiet", "--out", out, *some)
    assert "| ER, learned, group action | **no** |" in text and "oracle log p(x)" in text
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r["row"] for r in records] == ["VAE, R^1", "ER, learned, group action"]
    assert records[1]["iwae"] is None and len(records[1]["evidence"]) == 2 and not records[1]["bound"]
    assert "CPU seconds" not in run(SCRIPT, "--smoke", "--quiet", "--out", out, *some)
    assert len(out.read_text().splitlines()) == 2
    text = run(SCRIPT, "--smoke", "--quiet", "--world", "digits", "--only", "ER, exact, group action")
    assert "correlation" in text
