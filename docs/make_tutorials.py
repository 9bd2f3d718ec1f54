"""Run tutorials in full and write their pages.

    python docs/make_tutorials.py                 # all of tutorials/*.py
    python docs/make_tutorials.py directions      # one
    python docs/make_tutorials.py torsions -- --folder FOLDER     # with options of the script
    python docs/make_tutorials.py --prose torsions                # prose only; what cells printed stays

The cells ``# %% [markdown]`` of a script hold its prose. ``docs/tutorials/NAME.md`` has prose, code, and what each cell
printed; pictures go beside the page. Cells with ``tags=["options"]`` run and are not shown; cells with
``tags=["answer"]``, of code or prose, are folded away.
"""

import argparse
import contextlib
import io
import re
import shutil
import sys
import types
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parent
SCRIPTS = DOCS.parent / "tutorials"
MARK = re.compile(r"^# %%(.*)$", re.M)
PRINTED = re.compile(r"^```text\n.*?^```\n\n", re.M | re.S)


class Cell(NamedTuple):
    """``kind`` is "markdown", "options" or "code"."""

    kind: str
    folded: bool
    source: str
    line: int


def cells(text: str) -> list[Cell]:
    """The cells of a script; what is before the first, its docstring, is none."""
    marks = list(MARK.finditer(text))
    out = []
    for mark, after in zip(marks, [*marks[1:], None], strict=True):
        source = text[mark.end() : after.start() if after else len(text)].strip("\n")
        kind = next((k for k in ("markdown", "options") if k in mark[1]), "code")
        out.append(Cell(kind, "answer" in mark[1], source, text.count("\n", 0, mark.end()) + 1))
    return out


def shown(cell: Cell, printed: str) -> str:
    """A cell as Markdown."""
    if cell.kind == "options":
        return ""
    if cell.kind == "markdown":
        return "\n".join(re.sub(r"^# ?", "", line) for line in cell.source.split("\n")) + "\n\n"
    code = f"```python\n{cell.source}\n```\n\n"
    return code + f"```text\n{printed.rstrip()}\n```\n\n" if printed.strip() else code


def page(parts: list[Cell], printed: list[str] | None = None) -> str:
    """The page of a script; without ``printed`` it has no outputs."""
    out = []
    pairs = zip(parts, printed or [""] * len(parts), strict=True)
    for folded, group in groupby(pairs, key=lambda pair: pair[0].folded):
        text = "".join(shown(*pair) for pair in group)
        out.append(f"::::{{dropdown}} Answer\n\n{text}::::\n\n" if folded else text)
    return "".join(out).rstrip() + "\n"


def without_output(text: str) -> str:
    """A page as :func:`page` writes it without outputs."""
    return PRINTED.sub("", text)


def printed_before(parts: list[Cell], text: str) -> list[str]:
    """What each cell printed, read from the page ``text``."""
    out = []
    for cell in parts:
        code = "" if cell.kind != "code" else shown(cell, "")
        if code not in text:
            sys.exit(f"line {cell.line}: the page does not have this code; run the tutorial.")
        output = PRINTED.match(text, text.index(code) + len(code)) if code else None
        out.append(output[0][len("```text\n") : -len("```\n\n")] if output else "")
    return out


def run(script: Path, parts: list[Cell], *args: str) -> list[str]:
    """What each cell prints."""
    import matplotlib.pyplot as plt
    import torch

    main = types.ModuleType("__main__")  # where pickle looks for the classes of a script
    main.__file__ = str(script)
    before, sys.argv = sys.argv, [str(script), *args]
    own, sys.modules["__main__"] = sys.modules["__main__"], main
    dtype = torch.get_default_dtype()
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
        torch.set_default_dtype(dtype)
        plt.close("all")
        sys.argv, sys.modules["__main__"] = before, own


def make(name: str, *options: str, prose: bool = False) -> None:
    script, written = SCRIPTS / f"{name}.py", DOCS / "tutorials" / f"{name}.md"
    parts, out = cells(script.read_text()), DOCS / "_build" / "tutorials" / name
    printed = (
        printed_before(parts, written.read_text() + "\n")
        if prose
        else run(script, parts, "--out", str(out), *options)
    )
    written.write_text(page(parts, printed))
    for picture in [] if prose else out.glob("*.png"):
        shutil.copy(picture, DOCS / "tutorials" / picture.name)


if __name__ == "__main__":
    names, options = sys.argv[1:], []
    if "--" in names:
        names, options = names[: names.index("--")], names[names.index("--") + 1 :]
    parser = argparse.ArgumentParser(description="Run tutorials and write their pages.")
    parser.add_argument("names", nargs="*", help="of scripts in tutorials/; all by default")
    parser.add_argument("--prose", action="store_true", help="run nothing; keep what cells printed")
    args = parser.parse_args(names)
    for name in args.names or sorted(p.stem for p in SCRIPTS.glob("*.py")):
        print(f"== {name}", flush=True)
        make(name, *options, prose=args.prose)
