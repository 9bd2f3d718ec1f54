"""A list of the names of a package: what each is, its formula and its base measure, all from the docstrings.

``.. public-names:: flows`` lists what ``docs/api/flows.md`` documents, in its order and under its headings.
"""

import importlib
import inspect
import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ENTRY = re.compile(
    r"^## (?P<group>.+)$|^\.\. (?:auto)?(?:py:)?(?:class|function|data|module):: (?P<name>[\w.]+)", re.M
)
LONGEST_FORMULA = 170  # characters of TeX; longer ones are in the entry itself


def summary(docstring: str) -> str:
    """The first sentence, the first displayed formula unless it is long, and the base measure, as reST."""
    first = re.split(r"(?<=[.!?])\s", docstring.split("\n\n")[0].replace("\n", " "))[0]
    formula = re.search(r"\.\. math::\s*(.*?)(?:\n\s*\n|\Z)", docstring, re.S)
    measure = re.search(r"Base measure:\s*(.*?)(?:\.\s|\.?\Z)", docstring, re.S)
    parts = [first]
    if formula and len(formula[1]) <= LONGEST_FORMULA and ":" != formula[1][0]:
        parts.append(".. math:: " + " ".join(formula[1].split()))
    if measure:
        parts.append(f"*Measure:* {' '.join(measure[1].split())}.")
    return "\n\n".join(parts)


def rows(page: str) -> list[tuple[str, list[str]]]:
    """The groups of a page in its order, each with the full names of its entries."""
    groups: list[tuple[str, list[str]]] = [("", [])]
    for match in ENTRY.finditer(page):
        if match["group"]:
            groups.append((match["group"], []))
        else:
            groups[-1][1].append(match["name"])
    return [(group, names) for group, names in groups if names]


def find(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


class PublicNames(SphinxDirective):
    required_arguments = 1  # the name of a page in docs/api, without .md

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.srcdir) / "api" / f"{self.arguments[0]}.md"
        self.env.note_dependency(str(path))
        text = []
        for group, names in rows(path.read_text()):
            text += [f"**{group}**", ""] if group else []
            for name in names:
                x = find(name)
                about = "Checks by name." if isinstance(x, dict) else summary(inspect.getdoc(x) or "")
                text += [f":py:obj:`~{name}`", *("    " + line for line in about.split("\n")), ""]
            text.append("")
        node = nodes.Element()
        self.state.nested_parse(StringList(text, source=str(path)), self.content_offset, node)
        return node.children


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("public-names", PublicNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
