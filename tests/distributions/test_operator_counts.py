"""How many operators of torch a distribution made and scored at 4 points costs, and with the gradient:
counted, not timed, since at few points a call of an operator costs the same whatever it computes.

The unit is what torch's ``MultivariateNormal`` takes. Operators that NumPy computes are not counted; their
calls cost a fifth."""

from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from cases import DISTRIBUTIONS, DistributionCase, tensors
from torch.utils._python_dispatch import TorchDispatchMode

WRAPPED = (2.0, 1.1)  # of wrapped normals at few points: the bound in units, without and with the gradient
COUNTED = {  # of all others: operators without and with the gradient, as counted with torch 2.13; a tenth more is allowed
    "wrapped-S2-truncated": (144, 413),
    "wrapped-SO4-truncated": (470, 921),
    "wrapped-cauchy": (24, 57),
    "riemannian-scaled-ball": (86, 188),
    "riemannian-S1": (46, 114),
    "riemannian-S2": (46, 114),
    "riemannian-S3": (46, 114),
    "riemannian-ball": (71, 172),
    "riemannian-lorentz-3": (178, 307),
    "riemannian-SPD2": (338, 768),
    "product-S1xS2": (58, 101),
    "inverse-wishart": (50, 151),
    "inverse-wishart-1": (45, 131),
    "vmf-S1": (23, 35),
    "vmf-S2": (23, 35),
    "vmf-S3": (23, 35),
    "power-spherical-S1": (23, 42),
    "power-spherical-S3": (23, 42),
    "projected-normal-S2": (10, 16),
    "projected-normal-S3": (10, 16),
    "bingham-S1": (46, 66),
    "bingham-S2": (46, 66),
    "watson-S1": (18, 30),
    "watson-S2": (18, 30),
    "watson-S3": (18, 30),
    "kent-S2": (36, 76),
    "kent-S3": (31, 64),
    "fisher-bingham-S1": (53, 89),
    "fisher-bingham-S2": (53, 89),
    "acg-S2": (44, 99),
    "isotropic-gaussian": (12, 20),
    "matrix-fisher": (57, 84),
}
MAPS = (
    "pushforward-flow",
    "atlas",
    "atlas-in-regions",
)  # what their networks and charts cost is not ours to bound
CASES = [c for c in DISTRIBUTIONS if c.params and c.name not in MAPS]


class Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return f(*args, **(kwargs or {}))


def count(f: Callable[[], object]) -> int:
    f()  # constants are made at the first call
    with Counter() as counter:
        f()
    return counter.number


def counts(make: Callable[..., Any], params: dict[str, torch.Tensor]) -> tuple[int, int]:
    """Made and scored at 4 draws; and with the gradient in all parameters and the points."""
    torch.manual_seed(0)
    with pyro.validation_enabled(False), torch.no_grad():
        x = make(**params).sample((4,))
        scored = count(lambda: make(**params).log_prob(x))
    leaves = {k: v.clone().requires_grad_() for k, v in params.items()}
    inputs = [*leaves.values(), x.clone().requires_grad_()]
    with pyro.validation_enabled(False):
        both = count(
            lambda: torch.autograd.grad(make(**leaves).log_prob(inputs[-1]).sum(), inputs, allow_unused=True)
        )
    return scored, both


@pytest.mark.skipif(
    torch.__version__ < (2, 13),
    reason="the counts are of torch 2.13 and later: earlier ones take other operators",
)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_made_and_scored_at_4_points(case: DistributionCase) -> None:
    found = counts(case.make, tensors(case.params, dtype=torch.float32))
    if case.name in COUNTED:
        most = [1.1 * n for n in COUNTED[case.name]]
    else:
        assert case.name.startswith("wrapped-"), "a new distribution needs a line in COUNTED"
        normal = dict(loc=torch.zeros(2), scale_tril=torch.tensor([[0.8, 0.0], [0.5, 0.6]]))
        units = counts(torch.distributions.MultivariateNormal, normal)
        most = [a * b for a, b in zip(WRAPPED, units, strict=True)]
    assert all(n <= m for n, m in zip(found, most, strict=True)), (
        f"{found} operators, at most {most} expected"
    )


def test_the_table_is_of_cases() -> None:
    assert COUNTED.keys() <= {c.name for c in CASES}
