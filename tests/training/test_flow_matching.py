"""Riemannian flow matching: its loss and pairs against closed forms, what it learns against the data, averages of
weights, and runs that go on."""

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import geoopt
import pyro.distributions as dist
import pytest
import torch
from cases.geometries import ellipse
from torch import Tensor, nn

import pyro_manifold.distributions as md
from pyro_manifold.flows import Conditional, ContinuousFlow, LULinear
from pyro_manifold.geometry import Torus, geometry
from pyro_manifold.nn import TangentField
from pyro_manifold.training import Phase, fit, fit_flow_matching, fit_likelihood
from pyro_manifold.training.flow_matching import matching_loss, optimal_pairs

SPHERE = geoopt.Sphere()
quick = partial(fit_flow_matching, disable_progbar=True)


def flow_of(manifold: Any = SPHERE, shape: Any = 3, **options: Any) -> ContinuousFlow:
    torch.manual_seed(0)
    return ContinuousFlow(TangentField(manifold, shape, (32, 32)), **options)


def test_the_loss_of_the_true_velocity_is_zero_and_of_none_the_mean_square() -> None:
    """From one point to one point the velocity is that of the geodesic; the field at rest is off by its length."""
    a, b = torch.eye(3)[0], torch.eye(3)[1]
    base = md.VonMisesFisher(a, 1e7)

    def turning(t: Tensor, x: Tensor) -> Tensor:
        """A quarter of a turn in unit time."""
        return torch.pi / 2 * torch.stack([-x[..., 1], x[..., 0], 0 * x[..., 0]], -1)

    data = b.expand(50, 3)
    geo = geometry(SPHERE)
    for field, expected in ((turning, 0.0), (lambda t, x: 0 * x, (torch.pi / 2) ** 2 / 2)):
        loss = matching_loss(field, geo, base, "independent")
        assert float(loss(data)) == pytest.approx(expected, abs=2e-3)


def test_pairs_are_optimal() -> None:
    """Against all permutations of five."""
    torch.manual_seed(0)
    geo = geometry(SPHERE)
    x0, x1 = (geo.scatter((5,), (3,)) for _ in range(2))
    cost = geo.dist(x0.unsqueeze(0), x1.unsqueeze(1)).square()
    best = min(sum(float(cost[i, p[i]]) for i in range(5)) for p in itertools.permutations(range(5)))
    pairs = optimal_pairs(geo, x0, x1)
    assert sorted(pairs.tolist()) == list(range(5))
    assert float(geo.dist(x0[pairs], x1).square().sum()) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("pairing", ["independent", pytest.param("optimal", marks=pytest.mark.slow)])
def test_the_density_is_near_that_of_the_data(pairing: str) -> None:
    """A von Mises-Fisher distribution on the sphere: within 0.06 nat of its entropy after 540 steps."""
    torch.manual_seed(0)
    target = md.VonMisesFisher(torch.tensor([0.0, 0.6, 0.8]), 8.0)
    x, held_out = target.sample((4000,)), target.sample((2000,))
    flow = flow_of(rtol=1e-4, atol=1e-4)
    history = quick(flow, x, pairing=pairing, epochs=15, batch_size=100, lr=5e-3)
    assert history.losses["flow_matching"][-1] < 0.8 * history.start["flow_matching"]
    d = dist.TransformedDistribution(md.ManifoldUniform(SPHERE, 3), [flow])
    with torch.no_grad():
        gap = float((target.log_prob(held_out) - d.log_prob(held_out)).mean())
    assert -0.01 < gap < 0.06


def test_a_context_is_learned_on_the_torus() -> None:
    """Angles about the context: the mean direction of draws is that context."""
    torch.manual_seed(0)
    c = torch.rand(2000, 1) * 2 - 1
    x = geometry(Torus()).project(2 * c + 0.2 * torch.randn(2000, 1))
    flow = Conditional(flow_of(Torus(), 1, solver="rk4", steps=6), 1)
    quick(flow, x, c, epochs=40, batch_size=200)
    base = md.ManifoldUniform(Torus(), 1)
    for value in (-0.7, 0.6):
        with torch.no_grad():
            y = flow.condition(torch.tensor([value]))(base.sample((1000,)))
        mean = torch.atan2(y.sin().mean(), y.cos().mean())
        assert float(mean) == pytest.approx(2 * value, abs=0.15)


