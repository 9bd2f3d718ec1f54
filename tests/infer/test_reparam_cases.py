"""Every reparametriser against the model it was made from: prior, posterior and observed sites, in every
order of first use.

Two samples are compared by the means of coordinates, squares and characteristic functions, each within 5
standard errors of its difference, or 1e-9: by chance beyond that in 6e-7 of comparisons. About 25 cases with
20 comparisons of 90 means give a false-alarm rate below 3 % for the file even if all means were independent;
seeds are fixed (conftest).
"""

import pyro
import pytest
import torch
from cases.reparametrisers import REPARAMS
from pyro import poutine
from pyro.infer import Predictive

from pyro_manifold.infer import ManifoldReparam

F64 = torch.float64
N = 3000
CASES = pytest.mark.parametrize("case", REPARAMS, ids=lambda case: case.name)


def features(case, x):
    """Coordinates, squares, and cosines and sines of 40 random combinations: (n,) + event -> (n,
    features)."""
    c = case.coordinates(x, case.make().event_dim)
    frequencies = torch.randn(c.shape[-1], 40, dtype=F64, generator=torch.Generator().manual_seed(0))
    phase = 1.5 * c @ frequencies
    return torch.cat([c, c.square(), phase.cos(), phase.sin()], -1)


def assert_same_means(a, b):
    error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    difference = (a.mean(0) - b.mean(0)).abs()
    assert (difference < 5 * error + 1e-9).all(), (difference / error).max()


def assert_drawn_from(case, x):
    expected = case.make().expand((N,)).sample()  # Pyro's SineBivariateVonMises.sample((N,)) is biased
    assert_same_means(features(case, x), features(case, expected))


def wrappers(case):
    """The distribution in everything that wraps one."""
    fn = case.make()
    two = fn.expand((2,))
    masked = two.mask(torch.tensor([True, False]))
    events = fn.expand((1, 2)).to_event(1)
    return [two.to_event(1), events.to_event(1), masked, masked.to_event(1), two.to_event(1).mask(False)]


def draw(fn, reparam, n=N):
    def model():
        with pyro.plate("n", n, dim=-3):
            pyro.sample("x", fn)

    return poutine.trace(poutine.reparam(model, {"x": reparam})).get_trace()


@CASES
def test_draws_are_exact_in_every_wrapper(case):
    """The values are on the support and every row is a draw, a masked one too."""
    for fn in wrappers(case):
        x = draw(fn, case.reparam()).nodes["x"]["value"]
        assert x.shape[0] == N and fn.support.check(x).all()
        assert_drawn_from(case, x.reshape((-1,) + case.make().event_shape))


@pytest.mark.parametrize("case", [c for c in REPARAMS if not c.reparam().exact], ids=lambda case: case.name)
def test_density_of_the_noise_is_that_of_its_draws(case):
    """Draws of the base, weighted, have the same moments as draws of the noise: directions, lengths and
    turns."""
    fn, reparam = case.make().expand((20_000,)), case.reparam()
    noise, base = reparam.noise("x", fn), reparam.base("x", fn)
    y, z = noise.sample(), base.sample()
    weight = (noise.log_prob(z) - base.log_prob(z)).exp().unsqueeze(-1)
    assert_same_means(weight, torch.ones_like(weight))

    def moments(y):
        y = y.reshape(len(y), -1)
        length = y.square().sum(-1, keepdim=True)
        return torch.cat(
            [y, y.square(), length.sqrt(), length.sqrt().cos(), (y / 5).cos(), y[:, :1] * y[:, -1:]], -1
        )

    assert_same_means(weight * moments(z), moments(y))


@CASES
def test_score_of_a_masked_site(case):
    """A masked row scores as before less its density, so that its value stays unscored, as in the original
    model."""
    fn, reparam = case.make().expand((2,)), case.reparam()
    if not case.has_density:
        pytest.skip("the distribution has no density")
    y = reparam.base("x", fn).sample((5,))
    x = reparam.push(fn, y)
    whole = reparam.noise("x", fn).log_prob(y)
    expected = torch.stack([whole[:, 0], whole[:, 1] - fn.log_prob(x)[:, 1]], -1)
    masked = fn.mask(torch.tensor([True, False]))
    assert torch.allclose(reparam.noise("x", masked).log_prob(y), expected)
    assert torch.allclose(reparam.noise("x", masked.to_event(1)).log_prob(y), expected.sum(-1))


