"""What maps remember: a draw, the volume that came with it, observed data; and nothing that has changed since
(contract C4b)."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import conditional_pushforward, injective_flow, learned
from torch import Tensor
from torch.distributions import AffineTransform, ComposeTransform, ExpTransform, IndependentTransform

from pyro_manifold import flows
from pyro_manifold.distributions import ConditionalPushforward, Pushforward, RiemannianNormal, WrappedNormal
from pyro_manifold.geometry import EmbeddedManifold, geometry
from pyro_manifold.transforms import Chart, ExpMap, LinearEmbedding, Pad
from pyro_manifold.transforms.cache import dependencies

F64 = torch.float64


def test_log_prob_of_a_draw_after_the_curvature_changed() -> None:
    """Against the density of a distribution made anew, for curvature and base point changed in each way torch
    allows."""
    for make in (WrappedNormal, RiemannianNormal):
        for change in ("k", "k data", "loc", "loc data"):
            ball = geoopt.PoincareBall(c=torch.tensor(1.0, dtype=F64), learnable=True)
            loc = torch.tensor([0.3, -0.2], dtype=F64)
            scale = torch.tensor([0.5], dtype=F64) if make is WrappedNormal else torch.tensor(0.5, dtype=F64)
            d = make(ball, loc, scale)
            with torch.no_grad():
                x = d.sample((5,))
                target = ball.isp_c if change.startswith("k") else loc
                (target.data if change.endswith("data") else target).mul_(0.7)
                expected = make(ball, loc, scale).log_prob(x.clone())
                torch.testing.assert_close(d.log_prob(x), expected, rtol=1e-10, atol=1e-10)


def remembering() -> dict[str, tuple[Any, list[Tensor]]]:
    """Distributions whose draws are remembered, each with the tensors that its map reads."""
    big = torch.zeros(4, 2, dtype=F64)
    context = torch.ones(2, dtype=F64)
    normal = dist.Normal(torch.zeros(3, dtype=F64), 1.0).to_event(1)
    coupling, linear = (
        learned(make(context_dim=2)).double()
        for make in (
            lambda **k: flows.Conditional(flows.Coupling(3, [0]), **k),
            lambda **k: flows.Conditional(flows.LULinear(3), **k),
        )
    )
    layers = [coupling.condition(context).with_cache(), linear.condition(context).with_cache()]
    flow = learned(flows.Coupling(3, [0])).double().with_cache()
    scale = torch.ones(1, dtype=F64)
    wide = torch.zeros(2000, 2, dtype=F64)
    return {
        "view": (WrappedNormal(geoopt.PoincareBall(), big[1], scale), [big]),
        "expanded": (WrappedNormal(geoopt.PoincareBall(), big[1], scale).expand((3,)).to_event(1), [big]),
        "many": (WrappedNormal(geoopt.PoincareBall(), wide, scale), [wide]),
        "flow": (dist.TransformedDistribution(normal, [flow]), list(flow.parameters())),
        "conditional": (
            dist.TransformedDistribution(normal, layers),
            [context, *coupling.parameters(), *linear.parameters()],
        ),
    }


@pytest.mark.parametrize("name", ["view", "expanded", "many", "flow", "conditional"])
def test_a_draw_is_scored_like_its_copy(name: str) -> None:
    """Whatever changes, in whatever way: the value, part of it, or what the map reads; counted by torch or
    not."""
    d, read = remembering()[name]
    changes: dict[str, Callable[[Tensor], Any]] = {
        "in place": lambda t: t.mul_(0.9).add_(0.01),
        "a part": lambda t: t.reshape(-1)[:1].add_(0.01),
        "data": lambda t: t.data.mul_(0.9).add_(0.01),
        "numpy": lambda t: t.detach().numpy().__imul__(0.9),
    }
    with torch.no_grad():
        for target in (None, *read):
            for change in changes.values():
                x = d.sample()
                change(x if target is None else target)
                torch.testing.assert_close(d.log_prob(x), d.log_prob(x.clone()), rtol=1e-9, atol=1e-9)


def test_a_replaced_part_is_seen() -> None:
    flow = learned(flows.Coupling(3, [0])).with_cache()
    d = dist.TransformedDistribution(dist.Normal(torch.zeros(3), 1.0).to_event(1), [flow])
    state = {k: v + 0.1 if v.is_floating_point() else v for k, v in flow.state_dict().items()}
    for change in (
        lambda: flow.load_state_dict(state),
        lambda: setattr(flow.net, "last", torch.nn.Linear(64, flow.net.last.out_features)),
        lambda: flow.double().float(),
    ):
        x = d.sample((4,))
        change()
        torch.testing.assert_close(d.log_prob(x), d.log_prob(x.clone()))
    ball = geoopt.PoincareBall(learnable=True)
    w = WrappedNormal(ball, torch.zeros(2), 0.1)
    x = w.sample((4,))
    ball.isp_c = torch.nn.Parameter(torch.tensor(0.3))
    torch.testing.assert_close(w.log_prob(x), w.log_prob(x.clone()))


def score(d: Any, x: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    return [g for g in torch.autograd.grad(d.log_prob(x).sum(), leaves, materialize_grads=True)]


def test_the_score_of_a_detached_draw() -> None:
    """The gradient of log p(x) in the parameters at a draw of ``sample`` is that at a copy of it, not that at
    fixed noise."""
    ball = geoopt.PoincareBall(c=1.0, learnable=True).double()
    loc = torch.tensor([0.3, -0.2], dtype=F64, requires_grad=True)
    scale = torch.tensor([0.5], dtype=F64, requires_grad=True)
    flow = learned(flows.Coupling(2, [1])).double()
    normal = dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1)
    for d, leaves in (
        (WrappedNormal(ball, loc, scale), [loc, scale, ball.isp_c]),
        (RiemannianNormal(ball, loc, scale[0]), [loc, scale, ball.isp_c]),
        (dist.TransformedDistribution(normal, [flow.with_cache()]), list(flow.parameters())),
        (Pushforward(normal, injective_flow().double()), []),
    ):
        leaves = leaves or list(d.transform.parameters())
        x = d.sample((5,))
        for ours, wanted in zip(score(d, x, leaves), score(d, x.clone(), leaves), strict=True):
            torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-9)


def test_a_draw_that_carries_its_gradient_is_scored_at_its_noise() -> None:
    loc = torch.tensor([0.3, -0.2], dtype=F64, requires_grad=True)
    t = ExpMap(geoopt.PoincareBall(), loc, cache_size=1)
    v = torch.randn(3, 2, dtype=F64)
    y = t(v)
    assert t.inv(y) is v
    with torch.no_grad():
        assert t.inv(y) is v
        v.add_(1.0)  # the noise itself
        torch.testing.assert_close(t.inv(y), v - 1.0)
    t.clear_cache()
    assert t.inv(y) is not v


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("kind", ["spline", "affine"])
def test_volume_of_the_pair_just_made(kind: str, inverse: bool) -> None:
    """Of those very objects, against autodiff; asked again, after the parameters moved, and for a gradient
    after no_grad."""
    layer = learned(flows.Coupling(3, [0, 2], kind=kind)).double()

    def wanted(x: Tensor) -> Tensor:
        return torch.linalg.slogdet(torch.func.vmap(torch.func.jacrev(layer))(x))[1]

    x = torch.randn(5, 3, dtype=F64)
    y = layer(x)
    if inverse:
        x = layer.inv(y)
    for _ in range(2):
        torch.testing.assert_close(layer.log_abs_det_jacobian(x, y), wanted(x), rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        y = layer(x)
        x = layer.inv(y.clone()) if inverse else x
        layer.net.last.bias.mul_(2.0)
        torch.testing.assert_close(layer.log_abs_det_jacobian(x, y), wanted(x), rtol=1e-10, atol=1e-10)
        y = layer(x)
    assert layer.log_abs_det_jacobian(x, y).requires_grad
    normal = dist.Normal(torch.zeros(3, dtype=F64), 1.0).to_event(1)
    assert dist.TransformedDistribution(normal, [layer]).log_prob(y).requires_grad


def test_a_remembered_volume_is_differentiated_once() -> None:
    """Asked again after a backward pass, whose graph is gone, the volume is computed again."""
    layer = learned(flows.Coupling(3, [0, 2])).double()
    x = torch.randn(5, 3, dtype=F64)
    y = layer(x)
    grads = []
    for _ in range(2):
        layer.zero_grad()
        layer.log_abs_det_jacobian(x, y).sum().backward()
        grads.append(layer.net.last.weight.grad.clone())
    torch.testing.assert_close(grads[0], grads[1])
    assert bool(grads[0].any())


def test_value_and_volume_cost_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = learned(flows.Coupling(3, [0, 2])).double()
    calls: list[int] = []
    run = flows.Coupling._run
    monkeypatch.setattr(flows.Coupling, "_run", lambda self, *a, **k: calls.append(1) or run(self, *a, **k))
    y = torch.randn(5, 3, dtype=F64)
    dist.TransformedDistribution(dist.Normal(torch.zeros(3, dtype=F64), 1.0).to_event(1), [layer]).log_prob(y)
    assert len(calls) == 1


def scaled_circle(radius: Tensor, **kwargs: Any) -> Chart:
    def forward(u: Tensor) -> Tensor:
        return radius * torch.cat([u.cos(), u.sin()], -1)

    return Chart(forward, lambda x: torch.atan2(x[..., 1:], x[..., :1]), 1, 2, **kwargs)


def test_a_chart_that_closes_over_a_tensor() -> None:
    """log N(u; 0, 1) - log radius, by hand, for the radius as it is now; data and draws; a pure chart
    remembers."""
    radius = torch.tensor(2.0, dtype=F64)
    normal = dist.Normal(torch.zeros(1, dtype=F64), 1.0).to_event(1)
    d = Pushforward(normal, scaled_circle(radius))
    u = torch.tensor([[0.3], [-1.0]], dtype=F64)
    x, draw = d.transform(u), d.sample((4,))
    for r in (2.0, 3.0):
        radius.fill_(r)
        torch.testing.assert_close(d.log_prob(x), normal.log_prob(u) - radius.log())
        assert torch.equal(d.log_prob(draw), d.log_prob(draw.clone()))
    pure = scaled_circle(radius, pure=True, cache_size=1)
    assert pure.inv(pure(u)) is u


def test_chart_arguments() -> None:
    with pytest.raises(ValueError, match="forward: got None, expected a function"):
        Chart(None, None, 1, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="inverse: got 3"):
        Chart(torch.cos, 3, 1, 2)  # type: ignore[arg-type]


def test_tangent_spaces_of_a_learned_manifold() -> None:
    """The line through 0 along W; W turns, and so do the tangent vectors."""
    line = LinearEmbedding(torch.tensor([[3.0], [4.0]], dtype=F64))
    geo = geometry(EmbeddedManifold(line))
    p = torch.zeros(2, dtype=F64)
    torch.testing.assert_close(geo.bases(p)[1].abs().squeeze(-1), torch.tensor([0.6, 0.8], dtype=F64))
    line.matrix.copy_(torch.tensor([[4.0], [-3.0]]))
    torch.testing.assert_close(geo.bases(p)[1].abs().squeeze(-1), torch.tensor([0.8, 0.6], dtype=F64))


def test_what_foreign_layers_read() -> None:
    """Tensors in the attributes of torch's and Pyro's transforms count; what cannot be known is not
    remembered."""
    scale = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    parts = [AffineTransform(torch.zeros((), dtype=F64), scale), IndependentTransform(ExpTransform(), 1)]
    g = flows.InjectiveFlow(Pad(2, 3), [ComposeTransform(parts)], cache_size=1)
    assert any(t is scale for t in g.depends() or ())
    u = torch.randn(4, 2, dtype=F64)
    x = g(u)
    assert g.inv(x) is u
    first = g.inverse_and_log_volume(x.clone())[1]
    scale.mul_(2.0)
    torch.testing.assert_close(g.inv(x), u / 2.0)
    torch.testing.assert_close(g.log_volume(u / 2.0), first + 2 * torch.tensor(2.0, dtype=F64).log())

    class Own(ExpTransform):
        pass

    assert dependencies(Own()) is None and dependencies(pyro.nn.DenseNN(2, [3])) is not None


COPIES: dict[str, Callable[[], Any]] = {
    "wrapped normal": lambda: WrappedNormal(geoopt.PoincareBall(), torch.zeros(2), torch.ones(1)),
    "conditional pushforward": lambda: learned(conditional_pushforward()).condition(torch.ones(3)),
    "transformed": lambda: dist.TransformedDistribution(
        dist.Normal(torch.zeros(3), 1.0).to_event(1), [learned(flows.Coupling(3, [0])).with_cache()]
    ),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_after_a_draw(name: str) -> None:
    d = COPIES[name]()
    x = d.rsample((3,))
    d.log_prob(x)
    torch.testing.assert_close(copy.deepcopy(d).log_prob(x.detach()), d.log_prob(x.detach()))


def foreign_layers() -> dict[str, Any]:
    """Holders of Pyro's learned layers, whose caches keep tensors with a graph, after use."""
    spline = dist.transforms.Spline
    latent = flows.LatentFlow(1, [spline(1)])
    latent.condition().log_prob(latent.condition().rsample((3,)))
    g = flows.InjectiveFlow(Pad(2, 3), [dist.transforms.affine_coupling(3), spline(3)])
    beside = flows.Partial(4, 3, [spline(3)])
    for f, n in ((g, 2), (beside, 4)):
        f.layers[0](f.layers[0].inv(torch.randn(2, 3)))
        f.inv(f(torch.randn(2, n)))
    normal = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    base = dist.ConditionalTransformedDistribution(
        normal, [dist.transforms.conditional_spline(2, 3), spline(2)]
    )
    distribution = ConditionalPushforward(base, Pad(2, 3))
    distribution.condition(torch.ones(3)).log_prob(distribution.condition(torch.ones(3)).rsample((2,)))
    return {"latent": latent, "flow": g, "beside": beside, "pushforward": distribution}


@pytest.mark.parametrize("name", ["latent", "flow", "beside", "pushforward"])
def test_holders_of_pyros_layers_copy_after_use(name: str) -> None:
    holder = foreign_layers()[name]
    for other in (copy.deepcopy(holder), pickle.loads(pickle.dumps(holder))):
        for a, b in zip(holder.parameters(), other.parameters(), strict=True):
            assert a is not b and torch.equal(a, b)


def test_a_conditional_pushforward_copies_after_a_draw() -> None:
    distribution = learned(conditional_pushforward())
    x = distribution.condition(torch.ones(3)).rsample((3,))
    other = copy.deepcopy(distribution)
    torch.testing.assert_close(
        other.condition(torch.ones(3)).log_prob(x), distribution.condition(torch.ones(3)).log_prob(x)
    )
    assert all(a is not b for a, b in zip(distribution.parameters(), other.parameters(), strict=True))
    layer = learned(flows.Coupling(3, [0]))
    layer(torch.randn(2, 3))
    pickle.loads(pickle.dumps(layer))
