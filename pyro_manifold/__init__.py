"""A Pyro plugin for probabilistic models on manifolds: one base distribution, one map that knows its volume
change."""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

__version__ = "0.1.0"


def _import_geoopt() -> None:
    """Import geoopt without ``scipy.optimize``, which takes longer to import than all of geoopt and which only
    ``geoopt.optim.RiemannianLineSearch`` uses: it is imported when that optimiser first searches."""
    name = "scipy.optimize._linesearch"
    if "geoopt" in sys.modules or name in sys.modules:
        return

    def deferred(function: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: getattr(importlib.import_module(name), function)(*args, **kwargs)

    placeholder = ModuleType(name)
    for function in ("scalar_search_armijo", "scalar_search_wolfe2"):
        setattr(placeholder, function, deferred(function))
    sys.modules[name] = placeholder
    try:
        importlib.import_module("geoopt")
    finally:
        sys.modules.pop(name, None)


_import_geoopt()
