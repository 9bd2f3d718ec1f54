"""Tutorials as modules, so that their parts can be tested."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

TUTORIALS = Path(__file__).parents[1] / "tutorials"


def load(script: Path) -> ModuleType:
    """As when it is run, it finds the files beside it."""
    if str(script.parent) not in sys.path:
        sys.path.append(str(script.parent))
    return importlib.import_module(script.stem)