@pytest.mark.filterwarnings("ignore::pyro_manifold.training.TrainingWarning")
def test_hyperbolic_space_wants_a_base() -> None:
    ball = geoopt.PoincareBall()
    x = md.WrappedNormal(ball, torch.zeros(2), 0.5).sample((40,))
    with pytest.raises(ValueError, match="base: got None.*no uniform distribution"):
        quick(flow_of(ball, 2), x)
    base = md.WrappedNormal(ball, torch.zeros(2), 1.0)
    history = quick(flow_of(ball, 2), x, base=base, epochs=3, batch_size=20)
    assert len(history.losses["flow_matching"]) == 3


@pytest.mark.filterwarnings("ignore::pyro_manifold.training.TrainingWarning")
def test_training_goes_on_from_a_checkpoint_with_its_average(tmp_path: Path) -> None:
    x = geometry(SPHERE).scatter((60,), (3,))
    whole = flow_of()
    quick(whole, x, epochs=6, batch_size=20)
    calls, path = 0, tmp_path / "run.pt"

    def clock() -> float:
        nonlocal calls
        calls += 1
        if calls == 15:
            raise KeyboardInterrupt
        return float(calls)

    with pytest.raises(KeyboardInterrupt):
        quick(flow_of(), x, epochs=6, batch_size=20, checkpoint=path, clock=clock)
    again = flow_of()
    quick(again, x, epochs=6, batch_size=20, checkpoint=path)
    torch.testing.assert_close(again.state_dict(), whole.state_dict())


def test_averages_are_exponential_and_are_what_is_kept() -> None:
    """Against the recursion written out, of weights that plain gradient descent moves."""
    for validation in (None, 0):
        net = nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            net.weight.fill_(1.0)
        phase = Phase(
            "w",
            lambda x: net.weight.square().sum(),  # noqa: B023
            list(net.parameters()),
            partial(torch.optim.SGD, lr=0.1),
            partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0),
            epochs=5,
            average=0.5,
        )
        fit([phase], torch.zeros(3, 1), model=net, batch_size=1, validation=validation, disable_progbar=True)
        w, mean = 1.0, 1.0
        for n in range(1, 16):
            w *= 0.8
            mean += (1 - min(0.5, n / (10 + n))) * (w - mean)
        assert float(net.weight.detach()) == pytest.approx(mean, rel=1e-5)


def test_likelihood_of_a_continuous_flow_rises() -> None:
    torch.manual_seed(0)
    x = md.VonMisesFisher(torch.eye(3)[0], 4.0).sample((60,))
    flow = flow_of(solver="rk4", steps=3)
    history = fit_likelihood(
        flow, x, base=md.ManifoldUniform(SPHERE, 3), epochs=6, batch_size=30, disable_progbar=True
    )
    assert history.losses["likelihood"][-1] < history.start["likelihood"] - 0.15


@pytest.mark.parametrize(
    "message, call",
    [
        ("data: .*points of Sphere", lambda: quick(flow_of(), 2 * torch.eye(3))),
        ("data: .*at least 2 rows", lambda: quick(flow_of(), torch.eye(3)[:1])),
        ("flow: got .*expected a ContinuousFlow", lambda: quick(Conditional(LULinear(3), 1), torch.eye(3))),
        ("flow: ImplicitManifold.* no logarithm", lambda: quick(flow_of(ellipse(), 2), torch.eye(2)[:1].expand(3, 2))),
        ("pairing: got 'best'", lambda: quick(flow_of(), torch.eye(3), pairing="best")),
        ("pairing: got 'optimal' with a context", lambda: quick(Conditional(flow_of(), 1), torch.eye(3), torch.ones(3, 1), pairing="optimal")),
        ("context: got none, but the flow depends", lambda: quick(Conditional(flow_of(), 1), torch.eye(3))),
        ("context: got shape", lambda: quick(flow_of(), torch.eye(3), torch.ones(3, 1))),
        ("base: got batch shape", lambda: quick(flow_of(), torch.eye(3), base=md.ManifoldUniform(SPHERE, 4))),
        ("average: got 1.0", lambda: quick(flow_of(), torch.eye(3), average=1.0)),
    ],
)  # fmt: skip
def test_bad_input(message: str, call: Any) -> None:
    with pytest.raises(ValueError, match=message):
        call()
