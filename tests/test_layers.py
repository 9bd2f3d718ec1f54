"""A module imports from lower layers only (DESIGN, section 2), read off the source; and every module imports on its own."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts import python

import pyro_manifold

ROOT = Path(pyro_manifold.__file__).parent
LAYERS = ["ops", "geometry", "constraints", "transforms", "distributions", "flows", "infer", "nn", "models"]
# leaves may use any layer; of the other leaves only those named
LEAVES: dict[str, set[str]] = {
    "datasets": set(),
    "plotting": set(),
    "plotting_mcmc": {"plotting"},
    "testing": set(),
    "demo": {"datasets", "plotting"},
}
OPTIONAL = {"sklearn", "matplotlib", "scipy", "pytest", "torchdiffeq", "zuko"}  # never needed to import the package
FILES = sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT or p.name != "__init__.py")


def layer_of(path: Path) -> str:
    return layer_named(path.relative_to(ROOT).parts[0].removesuffix(".py"))


def layer_named(part: str) -> str:
    return "demo" if part.startswith("demo_") else part  # the demo may have files of its own


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Absolute names that a file imports, each with whether it does so at module level."""
    package = ["pyro_manifold", *path.relative_to(ROOT).parts[:-1]]
    tree = ast.parse(path.read_text())
    top = {id(n) for n in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{stem}.{alias.name}", id(node) in top


def allowed(layer: str) -> set[str]:
    if layer in LEAVES:
        return {layer, *LAYERS, *LEAVES[layer]}
    return set(LAYERS[: LAYERS.index(layer) + 1])


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    layer = layer_of(path)
    assert layer in LAYERS or layer in LEAVES, f"{path} is in no layer: name it in LAYERS or LEAVES"
    for name, _ in imported(path):
        parts = name.split(".")
        if parts[0] == "pyro_manifold" and len(parts) > 1 and parts[1] != "__version__":
            assert layer_named(parts[1]) in allowed(layer), f"{layer} may not import {name}: it is in a higher layer"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_optional_dependencies_are_imported_late(path: Path) -> None:
    late = {name for name, top in imported(path) if top and name.split(".")[0] in OPTIONAL}
    if layer_of(path) not in {"plotting", "demo"}:
        assert not late, f"import {late} inside the function that needs it, with a hint on how to install it"


def test_the_rule_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "ops" / "bad.py"
    bad.parent.mkdir()
    bad.write_text("def f():\n    from ..geometry.base import Geometry\n    return Geometry\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    with pytest.raises(AssertionError, match="higher layer"):
        test_imports_go_down(bad)


def test_import_changes_no_global_state() -> None:
    """In a fresh process: every layer imports first, in any order, and torch's and Pyro's settings stay as they were."""
    code = """
import torch, pyro, sys
before = (pyro.settings.get(), torch.get_default_dtype(), torch.initial_seed(), torch.distributions.Distribution.__dict__.copy())
import importlib
for name in sys.argv[1:]:
    importlib.import_module("pyro_manifold." + name)
after = (pyro.settings.get(), torch.get_default_dtype(), torch.initial_seed(), torch.distributions.Distribution.__dict__.copy())
assert before == after, "importing changed global state"
assert not {"sklearn", "matplotlib.pyplot", "zuko"} & set(sys.modules), "an optional dependency is imported"
"""
    present = [x for x in reversed(LAYERS) if (ROOT / x).is_dir() or (ROOT / f"{x}.py").exists()]
    for order in (present, present[::-1]):
        done = python("-W", "ignore", "-c", code, *order)
        assert done.returncode == 0, done.stderr[-2000:]
