"""Pushforwards: mass by areas of triangles that know no Jacobian, sites observed and latent, what is off the
image."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import circle, conditional_pushforward, injective_flow, learned
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from pyro_manifold import flows
from pyro_manifold.distributions import Atlas, ConditionalPushforward, Pushforward
from pyro_manifold.transforms import Chart, LinearEmbedding, Pad


def normal(loc: Any, scale: Any = 1.0) -> Any:
    return dist.Normal(torch.as_tensor(loc, dtype=torch.float64), scale).to_event(1)


def flow_distribution() -> Pushforward:
    return Pushforward(normal([0.3, -0.2], 0.5), injective_flow().double())


def test_circle_is_the_distribution_of_the_angle() -> None:
    d = Pushforward(normal([0.5], 0.3), circle())
    angle = torch.linspace(-1.0, 2.0, 7, dtype=torch.float64).unsqueeze(-1)
    torch.testing.assert_close(d.log_prob(circle()(angle)), normal([0.5], 0.3).log_prob(angle))


def test_mass_by_triangles() -> None:
    d = flow_distribution()
    grid = torch.linspace(-3.5, 3.5, 121, dtype=torch.float64)
    x = d.transform(torch.cartesian_prod(grid + 0.3, grid - 0.2)).detach().reshape(121, 121, 3)
    a, b, c, e = x[:-1, :-1], x[1:, :-1], x[:-1, 1:], x[1:, 1:]
    area = sum(torch.linalg.cross(p - o, q - o).norm(dim=-1) / 2 for o, p, q in ((a, b, c), (e, b, c)))
    p = d.log_prob(x).detach().exp()
    mean = (p[:-1, :-1] + p[1:, :-1] + p[:-1, 1:] + p[1:, 1:]) / 4
    assert abs(float((mean * area).sum()) - 1) < 1e-2  # second order in the step


def test_draws_are_scored_without_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    d = flow_distribution()
    x = d.rsample((5,))
    direct = d.log_prob(x.detach().clone())
    monkeypatch.setattr(type(d.transform), "_inverse", lambda *_: pytest.fail("encoded"))
    torch.testing.assert_close(d.log_prob(x), direct)
    x.sum().backward()


def test_observed_tensor_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    transform = injective_flow().double().requires_grad_(False)
    calls = []
    inverse = type(transform)._inverse
    monkeypatch.setattr(type(transform), "_inverse", lambda self, x: calls.append(1) or inverse(self, x))
    x = transform(torch.randn(4, 2, dtype=torch.float64)).detach().clone()
    loc = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    distributions = [Pushforward(normal(loc, s), transform.with_cache()) for s in (1.0, 2.0)]
    shared = distributions[0].transform
    first = shared.inverse_and_log_volume(x)
    assert shared.inverse_and_log_volume(x)[0] is first[0] and len(calls) == 1
    (g,) = torch.autograd.grad(distributions[0].log_prob(x).sum(), loc)
    assert bool(g.isfinite().all())
    x.add_(0.0)  # a changed tensor is encoded again
    shared.inverse_and_log_volume(x)
    assert len(calls) == 2
    with torch.no_grad():
        next(transform.parameters()).add_(0.1)  # so is one seen through a changed map
    shared.inverse_and_log_volume(x)
    assert len(calls) == 3


def test_off_the_image() -> None:
    x = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 0.5]], dtype=torch.float64)
    base, g = normal([0.0, 0.0]), Pad(2, 3)
    on = base.log_prob(x[0, :2])
    torch.testing.assert_close(Pushforward(base, g).log_prob(x), on.expand(2))
    torch.testing.assert_close(
        Pushforward(base, g, off_manifold="reject").log_prob(x), torch.stack([on, on * 0 - math.inf])
    )
    assert Pushforward(base, g, off_manifold="reject", atol=0.5).log_prob(x).isfinite().all()
    with pytest.raises(
        ValueError, match=r"value: got 1, 2, 0.5 at index \(1,\), expected points of the image.*project"
    ):
        Pushforward(base, g, off_manifold="error").log_prob(x)


def test_latent_site_under_plain_nuts() -> None:
    """Posterior of the angle on a circle of radius 2 given a noisy point, against quadrature (4 standard
    errors: 6e-5 each)."""
    g = Chart(
        lambda u: 2 * torch.cat([u.cos(), u.sin()], -1), lambda x: torch.atan2(x[..., 1:], x[..., :1]), 1, 2
    )
    obs = torch.tensor([1.0, 1.5], dtype=torch.float64)

    def model() -> None:
        x = pyro.sample("x", Pushforward(normal([0.0], 0.7), g))
        pyro.sample("y", dist.Normal(x, 0.8).to_event(1), obs=obs)

    u = torch.linspace(-3.1, 3.1, 4001, dtype=torch.float64).unsqueeze(-1)
    x = g(u)
    weight = (normal([0.0], 0.7).log_prob(u) + dist.Normal(x, 0.8).to_event(1).log_prob(obs)).softmax(0)
    mean = weight @ x
    mcmc = MCMC(NUTS(model, max_tree_depth=3), num_samples=80, warmup_steps=40, disable_progbar=True)
    mcmc.run()
    draws = mcmc.get_samples()["x"]
    torch.testing.assert_close(draws.norm(dim=-1), torch.full((80,), 2.0, dtype=torch.float64))
    ess = pyro.ops.stats.effective_sample_size(draws.unsqueeze(0))
    assert bool(((draws.mean(0) - mean).abs() < 4 * draws.std(0) / ess.clamp_max(80).sqrt()).all())


def test_pyro_guide_plate_predictive() -> None:
    g = LinearEmbedding(torch.tensor([[1.0], [2.0], [0.5]]))

    def model(y: Tensor | None = None) -> None:
        with pyro.plate("rows", 3):
            x = pyro.sample("x", Pushforward(dist.Normal(torch.zeros(1), 1.0).to_event(1), g))
            pyro.sample("y", dist.Normal(x, 0.1).to_event(1), obs=y)

    y = g(torch.tensor([[1.0], [-1.0], [0.5]])).detach()
    guide = AutoNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(y) for _ in range(300)]
    assert losses[-1] < losses[0]
    torch.testing.assert_close(
        g(guide.median()["x"] if guide.median()["x"].shape[-1] == 1 else g.inv(guide.median()["x"])),
        y,
        atol=0.15,
        rtol=0,
    )
    assert Predictive(model, guide=guide, num_samples=4)(None)["y"].shape == (4, 3, 3)


def test_conditional_theta_gradient() -> None:
    distribution = learned(conditional_pushforward()).double()
    x = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    theta = torch.tensor([0.3, -0.5, 1.0], dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(distribution.condition(theta).log_prob(x).sum(), theta)
    h = 1e-6
    steps = torch.eye(3, dtype=torch.float64) * h
    with torch.no_grad():
        ends = [distribution.condition(theta + s * e).log_prob(x).sum() for s in (1, -1) for e in steps]
    numeric = (torch.stack(ends[:3]) - torch.stack(ends[3:])) / (2 * h)
    assert float((g - numeric).norm() / numeric.norm()) < 1e-6


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: Pushforward(normal([0.0]), Pad(2, 3)), r"base: got event shape \(1,\); expected \(2,\)"),
        (lambda: Pushforward(normal([0.0]), torch.distributions.ExpTransform()), "transform: got ExpTransform"),
        (lambda: Pushforward(normal([0.0, 0.0]), Pad(2, 3), off_manifold="drop"), "off_manifold: got 'drop'"),
        (lambda: Pushforward(normal([0.0, 0.0]), Pad(2, 3)).log_prob(torch.zeros(4)), r"value: got shape \(4,\)"),
        (lambda: Pushforward(normal([0.0, 0.0]), Pad(2, 3)).log_prob(torch.full((3,), math.nan).double()), "value: got nan"),
        (lambda: Pad(3, 2), "dim: got 3 with codomain_dim 2"),
        (lambda: LinearEmbedding(torch.ones(3, 2)), "matrix: got 1, expected rank 2"),
        (lambda: LinearEmbedding.from_pca(torch.ones(5, 3), 2), "dim: got 2; expected at most the 0 "
                                                                "dimensions"),
        (lambda: Chart(lambda u: u[..., [0, 0, 0]], lambda x: x[..., :2], 2, 3).log_volume(torch.zeros(2)),
         r"no full rank \(2\) at 1 of 1 points"),
        (lambda: flows.InjectiveFlow(Pad(1, 2), [flows.LULinear(3)]), "layers: number 0 is LULinear"),
        (lambda: flows.LULinear(2, torch.ones(2, 2)), "matrix: got a singular matrix"),
        (lambda: flows.Coupling(2, [0, 2]), r"transformed_indices: got \[0, 2\] of 2 coordinates"),
        (lambda: flows.Coupling(2, [0], kind="cubic"), "kind: got 'cubic'"),
        (lambda: flows.Conditional(flows.Coupling(2, [0]), context_dim=3).condition(torch.zeros(2)), r"context: got shape \(2,\)"),
    ],
)  # fmt: skip
def test_bad_input(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def flow_mixture() -> Atlas:
    normals = [Pushforward(normal([0.3, -0.2], s), injective_flow().double()) for s in (0.5, 1.0)]
    return Atlas(torch.tensor([0.3, 0.7], dtype=torch.float64), normals)


def test_a_list_of_an_embedding_and_layers_is_composed() -> None:
    g = injective_flow().double()
    x = g(torch.randn(4, 2, dtype=torch.float64)).detach()
    d = Pushforward(normal([0.3, -0.2], 0.5), [g.embedding, *g.layers], off_manifold="reject")
    wanted = Pushforward(normal([0.3, -0.2], 0.5), g).log_prob(x)
    torch.testing.assert_close(d.log_prob(x), wanted)
    torch.testing.assert_close(d.expand((4,)).log_prob(x), wanted)
    with pytest.raises(
        ValueError, match="transform: got Coupling, Pad; expected an InjectiveTransform.*or a list"
    ):
        Pushforward(normal([0.0, 0.0]), [g.layers[0], g.embedding])
    with pytest.raises(ValueError, match="transform: got an empty list"):
        Pushforward(normal([0.0, 0.0]), [])


def test_a_manifold_that_depends_on_a_context() -> None:
    """Each context has its own manifold: densities and draws are those of the flow given that context, with a
    base that depends on it or not."""
    flow = learned(flows.Conditional(injective_flow(), context_dim=3)).double()
    fixed = normal([0.0, 0.1], 0.5)
    layer = flows.Conditional(flows.Coupling(2, [0, 1], kind="affine"), context_dim=3)
    for base in (fixed, dist.ConditionalTransformedDistribution(fixed, [learned(layer).double()])):
        family = ConditionalPushforward(base, flow)
        context = torch.randn(4, 3, dtype=torch.float64)
        d = family.condition(context)
        assert d.batch_shape == (4,)
        x = d.sample((2,))
        assert x.shape == (2, 4, 3)
        for i, c in enumerate(context):
            own = base if base is fixed else base.condition(c)
            one = Pushforward(own, flow.condition(c), off_manifold="error")
            torch.testing.assert_close(d.log_prob(x)[:, i], one.log_prob(x[:, i].clone()))
        family.clear_cache()
        assert {id(p) for p in flow.parameters()} <= {id(p) for p in family.parameters()}


@pytest.mark.parametrize("make", [flow_distribution, flow_mixture])
@pytest.mark.parametrize("filler", [math.nan, math.inf, 0.0])
def test_masked_rows_may_hold_anything(make: Any, filler: float) -> None:
    """By ``mask``, ``poutine.mask`` and ``obs_mask``: log densities and gradients in value and parameters are
    those of the other rows alone."""
    d = make()
    learnt = [p for c in getattr(d, "components", [d]) for p in c.transform.parameters()]
    keep = torch.tensor([True, False, True, False])
    full = d.sample((4,))
    x = torch.where(keep.unsqueeze(-1), full, filler).requires_grad_()
    wanted = d.log_prob(full[keep].clone())
    grads = torch.autograd.grad(wanted.sum(), learnt, allow_unused=True)

    def masked() -> None:
        with pyro.plate("rows", 4), pyro.poutine.mask(mask=keep):
            pyro.sample("x", d, obs=x)

    def partly_observed() -> None:
        with pyro.plate("rows", 4):
            pyro.sample("x", d, obs=x, obs_mask=keep)

    def site(model: Any, name: str) -> Tensor:
        trace = pyro.poutine.trace(model).get_trace()
        trace.compute_log_prob()
        return trace.nodes[name]["log_prob"]

    for seen in (d.mask(keep).log_prob(x), site(masked, "x"), site(partly_observed, "x_observed")):
        torch.testing.assert_close(seen[keep], wanted)
        assert not bool(seen[~keep].any())
        g, *ours = torch.autograd.grad(seen.sum(), [x, *learnt], allow_unused=True)
        assert bool(g[keep].isfinite().all()) and not bool(g[~keep].any())
        for a, b in zip(ours, grads, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b)
    if not filler:
        return
    with pytest.raises(
        ValueError, match=r"value: got (nan|inf), .* at index \(1,\), expected finite numbers. .*mask"
    ):
        d.log_prob(x)  # no mask drops them
    with pytest.raises(ValueError, match=r"at index \(3,\)"):
        d.mask(torch.arange(4) != 1).log_prob(x)
    d._validate_args = False
    torch.testing.assert_close(d.log_prob(x)[~keep], torch.full((2,), -math.inf, dtype=torch.float64))
    torch.testing.assert_close(d.log_prob(x)[keep], wanted)


def test_masked_rows_off_the_image_and_where_the_map_degenerates() -> None:
    """Zeros in dropped rows, under ``off_manifold="error"`` and where g has no rank: neither is an error nor moves
    the seed."""
    polar = Chart(
        lambda u: torch.cat([u[..., :1] * u[..., 1:].cos(), u[..., :1] * u[..., 1:].sin()], -1),
        lambda x: torch.stack([x.norm(dim=-1), torch.atan2(x[..., 1], x[..., 0])], -1),
        2,
        2,
    )
    keep = torch.tensor([True, False])
    for base, g in ((normal([0.5], 0.3), circle()), (normal([2.0, 0.0], 0.1), polar)):
        d = Pushforward(base, g, off_manifold="error")
        x = torch.where(keep.unsqueeze(-1), d.sample((2,)), 0.0)
        with pytest.raises(ValueError, match="points of the image|rank"):
            d.log_prob(x)
        torch.manual_seed(0)
        seen = d.mask(keep).log_prob(x)
        after = torch.rand(())
        torch.manual_seed(0)
        assert torch.equal(after, torch.rand(()))
        torch.testing.assert_close(seen, torch.where(keep, d.log_prob(x[0].clone()), 0.0))