@CASES
def test_rows_that_a_handler_masks(case):
    """Their noise keeps its normal base, so that it cannot run away, and scores nothing else; the other rows
    are as they were."""
    fn, reparam = case.make(), case.reparam()

    def model():
        with pyro.plate("n", 2), poutine.mask(mask=torch.tensor([True, False])):
            pyro.sample("x", fn)

    trace = poutine.trace(poutine.reparam(model, {"x": reparam})).get_trace()
    trace.compute_log_prob()
    y = trace.nodes[f"x_{reparam.suffix}"]["value"]
    whole, base = (
        reparam.noise("x", fn.expand((2,))).log_prob(y),
        reparam.base("x", fn.expand((2,))).log_prob(y),
    )
    scored = trace.nodes[f"x_{reparam.suffix}"]["log_prob"] + trace.nodes["x"]["log_prob"]
    assert torch.allclose(scored, torch.stack([whole[0], base[1]]))
    assert len(pyro.poutine.runtime._PYRO_STACK) == 0


@CASES
def test_lift_gives_the_value_back(case):
    fn, reparam = case.make().expand((5,)).to_event(1), case.reparam()
    x = fn.sample()
    y = reparam.lift(fn, x)
    noise = reparam.noise("x", fn)
    assert y.shape == noise.shape() == noise.sample().shape
    inner = case.make().event_dim
    assert torch.allclose(case.coordinates(reparam.push(fn, y), inner), case.coordinates(x, inner), atol=1e-9)


def strategy_or_config(case, *names):
    return ManifoldReparam() if case.strategy else {name: case.reparam() for name in names}


def joint(case):
    """A latent, and a response that is latent until it is observed."""

    def model(data=None):
        z = pyro.sample("z", case.make())
        with pyro.plate("n", 2):
            x = pyro.sample("x", case.make(), obs=data)
        return z, x

    return model


@CASES
def test_predictive_is_that_of_the_model_in_every_order_of_first_use(case):
    """One reparametrised model, called with data and without, each kind of call first and second; all draws
    are compared."""
    fn, suffix = case.make(), case.reparam().suffix
    data, latent = fn.sample((2,)), fn.sample()
    noise = case.reparam().lift(fn, latent)
    given = {f"z_{suffix}": noise.expand((1000,) + noise.shape)}
    for order in (
        ("prior", "observed", "posterior"),
        ("observed", "posterior", "prior"),
        ("posterior", "prior", "observed"),
    ):
        model = poutine.reparam(joint(case), strategy_or_config(case, "z", "x"))
        calls = {
            "prior": lambda model=model: Predictive(model, num_samples=1000, parallel=True)(),
            "observed": lambda model=model: Predictive(model, num_samples=3)(data),
            "posterior": lambda model=model: Predictive(model, given, parallel=True)(),
        }
        for kind in order:
            drawn = calls[kind]()
            z, x = drawn["z"].reshape((-1,) + fn.event_shape), drawn["x"]
            if kind == "observed":
                assert torch.equal(x, data.expand(x.shape)) and f"x_{suffix}" not in drawn
                continue
            assert f"x_{suffix}" in drawn
            assert_drawn_from(case, x[:, 1])
            if kind == "prior":
                assert_drawn_from(case, z)
            else:
                got, wanted = case.coordinates(z, fn.event_dim), case.coordinates(latent, fn.event_dim)
                assert torch.allclose(got, wanted.expand(got.shape), atol=1e-9)


@CASES
def test_data_given_from_outside_have_their_density(case):
    """``condition`` around a reparametrised model scores the data by their own distribution."""
    if not case.has_density:
        pytest.skip("the distribution has no density")
    model = poutine.reparam(joint(case), strategy_or_config(case, "z", "x"))
    fn = case.make()
    data = fn.sample((2,))
    trace = poutine.trace(poutine.condition(model, {"x": data})).get_trace()
    trace.compute_log_prob()
    assert torch.allclose(trace.nodes["x"]["log_prob"], fn.log_prob(data))
    assert (trace.nodes["z"]["log_prob"] == 0).all()
    x = Predictive(model, {"x": data.expand((4,) + data.shape)}, return_sites=["x"])()["x"]
    assert torch.equal(x, data.expand((4,) + data.shape))
