"""The tutorial runs, a few steps of it, and draws its pictures."""

import json
from pathlib import Path

from scripts import EXPERIMENTS, run


def test_runs(tmp_path: Path) -> None:
    text = run(EXPERIMENTS.parent / "vae_on_a_sphere.py", "--quick", "--out", tmp_path)
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert {name: len(values) for name, values in scores.items()} == {"sphere": 2, "plane": 2, "space": 2}
    assert "sphere better by +0.00 +- 0.00" in text  # than itself
    assert "a day, latent circle" in text
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["geodesic.png", "latent.png"]
