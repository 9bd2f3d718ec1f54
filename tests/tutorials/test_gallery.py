"""Tutorials whose script holds its prose: the script runs, draws the pictures that its page shows, and the page is the
script's."""

import re
import sys
from pathlib import Path

import pytest
from scripts import EXPERIMENTS, run

DOCS = Path(__file__).parents[2] / "docs"
sys.path.append(str(DOCS))
from make_tutorials import cells, page, without_output  # noqa: E402

SCRIPTS = {p.stem: p for p in sorted(EXPERIMENTS.parent.glob("*.py")) if "# %% [markdown]" in p.read_text()}
QUICK = {"directions"}  # the others take some seconds more, each


@pytest.mark.parametrize("name", SCRIPTS)
def test_page_is_of_script(name: str) -> None:
    """Prose and code; what was printed is of the machine that ran ``make tutorials``."""
    written = (DOCS / "tutorials" / f"{name}.md").read_text()
    assert without_output(written + "\n").rstrip() == page(cells(SCRIPTS[name].read_text())).rstrip(), (
        f"docs/tutorials/{name}.md is not what tutorials/{name}.py says: make tutorials ARGS={name}"
    )


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in SCRIPTS]
)
def test_runs(name: str, tmp_path: Path) -> None:
    text = run(SCRIPTS[name], "--quick", "--out", tmp_path)
    assert text.count("\n") > 5
    shown = re.findall(r"^# !\[.+\]\((\S+)\)$", SCRIPTS[name].read_text(), re.M)
    assert shown and all((tmp_path / picture).stat().st_size > 8000 for picture in shown)


def test_all_are_in_the_gallery() -> None:
    gallery = (DOCS / "tutorials" / "index.md").read_text()
    for script in EXPERIMENTS.parent.glob("*.py"):
        assert f"thumbs/{script.stem}.png" in gallery, f"{script.name} has no card in docs/tutorials/index.md"
        assert (DOCS / "tutorials" / "thumbs" / f"{script.stem}.png").exists()
