"""Densities on a GPU wait for no value and use no constant that lies on the CPU.

Tensors on torch's ``meta`` device have shapes and no values. Code that is not meant for the CPU runs on them as on a GPU, and
fails wherever it would copy a value to the host (``.item()``, a branch, ``nonzero``) or mix devices.
"""

import pyro
import pytest
import torch
from cases import DISTRIBUTIONS, DistributionCase, tensors

from pyro_manifold.distributions import masked_rows, pushforward
from pyro_manifold.ops import arguments

# cases that wait for the device, and why they must
WAITS = {
    "wrapped-S1xH2": "the windings of a factor are listed up to a radius that depends on the scale",
    "wrapped-torus-tril": "the lattice points that matter for a covariance are counted",
    "pushforward-flow": "a derivative without full rank is an error, which has to be looked for",
    "atlas": "charts are evaluated at the points that they contain, which are counted",
    "atlas-in-regions": "charts are evaluated at the points of their regions, which are counted",
}
CASES = [c for c in DISTRIBUTIONS if c.params]


def log_prob(case: DistributionCase, dtype: torch.dtype) -> torch.Tensor:
    """On the meta device; the distribution is made there too."""
    params = tensors(case.params, dtype=dtype)
    with pyro.validation_enabled(False):
        shape = case.make(**params).sample((4,)).shape
        on_device = {k: v.to("meta") for k, v in params.items()}
        return case.make(**on_device).log_prob(torch.empty(shape, dtype=dtype, device="meta"))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_densities(case, dtype, monkeypatch):
    monkeypatch.setattr(
        arguments, "is_traced", lambda: True
    )  # arguments without values are refused otherwise
    if case.name in WAITS:
        with pytest.raises((RuntimeError, NotImplementedError), match=r"item\(\)|nonzero"):
            log_prob(case, dtype)
    else:
        out = log_prob(case, dtype)
        assert out.device.type == "meta" and out.dtype == dtype and out.shape[0] == 4


def test_the_list_is_of_cases():
    assert WAITS.keys() <= {c.name for c in CASES}


@pytest.mark.parametrize("name", ["vmf-S2", "pushforward-flow"])
def test_rows_that_are_not_finite_are_replaced_alike(name, monkeypatch):
    """By the code for a GPU, which does not test whether any row must be, run on the CPU."""
    case = next(c for c in CASES if c.name == name)
    params = tensors(case.params, dtype=torch.float64)
    with pyro.validation_enabled(False):
        torch.manual_seed(0)
        d = case.make(**params)
        x = d.sample((4,))
        for rows in ([0, 2], [], [0, 1, 2, 3]):
            x = x.index_fill(0, torch.tensor(rows, dtype=torch.long), torch.nan)
            own = d.log_prob(x)
            with monkeypatch.context() as patch:
                for module in (masked_rows, pushforward):
                    patch.setattr(module, "on_host", lambda x: False)
                found = d.log_prob(x)
            torch.testing.assert_close(found, own)
            assert (~own.isfinite()).nonzero().squeeze(-1).tolist() == rows or rows == []
