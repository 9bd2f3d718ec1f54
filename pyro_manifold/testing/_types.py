"""Type aliases of the distribution checks."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

Make = Callable[..., Any]  # keyword parameters -> distribution
Params = dict[str, Tensor]
