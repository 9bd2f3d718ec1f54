"""Maximum likelihood and reverse divergence: against closed forms, of every kind of flow that they take."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import geoopt
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_manifold.distributions as md
from pyro_manifold import flows
from pyro_manifold.models import AmbientFlow, ManifoldFlow
from pyro_manifold.training import CheckpointError, fit_likelihood, fit_md, fit_reverse_kl

fit = partial(fit_likelihood, disable_progbar=True, batch_size=50)
BASE = dist.Normal(torch.zeros(1), 1.0).to_event(1)
X = 3 + 2 * torch.randn(400, 1, generator=torch.Generator().manual_seed(0))


def line() -> flows.LULinear:
    return flows.LULinear(1)


def moments_of(flow: Any) -> tuple[float, float]:
    z = torch.tensor([[0.0], [1.0]])
    with torch.no_grad():
        y = flow(z)
    return float(y[0]), float((y[1] - y[0]).abs())


def test_a_line_learns_the_moments_of_the_rows() -> None:
    """The likelihood of a normal distribution is largest at mean and standard deviation of the rows."""
    flow = line()
    history = fit(flow, X, base=BASE, validation=0, lr=0.1, epochs=40)
    mean, std = moments_of(flow)
    assert mean == pytest.approx(float(X.mean()), abs=0.02)
    assert std == pytest.approx(float(X.std(correction=0)), rel=0.01)
    best = dist.Normal(X.mean(), X.std(correction=0)).log_prob(X).mean()
    assert min(history.losses["likelihood"]) == pytest.approx(-float(best), abs=1e-3)


def test_everything_with_a_density_is_trained() -> None:
    """Bijections, Pyro's distributions, modules with log_prob, functions; the losses are the same."""
    ends = []
    for make in (
        lambda f: (f, {"base": BASE}),
        lambda f: (dist.TransformedDistribution(BASE, [f]), {}),
        lambda f: (torch.distributions.ComposeTransform([f]), {"base": BASE}),
        lambda f: (flows.LatentFlow(1, [f]), {}),
        lambda f: (f, {"log_prob": lambda x: dist.TransformedDistribution(BASE, [f]).log_prob(x)}),
    ):
        flow = line()
        what, options = make(flow)
        history = fit(what, X, epochs=3, lr=0.1, **options)
        ends.append(history.losses["likelihood"])
        assert moments_of(flow)[0] > 1
    for other in ends[1:]:
        assert other == pytest.approx(ends[0], rel=1e-4)


