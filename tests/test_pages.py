"""The code on the pages of the documentation runs as it is printed, each page from its first line to its last."""

import doctest
import io
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [
    p for f in ("howto", "start") for p in sorted((DOCS / f).glob("*.md")) if "```python" in p.read_text()
]
SLOW = {  # they check, sample and train in earnest
    "add_a_distribution",
    "choose_an_inference",
    "divergences",
    "implicit",
    "learn_a_manifold",
}
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def code(text: str) -> str:
    """The Python blocks of a page, everything else as empty lines, so that line numbers are the page's."""
    lines = [""] * text.count("\n")
    for block in BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(1))
        lines[first : first + block[1].count("\n")] = block[1].splitlines()
    return "\n".join(lines)


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] if p.stem in SLOW else []) for p in PAGES]
)
def test_code_runs(page: Path) -> None:
    text = page.read_text()
    bare = [block[1] for block in BLOCK.finditer(text) if ">>>" not in block[1]]
    assert not bare, f"{page.name}: a Python block without >>>, which nothing runs:\n{bare[0]}"
    test = doctest.DocTestParser().get_doctest(code(text), {}, page.name, str(page), 0)
    report = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    runner.run(test, out=report.write)
    assert not runner.failures, report.getvalue()
    assert runner.tries == len(test.examples)
