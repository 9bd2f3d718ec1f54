"""A distribution that a user writes as its log density and its draws keeps Pyro's contract; what it gets wrong is an
error that says so."""

import math
from typing import Any

import geoopt
import pyro
import pytest
import torch
from pyro.distributions import constraints
from torch import Size, Tensor

from pyro_manifold.constraints import on
from pyro_manifold.distributions import ManifoldDistribution, VonMisesFisher
from pyro_manifold.testing import check_distribution


class Exponential(ManifoldDistribution):
    r"""Points of S^2 whose height above the plane orthogonal to ``loc`` has the density :math:`\propto e^{\kappa t}`: a von
    Mises-Fisher distribution. Base measure: surface area."""

    arg_constraints = {"loc": on(geoopt.Sphere()), "concentration": constraints.positive}
    support = on(geoopt.Sphere())

    def __init__(self, loc: Tensor, concentration: Tensor | float, validate_args: bool | None = None) -> None:
        super().__init__({"loc": loc, "concentration": concentration}, validate_args)

    def draw(self, shape: Size) -> Tensor:
        t = (
            1
            + torch.log1p(-torch.rand(shape).to(self.loc) * (1 - (-2 * self.concentration).exp()))
            / self.concentration
        )
        side = torch.linalg.cross(self.loc.expand(shape + (3,)), torch.randn(shape + (3,)).to(self.loc))
        side = torch.nn.functional.normalize(side, dim=-1)
        return t.unsqueeze(-1) * self.loc + (1 - t * t).clamp_min(0).sqrt().unsqueeze(-1) * side

    def log_density(self, value: Tensor) -> Tensor:
        k = self.concentration
        return k * ((value * self.loc).sum(-1) - 1) + (k / (-torch.expm1(-2 * k)) / (2 * math.pi)).log()


LOC = torch.tensor([0.6, 0.0, 0.8])


def test_keeps_the_contract() -> None:
    params = dict(
        loc=torch.tensor([0.6, 0.0, 0.8]).double().round(decimals=1), concentration=torch.tensor(4.0).double()
    )
    skipped = check_distribution(Exponential, params, skip=["compilation", "one_graph", "support_of_draws"])
    assert set(skipped) == {"moments", "pushforward", "pathwise_gradient"}


def test_shapes_and_density() -> None:
    d = Exponential(LOC, torch.tensor([[1.0], [5.0]]))
    assert (d.batch_shape, d.event_shape) == ((2, 1), (3,))
    assert (
        Exponential.infer_shapes((4, 3), (2, 1))
        == ((2, 4), (3,))
        == Exponential.infer_shapes(loc=(4, 3), concentration=(2, 1))
    )
    wide = d.expand((2, 4))
    x = wide.sample((5,))
    assert x.shape == (5, 2, 4, 3) and wide.loc.shape == (2, 4, 3)
    torch.testing.assert_close(
        wide.log_prob(x), VonMisesFisher(LOC, torch.tensor([[1.0], [5.0]])).log_prob(x)
    )
    assert repr(Exponential(LOC, 2.0)) == "Exponential(loc: torch.Size([3]), concentration: 2.0)"


def test_is_a_site_with_missing_rows() -> None:
    x = torch.stack([LOC, torch.full((3,), torch.nan)])
    with (
        pyro.plate("rows", 2),
        pyro.poutine.mask(mask=torch.tensor([True, False])),
        pyro.validation_enabled(),
    ):
        trace = pyro.poutine.trace(lambda: pyro.sample("x", Exponential(LOC, 2.0), obs=x)).get_trace()
        torch.testing.assert_close(trace.log_prob_sum(), Exponential(LOC, 2.0).log_prob(LOC))


class Astray(Exponential):
    def draw(self, shape: Size) -> Tensor:
        return 2 * super().draw(shape)


class Shapeless(Exponential):
    arg_constraints = {"height": constraints.real}

    def __init__(self, height: float) -> None:
        ManifoldDistribution.__init__(self, {"height": height})


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Exponential(LOC, math.inf), "concentration: .* finite numbers"),
        (lambda: Exponential(LOC, -1.0), "concentration"),
        (lambda: Exponential(2 * LOC, 1.0), "loc"),
        (lambda: Exponential(LOC, 1.0).log_prob(2 * LOC), "value"),
        (lambda: Astray(LOC, 1.0).sample((3,)), r"draws: .* within on\(Sphere\)"),
        (lambda: Shapeless(0.0), r"Shapeless: the shape of a point is not known.*point_shape"),
    ],
)
def test_errors_name_the_remedy(call: Any, message: str) -> None:
    with pyro.validation_enabled(), pytest.raises(ValueError, match=message):
        call()


def test_draws_without_gradients_are_not_rsample() -> None:
    assert not Exponential.has_rsample
    with pytest.raises(NotImplementedError, match="Exponential: draws are not reparametrised; use sample"):
        Exponential(LOC, 1.0).rsample()
