"""Distributions on unions of images: mass by quadrature, overlaps, what is on no chart, charts asked about
their own points only."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import two_circles
from torch import Tensor

from pyro_manifold.distributions import Atlas, Pushforward
from pyro_manifold.flows import Affine, Coupling, InjectiveFlow
from pyro_manifold.transforms import Chart, LinearEmbedding, Pad

F64 = torch.float64


def normal(loc: list[float], scale: float = 0.5) -> Any:
    return dist.Normal(torch.tensor(loc, dtype=F64), scale).to_event(1)


def circles(**kwargs: Any) -> Atlas:
    distributions = [
        Pushforward(normal([a]), g, **kwargs) for a, g in zip((0.4, -1.0), two_circles(), strict=True)
    ]
    return Atlas(torch.tensor([0.3, 0.7], dtype=F64), distributions)


def cap(u: Tensor) -> Tensor:
    """A spherical cap over the disk of radius 2 / (e + 1/e), by stereographic projection of a bounded u."""
    v = u.tanh() / 2
    q = v.square().sum(-1, keepdim=True)
    return torch.cat([2 * v, 1 - q], -1) / (1 + q)


def flat(x: Tensor) -> Tensor:
    return (2 * x[..., :2] / (1 + x[..., 2:])).atanh()


def test_mass_on_two_circles() -> None:
    """Arc length of both circles, but for 1e-5 of it beyond the cuts of the charts; shares are the
    weights."""
    d, n = circles(), 2000
    angle = 2 * math.pi * torch.arange(n, dtype=F64) / n
    for k, share in enumerate((0.3, 0.7)):
        x = two_circles()[k](angle.unsqueeze(-1))
        mass = float(d.log_prob(x).exp().sum()) * 2 * math.pi / n
        assert mass == pytest.approx(share, abs=1e-5)


def test_mass_on_two_caps() -> None:
    """Two caps, the second upside down and below: area of triangles that know no Jacobian."""
    down = Chart(lambda u: -cap(u) - 1, lambda x: flat(-x - 1), 2, 3)
    distributions = [Pushforward(normal([0.1, -0.2], 0.4), g) for g in (Chart(cap, flat, 2, 3), down)]
    d = Atlas(torch.tensor([0.2, 0.8], dtype=F64), distributions)
    grid = torch.linspace(-2.2, 2.2, 141, dtype=F64)
    for distribution, share in zip(distributions, (0.2, 0.8), strict=True):
        x = distribution.transform(torch.cartesian_prod(grid, grid)).reshape(141, 141, 3)
        a, b, c, e = x[:-1, :-1], x[1:, :-1], x[:-1, 1:], x[1:, 1:]
        area = sum(torch.linalg.cross(p - o, q - o).norm(dim=-1) / 2 for o, p, q in ((a, b, c), (e, b, c)))
        p = d.log_prob(x).exp()
        mean = (p[:-1, :-1] + p[1:, :-1] + p[:-1, 1:] + p[1:, 1:]) / 4
        assert float((mean * area).sum()) == pytest.approx(share, rel=2e-3)  # second order in the step


def test_shares_of_draws() -> None:
    """Of 10000 draws, 0.7 are on the right circle (5 standard errors: 0.023)."""
    d = circles()
    x = d.sample((10000,))
    assert float((x[:, 0] > 0).double().mean()) == pytest.approx(0.7, abs=0.023)
    assert d.support.check(x).all()


def test_overlapping_charts_add_up() -> None:
    """The same line by two charts is the mixture of two normals on it."""
    lines = [LinearEmbedding(torch.tensor([[s], [0.0]], dtype=F64)) for s in (1.0, 2.0)]
    d = Atlas(torch.tensor([0.5, 0.5], dtype=F64), [Pushforward(normal([0.0], 1.0), g) for g in lines])
    t = torch.linspace(-3, 3, 7, dtype=F64)
    x = torch.stack([t, 0 * t], -1)
    exact = torch.stack([dist.Normal(0.0, s).log_prob(t) for s in (1.0, 2.0)]).logsumexp(0) - math.log(2)
    torch.testing.assert_close(d.log_prob(x), exact)


def test_off_the_union() -> None:
    x = torch.tensor(
        [[-1.0, 0.0], [-0.9, 0.0], [0.9, 0.0]], dtype=F64
    )  # on the left circle, near it, near the right one
    near = circles().log_prob(x)
    left = math.log(0.3) + normal([0.4]).log_prob(torch.zeros(1, dtype=F64))
    torch.testing.assert_close(near[:2], left.expand(2))
    right = math.log(0.7) + normal([-1.0]).log_prob(torch.tensor([math.pi], dtype=F64))
    torch.testing.assert_close(near[2], right)
    assert circles(off_manifold="reject").log_prob(x).isfinite().tolist() == [True, False, False]
    with pytest.raises(
        ValueError, match=r"value: got -0.9, 0 at index \(1,\), expected points of the image of one of"
    ):
        circles(off_manifold="error").log_prob(x)
    d = circles(off_manifold="reject")
    w = d.weights.clone().requires_grad_()
    distribution = Atlas(w, d.components)
    (g,) = torch.autograd.grad(distribution.log_prob(x).clamp_min(-1e3).sum(), w)  # rows of -inf leave no NaN
    assert g.isfinite().all()


def test_a_chart_is_asked_about_its_own_points() -> None:
    """The first chart has no derivative where the second one's points project to."""
    g = Chart(
        lambda u: torch.cat([u**3, 0 * u], -1),
        lambda x: x[..., :1].abs().pow(1 / 3) * x[..., :1].sign(),
        1,
        2,
    )
    h = LinearEmbedding(torch.tensor([[0.0], [1.0]], dtype=F64), torch.tensor([0.0, 5.0], dtype=F64))
    d = Atlas(torch.tensor([0.5, 0.5], dtype=F64), [Pushforward(normal([0.0]), f) for f in (g, h)])
    assert d.log_prob(torch.tensor([[0.0, 5.1], [1.0, 0.0]], dtype=F64)).isfinite().all()
    with pytest.raises(ValueError, match="no full rank"):
        d.log_prob(torch.tensor([[0.0, 0.0]], dtype=F64))


