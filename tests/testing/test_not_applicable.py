"""A check that does not apply says so with its reason, and one that does is not kept from looking."""

import geoopt
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_manifold.distributions as md
from pyro_manifold.geometry import SphereGeometry
from pyro_manifold.testing import (
    DISTRIBUTION_CHECKS,
    GEOMETRY_CHECKS,
    MODULE_CHECKS,
    TRANSFORM_CHECKS,
    NotApplicable,
    check_distribution,
    check_geometry,
    check_module,
    check_transform,
)
from pyro_manifold.transforms import LinearEmbedding

SPHERE = geoopt.Sphere()
LIKE = torch.empty((), dtype=torch.float64)


def uniform() -> md.ManifoldUniform:
    return md.ManifoldUniform(SPHERE, (6,))


@pytest.mark.parametrize(
    "check", ["infer_shapes", "total_mass", "goodness_of_fit", "gradients_of_log_prob", "pathwise_gradient"]
)
def test_distributions(check: str) -> None:
    with pytest.raises(NotApplicable, match="parameters|dimensions|constant"):
        DISTRIBUTION_CHECKS[check](uniform, {})


def test_others() -> None:
    with pytest.raises(NotApplicable, match="at most 3 dimensions, this manifold has 5"):
        GEOMETRY_CHECKS["volume"](SphereGeometry(SPHERE), 5, LIKE)
    with pytest.raises(NotApplicable, match="no inverse"):
        TRANSFORM_CHECKS["inverse"](dist.transforms.AbsTransform(), torch.randn(3))
    with pytest.raises(NotApplicable, match="no trainable parameters"):
        MODULE_CHECKS["gradients"](nn.Tanh, torch.randn(3, 2), lambda m, x: m(x))


def test_they_are_reported() -> None:
    some = ("compilation", "one_graph")
    assert set(check_distribution(uniform, {}, skip=some)) == {
        "infer_shapes",
        "total_mass",
        "moments",
        "goodness_of_fit",
        "pushforward",
        "gradients_of_log_prob",
        "pathwise_gradient",
        "support_of_draws",
    }
    assert check_geometry(geoopt.Euclidean(ndim=1), dim=2) == {
        "volume": "the volume is infinite",
        "group_action": "no group of matrices acts on it",
    }
    assert check_module(nn.Tanh, torch.randn(3, 2)) == {"gradients": "the module has no trainable parameters"}


@pytest.mark.parametrize("check", [lambda **k: check_geometry(SPHERE, 2, **k), lambda **k: check_distribution(uniform, {}, **k),
                                   lambda **k: check_module(nn.Tanh, torch.randn(3, 2), **k),
                                   lambda **k: check_transform(dist.transforms.AbsTransform(), torch.randn(3), **k)])  # fmt: skip
def test_skip_names_a_check(check: object) -> None:
    with pytest.raises(ValueError, match=r"skip: got \['shape'\], expected names of checks"):
        check(skip=["shape"])  # type: ignore[operator]


class Swapped(md.Atlas):
    """Draws from its charts with the weights in the wrong order."""

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        with torch.no_grad():
            return md.Atlas(self.weights.flip(-1), self.components).sample(sample_shape)


class Unstretched(md.Pushforward):
    """Its density forgets the volume change, which is 5 on the line."""

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base_dist.log_prob(self.latent_coordinates(value))


def line(height: float) -> LinearEmbedding:
    return LinearEmbedding(torch.tensor([[3.0], [4.0]]).double(), torch.tensor([0.0, height]).double())


def normal(loc: Tensor) -> dist.Distribution:
    return dist.Normal(loc, 1.0).to_event(1)


@pytest.mark.parametrize("check", ["total_mass", "goodness_of_fit"])
def test_images_are_integrated(check: str) -> None:
    """Densities on the image of a map have mass and draws like any other, and a wrong one is found."""
    params = dict(loc=torch.tensor([0.3]).double())
    weights = torch.tensor([0.2, 0.8]).double()

    def mixture(cls: type, loc: Tensor) -> md.Atlas:
        return cls(weights, [md.Pushforward(normal(loc), line(h)) for h in (0.0, 5.0)])

    DISTRIBUTION_CHECKS[check](lambda loc: md.Pushforward(normal(loc), line(0.0)), params)
    DISTRIBUTION_CHECKS[check](lambda loc: mixture(md.Atlas, loc), params)
    with pytest.raises(AssertionError):
        if check == "total_mass":
            DISTRIBUTION_CHECKS[check](lambda loc: Unstretched(normal(loc), line(0.0)), params)
        else:
            DISTRIBUTION_CHECKS[check](lambda loc: mixture(Swapped, loc), params)
