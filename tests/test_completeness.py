"""What is exported has a case in ``tests/cases``, a doctest, and a line in ``docs/``."""

import importlib
import inspect
import re
from pathlib import Path

import torch
from cases import DISTRIBUTIONS, GEOMETRIES, MODULES, TRANSFORMS, tensors
from test_layers import LAYERS

from pyro_manifold.geometry import GeometricManifold, Submanifold, geometry
from pyro_manifold.models import LatentVAE

ROOT = Path(__file__).parent.parent
PACKAGES = [*LAYERS[1:], "datasets", "evaluation", "plotting", "testing", "contrib.lhc"]  # all but ops
PRESENT = [
    p
    for p in PACKAGES
    if any((ROOT / "pyro_manifold" / f).exists() for f in (f"{p.replace('.', '/')}/__init__.py", f"{p}.py"))
]
BASES = {GeometricManifold, Submanifold, LatentVAE}  # for classes of others; their subclasses have the cases
NEEDS_CASE = {"geometry", "transforms", "distributions", "flows", "nn", "models"}


def exported(package: str) -> list[tuple[str, object]]:
    module = importlib.import_module(f"pyro_manifold.{package}")
    return [(name, getattr(module, name)) for name in module.__all__]


def covered() -> set[type]:
    """Classes met by building every case; a case covers its class, not the class's bases."""
    like = dict(dtype=torch.float64, device=torch.device("cpu"))
    manifolds = [c.manifold() for c in GEOMETRIES]
    geometries = [geometry(m) for m in manifolds]
    built: list[object] = [
        *manifolds,
        *geometries,
        *(f for g in geometries for f in getattr(g, "factors", ())),
    ]
    built += [c.build(**like)[0] for c in TRANSFORMS]
    built += [c.make(**tensors(c.params, **like)) for c in DISTRIBUTIONS]
    built += [m for c in MODULES for m in c.make().modules()]
    return {type(x) for x in built}


PUBLIC = [(p, name, x) for p in PRESENT for name, x in exported(p)]
CLASSES = [(p, name, x) for p, name, x in PUBLIC if inspect.isclass(x) and not inspect.isabstract(x)]


def test_has_case() -> None:
    met = covered()
    lacking = [
        f"{package}.{name}"
        for package, name, cls in CLASSES
        if package in NEEDS_CASE and cls not in met | BASES
    ]
    assert not lacking, f"no case in tests/cases builds {', '.join(lacking)}: add one each"


def test_has_doctest() -> None:
    lacking = [
        f"{package}.{name}" for package, name, cls in CLASSES if ">>>" not in (inspect.getdoc(cls) or "")
    ]
    assert not lacking, f"no doctest in {', '.join(lacking)}: two or three lines in the docstring of each"


def test_is_documented() -> None:
    pages = {
        package: (ROOT / "docs" / "api" / f"{package.replace('.', '_')}.md").read_text()
        for package in PRESENT
    }
    lacking = [f"{p}.{name}" for p, name, _ in PUBLIC if not re.search(rf"::\s+(\w+\.)*{name}\b", pages[p])]
    assert not lacking, f"no line in docs/api/ for {', '.join(lacking)}"
    bare = [f"{p}.{name}" for p, name, x in PUBLIC if callable(x) and not inspect.getdoc(x)]
    assert not bare, f"no docstring: {', '.join(bare)}"


def test_densities_state_their_measure() -> None:
    lacking = [
        n
        for p, n, cls in CLASSES
        if p == "distributions" and "Base measure:" not in (inspect.getdoc(cls) or "")
    ]
    assert not lacking, f"the docstring does not state its base measure: {', '.join(lacking)}"
