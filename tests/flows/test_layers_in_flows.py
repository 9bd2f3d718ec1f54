"""Which layers a flow takes, what it makes of dtypes, contexts and autocast, and where constructors put what
they make."""

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from cases import injective_flow, learned
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    CatTransform,
    ComposeTransform,
    ExpTransform,
    IndependentTransform,
    TransformedDistribution,
)
from torch.distributions.transforms import AbsTransform, SoftmaxTransform

from pyro_manifold import flows, models
from pyro_manifold.distributions import Pushforward
from pyro_manifold.transforms import Chart, ConformalEmbedding, LinearEmbedding, Pad

F64 = torch.float64
NORMAL = dist.Normal(torch.zeros(2), 1.0).to_event(1)


def spline() -> Any:
    return learned(flows.Coupling(3, [0, 2])).double()


def lu(*diagonal: float) -> flows.LULinear:
    return flows.LULinear(3, matrix=torch.diag(torch.tensor(diagonal or (1.0, 2.0, 10.0), dtype=F64)))


def cycle() -> Any:
    """A permutation that is not its own inverse, sheared."""
    matrix = torch.eye(3, dtype=F64).roll(1, 0) + 0.3 * torch.ones(3, 3, dtype=F64).triu(1)
    return learned(flows.LULinear(3, matrix=matrix, loc=torch.ones(3, dtype=F64)))


LAYERS: dict[str, Callable[[], Any]] = {
    "coupling": spline,
    "inverse": lambda: spline().inv,
    "permuted": cycle,
    "permuted inverse": lambda: cycle().inv,
    "chain": lambda: ComposeTransform([spline(), lu()]),
    "inverse chain": lambda: ComposeTransform([spline(), cycle().inv, AffineTransform(1.0, 2.0)]).inv,
    "elementwise": ExpTransform,
    "independent": lambda: IndependentTransform(
        AffineTransform(torch.zeros(3, dtype=F64), torch.ones(3, dtype=F64) * 3), 1
    ),
    "side by side": lambda: CatTransform([ExpTransform(), AffineTransform(0.0, 2.0)], dim=-1, lengths=[1, 2]),
    "pyro": lambda: dist.transforms.Permute(torch.tensor([2, 0, 1])),
    "pyro learned": lambda: dist.transforms.affine_coupling(3).double(),
}


@pytest.mark.parametrize("name", LAYERS)
def test_any_bijection_is_a_layer(name: str) -> None:
    """Value, inverse, volume by autodiff of the whole map, in InjectiveFlow and in Among; in
    TransformedDistribution too."""
    layer = LAYERS[name]()
    g, beside = flows.InjectiveFlow(Pad(2, 3), [layer]), flows.Partial(4, 3, [layer])
    u, z = torch.randn(5, 2, dtype=F64), torch.randn(5, 4, dtype=F64)
    J = torch.stack([torch.autograd.functional.jacobian(lambda v: layer(Pad(2, 3)(v)), row) for row in u])
    torch.testing.assert_close(g.log_volume(u), 0.5 * torch.logdet(J.mT @ J), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(g.inv(g(u)), u, rtol=1e-8, atol=1e-8)
    J = torch.stack([torch.autograd.functional.jacobian(layer, row) for row in z[:, :3]])
    y = beside(z)
    torch.testing.assert_close(
        beside.log_abs_det_jacobian(z, y), torch.linalg.slogdet(J)[1], rtol=1e-8, atol=1e-8
    )
    back = beside.inv(y.clone())
    torch.testing.assert_close(back, z, rtol=1e-8, atol=1e-8)
    normal = dist.Normal(torch.zeros(4, dtype=F64), 1.0).to_event(1)
    expected = normal.log_prob(z) - torch.linalg.slogdet(J)[1]
    torch.testing.assert_close(
        TransformedDistribution(normal, [beside]).log_prob(y.detach()), expected, rtol=1e-8, atol=1e-8
    )


def test_parameters_inside_inverses_and_chains_are_the_flows() -> None:
    inner = spline()
    wanted = {id(p) for p in inner.parameters()}
    for layer in (inner.inv, ComposeTransform([ExpTransform(), inner.inv]), ComposeTransform([inner]).inv):
        for g in (flows.InjectiveFlow(Pad(2, 3), [layer]), flows.Partial(4, 3, [layer])):
            assert {id(p) for p in g.parameters()} == wanted
    h = flows.LatentFlow(3, [inner.inv])
    assert {id(p) for p in h.parameters()} == wanted


def test_volumes_of_injective_maps_do_not_add() -> None:
    """The plane z = 0 under diag(1, 1, 10) has density 1 / (2 pi) at 0: log p = -1.8379 (added up: -4.14)."""
    normal = dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1)
    zero = torch.zeros(3, dtype=F64)
    right = Pushforward(normal, flows.InjectiveFlow(Pad(2, 3), [lu(1.0, 1.0, 10.0)])).log_prob(zero)
    assert abs(right.item() + 1.8378770664) < 1e-9
    assert not Pad(2, 3).bijective
    for chain in (
        [Pad(2, 3), lu(1.0, 1.0, 10.0)],
        [ComposeTransform([Pad(2, 3), AffineTransform(0.0, 2.0)])],
    ):
        d = TransformedDistribution(normal, chain)
        assert d.sample((4,)).shape == (4, 3)
        with pytest.raises(ValueError, match=r"Pad\(2 -> 3\) is injective.*Pushforward.*InjectiveFlow"):
            d.log_prob(zero)