class Optional(nn.Module):
    """A normal whose context may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1))

    def condition(self, context: Tensor | None = None) -> Any:
        return dist.Normal(self.loc + (0.0 if context is None else context), 2.0).to_event(1)


def test_models_without_a_context_ask_for_none() -> None:
    """Models that have ``condition``, and whose context is left out or does not exist: the loss falls, and a context
    that a model cannot read is refused by it; one that can be read is."""
    torch.manual_seed(0)
    plane = torch.randn(60, 2)
    tiny: dict[str, Any] = dict(hidden=(4,), latent_depth=1)
    for flow in (
        AmbientFlow.from_data(plane, 2, depth=1, **tiny),
        ManifoldFlow.from_data(plane, 1, depth=1, hidden=(4,), latent_depth=1, latent_hidden=(4,)),
    ):
        assert flow.context_dim == 0
        history = fit(flow, plane, epochs=3, validation=0, lr=1e-3)
        assert min(history.losses["likelihood"]) < history.start["likelihood"]
        with pytest.raises(ValueError, match=r"context: got shape \(50, 2\); expected none"):
            fit(flow, plane, plane, epochs=1, validation=0)
    free, bound = Optional(), Optional()
    fit(free, X, epochs=20, lr=0.3)
    fit(bound, X, X, epochs=20, lr=0.3)
    assert float(free.loc.detach()) == pytest.approx(3, abs=0.3)
    assert float(bound.loc.detach()) == pytest.approx(0, abs=0.3)
    asks = AmbientFlow.from_data(plane, 1, 2, depth=1, **tiny)
    assert asks.context_dim == 2
    with pytest.raises(ValueError, match="context: AmbientFlow depends on a context and none was given"):
        fit(asks, plane, epochs=1)


def test_a_context_moves_the_density() -> None:
    """Rows are normal about their context: the trained mean is that context."""
    c = torch.linspace(-1, 1, 300).unsqueeze(-1)
    x = 2 * c + 0.3 * torch.randn(300, 1, generator=torch.Generator().manual_seed(1))
    for make in (
        lambda f: (f, {"base": BASE}),
        lambda f: (dist.ConditionalTransformedDistribution(BASE, [f]), {}),
    ):
        torch.manual_seed(0)
        flow = flows.Conditional(line(), 1)
        what, options = make(flow)
        fit(what, x, c, epochs=30, lr=0.05, batch_size=100, **options)
        for value in (-0.8, 0.7):
            mean, _ = moments_of(flow.condition(torch.tensor([value])))
            assert mean == pytest.approx(2 * value, abs=0.15)


def test_a_base_that_is_a_module_is_trained_too() -> None:
    flow = line().requires_grad_(False)
    base = flows.LatentFlow(1, [line()])
    before = flow.state_dict()["loc"].clone()
    history = fit(flow, X, base=base, epochs=10, lr=0.1)
    assert history.losses["likelihood"][-1] < history.start["likelihood"] - 1
    assert torch.equal(flow.loc, before)


def test_parameters_on_manifolds_stay_there() -> None:
    class Direction(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loc = geoopt.ManifoldParameter(torch.tensor([0.0, 1.0, 0.0]), manifold=geoopt.Sphere())

        def log_prob(self, x: Tensor) -> Tensor:
            return md.VonMisesFisher(self.loc / self.loc.norm(), 10.0).log_prob(x)

    model, mean = Direction(), torch.tensor([0.6, 0.0, 0.8])
    torch.manual_seed(0)
    x = md.VonMisesFisher(mean, 10.0).sample((200,))
    fit(model, x, epochs=40, lr=0.05)
    assert float(model.loc.detach().norm()) == pytest.approx(1, abs=1e-5)
    best = nn.functional.normalize(x.mean(0), dim=-1)
    assert float((model.loc.detach() - best).norm()) < 0.1


def test_reverse_divergence_finds_a_normal_distribution() -> None:
    """It is zero there, whatever the draws: its variance vanishes at the optimum."""
    flow = line()
    target = dist.Normal(torch.tensor([1.0]), 0.5).to_event(1)
    history = fit_reverse_kl(flow, BASE, target.log_prob, 300, batch_size=64, lr=0.05, disable_progbar=True)
    assert moments_of(flow) == pytest.approx((1.0, 0.5), abs=2e-2)
    assert history.losses["reverse_kl"][-1] == pytest.approx(0, abs=1e-3)
    assert len(history.losses["reverse_kl"]) == 6
    # before: KL(N(0, 1) | N(1, .5)) = log .5 + (1 + 1) / (2 * .25) - .5
    assert history.start["reverse_kl"] == pytest.approx(2.807, abs=0.5)


def test_validation_draws_are_the_same_each_time() -> None:
    flow, seen = line(), []

    def target(x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            seen.append(x[0].clone())
        return -x.square().sum(-1)

    fit_reverse_kl(flow, BASE, target, 100, batch_size=20, lr=1e-12, disable_progbar=True, warmup=0)
    first, second = torch.stack(seen[::2]), torch.stack(seen[1::2])  # two batches each time
    assert len(first) == 3 and float(first.std()) < 1e-6 and float(second.std()) < 1e-6
    assert float((first[0] - second[0]).abs()) > 0.1


def test_training_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    flow = line()
    fit(flow, X, base=BASE, epochs=4, checkpoint=path)
    again = line()
    history = fit(again, X, base=BASE, epochs=4, checkpoint=path)
    torch.testing.assert_close(again.state_dict(), flow.state_dict())
    assert len(history.losses["likelihood"]) == 4
    with pytest.raises(CheckpointError, match="lr"):
        fit(line(), X, base=BASE, epochs=4, checkpoint=path, lr=1.0)


SPHERE = geoopt.Sphere()


def on_sphere() -> Any:
    class Turn(flows.LULinear):
        domain = codomain = md.ManifoldUniform(SPHERE, 3).support

    return Turn(3)


@pytest.mark.parametrize(
    "message, call",
    [
        ("data: .*at least 2 rows", lambda: fit(line(), X[:1], base=BASE)),
        ("data: .*finite rows", lambda: fit(line(), torch.cat([X, X / 0]), base=BASE)),
        ("data: got torch.float64", lambda: fit(line(), X.double(), base=BASE)),
        ("data: .*points of Sphere", lambda: fit(on_sphere(), 2 * torch.eye(3), base=md.ManifoldUniform(SPHERE, 3))),
        ("context: .*one for each of data", lambda: fit(flows.Conditional(line(), 1), X, X[1:], base=BASE)),
        ("context: Conditional .*none was given", lambda: fit(flows.Conditional(line(), 1), X, base=BASE)),
        ("context: .*LULinear reads no context", lambda: fit(line(), X, X, base=BASE)),
        ("context: .*expected size 2", lambda: fit(flows.Conditional(line(), 2), X, X, base=BASE)),
        ("flow: .*no log_prob", lambda: fit(line(), X)),
        ("flow: .*expected a bijection", lambda: fit(nn.Linear(1, 1), X, base=BASE)),
        ("flow: none of its parameters", lambda: fit(line().requires_grad_(False), X, base=BASE)),
        ("base: got event shape", lambda: fit(line(), X, base=dist.Normal(torch.zeros(1), 1.0))),
        ("base, log_prob: got both", lambda: fit(line(), X, base=BASE, log_prob=BASE.log_prob)),
        ("log_density: got .*one value for each point", lambda: fit_reverse_kl(line(), BASE, lambda x: x)),
        ("flow: .*expected a bijection", lambda: fit_reverse_kl(nn.Linear(1, 1), BASE, BASE.log_prob)),
    ],
)  # fmt: skip
def test_bad_input(message: str, call: Any) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_rows_for_validation_of_their_own() -> None:
    """Their mean negative log density is the loss; with a context they are a pair, like the data."""
    apart = X[:40] + 1
    for flow, context in ((line(), None), (flows.Conditional(line(), 2), torch.ones(len(X), 2))):
        base = BASE if context is None else None
        density = flow
        if context is not None:
            density = dist.ConditionalTransformedDistribution(BASE, [flow])
        held_out = apart if context is None else (apart, torch.ones(len(apart), 2))
        history = fit(density, X, context, base=base, validation=held_out, epochs=2, lr=1e-6)
        wanted = -BASE.log_prob(apart).mean()
        assert history.start["likelihood"] == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.parametrize("name", ["lr", "warmup", "clip", "seconds"])
def test_settings_below_0_are_refused(name: str) -> None:
    """By each way to train; learning rates of ``fit_md`` too."""
    with pytest.raises(ValueError, match=f"{name}: got -0.5"):
        fit_likelihood(line(), X, **{name: -0.5})
    with pytest.raises(ValueError, match=f"{name}: got -0.5"):
        fit_reverse_kl(line(), BASE, lambda x: -x.square().sum(-1), **{name: -0.5})
    if name in ("lr", "seconds"):
        with pytest.raises(ValueError, match=f"{name}: got -0.5"):
            fit_md(ManifoldFlow.from_data(torch.randn(20, 2), 1), torch.randn(20, 2), **{name: -0.5})


@pytest.mark.parametrize("share", [1.0, -0.1, math.nan, "a", torch.ones(3)])
def test_the_share_of_draws_for_validation(share: Any) -> None:
    with pytest.raises(
        ValueError, match="validation: got .*; expected a share|validation: got .*, expected a number"
    ):
        fit_reverse_kl(flows.Spline(1), BASE, BASE.log_prob, 20, validation=share, disable_progbar=True)
