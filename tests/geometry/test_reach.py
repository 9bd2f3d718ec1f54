"""The table of reaches in docs/explanation/numerics.md is what the geometries say."""

from pathlib import Path

import geoopt
import torch

from pyro_manifold.geometry import geometry

ROWS = {
    "PoincareBall, d = 2": (geoopt.Stereographic(k=-1.0), (2,)),
    "PoincareBall, d = 1024": (geoopt.Stereographic(k=-1.0), (1024,)),
    "Lorentz": (geoopt.Lorentz(), (3,)),
    "SymmetricPositiveDefinite, 2 x 2": (geoopt.SymmetricPositiveDefinite(), (2, 2)),
    "SymmetricPositiveDefinite, 8 x 8": (geoopt.SymmetricPositiveDefinite(), (8, 8)),
}


def test_the_table_is_current() -> None:
    text = (Path(__file__).parents[2] / "docs" / "explanation" / "numerics.md").read_text()
    for name, (manifold, shape) in ROWS.items():
        single, double = (
            geometry(manifold).reach(shape, torch.empty((), dtype=t)) for t in (torch.float32, torch.float64)
        )
        assert f"| {name} | {single:.1f} | {double:.1f} |" in text
