"""Densities and maps do not lose their digits inside ``torch.autocast``."""

from typing import Any

import pyro
import torch
from torch import Tensor

from ..constraints import manifold_of
from ._tools import close
from ._types import Make, Params

_DTYPES = (torch.bfloat16, torch.float16)


def autocast(make: Make, params: Params) -> None:
    """Inside ``torch.autocast`` a distribution draws and scores as outside; parameters of half precision are
    taken as float32."""
    with pyro.validation_enabled(True):
        x = make(**params).sample((4,))
        expected = make(**params).log_prob(x)
        for dtype in _DTYPES:
            with torch.autocast(x.device.type, dtype=dtype):
                d = make(**params)
                close(d.log_prob(x), expected, f"log_prob under autocast to {dtype}")
                y = d.sample((4,))
                assert y.dtype == x.dtype, f"a draw under autocast to {dtype} has dtype {y.dtype}"
                assert bool(d.support.check(y).all()), (
                    f"a draw under autocast to {dtype} is outside the support"
                )


def autocast_of_map(transform: Any, inputs: Tensor) -> None:
    """Inside ``torch.autocast`` a map and its inverse are those outside; vectors of half precision are taken
    as float32."""
    y = transform(inputs).detach()
    for dtype in _DTYPES:
        with torch.no_grad(), torch.autocast(inputs.device.type, dtype=dtype):
            close(transform(inputs.clone()), y, f"the map under autocast to {dtype}")
            if transform.bijective or hasattr(transform, "inverse_and_log_volume"):
                close(
                    transform.inv(y.clone()), transform._inverse(y), f"its inverse under autocast to {dtype}"
                )
            if inputs.dtype == torch.float32 and manifold_of(transform.domain) is None:
                seen = transform(inputs.to(dtype)).dtype
                assert seen == torch.float32, (
                    f"under autocast the map takes {dtype} to {seen}, expected torch.float32"
                )
