"""Run tutorials in full; of those with prose in them, write the pages.

    python docs/make_tutorials.py                 # all of tutorials/*.py
    python docs/make_tutorials.py directions      # one
    python docs/make_tutorials.py torsions -- --folder FOLDER     # with options of the script

A script whose cells ``# %% [markdown]`` hold the prose becomes ``docs/tutorials/NAME.md``: prose, code, and what each
cell printed; its pictures go beside the page. Cells with ``tags=["options"]`` run and are not shown, cells with
``tags=["answer"]`` are folded away. (The older tutorials have pages written by hand that show pieces of the script:
they are only run, and their pictures stay in ``docs/_build/tutorials/NAME``.)
"""

import argparse
import contextlib
import io
import re
import runpy
import shutil
import sys
import types
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parent
SCRIPTS = DOCS.parent / "tutorials"
MARK = re.compile(r"^# %%(.*)$", re.M)
PRINTED = re.compile(r"^```text\n.*?^```\n\n", re.M | re.S)


class Cell(NamedTuple):
    """``kind`` is "markdown", "options", "answer" or "code"."""

    kind: str
    source: str
    line: int


def cells(text: str) -> list[Cell]:
    """The cells of a script; what is before the first, its docstring, is none."""
    marks = list(MARK.finditer(text))
    out = []
    for mark, after in zip(marks, [*marks[1:], None], strict=True):
        source = text[mark.end() : after.start() if after else len(text)].strip("\n")
        kind = next((k for k in ("markdown", "options", "answer") if k in mark[1]), "code")
        out.append(Cell(kind, source, text.count("\n", 0, mark.end()) + 1))
    return out


def prose(source: str) -> str:
    return "\n".join(re.sub(r"^# ?", "", line) for line in source.split("\n"))


def page(parts: list[Cell], printed: list[str] | None = None) -> str:
    """The page of a script; without ``printed`` it has no outputs."""
    out = []
    for cell, text in zip(parts, printed or [""] * len(parts), strict=True):
        if cell.kind == "markdown":
            out.append(prose(cell.source) + "\n\n")
        elif cell.kind != "options":
            shown = f"```python\n{cell.source}\n```\n\n"
            if text.strip():
                shown += f"```text\n{text.rstrip()}\n```\n\n"
            out.append(f"::::{{dropdown}} Answer\n\n{shown}::::\n\n" if cell.kind == "answer" else shown)
    return "".join(out).rstrip() + "\n"


def without_output(text: str) -> str:
    """A page as :func:`page` writes it without outputs."""
    return PRINTED.sub("", text)


def run(script: Path, parts: list[Cell], *args: str) -> list[str]:
    """What each cell prints."""
    main = types.ModuleType("__main__")  # where pickle looks for the classes of a script
    main.__file__ = str(script)
    before, sys.argv = sys.argv, [str(script), *args]
    own, sys.modules["__main__"] = sys.modules["__main__"], main
    try:
        printed = []
        for cell in parts:
            out = io.StringIO()
            if cell.kind != "markdown":
                code = compile("\n" * (cell.line - 1) + cell.source, str(script), "exec")
                with contextlib.redirect_stdout(out):
                    exec(code, main.__dict__)  # noqa: S102  a tutorial of this repository
            printed.append(out.getvalue())
        return printed
    finally:
        sys.argv, sys.modules["__main__"] = before, own


def make(script: Path, *options: str) -> None:
    parts, out = cells(script.read_text()), DOCS / "_build" / "tutorials" / script.stem
    if all(cell.kind != "markdown" for cell in parts):
        sys.argv = [str(script), "--out", str(out), *options]
        runpy.run_path(str(script), run_name="__main__")
        return
    printed = run(script, parts, "--out", str(out), *options)
    (DOCS / "tutorials" / f"{script.stem}.md").write_text(page(parts, printed))
    for picture in out.glob("*.png"):
        shutil.copy(picture, DOCS / "tutorials" / picture.name)


if __name__ == "__main__":
    names, options = sys.argv[1:], []
    if "--" in names:
        names, options = names[: names.index("--")], names[names.index("--") + 1 :]
    parser = argparse.ArgumentParser(description="Run tutorials and write their pages.")
    parser.add_argument("names", nargs="*", help="of scripts in tutorials/; all by default")
    for name in parser.parse_args(names).names or sorted(p.stem for p in SCRIPTS.glob("*.py")):
        print(f"== {name}", flush=True)
        make(SCRIPTS / f"{name}.py", *options)
