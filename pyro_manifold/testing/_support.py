"""Does a distribution draw inside its own support, at every spread and precision?"""

import warnings

import pyro
import torch

from ._tools import finite
from ._types import Make, Params
from .not_applicable import NotApplicable

_FACTORS = (1e-6, 1e-2, 1.0, 30.0, 1e3)
_FIXED = ("loc", "frame", "weights")  # no spreads


def support_of_draws(make: Make, params: Params) -> None:
    """For spreads from 1e-6 to 1e3 times those of the case, in float32 and float64: every draw is in the
    support, with finite log_prob and gradients; or making or drawing it raised a ``ValueError`` or warned,
    naming what the dtype cannot hold."""
    names = [name for name in params if name not in _FIXED]
    if not names:
        raise NotApplicable("there is no spread to vary")
    with pyro.validation_enabled(True):
        for dtype in (torch.float32, torch.float64):
            for factor in _FACTORS:
                values = {k: (x if k in _FIXED else factor * x).to(dtype) for k, x in params.items()}
                _one(make, values, f"at {', '.join(names)} times {factor:g} in {dtype}")


def _one(make: Make, values: Params, where: str) -> None:
    leaves = {k: x.detach().clone().requires_grad_() for k, x in values.items()}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuntimeWarning)
        try:
            d = make(**leaves)
            x = d.sample((16,)).requires_grad_()
        except ValueError as e:
            assert str(e), f"an error without a message {where}"
            return
    if any(issubclass(w.category, RuntimeWarning) for w in said):
        return
    assert bool(d.support.check(x.detach()).all()), f"a draw lies outside the support {where}"
    lp = d.log_prob(x)
    finite(lp, f"log_prob of draws {where}")
    if not lp.requires_grad:
        return
    for name, g in zip(
        ["value", *leaves],
        torch.autograd.grad(lp.sum(), [x, *leaves.values()], allow_unused=True),
        strict=True,
    ):
        if g is not None:
            finite(g, f"gradient of log_prob in {name} {where}")
