"""Parameters that no case of the registry has: refused by name, whatever is wrong with them."""

import math
from collections.abc import Callable
from typing import Any

import geoopt
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_manifold import transforms as mt
from pyro_manifold.distributions import (
    AngularCentralGaussian,
    Atlas,
    Kent,
    Pushforward,
    WrappedNormal,
)

EYE = torch.eye(3, dtype=torch.float64)


def mixture(weights: Tensor) -> Any:
    parts = [
        Pushforward(dist.Normal(torch.zeros(1).double(), 1.0).to_event(1), mt.Pad(1, 2)) for _ in range(2)
    ]
    return Atlas(weights, parts)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "complex", "integer"])
@pytest.mark.parametrize(
    "name, make, value",
    [
        ("weights", mixture, torch.tensor([0.5, 0.5], dtype=torch.float64)),
        ("covariance_matrix", lambda x: AngularCentralGaussian(covariance_matrix=x), EYE),
        (
            "covariance_matrix",
            lambda x: WrappedNormal(geoopt.Sphere(), EYE[0], covariance_matrix=x),
            EYE[:2, :2],
        ),
        (
            "scale_tril",
            lambda x: WrappedNormal(geoopt.PoincareBall(), torch.zeros(2).double(), scale_tril=x),
            EYE[:2, :2],
        ),
        (
            "axis_ovalness",
            lambda x: Kent(EYE, 5.0, axis_ovalness=x),
            torch.tensor([2.0, -2.0], dtype=torch.float64),
        ),
        ("ovalness", lambda x: Kent(EYE, 5.0, x), torch.tensor([2.0], dtype=torch.float64)),
    ],
)
def test_refused_by_name(name: str, make: Callable[[Tensor], Any], value: Tensor, bad: Any) -> None:
    make(value)
    wrong = {"complex": value.to(torch.complex128), "integer": value.long()}.get(bad)
    if wrong is None:
        wrong = value.clone()
        wrong.view(-1)[-1] = bad
    with pytest.raises(ValueError, match=name):
        make(wrong)


@pytest.mark.parametrize("value", ["nan", "inf", "complex", "integer"])
@pytest.mark.parametrize("which", ["pushforward", "mixture"])
def test_values_on_images(which: str, value: str) -> None:
    d = mixture(torch.tensor([0.5, 0.5], dtype=torch.float64))
    x = torch.tensor([0.3, 0.0], dtype=torch.float64)
    wrong = {"complex": x.to(torch.complex128), "integer": x.long()}.get(value)
    wrong = torch.full_like(x, float(value)) if wrong is None else wrong
    with pytest.raises(ValueError, match="value: got"):
        (d if which == "mixture" else d.components[0]).log_prob(wrong)
