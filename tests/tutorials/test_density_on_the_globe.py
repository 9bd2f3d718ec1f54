"""The tutorial runs, on small catalogues of its own, and draws its pictures."""

from pathlib import Path

import geoopt
import pytest
import torch
from scripts import EXPERIMENTS, run

from pyro_manifold.distributions import ManifoldUniform
from pyro_manifold.ops.lon_lat import lon_lat

FILES = ("quakes_all.csv", "flood.csv", "fire.csv")


@pytest.mark.slow
def test_runs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for file in FILES:
        lon, lat = (torch.rad2deg(t) for t in lon_lat(ManifoldUniform(geoopt.Sphere(), 3).sample((60,))))
        (tmp_path / file).write_text("\n".join(f"{a:.4f},{b:.4f}" for a, b in zip(lat, lon, strict=True)))
    out = tmp_path / "out"
    text = run(EXPERIMENTS.parent / "density_on_the_globe.py", "--folder", tmp_path, "--quick", "--out", out)
    integral = float(text.split("integral:")[1].split()[0])
    assert abs(integral - 1) < 0.01
    assert sorted(p.name for p in out.glob("*.png")) == ["earthquakes.png", "kinds.png", "posterior.png"]
