"""No distribution sends the chains of a kernel to the loop: ``torch.func.vmap`` takes them all."""

import pytest
import torch
from cases import DISTRIBUTIONS, tensors
from torch import Tensor

from pyro_manifold.infer.mcmc.potential import ChainBatch


@pytest.mark.parametrize("case", [c for c in DISTRIBUTIONS if c.params], ids=lambda c: c.name)
def test_vectorised(case) -> None:
    """As a user's potential of one chain, in the value, with the same numbers as one by one."""
    torch.manual_seed(0)
    params = tensors(case.params, dtype=torch.float64)
    d = case.make(**params)
    z = {"x": d.sample((3,))}

    def potential(at: dict[str, Tensor]) -> Tensor:
        if at["x"].shape != d.event_shape:
            raise ValueError("x: this potential is of one chain")
        return -case.make(**params).log_prob(at["x"])

    batch = ChainBatch(potential, z)
    assert batch.how == "vmap"
    torch.testing.assert_close(batch(z), -d.log_prob(z["x"]))
