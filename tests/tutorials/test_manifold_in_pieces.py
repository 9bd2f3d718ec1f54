"""The tutorial runs and draws its pictures; what it says about the mass is true however short the training is."""

from pathlib import Path

import pytest
from scripts import EXPERIMENTS, run

pytestmark = pytest.mark.filterwarnings(
    "ignore::pyro_manifold.training.TrainingWarning"
)  # few passes are meant


@pytest.mark.slow
def test_runs(tmp_path: Path) -> None:
    text = run(EXPERIMENTS.parent / "manifold_in_pieces.py", "--quick", "--out", tmp_path)
    mass, error = (float(part) for part in text.split("total mass:")[1].split("\n")[0].split("±"))
    assert abs(mass - 1) < 5 * error + 0.02
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["cells.png", "density.png", "overlap.png"]
