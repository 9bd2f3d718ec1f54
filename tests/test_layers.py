"""A module imports from lower layers only (DESIGN, section 2), read off the source; and every module imports
on its own."""

import ast
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from scripts import python

import pyro_manifold

ROOT = Path(pyro_manifold.__file__).parent
LAYERS = [
    "ops",
    "geometry",
    "constraints",
    "transforms",
    "distributions",
    "nn",
    "flows",
    "infer",
    "models",
    "training",
]
# leaves may use any layer; of the other leaves only those named
LEAVES: dict[str, set[str]] = {
    "contrib": set(),
    "datasets": set(),
    "evaluation": set(),
    "plotting": set(),
    "testing": set(),
    "demo": {"datasets", "plotting"},
}
OPTIONAL = {
    "sklearn",
    "matplotlib",
    "mpmath",
    "arviz",
    "scipy",
    "pytest",
    "torchdiffeq",
    "zuko",
}  # never needed to import the package
FILES = sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT or p.name != "__init__.py")


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@cache
def parsed(path: Path) -> tuple[ast.Module, list[ast.AST]]:
    """The tree of a file of the package and all of its nodes."""
    tree = ast.parse(path.read_text())
    return tree, list(ast.walk(tree))


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Absolute names that a file imports, each with whether it does so at module level."""
    package = ["pyro_manifold", *path.relative_to(ROOT).parts[:-1]]
    tree, nodes = parsed(path)
    top = {id(n) for n in tree.body}
    for node in nodes:
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


def upward(path: Path) -> list[str]:
    """What a file imports from higher layers."""
    layer = layer_of(path)
    if layer not in LAYERS and layer not in LEAVES:
        return [f"{path} is in no layer: name it in LAYERS or LEAVES"]
    parts = [(name, name.split(".")) for name, _ in imported(path)]
    ours = [
        (name, p) for name, p in parts if p[0] == "pyro_manifold" and len(p) > 1 and p[1] != "__version__"
    ]
    wrong = [name for name, p in ours if p[1] not in allowed(layer)]
    return [f"{path.relative_to(ROOT)}: {layer} may not import {name}, of a higher layer" for name in wrong]


def test_imports_go_down() -> None:
    assert len(FILES) > 100
    wrong = [line for path in FILES for line in upward(path)]
    assert not wrong, "\n".join(wrong)


def test_optional_dependencies_are_imported_late() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in FILES
        if layer_of(path) not in {"plotting", "demo"}
        for name, top in imported(path)
        if top and name.split(".")[0] in OPTIONAL
    ]
    assert not wrong, (
        "import inside the function that needs it, with a hint on how to install it:\n" + "\n".join(wrong)
    )


# Where torch's and Pyro's own interfaces say "there is none" by this exception and in no other way.
ASKS_BY_EXCEPTION = {
    "infer/anywhere.py": "a distribution of the user's may have no sampler",
    "infer/mcmc/given.py": "a distribution of the user's may have no support",
    "infer/mcmc/start.py": "as infer/anywhere.py; and torch's biject_to",
    "infer/reparam/_base.py": "as infer/anywhere.py",
    "models/latent_vae.py": "torch's kl_divergence",
    "testing/_broadcasting.py": "moments of torch's distributions",
    "testing/check_precision.py": "moments of torch's distributions",
}


def asks_for_kinds(path: Path) -> Iterator[str]:
    """Where a file outside geometry/ finds out which class a geometry is, or catches NotImplementedError."""
    name = str(path.relative_to(ROOT))
    if layer_of(path) == "geometry":
        return
    _, nodes = parsed(path)
    looked_up = {
        id(a)
        for n in nodes
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr == "find"
        for a in n.args
    }
    for node in nodes:
        line = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            asked = ast.unparse(node.args[-1])
            if node.func.id in ("isinstance", "issubclass") and "Geometry" in asked:
                yield f"{line}: {ast.unparse(node)}; ask a capability of the geometry"
            subject = asked.lower()
            kind = subject.endswith(("geo", "geometry", "unscaled", "momentum")) or subject.startswith(
                "geometry("
            )
            if node.func.id == "type" and kind and id(node) not in looked_up:
                yield f"{line}: {ast.unparse(node)}; ask a capability, or a ClassRegistry"
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            if "NotImplementedError" in ast.unparse(node.type) and name not in ASKS_BY_EXCEPTION:
                yield f"{line}: except {ast.unparse(node.type)}; ask a capability"


def test_geometries_answer_for_themselves() -> None:
    wrong = [line for path in FILES for line in asks_for_kinds(path)]
    assert not wrong, "\n".join(wrong)
    unused = [f for f in ASKS_BY_EXCEPTION if "except NotImplementedError" not in (ROOT / f).read_text()]
    assert not unused, f"ASKS_BY_EXCEPTION names files that need it no more: {unused}"


@pytest.mark.parametrize(
    "code",
    [
        "isinstance(geo, SphereGeometry)",
        "isinstance(x, (int, geometry.TorusGeometry))",
        "type(self.geo) is object",
        "type(s.momentum).__name__ == '_Rotations'",
        "type(geometry(manifold)).__name__",
    ],
)
def test_the_rule_of_geometries_can_fail(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "infer" / "bad.py"
    bad.parent.mkdir()
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    bad.write_text(f"x = {code}\n")
    assert len(list(asks_for_kinds(bad))) == 1
    worse, good = bad.with_name("worse.py"), bad.with_name("good.py")
    worse.write_text("try:\n    x = 1\nexcept (TypeError, NotImplementedError):\n    x = 2\n")
    assert "ask a capability" in next(asks_for_kinds(worse))
    good.write_text("x = registry.find(type(geo.unscaled))\n")
    assert not list(asks_for_kinds(good))


def test_the_rule_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "ops" / "bad.py"
    bad.parent.mkdir()
    bad.write_text("def f():\n    from ..geometry.base import Geometry\n    return Geometry\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert "ops may not import pyro_manifold.geometry.base.Geometry" in upward(bad)[0]


_EACH_FIRST = """
import importlib, os, sys, traceback
import torch, pyro

