"""Fitted mixtures: they find what is there, EM climbs and its maxima are maxima, densities are torch's own and
have mass 1."""

import itertools
import math
import pickle
from collections.abc import Callable

import geoopt
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_manifold.constraints import on
from pyro_manifold.distributions import (
    Kent,
    VonMisesFisher,
    WrappedNormal,
    fit_mixture,
    kernel_mixture,
)
from pyro_manifold.distributions import fit as module
from pyro_manifold.distributions._components import VonMisesFisherComponents
from pyro_manifold.geometry import Torus
from pyro_manifold.testing import two_sample_test
from pyro_manifold.testing.quadrature import manifold_rule

SPHERE = geoopt.Sphere()
TRIL = torch.tensor([[0.4, 0.0], [0.25, 0.3]], dtype=torch.float64)
# two components of one family, and one more that is uniform
FAMILIES = ["von_mises_fisher", "kent", "von_mises", "full", "diagonal"]


@pytest.fixture(autouse=True)
def _float64() -> object:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def arguments(name: str) -> dict[str, str]:
    return (
        {"family": "wrapped_normal", "covariance": name} if name in ("full", "diagonal") else {"family": name}
    )


def components(name: str) -> dist.TorchDistribution:
    eye = torch.eye(3)
    angles = torch.tensor([[3.0, -1.0], [0.0, 1.0]])  # the first across the seam
    if name == "von_mises_fisher":
        return VonMisesFisher(eye[:2], torch.tensor([40.0, 200.0]))
    if name == "kent":
        return Kent(
            torch.stack([eye, eye.roll(1, -1)]), torch.tensor([60.0, 200.0]), torch.tensor([25.0, 20.0])
        )
    if name == "von_mises":
        return dist.VonMises(angles, torch.tensor([[20.0, 5.0], [3.0, 30.0]])).to_event(1)
    if name == "full":
        return WrappedNormal(Torus(), angles, scale_tril=torch.stack([TRIL, 0.7 * TRIL]))
    return WrappedNormal(Torus(), angles, torch.tensor([[0.2, 0.6], [0.9, 0.3]]))


def truth(name: str) -> dist.TorchDistribution:
    return dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.3, 0.7])), components(name))


