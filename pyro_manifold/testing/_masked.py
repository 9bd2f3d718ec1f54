"""Rows that a mask drops may hold anything."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ..distributions.masked_rows import MaskedRows
from ._tools import close
from ._types import Make, Params
from .not_applicable import NotApplicable


def masked_rows(make: Make, params: Params) -> None:
    """Filler under ``mask``, ``to_event`` and ``poutine.mask``: value and slopes of the other rows; an error
    without a mask."""
    if not isinstance(make(**params), MaskedRows):
        raise NotApplicable("its log_prob looks at every row (it is no MaskedRows)")
    mask = torch.tensor([True, False, True])
    leaves = {k: v.detach().clone().requires_grad_(v.is_floating_point()) for k, v in params.items()}
    d = make(**leaves).expand((3,))
    draws = d.sample().detach()

    def gradients(total: Tensor) -> list[Tensor]:
        if not total.requires_grad:
            return []
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        return [x for x in found if x is not None]

    def site(x: Tensor) -> Tensor:
        def model() -> None:
            with pyro.plate("n", 3), pyro.poutine.mask(mask=mask.to(x.device)):
                pyro.sample("x", d, obs=x)

        return torch.as_tensor(pyro.poutine.trace(model).get_trace().log_prob_sum())

    fn: dist.TorchDistribution = d.mask(mask.to(draws.device))
    for validate in (True, False):
        d._validate_args = validate
        expected = d.log_prob(draws)[mask].sum()
        slopes = gradients(expected)
        for filler in (0.0, torch.nan, torch.inf):
            x = draws.clone()
            x[1] = filler
            for how, score in (
                ("mask", lambda x: fn.log_prob(x).sum()),
                ("to_event", fn.to_event(1).log_prob),
                ("poutine.mask", site),
            ):
                total = score(x)
                close(total, expected, f"log_prob with rows of {filler} under {how}")
                for a, b in zip(gradients(total), slopes, strict=True):
                    close(a, b, f"gradients with rows of {filler} under {how}")
    d._validate_args = True
    x = draws.clone()
    x[1] = torch.nan
    try:
        d.log_prob(x)
    except ValueError:
        return
    raise AssertionError("log_prob accepts a row of NaN that no mask drops")
