"""Torsions from a small file and, where it lies beside the checkout, the real one."""

import math
from pathlib import Path

import pytest
import torch

from pyro_manifold.datasets import torsions, torsions_split

REAL = Path(__file__).parents[3] / "shared" / "data" / "torsions"
HEAD = "frame,residue,name,next,phi,psi\n"


def write(folder: Path, rows: str) -> Path:
    (folder / "adk.csv").write_text(HEAD + rows)
    return folder


def test_classes_and_radians(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        "0,1,GLY,PRO,180,-90\n0,2,PRO,PRO,45,0\n0,3,ALA,PRO,30,60\n0,4,ALA,GLY,-180,90\n1,4,ALA,GLY,0,1\n",
    )
    expected = {
        "glycine": [[-math.pi, -math.pi / 2]],
        "proline": [[math.pi / 4, 0.0]],
        "pre-proline": [[math.pi / 6, math.pi / 3]],
        "general": [[-math.pi, math.pi / 2], [0.0, math.pi / 180]],
    }
    for residue, angles in expected.items():
        assert torch.allclose(torsions(residue, folder=str(folder)), torch.tensor(angles), atol=1e-6)


def test_residues_stay_together(tmp_path: Path) -> None:
    folder = write(tmp_path, "".join(f"{i},{r},ALA,GLY,{r},{i}\n" for i in range(7) for r in range(20)))
    before = torch.get_rng_state()
    parts = torsions_split(folder=folder, seed=3)
    assert torch.equal(before, torch.get_rng_state()) and [len(p) for p in parts] == [16 * 7, 14, 14]
    residues = [set(p[:, 0].rad2deg().round().int().tolist()) for p in parts]
    assert [len(r) for r in residues] == [16, 2, 2] and len(set.union(*residues)) == 20
    again, other = torsions_split(folder=folder, seed=3), torsions_split(folder=folder, seed=4)
    assert torch.equal(parts[0], again[0]) and not torch.equal(parts[0], other[0])


@pytest.mark.skipif(not REAL.is_dir(), reason="the torsions do not lie beside this checkout")
def test_real_file() -> None:
    rows = {"general": 174, "glycine": 19, "proline": 10, "pre-proline": 9}
    for residue, residues in rows.items():
        x = torsions(residue, folder=REAL)
        assert x.shape == (98 * residues, 2) and float(x.abs().max()) < math.pi + 1e-6
    x = torsions("proline", folder=REAL)
    assert float((x[:, 0] < 0).float().mean()) > 0.99  # the ring holds phi near -65 degrees


@pytest.mark.parametrize(
    "text, match",
    [
        ("a,b\n1,2\n", "the first line of .*adk.csv is not 'frame,residue,name,next,phi,psi'"),
        (HEAD + "0,1,GLY,ALA,181,0\n", "line 2 of .*'0,1,GLY,ALA,181,0'.*at most 180"),
        (HEAD + "0,1,GLY,ALA,1,nan\n", "line 2 of .*at most 180"),
        (HEAD + "0,1,GLY,ALA,1\n", "line 2 of .*'0,1,GLY,ALA,1'"),
        (HEAD + "0,1,ALA,ALA,1,2\n", "no residue of class 'glycine'"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "adk.csv").write_text(text)
    with pytest.raises(ValueError, match=match):
        torsions("glycine", folder=tmp_path)


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="residue: got 'alanine'; expected one of 'general'"):
        torsions("alanine", folder=tmp_path)
    with pytest.raises(ValueError, match="has no file adk.csv; expected a folder with adk.csv"):
        torsions(folder=tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        torsions(folder=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="2 residues of class 'general' cannot be split"):
        torsions_split(folder=write(tmp_path, "0,1,ALA,ALA,1,2\n0,2,ALA,ALA,1,2\n"))