def test_enumerated_chart_of_a_latent_site() -> None:
    """Posterior shares of the two circles given a noisy point, by enumeration, against quadrature."""
    d, y = circles(), torch.tensor([-0.2, 0.6], dtype=F64)
    noise = 0.8
    evidence = []
    for distribution in d.components:
        u = torch.linspace(-3.1, 3.1, 4001, dtype=F64).unsqueeze(-1)
        joint = distribution.base_dist.log_prob(u) + dist.Normal(distribution.transform(u), noise).log_prob(
            y
        ).sum(-1)
        evidence.append(joint.logsumexp(0))
    exact = (d.weights.log() + torch.stack(evidence)).softmax(-1)
    x = d.sample((200000,))
    weight = dist.Normal(x, noise).log_prob(y).sum(-1).softmax(0)
    seen = weight[x[:, 0] < 0].sum()
    se = (weight.square() * ((x[:, 0] < 0).double() - seen).square()).sum().sqrt()
    assert abs(float(seen - exact[0])) < 5 * float(se)


def test_observed_in_a_plate() -> None:
    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Dirichlet(torch.ones(2, dtype=F64)))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", Atlas(w, circles().components), obs=x)

    x = circles().sample((200,))
    kernel = pyro.infer.NUTS(model)
    mcmc = pyro.infer.MCMC(kernel, num_samples=100, warmup_steps=50, disable_progbar=True)
    mcmc.run(x)
    left = float((x[:, 0] < 0).double().sum())
    posterior = dist.Beta(1 + left, 201 - left)
    mean = mcmc.get_samples()["w"][:, 0].mean()
    assert (
        abs(float(mean - posterior.mean)) < 5 * float(posterior.stddev) / 20**0.5
    )  # at least 20 effective draws


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: Atlas(torch.ones(1), [normal([0.0])]), "components: got"),
        (lambda: Atlas(torch.ones(0), []), "components: got none; expected Pushforward"),
        (
            lambda: Atlas(
                torch.ones(2) / 2,
                [Pushforward(normal([0.0]), Pad(1, 3)), Pushforward(normal([0.0, 0.0]), Pad(2, 3))],
            ),
            "components: got 1 -> 3, 'project'; 2 -> 3, 'project'; expected .* one latent dimension",
        ),
        (
            lambda: Atlas(torch.ones(3) / 3, circles().components),
            r"weights: got shape \(3,\); expected 2",
        ),
        (lambda: circles().log_prob(torch.zeros(3, dtype=F64)), r"value: got shape \(3,\)"),
        (lambda: circles().log_prob(torch.full((2,), math.nan, dtype=F64)), "value: got nan|Expected value"),
    ],
)
def test_bad_input(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_a_wide_atol_reaches_no_neighbouring_image() -> None:
    """Two lines 0.1 apart under an atol of 1: every point has the density of its own line, and the mass is
    1."""
    lines = [
        LinearEmbedding(torch.tensor([[1.0], [0.0]], dtype=F64), torch.tensor([0.0, h], dtype=F64))
        for h in (0.0, 0.1)
    ]
    for off in ("project", "reject", "error"):
        parts = [Pushforward(normal([0.0]), line, off_manifold=off) for line in lines]
        d = Atlas(torch.tensor([0.25, 0.75], dtype=F64), parts, atol=1.0)
        t = torch.linspace(-8, 8, 1601, dtype=F64)
        total = 0.0
        for h, w in ((0.0, 0.25), (0.1, 0.75)):
            p = d.log_prob(torch.stack([t, torch.full_like(t, h)], -1)).exp()
            total += float(p.sum()) * 0.01
            torch.testing.assert_close(p, w * parts[0].base_dist.log_prob(t.unsqueeze(-1)).exp())
        assert total == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("dtype, gap", [(torch.float32, 1e-4), (F64, 1e-9)])
def test_images_close_to_each_other_do_not_add_up(dtype: torch.dtype, gap: float) -> None:
    """Two lines closer than the square root of the machine precision, as well-trained charts of one curve
    are; and two that cross at an angle of ``100 gap``: the mass of both is 1."""
    t = torch.linspace(-4, 4, 2001, dtype=dtype)
    for slope, h in ((0.0, gap), (100 * gap, 0.0)):
        lines = [
            LinearEmbedding(torch.tensor([[1.0], [s]], dtype=dtype), torch.tensor([0.0, a], dtype=dtype))
            for s, a in ((0.0, 0.0), (slope, h))
        ]
        base = dist.Normal(torch.zeros(1, dtype=dtype), 0.5).to_event(1)
        d = Atlas(torch.tensor([0.25, 0.75], dtype=dtype), [Pushforward(base, line) for line in lines])
        total = sum(float(d.log_prob(line(t.unsqueeze(-1))).exp().sum()) * 0.004 for line in lines)
        assert total == pytest.approx(1.0, abs=0.01)  # a few of 2001 points are at the crossing itself


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_coincident_charts_of_a_flow_add_up(dtype: torch.dtype) -> None:
    """One surface in two sets of coordinates, through flows that round: each of 500 points is on both."""
    torch.manual_seed(0)
    bends = [Coupling(3, parts, hidden=(16,), kind="affine").to(dtype) for parts in ([2], [0, 1], [2])]
    for layer in bends:
        for p in layer.parameters():
            p.data.normal_(0, 0.3)
    turn = Affine(
        torch.tensor([[0.0, 3.0, 0.0], [-0.5, 0.2, 0.0], [0.0, 0.0, 1.0]], dtype=dtype),
        torch.ones(3, dtype=dtype) * 0,
    )
    charts = [InjectiveFlow(Pad(2, 3), bends), InjectiveFlow(Pad(2, 3), [turn, *bends])]
    base = dist.Normal(torch.zeros(2, dtype=dtype), 1.0).to_event(1)
    parts = [Pushforward(base, g) for g in charts]
    x = charts[0](torch.randn(500, 2, dtype=dtype)).detach()
    d = Atlas(torch.tensor([0.4, 0.6], dtype=dtype), parts)
    w = d.weights.log()
    exact = torch.stack([w[k] + p.log_prob(x) for k, p in enumerate(parts)]).logsumexp(0)
    torch.testing.assert_close(d.log_prob(x), exact)


def test_gradient_of_draws() -> None:
    """One chart without regions: the derivative of a mean coordinate, E cos(u) = exp(-s^2 / 2) cos(m), by draws; 5
    standard errors of 20000. Otherwise an error, and Pyro's ELBO takes the score function: the derivative of
    E_q[log p - log q], log p = cos, with respect to the weights, by enumeration of the charts."""
    torch.manual_seed(0)
    m = torch.tensor([0.4], dtype=F64, requires_grad=True)
    d = Atlas(torch.ones(1, dtype=F64), [Pushforward(dist.Normal(m, 0.5).to_event(1), two_circles()[0])])
    assert d.has_rsample and d.expand((3,)).rsample((2,)).shape == (2, 3, 2)
    x = d.rsample((20_000,))
    slope = torch.autograd.grad((x[..., 0] + 2).mean(), m)[0]
    exact = -math.exp(-(0.5**2) / 2) * math.sin(0.4)
    assert float(slope) == pytest.approx(exact, abs=5 * 0.5 / 20_000**0.5)
    two = circles()
    assert not two.has_rsample
    with pytest.raises(NotImplementedError, match="draws with a gradient for several charts"):
        two.rsample()
    x0 = two_circles()[0](torch.tensor([0.1], dtype=F64))
    assert torch.equal(d.log_prob(x0), d.components[0].log_prob(x0))


def test_score_function_where_draws_have_no_gradient() -> None:
    """SVI with an atlas as guide: the ELBO's slope in the logits of the weights is that of the exact expectation, with
    f = the first coordinate as log p, whose mean over chart k is c_k + exp(-s^2 / 2) cos(m_k). 4 standard errors."""
    torch.manual_seed(0)
    logits = torch.zeros(2, dtype=F64, requires_grad=True)
    ms, centres = (0.4, -1.0), (-2.0, 2.0)

    def guide() -> None:
        parts = [Pushforward(normal([a]), g) for a, g in zip(ms, two_circles(), strict=True)]
        pyro.sample("x", Atlas(logits.softmax(-1), parts))

    def model() -> None:
        x = pyro.sample("x", Atlas(torch.tensor([0.5, 0.5], dtype=F64), circles().components))
        pyro.factor("f", x[..., 0])

    slopes = []
    for _ in range(150):
        loss = pyro.infer.Trace_ELBO().differentiable_loss(model, guide)
        slopes.append(torch.autograd.grad(loss, logits)[0])
    slope = torch.stack(slopes)
    means = torch.tensor(
        [c + math.exp(-(0.5**2) / 2) * math.cos(m) for c, m in zip(centres, ms, strict=True)]
    )
    exact = -0.25 * (
        means - means.flip(0)
    )  # of -sum w_k mean_k; the divergence of equal weights is stationary
    assert bool(((slope.mean(0) - exact).abs() < 4 * slope.std(0) / 150**0.5).all())
