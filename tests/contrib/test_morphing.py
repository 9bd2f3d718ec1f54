"""The morphing head on a distribution known exactly: bounds, draws, normalisation, what training by score and
by ratio reaches."""

import copy
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_manifold.contrib.lhc import MorphingHead
from pyro_manifold.flows import LatentFlow, coupling_chain
from pyro_manifold.models import ManifoldFlow
from pyro_manifold.transforms import Pad

S = torch.tensor([[1.0, 0.3, 0.0], [0.3, 0.8, 0.1], [0.0, 0.1, 0.5]])


def head(n: int = 2, seed: int = 0, spread: float = 0.5, hidden: tuple[int, ...] = (8,)) -> MorphingHead:
    torch.manual_seed(seed)
    h = MorphingHead(LatentFlow(n, coupling_chain(n, 2, hidden=(8,))), S, torch.randn(400, 2), hidden=hidden)
    for name, p in h.named_parameters():
        p.data += (0.2 if name.startswith("base") else spread) * torch.randn_like(p)
    return h


def test_definition() -> None:
    h, u, theta = head().double(), torch.randn(6, 2).double(), torch.randn(6, 2).double()
    tt = torch.cat([torch.ones(6, 1), theta], -1).double()
    m = (h.root @ h.amplitudes(u)).detach()
    B, S_ = m @ m.mT, h.root @ h.root.mT
    mixture = torch.randn(400, 2, generator=torch.Generator().manual_seed(7)).double()
    form = torch.einsum("na,nab,nb->n", tt, B, tt) / torch.einsum("na,ab,nb->n", tt, S_, tt)
    base = h.base.condition().log_prob(u)
    assert torch.allclose(h.condition(theta).log_prob(u), base + form.log())
    assert torch.allclose(h.log_ratio(u, theta), form.log())
    # the mixture over the given draws of theta is p_mix, whatever the network
    g = MorphingHead(h.base, S_, mixture, hidden=(8,)).double()
    g.net.load_state_dict(h.net.state_dict())
    both = g.condition(mixture.unsqueeze(1)).log_prob(u).logsumexp(0) - math.log(400)
    assert torch.allclose(both, base, atol=1e-6)
    assert torch.allclose(
        MorphingHead(h.base, 9 * S_, mixture).log_ratio(u, theta), torch.zeros(6).double(), atol=1e-6
    )


def test_bound_holds_and_draws_follow_the_density() -> None:
    h = head(spread=0.7)
    theta = torch.tensor([[0.0, 0.0], [1.5, -1.0], [-30.0, 4.0]])
    s = h._direction(theta)
    bound = (s * torch.linalg.solve(h.gram, s.mT).mT).sum(-1).log()
    assert (h.log_ratio(10 * torch.randn(4000, 1, 2), theta) <= bound + 1e-4).all()
    draws = h.condition(theta).sample((4000,))
    assert draws.shape == (4000, 3, 2)
    base = h.base.condition().sample((40_000,))
    weight = h.log_ratio(base.unsqueeze(1), theta).softmax(0)
    for f in (torch.sin, torch.cos, lambda u: (u[..., :1] * u[..., 1:]).tanh()):
        want = (weight.unsqueeze(-1) * f(base).unsqueeze(1)).sum(0)
        got = f(draws)
        # 15 comparisons; 5 sd of both averages, false alarm below 1e-5 in all
        error = got.var(0) / 4000 + got.var(0) * weight.square().sum(0).unsqueeze(-1)
        assert ((got.mean(0) - want).abs() < 5 * error.sqrt()).all()
    # the normaliser is the integral of the density: by the same weights, and by quadrature
    grid = torch.linspace(-12, 12, 241)
    u = torch.cartesian_prod(grid, grid)
    mass = (h.condition(theta.unsqueeze(1)).log_prob(u).logsumexp(-1) + 2 * math.log(0.1)).detach()
    torch.manual_seed(1)
    assert torch.allclose(h.log_normaliser(theta, 40_000), mass, atol=0.05)  # sd about 0.005


def test_features_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = ManifoldFlow(Pad(2, 4), head()).requires_grad_(False)
    x, count = flow.condition(torch.zeros(2)).sample((5,)), 0
    x = x.clone()
    original = MorphingHead.amplitudes

    def counted(self: Any, u: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return original(self, u)

    monkeypatch.setattr(MorphingHead, "amplitudes", counted)

    def model(theta: Tensor) -> None:
        with pyro.plate("events", 5):
            pyro.sample("x", flow.condition(theta), obs=x)

    thetas = torch.randn(4, 2)
    values = [
        float(poutine.trace(model).get_trace(t.requires_grad_()).log_prob_sum().detach())
        for t in thetas.unbind()
    ]
    assert count == 1
    fresh = copy.deepcopy(flow)
    assert values == pytest.approx([float(fresh.log_prob(x.clone(), t).sum()) for t in thetas], abs=1e-4)
    flow.latent.net.last.bias.data += 0.5  # data changes do not count versions; an optimiser's step does
    with torch.no_grad():
        flow.latent.net.last.bias.add_(0.5)
    assert float(flow.log_prob(x, thetas[0]).sum()) != pytest.approx(values[0], abs=1e-3) and count > 1


def test_remembered_u_that_becomes_a_leaf_has_a_gradient() -> None:
    h, u, theta = head().requires_grad_(False), torch.randn(4, 2), torch.randn(2)
    distribution = h.condition(theta)
    distribution.log_prob(u)  # remembered from here on
    leaves = (u.requires_grad_(), u.detach().clone().requires_grad_())
    grad, expected = (torch.autograd.grad(distribution.log_prob(v).sum(), v)[0] for v in leaves)
    torch.testing.assert_close(grad, expected)


def test_theta_gradient_by_differences() -> None:
    flow = ManifoldFlow(Pad(2, 4), head()).double()
    x = torch.randn(20, 4).double()
    theta = torch.tensor([0.7, -1.2], dtype=torch.float64, requires_grad=True)
    (got,) = torch.autograd.grad(flow.log_prob(x, theta).sum(), theta)
    step = 1e-5 * torch.eye(2, dtype=torch.float64)
    want = (
        flow.log_prob(x, (theta + step).unsqueeze(1)).sum(-1)
        - flow.log_prob(x, (theta - step).unsqueeze(1)).sum(-1)
    ) / 2e-5
    assert torch.allclose(got, want, rtol=1e-7, atol=1e-8)


def base_flow() -> LatentFlow:
    return LatentFlow(2, coupling_chain(2, 2, hidden=(4,)))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: MorphingHead(LatentFlow(2, coupling_chain(2, 2, 1), 1), S, torch.randn(9, 2)), "base"),
        (lambda: MorphingHead(base_flow(), S, torch.randn(9, 3)), "S, mixture"),
        (lambda: MorphingHead(base_flow(), -S, torch.randn(9, 2)), "S: got"),
        (lambda: MorphingHead(base_flow(), S, torch.zeros(9, 2)), "mixture"),
        (lambda: head().condition(), "context: got none"),
        (lambda: head().condition(torch.zeros(3)), "context"),
        (lambda: head().condition(torch.tensor([0.0, math.nan])), "context: got 0, nan"),
    ],
)
def test_bad_input(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_expands_like_a_distribution() -> None:
    d = head().condition(torch.zeros(2)).expand((3, 4))
    assert d.batch_shape == (3, 4) and d.sample((2,)).shape == (2, 3, 4, 2) and not d.has_rsample
    assert isinstance(d.to_event(1), dist.Independent)
