"""Tutorials as modules, so that their parts can be tested."""

import importlib.util
from pathlib import Path
from types import ModuleType

TUTORIALS = Path(__file__).parents[1] / "tutorials"


def load(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{script.stem}_tutorial", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
