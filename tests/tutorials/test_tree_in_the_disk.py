"""The tutorial runs in quick mode, and its start is better than what a few steps make of a random one."""

import re
from pathlib import Path

from scripts import EXPERIMENTS, run


def test_runs(tmp_path: Path) -> None:
    text = run(EXPERIMENTS.parent / "tree_in_the_disk.py", "--quick", "--out", tmp_path)
    found = dict(re.findall(r"^(.*?) +distortion ([\d.]+)", text, flags=re.M))
    assert float(found["start: Sarkar's construction, edges of 3"]) < 0.2
    assert float(found["MAP from points near the origin, edges of 1"]) > 0.25
    assert len(found) == 13
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["lengths.png", "tree.png"]
