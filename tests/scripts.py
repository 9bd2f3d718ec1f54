"""Experiments and other scripts: as modules, so that their parts can be tested, and run as a user runs
them."""

import contextlib
import importlib
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pyro
import torch

EXPERIMENTS = Path(__file__).parents[1] / "tutorials" / "experiments"


def _find_files_beside(script: Path) -> None:
    if str(script.parent) not in sys.path:
        sys.path.append(str(script.parent))


def load(script: Path) -> ModuleType:
    """As when it is run, it finds the files beside it."""
    _find_files_beside(script)
    return importlib.import_module(script.stem)


def run(script: Path, *args: object) -> str:
    """What the script prints with these arguments. It runs in this process, which has imported its libraries
    already."""
    _find_files_beside(script)
    before, dtype, out = sys.argv, torch.get_default_dtype(), io.StringIO()
    sys.argv = [str(script), *map(str, args)]
    try:
        with (
            contextlib.redirect_stdout(out),
            pyro.validation_enabled(),
        ):  # what it switches is back afterwards
            runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = before
        torch.set_default_dtype(dtype)
    return out.getvalue()


def python(*args: object, **env: str) -> subprocess.CompletedProcess:
    """Python in a process of its own on one thread. It is given no time limit: a busy machine may take any
    time."""
    command = [sys.executable, *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **env}
    )
