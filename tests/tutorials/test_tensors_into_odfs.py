"""The tutorial runs, and draws its pictures; that of a scan where dipy is installed."""

import importlib.util
from pathlib import Path

from scripts import EXPERIMENTS, run


def test_runs(tmp_path: Path) -> None:
    text = run(EXPERIMENTS.parent / "tensors_into_odfs.py", "--quick", "--out", tmp_path)
    assert "ODFs (10, 1, 4, 4, 21)" in text
    share = float(text.split("single voxels:")[1].split("%")[0])
    assert 0 <= share <= 100
    dipy = importlib.util.find_spec("dipy") is not None
    assert sorted(p.name for p in tmp_path.glob("*.png")) == [
        "data.png",
        "draws.png",
        "fields.png",
        *(["scan.png"] if dipy else []),
    ]
    assert dipy or "pyro-manifold[dipy]" in text
