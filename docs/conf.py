"""Sphinx configuration; ``make docs`` turns every warning into an error."""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "pyro_manifold"
author = "the pyro_manifold authors"
copyright = "the pyro_manifold authors, Apache-2.0"
release = version = importlib.metadata.version("pyro-manifold")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "public_names",
]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_ext", "experiments/rows"]
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
html_theme = "furo"
html_title = "pyro_manifold"
html_static_path = ["static"]
html_css_files = ["wide.css"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the :param: fields say more: symbol, shape, unit
autodoc_default_options = {"show-inheritance": True}
autodoc_inherit_docstrings = False


def figures_on_one_line(app: object, name: str, source: list[str]) -> None:
    """In rows of tables, a figure and its error are not broken apart."""
    lines = source[0].split("\n")
    source[0] = "\n".join(x.replace(" ± ", "\u00a0±\u00a0") if x.startswith("|") else x for x in lines)


def setup(app: object) -> None:
    app.connect("source-read", figures_on_one_line)  # type: ignore[attr-defined]
