"""Every tutorial runs in its quick mode, draws the pictures that its page shows, and the page is the script's.

The runs are marked slow; ``make docs`` has them, all in one process, before it builds the pages.
"""

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from scripts import EXPERIMENTS, run

DOCS = Path(__file__).parents[2] / "docs"
sys.path.append(str(DOCS))
from make_tutorials import cells, page, without_output  # noqa: E402

SCRIPTS = {p.stem: p for p in sorted(EXPERIMENTS.parent.glob("*.py"))}
HAS_DIPY = importlib.util.find_spec("dipy") is not None


@pytest.mark.parametrize("name", SCRIPTS)
def test_page_is_of_script(name: str) -> None:
    """Prose and code; what was printed is of the machine that ran ``make tutorials``."""
    written = (DOCS / "tutorials" / f"{name}.md").read_text()
    assert without_output(written + "\n").rstrip() == page(cells(SCRIPTS[name].read_text())).rstrip(), (
        f"docs/tutorials/{name}.md is not what tutorials/{name}.py says: make tutorials ARGS={name}"
    )


def density_on_the_globe(text: str) -> None:
    assert abs(number(text, "integral:") - 1) < 0.01


def manifold_in_pieces(text: str) -> None:
    mass, error = (float(part) for part in text.split("total mass:")[1].split("\n")[0].split("±"))
    assert abs(mass - 1) < 5 * error + 0.02  # however short the training was


def own_manifold(text: str) -> None:
    assert text.startswith("volume: the volume is infinite")  # the first check that does not apply


def quickstart(text: str) -> None:
    assert "95 % of the posterior within" in text
    assert len(text.split("degrees from the true directions: [")[1].split("]")[0].split(",")) == 5


def tensors_into_odfs(text: str) -> None:
    assert "ODFs (10, 1, 4, 4, 21)" in text
    assert 0 <= number(text, "single voxels:") <= 100
    assert HAS_DIPY or "pyro-manifold[dipy]" in text


def tree_in_the_disk(text: str) -> None:
    """The start is better than what a few steps make of a random one."""
    found = dict(re.findall(r"^(.*?) +distortion ([\d.]+)", text, flags=re.M))
    assert float(found["start: Sarkar's points, edges of 3"]) < 0.2
    assert float(found["from near the origin, edges of 1"]) > 0.25
    assert len(found) == 13


def vae_on_a_sphere(text: str) -> None:
    assert "sphere better by +0.00 ± 0.00" in text  # than itself
    assert "a day, latent circle" in text


def number(text: str, after: str) -> float:
    return float(text.split(after)[1].split()[0].rstrip("%"))


CHECKS: dict[str, Callable[[str], None]] = {
    f.__name__: f
    for f in (
        density_on_the_globe,
        manifold_in_pieces,
        own_manifold,
        quickstart,
        tensors_into_odfs,
        tree_in_the_disk,
        vae_on_a_sphere,
    )
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_runs(name: str, tmp_path: Path) -> None:
    text = run(SCRIPTS[name], "--quick", "--out", tmp_path)
    plt.close("all")
    assert text.count("\n") > 5
    CHECKS.get(name, lambda text: None)(text)
    shown = set(re.findall(r"^# !\[.+\]\((\S+)\)$", SCRIPTS[name].read_text(), re.M))
    if not HAS_DIPY:
        shown.discard("tensors_into_odfs_scan.png")  # a scan that dipy ships
    assert shown and {p.name for p in tmp_path.glob("*.png")} == shown
    assert all((tmp_path / picture).stat().st_size > 8000 for picture in shown)


def test_all_are_in_the_gallery() -> None:
    gallery = (DOCS / "tutorials" / "index.md").read_text()
    for name in SCRIPTS:
        assert f"thumbs/{name}.png" in gallery, f"{name}.py has no card in docs/tutorials/index.md"
        assert (DOCS / "tutorials" / "thumbs" / f"{name}.png").exists()
