"""Are values and parameters that mean nothing errors that name them?"""

import math
from typing import Any

import pyro
import torch
from torch import Tensor

from ._tools import finite
from ._types import Make, Params


def _values(x: Tensor) -> dict[str, Tensor]:
    return {
        "NaN": torch.full_like(x, torch.nan),
        "infinite": torch.full_like(x, math.inf),
        "complex": x.to(torch.complex64),
        "integer": torch.zeros_like(x, dtype=torch.int64),
        "a scalar": x.new_zeros(()),
    }


def _parameters(x: Tensor) -> dict[str, Tensor]:
    one = x.clone()
    one.view(-1)[-1] = -math.inf
    return {
        "NaN": torch.full_like(x, torch.nan),
        "infinite": torch.full_like(x, math.inf),
        "infinite in one entry": one,
        "complex": x.to(torch.complex128),
        "integer": torch.ones_like(x, dtype=torch.int64),
    }


def _works(d: Any) -> bool:
    """Is it a distribution all the same: a limit that is documented?"""
    x = d.sample((8,))
    finite(d.log_prob(x), "log_prob of a draw at a parameter that is accepted")
    return True


def validation(make: Make, params: Params) -> None:
    """Values outside the support, of a wrong shape or no real dtype are errors; so are parameters that are
    NaN, complex or integers, and infinite ones unless the distribution has that limit. Errors about
    parameters name them."""
    with pyro.validation_enabled(True):
        d = make(**params)
        x = d.sample()
        for what, bad in _values(x).items():
            try:
                d.log_prob(bad)
            except (ValueError, RuntimeError):
                continue
            if not (what == "a scalar" and not d.event_shape):
                raise AssertionError(f"log_prob accepts a value that is {what}")
        for name, value in params.items():
            for what, bad in _parameters(value).items():
                try:
                    other = make(**{**params, name: bad})
                except ValueError as e:
                    assert name in str(e), f"the error about {name} that is {what} does not name it: {e}"
                else:
                    limit = what == "infinite" and _works(other)
                    assert limit, f"{name} that is {what} is accepted"