def state():
    base = torch.distributions.Distribution.__dict__.copy()
    return pyro.settings.get(), torch.get_default_dtype(), torch.initial_seed(), base

def line_search():
    import geoopt

    x = geoopt.ManifoldParameter(torch.tensor([0.6, 0.8]), manifold=geoopt.Sphere())
    optimizer = geoopt.optim.RiemannianLineSearch([x])

    def loss():
        optimizer.zero_grad()
        value = x[0].square()
        value.backward()
        return value

    before = float(loss())
    optimizer.step(loss)
    assert float(loss()) < before, "geoopt's line search does not find SciPy, whose import was deferred"

before = state()
late = {"arviz", "matplotlib.pyplot", "mpmath", "scipy.optimize", "sklearn", "torch._dynamo", "zuko"}
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module("pyro_manifold." + name)
            assert before == state(), "importing changed global state"
            loaded = late & set(sys.modules)
            if "sympy" in sys.modules:  # which some versions of torch import
                loaded.discard("mpmath")
            assert not loaded, "imported before they are needed: " + ", ".join(loaded)
            if name == "infer":
                line_search()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit("when " + name + " is imported first")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked, so that torch is imported once")
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_import_changes_no_global_state(every: bool) -> None:
    """Inference and models, or each layer, in a process of its own: it imports first, and torch's and Pyro's
    settings stay as they were. geoopt's line search finds SciPy, whose import the package defers."""
    layers = [x for x in LAYERS if (ROOT / x).is_dir() or (ROOT / f"{x}.py").exists()]
    done = python("-W", "ignore", "-c", _EACH_FIRST, *(layers if every else ("infer", "models")))
    assert done.returncode == 0, done.stderr[-2000:]
