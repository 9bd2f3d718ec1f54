"""What is exported has a case in ``cases.py``, a doctest, and a line in ``docs/``."""

import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch
from cases import DISTRIBUTIONS, GEOMETRIES, MODULES, TRANSFORMS, tensors

from pyro_manifold.geometry import geometry

ROOT = Path(__file__).parent.parent
LAYERS = ["geometry", "constraints", "transforms", "distributions", "flows", "infer", "nn", "models"]
PACKAGES = [*LAYERS, "datasets", "plotting", "plotting_mcmc", "testing"]
PRESENT = [p for p in PACKAGES if any((ROOT / "pyro_manifold" / f).exists() for f in (f"{p}/__init__.py", f"{p}.py"))]
NEEDS_CASE = {"geometry", "transforms", "distributions", "flows", "nn", "models"}


def exported(package: str) -> list[tuple[str, object]]:
    module = importlib.import_module(f"pyro_manifold.{package}")
    return [(name, getattr(module, name)) for name in module.__all__]


def covered() -> set[type]:
    """Classes met by building every case; a case covers its class, not the class's bases."""
    like = dict(dtype=torch.float64, device=torch.device("cpu"))
    manifolds = [c.manifold() for c in GEOMETRIES]
    geometries = [geometry(m) for m in manifolds]
    built: list[object] = [*manifolds, *geometries, *(f for g in geometries for f in getattr(g, "factors", ()))]
    built += [c.build(**like)[0] for c in TRANSFORMS]
    built += [c.make(**tensors(c.params, **like)) for c in DISTRIBUTIONS]
    built += [m for c in MODULES for m in c.make().modules()]
    return {type(x) for x in built}


PUBLIC = [(p, name, x) for p in PRESENT for name, x in exported(p)]
CLASSES = [(p, name, x) for p, name, x in PUBLIC if inspect.isclass(x) and not inspect.isabstract(x)]
ids = [f"{p}.{name}" for p, name, _ in CLASSES]


CASED = [c for c in CLASSES if c[0] in NEEDS_CASE]


@pytest.mark.parametrize("package, name, cls", CASED, ids=[f"{p}.{name}" for p, name, _ in CASED])
def test_has_case(package: str, name: str, cls: type) -> None:
    assert cls in covered(), f"{package}.{name} has no case: add one to tests/cases.py"


@pytest.mark.parametrize("package, name, cls", CLASSES, ids=ids)
def test_has_doctest(package: str, name: str, cls: type) -> None:
    assert ">>>" in (inspect.getdoc(cls) or ""), f"{package}.{name} has no doctest: two or three lines in its docstring"


@pytest.mark.parametrize("package, name, x", PUBLIC, ids=[f"{p}.{name}" for p, name, _ in PUBLIC])
def test_is_documented(package: str, name: str, x: object) -> None:
    page = (ROOT / "docs" / "api" / f"{package}.md").read_text()
    assert re.search(rf"::\s+(\w+\.)*{name}\b", page), f"{package}.{name} has no line in docs/api/{package}.md"
    assert inspect.getdoc(x) or not callable(x), f"{package}.{name} has no docstring"


@pytest.mark.parametrize("package", ["distributions"])
def test_densities_state_their_measure(package: str) -> None:
    for _, name, cls in (c for c in CLASSES if c[0] == package):
        assert "Base measure:" in (inspect.getdoc(cls) or ""), f"{name}: the docstring does not state its base measure"
