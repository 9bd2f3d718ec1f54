"""What distributions print."""

import geoopt
import pytest
import torch
from cases import DISTRIBUTIONS, tensors

from pyro_manifold.distributions import WrappedNormal


@pytest.mark.parametrize(
    "case", [c for c in DISTRIBUTIONS if "pushforward" not in c.name], ids=lambda c: c.name
)
def test_names_class_and_parameters(case):
    distribution = case.make(**tensors(case.params))
    text = repr(distribution)
    assert text.startswith(f"{type(distribution).__name__}(") and all(
        f"{name}: " in text for name in case.params if hasattr(distribution, name)
    )


def test_shapes_are_the_expanded_ones():
    distribution = WrappedNormal(
        geoopt.Lorentz(), torch.tensor([1.0, 0.0, 0.0]), scale_tril=torch.eye(2)
    ).expand([4])
    shapes = "loc: torch.Size([4, 3]), scale: torch.Size([4, 2]), covariance_matrix: torch.Size([4, 2, 2])"
    assert repr(distribution) == f"WrappedNormal(manifold: Lorentz, {shapes})"
