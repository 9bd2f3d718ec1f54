"""What a law prints: its manifold, and its parameters as torch prints them (one number by value, more by shape)."""

import inspect
from typing import Any

import geoopt
from torch import Tensor

from ..ops.checks import check_all, check_dtype, held
from ..ops.precision import FullPrecision

__all__ = ["Shown"]


class Shown(FullPrecision):
    """Mixin: prints the arguments of ``__init__``, also where torch looks in vain in ``__dict__``; checks the dtype of values.

    >>> import torch
    >>> from pyro_manifold.distributions import VonMisesFisher
    >>> VonMisesFisher(torch.tensor([0.0, 1.0]), 3.0)
    VonMisesFisher(loc: torch.Size([2]), concentration: 3.0)
    """

    event_shape: Any
    support: Any
    _exact = (
        "__init__", "sample", "rsample", "log_prob", "entropy", "mean", "mode", "variance", "covariance_matrix", "second_moment",
    )  # fmt: skip

    def _validate_sample(self, value: Any) -> None:
        check_dtype("value", value)
        mapped = isinstance(value, Tensor) and held(value) is not value
        if mapped and value.shape[value.dim() - len(self.event_shape) :] == self.event_shape:
            # torch would print what is mapped over, and cannot
            check_all(self.support.check(value), "value", value, f"within {self.support}", "Look at what is mapped over.")
        super()._validate_sample(value)  # type: ignore[misc]

    def __repr__(self) -> str:
        shown: dict[str, Any] = {}
        for name in inspect.signature(type(self)).parameters:
            value = getattr(self, name, None)
            if isinstance(value, geoopt.Manifold):
                shown[name] = value.name
            elif isinstance(value, Tensor):
                shown[name] = value.item() if value.numel() == 1 else value.shape
        return f"{type(self).__name__}({', '.join(f'{name}: {value}' for name, value in shown.items())})"