def conditional(layer: Any) -> flows.Conditional:
    return flows.Conditional(layer, context_dim=2)


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: flows.InjectiveFlow(Pad(2, 3), [AbsTransform()]), "layers: number 0 is AbsTransform.*expected a bijection"),
        (lambda: flows.Partial(4, 3, [Pad(3, 3)]), r"layers: number 0 is Pad\(3 -> 3\).*expected a "
                                                   r"bijection"),
        (lambda: flows.Partial(4, 3, [SoftmaxTransform()]), "layers: number 0 is Softmax"),
        (lambda: flows.Partial(4, 3, [torch.nn.Linear(3, 3)]), "layers: number 0 is Linear"),
        (lambda: flows.InjectiveFlow(Pad(2, 3), [conditional(flows.Coupling(3, [0]))]), "expected a bijection.*condition"),
        (lambda: conditional(flows.Coupling(3, [0])).layer(torch.zeros(3)), "context: this Coupling depends on a context of size 2"),
        (lambda: conditional(flows.Coupling(3, [0])).layer.inv(torch.zeros(3)), "context: this Coupling depends on a context of size 2"),
        (lambda: conditional(flows.LULinear(3)).layer(torch.zeros(3)), "context: this LULinear depends on a context of size 2"),
        (lambda: conditional(injective_flow()).layer(torch.zeros(2)), "context: this Coupling depends on a context of size 2"),
        (lambda: flows.Coupling(2, [0, 1])(torch.zeros(2)), "context: this Coupling transforms all of its coordinates"),
        (lambda: conditional(flows.LULinear(3)).condition(torch.zeros(3)), r"context: got shape \(3,\); expected size 2"),
        (lambda: conditional(flows.LULinear(3)).condition(None), "context: got None"),
        (lambda: conditional(flows.Coupling(3, [0])).condition(torch.zeros(2).double()), "context: got dtype torch.float64"),
        (lambda: conditional(flows.Haar(2, 2)), "layer: got Haar.*expected a Coupling"),
        (lambda: conditional(flows.InjectiveFlow(Pad(2, 3), [flows.Affine(torch.eye(3))])), "layer: got InjectiveFlow"),
        (lambda: flows.Coupling(3, [0])(torch.zeros(3, device="meta")), "value: got device meta, but the "
                                                                        "parameters of Coupling"),
        (lambda: flows.Coupling(3, [0], hidden=(0,)), r"hidden: got \(0,\); expected positive integers"),
        (lambda: flows.Coupling(3, [0])([1.0, 2.0, 3.0]), "value: got list; expected a tensor"),
        (lambda: LinearEmbedding(torch.full((3, 2), torch.nan)), "matrix: got nan"),
        (lambda: ConformalEmbedding.from_pca(torch.ones(9, 3), 1), "x: got 9 equal rows"),
        (lambda: Chart(lambda u: u, lambda x: x, 1, 2)(torch.zeros(4, 1)), r"shape \(4, 1\), expected \(4, "
                                                                           r"2\)"),
        (lambda: Chart(lambda u: u, lambda x: x, 1, 2).log_volume(torch.zeros(4, 1)), "forward: it returned shape"),
        (lambda: Chart(lambda u: u.repeat(1, 2), lambda x: x, 1, 2).inv(torch.zeros(4, 2)), "inverse: it returned shape"),
        (lambda: Pushforward(NORMAL, Pad(2, 3)).log_prob([0.0, 0.0, 0.0]), "value: got list"),  # type: ignore[arg-type]
        (lambda: flows.Coupling(3, [0])(torch.zeros(3, 5)), r"value: got shape \(3, 5\); expected vectors of "
                                                            r"size 3"),
        (lambda: flows.Coupling(3, [0]).inv(torch.zeros(3, 5)), r"value: got shape \(3, 5\); expected "
                                                                r"vectors of size 3"),
    ],
)  # fmt: skip
def test_errors(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("dtype_", [torch.int64, torch.float16, torch.bfloat16, F64], ids=str)
def test_dtypes_of_values(dtype_: torch.dtype) -> None:
    """Integers, half precision and a dtype other than the parameters' are refused by name wherever a value
    comes in."""
    g = flows.InjectiveFlow(Pad(2, 3), [flows.Coupling(3, [0]), flows.LULinear(3)])
    normal = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    u, x = torch.ones(4, 2).to(dtype_), torch.ones(4, 3).to(dtype_)
    calls: list[Callable[[], Any]] = [
        lambda: g(u),
        lambda: g.inv(x),
        lambda: g.log_volume(u),
        lambda: g.project(x),
        lambda: g.inverse_and_log_volume(x),
        lambda: ConformalEmbedding(2, 3).log_volume(u),
        lambda: flows.LULinear(3)(x),
        lambda: TransformedDistribution(normal, [flows.Coupling(3, [0])]).log_prob(x),
        lambda: flows.LatentFlow(3, flows.coupling_chain(3, 2)).condition().log_prob(x),
        lambda: Pushforward(dist.Normal(torch.zeros(2), 1.0).to_event(1), g).log_prob(x),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=rf"value: got dtype {dtype_}"):
            call()
    if dtype_ != F64:
        for make in (LinearEmbedding.from_pca, ConformalEmbedding.from_pca):
            with pytest.raises(ValueError, match=rf"x: got dtype {dtype_}"):
                make(x, 2)
        with pytest.raises(ValueError, match=rf"got dtype {dtype_}"):
            flows.LULinear(3, torch.eye(3).to(dtype_))


FROM_DATA: dict[str, Callable[[Tensor], Any]] = {
    "flow": lambda x: models.ManifoldFlow.from_data(x, 2),
    "curve": lambda x: models.ManifoldFlow.from_data(x, 1),
    "encoder": lambda x: models.ManifoldFlow.from_data(x, 2, encoder=True),
    "autoencoder": lambda x: models.ManifoldFlow.autoencoder(x, 2),
    "mixture": lambda x: models.ManifoldMixture.from_data(x, 2, 2),
    "ambient": lambda x: models.AmbientFlow.from_data(x, 2),
    "linear": lambda x: flows.Affine.from_pca(x),
    "plane": lambda x: LinearEmbedding.from_pca(x, 2),
    "conformal": lambda x: ConformalEmbedding.from_pca(x, 2),
    "images": lambda x: flows.InjectiveFlow(
        Pad(2, 64), flows.multiscale_layers(x.repeat(1, 16), (8, 8), 2, levels=1, depth=2)
    ),
}


@pytest.mark.parametrize("name", FROM_DATA)
def test_what_is_made_from_data_has_their_dtype_and_device(name: str, device: torch.device) -> None:
    torch.manual_seed(0)
    for dtype_ in (torch.float32, F64):
        x = torch.randn(80, 4, dtype=dtype_, device=device)
        made = FROM_DATA[name](x)
        for tensor in (*made.parameters(), *made.buffers()):
            assert tensor.device.type == x.device.type and (
                tensor.dtype == dtype_ or not tensor.is_floating_point()
            )
        if hasattr(made, "log_prob") and name != "autoencoder":
            value = made.log_prob(x)
            assert value.dtype == dtype_ and bool(value.isfinite().all())


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_does_not_touch_the_volume(half: torch.dtype) -> None:
    """Flows compute in the precision of their parameters under autocast, also of values and contexts that it
    has made half."""
    g = learned(flows.InjectiveFlow(Pad(2, 3), [flows.Coupling(3, [0]), flows.LULinear(3)]))
    layer = learned(conditional(flows.Coupling(3, [0, 1])))
    d = Pushforward(dist.Normal(torch.zeros(2), 1.0).to_event(1), g)
    net = torch.nn.Linear(2, 2)
    u = torch.randn(5, 2)
    x = g(u).detach()

    def values() -> list[Tensor]:
        context = net(u)
        y = layer.condition(context)(x)
        return [g(u), g.inv(x), g.log_volume(u), d.log_prob(x), g.project(x), y.sum(-1)]

    wanted = values()
    with torch.autocast("cpu", dtype=half):
        assert net(u).dtype == half
        ours = values()
        assert g(net(u)).dtype == torch.float32
    for a, b in zip(ours[:-1], wanted[:-1], strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(ours[-1], wanted[-1], rtol=0.1, atol=0.1)  # its context is half


def test_a_flow_that_depends_on_a_context() -> None:
    """Each row of contexts gives a map of its own; the volume is that of autodiff; layers without a context
    stay as they are, and so does the flow that was given."""
    plain = injective_flow().double()
    before = [p.clone() for p in plain.parameters()]
    flow = learned(conditional(plain)).double()
    c, u = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    g = flow.condition(c)
    torch.testing.assert_close(g(u), torch.stack([flow.condition(a)(b) for a, b in zip(c, u, strict=True)]))
    torch.testing.assert_close(g.inv(g(u)), u)
    for i in range(4):
        J = torch.func.jacrev(flow.condition(c[i]))(u[i])
        torch.testing.assert_close(g.log_volume(u)[i], 0.5 * torch.logdet(J.mT @ J))
    assert not torch.allclose(flow.condition(c + 1)(u), g(u))
    assert next(g.parameters()) is next(flow.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, plain.parameters(), strict=True))


def test_the_volume_of_an_affine_layer_has_the_shape_of_the_batch() -> None:
    layer = flows.Affine(torch.tensor([[2.0, 1.0], [0.0, 3.0]]))
    for batch in ((), (4,), (5, 4)):
        y, log_volume = layer.forward_and_log_volume(torch.randn(*batch, 2))
        assert y.shape == (*batch, 2)
        torch.testing.assert_close(log_volume, torch.full(batch, math.log(6.0)))
