"""Tutorials and other scripts: as modules, so that their parts can be tested, and as the processes that a user starts."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

TUTORIALS = Path(__file__).parents[1] / "tutorials"


def load(script: Path) -> ModuleType:
    """As when it is run, it finds the files beside it."""
    if str(script.parent) not in sys.path:
        sys.path.append(str(script.parent))
    return importlib.import_module(script.stem)


def python(*args: object, **env: str) -> subprocess.CompletedProcess:
    """Python in a process of its own on one thread. It is given no time limit: a busy machine may take any time."""
    command = [sys.executable, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **env})