def with_uniform(name: str, n: int) -> Tensor:
    x = truth(name).sample((n,))
    some = torch.rand(n // 10, 2) * 2 * math.pi - math.pi
    if name in ("von_mises_fisher", "kent"):
        some = torch.nn.functional.normalize(torch.randn(n // 10, 3), dim=-1)
    return torch.cat([x, some])


def rule(name: str, density: Callable[[Tensor], Tensor]) -> float:
    if name in ("von_mises_fisher", "kent"):
        return float(
            sum(
                manifold_rule(SPHERE, side * torch.eye(3)[2], math.pi / 2, 60, 240).integrate(y)
                for side in (1, -1)
                for y in [density(manifold_rule(SPHERE, side * torch.eye(3)[2], math.pi / 2, 60, 240).points)]
            )
        )
    t = torch.arange(240) * 2 * math.pi / 240
    return float(density(torch.cartesian_prod(t, t)).mean()) * 4 * math.pi**2


@pytest.mark.parametrize("name", FAMILIES)
def test_recovers_a_known_mixture(name: str) -> None:
    x, new = truth(name).sample((4000,)), truth(name).sample((20000,))
    found = fit_mixture(x, 2, uniform=False, restarts=2, **arguments(name))
    # 4000 points know a component to some 1 / sqrt(4000 * .3) = 3 per cent, its density to 1e-3 nats
    loss = (truth(name).log_prob(new) - found.log_prob(new)).mean()
    assert -0.001 < float(loss) < 0.006
    order = found.mixture_distribution.probs.argsort()
    torch.testing.assert_close(
        found.mixture_distribution.probs[order], torch.tensor([0.3, 0.7]), atol=0.03, rtol=0
    )
    if name == "kent":
        truly, got = components(name), found.component_distribution
        torch.testing.assert_close(got.concentration[order], truly.concentration, rtol=0.12, atol=0)
        torch.testing.assert_close(got.axis_ovalness[order], truly.axis_ovalness, rtol=0.2, atol=2.0)
        assert (got.frame[order] * truly.frame).sum(-2).abs().min() > 0.98
    if name == "full":
        got = found.component_distribution.covariance_matrix[order]
        torch.testing.assert_close(got, components(name).covariance_matrix, atol=0.02, rtol=0.1)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_step_of_em_climbs(name: str) -> None:
    x = with_uniform(name, 300)
    c = module.components_of(arguments(name)["family"], arguments(name).get("covariance", "full"), 500.0)
    start = module._start(c, x, 5, True, torch.Generator().manual_seed(1))
    steps = list(itertools.islice(module._steps(c, x, start, True), 40))
    fits = torch.tensor([fit for _, fit in steps])
    assert float(fits.diff().min()) > -1e-12 and float(fits[-1] - fits[0]) > 0.01
    for (state, fit), once in zip(steps[::13], fits[::13], strict=True):
        assert fit == once == pytest.approx(module._log_likelihood(c, state, x), abs=1e-12)
        assert float(state.weights.sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_maximum_is_one(name: str) -> None:
    """No slope of the weighted likelihood is left in any parameter that is not at a bound (of Kent's, the
    frame is the moment estimate)."""
    x = components(name).sample((200,))[:, 0]
    c = module.components_of(arguments(name)["family"], arguments(name).get("covariance", "full"), 1e5)
    r = torch.rand(len(x), 1)
    p = c.at(x[:1])
    for _ in range(60):  # windings, which depend on the parameters, take more than one
        p = c.maximum(p, c.statistics(p, x, r))
    loose = {key: v.clone().requires_grad_() for key, v in p.items() if key != "frame"}
    ((c.log_density(p | loose, x) * r).sum() / r.sum()).backward()
    for key, v in loose.items():
        slope = v.grad
        if key == "loc" and name == "von_mises_fisher":
            slope = slope - (slope * v).sum(-1, keepdim=True) * v
        relative = slope.tril() * v if key == "scale_tril" else slope * v.abs().clamp_min(0.1)
        assert float(relative.detach().abs().max()) < 1e-6, key


@pytest.mark.parametrize("name", FAMILIES)
def test_density_is_torchs_and_has_mass_one(name: str) -> None:
    x = with_uniform(name, 300).float()
    found = fit_mixture(x, 4, max_concentration=300.0, restarts=1, steps=10, **arguments(name))
    assert type(found).__mro__[1] is dist.MixtureSameFamily and found.log_prob(x).dtype == torch.float32
    theirs = dist.MixtureSameFamily(found.mixture_distribution, found.component_distribution)
    torch.testing.assert_close(found.log_prob(x), theirs.log_prob(x), atol=2e-4, rtol=1e-4)
    assert found.expand((2,)).log_prob(x.unsqueeze(1)).shape == (len(x), 2)
    torch.testing.assert_close(pickle.loads(pickle.dumps(found)).log_prob(x), found.log_prob(x))
    assert rule(name, lambda y: found.log_prob(y.float()).exp().double()) == pytest.approx(1, abs=1e-4)
    assert isinstance(found.support, on) and bool(found.support.check(found.sample((7, 2))).all())
    assert two_sample_test(found.manifold, found.sample((150,)), theirs.sample((150,)), 199) > 0.01
    # the uniform component, last, has some of the tenth that is uniform
    assert 0.02 < float(found.mixture_distribution.probs[-1]) < 0.3


def test_bounds_and_choice_by_validation() -> None:
    x, valid = truth("kent").sample((60,)), truth("kent").sample((2000,))
    for name, most in itertools.product(("von_mises_fisher", "kent"), (50.0, 300.0)):
        found = fit_mixture(x, 20, family=name, max_concentration=most, uniform=False, restarts=1, steps=10)
        d = found.component_distribution
        k = d.concentration + (2 * d.axis_ovalness[..., 0] if name == "kent" else 0)
        assert float(k.max()) == pytest.approx(most, rel=1e-5)
    quick: dict = dict(family="kent", restarts=1, steps=25)
    each = [fit_mixture(x, k, validation=valid, **quick).log_prob(valid).mean() for k in (1, 2, 20)]
    best = fit_mixture(x, [1, 2, 20], validation=valid, **quick)
    assert best.mixture_distribution.probs.shape == (3,) and torch.stack(each).argmax() == 1
    # with validation EM stops in time
    late = fit_mixture(x, 20, uniform=False, **quick).log_prob(valid).mean()
    assert float(each[2]) > float(late) + 0.1


def test_seeds_and_repeated_points() -> None:
    x = torch.eye(3)[torch.arange(30) % 3]
    before = torch.get_rng_state()
    found = fit_mixture(x, 5, uniform=False, max_concentration=1e3, restarts=1)  # more components than places
    assert torch.equal(before, torch.get_rng_state()) and bool(found.log_prob(x).isfinite().all())
    expected = math.log(1e3 / (2 * math.pi)) - math.log(3)
    torch.testing.assert_close(found.log_prob(x), torch.full((30,), expected), atol=1e-3, rtol=0)
    y = truth("kent").sample((50,))
    one, same, other = (fit_mixture(y, 8, restarts=1, seed=s).log_prob(y) for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_kernels_by_the_formula() -> None:
    x, k = torch.nn.functional.normalize(torch.randn(40, 4), dim=-1), torch.tensor([3.0, 50.0])
    y = torch.nn.functional.normalize(torch.randn(5, 6, 4), dim=-1)
    each = VonMisesFisher(x, k.unsqueeze(-1)).log_prob(y[..., None, None, :]).exp().mean((-1, -2))
    expected = 0.8 * each + 0.2 / (2 * math.pi**2)
    torch.testing.assert_close(kernel_mixture(x, k, uniform=0.2).log_prob(y), expected.log())
    angles = torch.rand(40, 2)
    each = dist.VonMises(angles, torch.tensor(9.0)).to_event(1).log_prob(angles.unsqueeze(1)).exp().mean(-1)
    found = kernel_mixture(angles, 9.0, family="von_mises")
    torch.testing.assert_close(found.log_prob(angles), each.log(), atol=1e-5, rtol=1e-5)
    assert rule("von_mises", lambda z: found.log_prob(z).exp()) == pytest.approx(1, abs=1e-6)


def test_kernel_weights_are_the_best_for_validation() -> None:
    """Where the slope of the likelihood of the points, and of one shared by all, is the same for all weights."""
    k = torch.tensor([1.0, 30.0, 1e3, 1e7])
    x, valid = with_uniform("von_mises_fisher", 300), with_uniform("von_mises_fisher", 300)
    found = kernel_mixture(x, k, validation=valid)
    parts = [kernel_mixture(x, float(one)).log_prob(valid) for one in k]
    parts.append(torch.full_like(parts[0], -math.log(4 * math.pi)))
    slope = (torch.stack(parts) - found.log_prob(valid)).exp().sum(-1)
    w = torch.cat(
        [found.mixture_distribution.probs[:-1].reshape(4, -1).sum(-1), found.mixture_distribution.probs[-1:]]
    )
    torch.testing.assert_close(slope * w + 0.2, (len(valid) + 1) * w, atol=0.02, rtol=1e-3)
    assert float(w.min()) < 0.01 and float(w.max()) > 0.4
    draws = found.sample((4000,))
    assert draws.shape == (4000, 3) and bool(found.support.check(draws).all())


def test_kernels_shaped_by_neighbours() -> None:
    """Points along the equator: kernels there are long along it, and better than round ones."""
    t, u = 2 * math.pi * torch.rand(300), 0.02 * torch.randn(300)
    x = torch.stack([u.cos() * t.cos(), u.cos() * t.sin(), u.sin()], -1)
    k = torch.tensor([30.0, 300.0, 3000.0])
    round_, shaped = (
        kernel_mixture(x[:150], k, family="kent", neighbours=near, validation=x[150:220])
        for near in ((), (8, 20))
    )
    plain = kernel_mixture(x[:150], k, validation=x[150:220])
    torch.testing.assert_close(round_.log_prob(x), plain.log_prob(x), atol=1e-6, rtol=1e-6)
    assert float((shaped.log_prob(x[220:]) - plain.log_prob(x[220:])).mean()) > 0.2
    d = shaped.component_distribution
    assert float((d.concentration + 2 * d.axis_ovalness[..., 0]).max()) <= 3000 * 1.00001
    oval = d.axis_ovalness[..., 0] > d.concentration / 4
    assert int(oval.sum()) >= 150 and float(d.frame[oval][:, 2, 1].abs().median()) < 0.2
    assert rule("kent", lambda y: shaped.log_prob(y).exp()) == pytest.approx(1, abs=2e-3)
    theirs = dist.MixtureSameFamily(shaped.mixture_distribution, d)
    torch.testing.assert_close(shaped.log_prob(x[:9]), theirs.log_prob(x[:9]), atol=1e-6, rtol=1e-6)


def test_gradient_in_the_point() -> None:
    d = kernel_mixture(torch.eye(3), 10.0)
    x = torch.nn.functional.normalize(torch.tensor([1.0, 0.3, 0.2]), dim=-1).requires_grad_()
    (g,) = torch.autograd.grad(d.log_prob(x), x)
    weight = (10 * x.detach()).softmax(-1)
    torch.testing.assert_close(g, 10 * weight)


@pytest.mark.parametrize(
    "change, match",
    [
        (dict(data=torch.ones(5, 3)), "data: got 1, 1, 1 at index .*expected points of Sphere"),
        (dict(data=torch.eye(3)[:1]), r"data: got shape \(1, 3\), expected \(n, d\), n >= 2"),
        (dict(data=torch.eye(3)[0]), r"data: got shape \(3,\)"),
        (dict(components=4), "components: got 4 for 3 points"),
        (dict(components=0), "components: got 0; expected one or more positive"),
        (dict(components=[]), r"components: got \[\]"),
        (dict(criterion="cv"), "criterion: got 'cv'; expected 'bic' or 'aic'"),
        (dict(family="normal"), "family: got 'normal'; expected one of 'von_mises_fisher'"),
        (dict(covariance="round"), "covariance: got 'round'; expected 'full' or 'diagonal'"),
        (dict(max_concentration=0.0), "max_concentration: got 0.0"),
        (dict(validation=torch.eye(4)), r"validation: got shape \(4, 4\) for data of shape \(3, 3\)"),
        (dict(family="kent", data=torch.eye(4)), r"data: got shape \(4, 4\), expected \(n, 3\)"),
        (
            dict(family="wrapped_normal", data=torch.zeros(9, 4)),
            "data: got 4 angles; .*covariance='diagonal'",
        ),
        (dict(family="von_mises", data=torch.full((3, 1), math.nan)), "data: got nan at index"),
        (dict(restarts=0), "restarts: got 0"),
    ],
)
def test_bad_input(change: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        fit_mixture(**{"data": torch.eye(3), "components": 2} | change)


@pytest.mark.parametrize(
    "change, match",
    [
        (dict(concentration=-1.0), "concentration: got -1.0; expected positive numbers"),
        (dict(concentration=torch.tensor([])), "concentration: got tensor"),
        (dict(uniform=1.0), r"uniform: got 1.0; expected a weight in \[0, 1\)"),
        (
            dict(family="normal"),
            "family: got 'normal'; expected one of 'von_mises_fisher', 'von_mises', 'kent'",
        ),
        (dict(neighbours=[1]), r"neighbours: got \[1\] for 3 points and family 'von_mises_fisher'"),
        (dict(neighbours=[3], family="kent"), r"neighbours: got \[3\] for 3 points .*numbers from 1 to 2"),
        (dict(data=torch.ones(2, 3)), "data: got 1, 1, 1"),
    ],
)
def test_bad_input_of_kernels(change: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        kernel_mixture(**{"data": torch.eye(3), "concentration": 2.0} | change)


def test_a_component_whose_points_cancel_keeps_its_direction() -> None:
    """Antipodal points have no mean direction: the component stays where it is, and becomes uniform."""
    family = VonMisesFisherComponents(most=1e6)
    x = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], dtype=torch.float64)
    old = family.at(torch.tensor([[0.0, 0.6, 0.8]], dtype=torch.float64))
    new = family.maximum(old, family.statistics(old, x, torch.ones(2, 1, dtype=torch.float64)))
    assert torch.equal(new["loc"], old["loc"]) and float(new["concentration"]) < 1e-6
