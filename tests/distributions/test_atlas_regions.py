"""Atlases of charts in regions: mass by quadrature and by draws, draws against the density, overlaps, what the charts say
of a value, charts asked about their own points only, bad input."""

import copy
import math
import pickle
from typing import Any

import geoopt
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_manifold.distributions import Atlas, Pushforward
from pyro_manifold.distributions.regions import Regions
from pyro_manifold.nn import NeighbourRegions, VectorQuantizer
from pyro_manifold.testing import two_sample_test
from pyro_manifold.transforms import Chart, InjectiveTransform, LinearEmbedding

F64 = torch.float64


class Arc(Chart):
    """The unit circle by the angle from a direction; asked about points that its region does not contain, it
    complains."""

    def __init__(self, start: float, most: float = math.inf) -> None:
        self.start, self.most = start, most
        super().__init__(self.point, self.angle, 1, 2, pure=True)

    def point(self, u: Tensor) -> Tensor:
        return torch.cat([(u + self.start).cos(), (u + self.start).sin()], -1)

    def angle(self, x: Tensor) -> Tensor:
        turned = torch.atan2(x[..., 1:], x[..., :1]) - self.start
        u = torch.remainder(turned + math.pi, 2 * math.pi) - math.pi
        assert bool((u.abs() <= self.most).all()), "a chart was asked about a point outside of its region"
        return u


def circle(charts: int = 3, *, dtype: torch.dtype = F64, eps: float = 0.0, m: int = 1, most: float = math.inf,
           scale: float = 0.5, **kwargs: Any) -> Atlas:  # fmt: skip
    """The unit circle by arcs around as many codes, with normal angles."""
    starts = [2 * math.pi * k / charts for k in range(charts)]
    codes = torch.tensor([[math.cos(a), math.sin(a)] for a in starts], dtype=dtype)
    base = [dist.Normal(torch.full((1,), 0.1 * k, dtype=dtype), scale).to_event(1) for k in range(charts)]
    parts = [Pushforward(b, Arc(a, most)) for b, a in zip(base, starts, strict=True)]
    weights = torch.arange(1, charts + 1, dtype=dtype) / (charts * (charts + 1) / 2)
    regions = NeighbourRegions(nn.Identity(), VectorQuantizer(codes), m, eps)
    return Atlas(weights, parts, regions=regions, **kwargs)


def ring(n: int, dtype: torch.dtype = F64) -> Tensor:
    t = 2 * math.pi * (torch.arange(n, dtype=dtype) + 0.5) / n
    return torch.stack([t.cos(), t.sin()], -1)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("m, eps", [(1, 0.0), (1, 0.5), (2, 0.0), (2, 0.2), (3, 0.0)])
@pytest.mark.parametrize("overlap", ["nearest", "add"])
def test_mass_of_a_circle(dtype: torch.dtype, m: int, eps: float, overlap: str) -> None:
    """The images coincide, so both rules add them up where regions overlap. By arc length; the error is that of the
    acceptance, 5 standard errors of 16384 draws of each chart."""
    d = circle(dtype=dtype, m=m, eps=eps, overlap=overlap)
    n = 3000
    total = float(d.log_prob(ring(n, dtype)).exp().sum()) * 2 * math.pi / n
    relative = d.acceptance().error / d.acceptance().mean
    bound = 5 * float((d.weights * relative).square().sum().sqrt())
    assert total == pytest.approx(1, abs=bound + 2e-3)
    mass, error = d.mass(4000)
    assert mass == pytest.approx(1, abs=5 * error + bound)


def test_acceptance_against_the_normal_distribution() -> None:
    """The share of a normal angle within 60 degrees of the code; 5 standard errors."""
    d, third = circle(), torch.tensor(math.pi / 3, dtype=F64)
    mean, error = d.acceptance()
    for k in range(3):
        loc = 0.1 * k
        exact = float(torch.special.ndtr((third - loc) / 0.5) - torch.special.ndtr((-third - loc) / 0.5))
        assert float(mean[k]) == pytest.approx(exact, abs=5 * float(error[k]))
        assert 0 < float(error[k]) < 0.003


def test_gradient_of_the_acceptance() -> None:
    """Of log Z with respect to mean and scale of the base, against the closed form; 5 standard errors of the score,
    about 0.05."""
    loc, scale = (
        torch.tensor([0.4], dtype=F64, requires_grad=True),
        torch.tensor([0.6], dtype=F64, requires_grad=True),
    )
    regions = NeighbourRegions(
        nn.Identity(), VectorQuantizer(torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=F64))
    )
    parts = [Pushforward(dist.Normal(loc, scale).to_event(1), Arc(a)) for a in (0.0, math.pi)]
    d = Atlas(torch.tensor([0.5, 0.5], dtype=F64), parts, regions=regions)
    z = d.acceptance().mean[0]
    ends = torch.tensor([-math.pi / 2, math.pi / 2], dtype=F64)
    below = torch.special.ndtr((ends - loc) / scale)
    exact = torch.autograd.grad((below[1] - below[0]).log(), [loc, scale])
    for got, want in zip(torch.autograd.grad(z.log(), [loc, scale]), exact, strict=True):
        assert float(got) == pytest.approx(float(want), abs=0.05)
    # and log_prob has it: one density, whatever was cached before
    x = ring(7)[:2]
    with torch.no_grad():
        before = d.log_prob(x)
    torch.testing.assert_close(d.log_prob(x).detach(), before)
    (g,) = torch.autograd.grad(d.log_prob(x).sum(), loc)
    own = ((torch.atan2(x[:, 1], x[:, 0]) - loc) / scale**2).sum().detach() - 2 * exact[0].sum()
    assert float(g) == pytest.approx(float(own), abs=0.1)


@pytest.mark.parametrize("m, eps", [(1, 0.0), (2, 0.3)])
def test_draws_have_the_density(m: int, eps: float) -> None:
    """Against angles drawn from the density on a fine grid: an exact two-sample test, false alarm 1e-3."""
    torch.manual_seed(3)
    d = circle(m=m, eps=eps)
    x, which = d.sample_with_chart((700,))
    grid = ring(100_000)
    y = grid[torch.multinomial(d.log_prob(grid).exp(), 700, replacement=True)]
    assert two_sample_test(geoopt.Euclidean(ndim=1), x, y, permutations=999) > 1e-3
    assert d.regions is not None and bool(d.regions(x).gather(-1, which.unsqueeze(-1)).all())
    share = (which == 2).double().mean()
    assert float(share) == pytest.approx(0.5, abs=5 * 0.5 / 700**0.5)


def test_charts_are_asked_about_their_regions_only() -> None:
    d = circle(most=math.pi / 3 + 1e-9)
    assert d.log_prob(ring(50)).isfinite().all()
    assert d.log_prob(ring(50).reshape(5, 10, 2)).shape == (5, 10)
    assert d.log_prob(ring(50)[0]).shape == () and d.log_prob(ring(50)[:0]).shape == (0,)
    with pytest.raises(AssertionError, match="asked about a point"):
        circle(most=0.5).log_prob(ring(50))


def test_copies_in_a_plate_ask_charts_about_their_regions_only() -> None:
    """As Pyro's plate expands an observed site. Chart 0 would complain about all other points."""
    d = circle(most=math.pi / 3 + 1e-9)
    x = ring(50)
    torch.testing.assert_close(d.expand((50,)).log_prob(x), d.log_prob(x))
    torch.testing.assert_close(d.expand((3, 1)).log_prob(x), d.log_prob(x).expand(3, 50))
    torch.testing.assert_close(d.expand((50,)).expand((2, 50)).log_prob(x), d.log_prob(x).expand(2, 50))
    assert d.expand((4,)).sample((2,)).shape == (2, 4, 2)
    torch.testing.assert_close(d.project(1.1 * x.reshape(5, 10, 2)), x.reshape(5, 10, 2))


def test_images_that_nearly_coincide() -> None:
    """Two lines 0.01 apart, regions that overlap in the middle third: ``nearest`` has mass 1 on both lines together,
    ``add`` on either of them."""
    lines: list[InjectiveTransform] = [
        LinearEmbedding(torch.tensor([[1.0], [0.0]], dtype=F64), torch.tensor([0.0, h], dtype=F64))
        for h in (0.0, 0.01)
    ]
    base = dist.Uniform(torch.full((1,), -3.0, dtype=F64), 3.0).to_event(1)
    codes = VectorQuantizer(torch.tensor([[-2.0, 0.0], [2.0, 0.0]], dtype=F64))
    regions = NeighbourRegions(nn.Identity(), codes, 1, 2.0)  # to x = 1 and from x = -1
    t = torch.linspace(-3, 3, 6001, dtype=F64)[1:-1]
    for overlap, lines_counted in (("nearest", 2), ("add", 1)):
        parts = [Pushforward(base, g) for g in lines]
        d = Atlas(torch.full((2,), 0.5, dtype=F64), parts, regions=regions, overlap=overlap)
        total = sum(float(d.log_prob(g(t.unsqueeze(-1))).exp().sum()) * 0.001 for g in lines[:lines_counted])
        if (
            overlap == "nearest"
        ):  # each line also has the values that the other chart alone covers, at its end
            total -= 2 * 0.5 / 4 * 2
        assert total == pytest.approx(1, abs=0.02)
        mass, error = d.mass(4000)
        assert mass == pytest.approx(1, abs=5 * error + 0.02)


def test_limits_inside_of_regions_that_overlap() -> None:
    """Two charts of one line whose coordinates end at 0.2 and begin at -0.3, inside of regions that go on to 0.6 and from
    -0.6: there a chart adds nothing to the other, which goes on. A value that no chart reaches is still projected."""
    line = LinearEmbedding(torch.tensor([[1.0], [0.0]], dtype=F64))
    parts = [
        Pushforward(dist.Normal(torch.full((1,), a, dtype=F64), 1.0).to_event(1), line) for a in (-0.5, 0.5)
    ]
    codes = VectorQuantizer(torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=F64))
    limits = dict(
        normals=torch.tensor([[1.0], [-1.0]], dtype=F64),
        reach=torch.tensor([[0.2, 2.0], [2.0, 0.3]], dtype=F64),
        centres=torch.tensor([[-1.0], [1.0]], dtype=F64),
    )
    regions = NeighbourRegions(nn.Identity(), codes, 1, 3.0, **limits)
    below = torch.special.ndtr(torch.tensor([[-1.5, 0.7], [-0.8, 1.5]], dtype=F64))
    acceptance = below[:, 1] - below[:, 0]
    weights = torch.tensor([0.3, 0.7], dtype=F64)
    d = Atlas(weights, parts, regions=regions, overlap="add", acceptance=acceptance)
    t = (torch.arange(40_000, dtype=F64) + 0.5) / 10_000 - 2
    p = d.log_prob(torch.stack([t, 0 * t], -1)).exp()
    assert float(p.sum()) / 10_000 == pytest.approx(1, abs=1e-4)
    own = torch.stack([c.latent_log_prob(t.unsqueeze(-1)).exp() for c in parts]) * (
        weights / acceptance
    ).unsqueeze(-1)
    own = own * torch.stack([t <= 0.2, t >= -0.3])
    torch.testing.assert_close(p, own.sum(0))
    torch.manual_seed(0)
    mass, error = d.mass(20_000)
    assert mass == pytest.approx(1, abs=5 * error + 1e-4)
    far = d.log_prob(torch.tensor([[2.5, 1.0], [2.0, 0.0]], dtype=F64))
    assert far[0] == far[1] and far.isfinite().all()


def test_responsibilities_and_coordinates() -> None:
    d = circle(m=2, eps=0.0)
    x = ring(11)
    joint = d.log_joint(x)
    torch.testing.assert_close(d.responsibilities(x), joint.softmax(-1))
    assert ((d.responsibilities(x) > 0).sum(-1) == 2).all()
    u = torch.stack([c.transform.inv(x) for c in d.components], -2)
    torch.testing.assert_close(d.expected_coordinates(x), (joint.softmax(-1).unsqueeze(-1) * u).sum(-2))
    torch.testing.assert_close(d.project(1.3 * x), x)
    one = circle()
    which = one.responsibilities(x).argmax(-1)
    torch.testing.assert_close(one.expected_coordinates(x), u[torch.arange(11), which])


def limits(d: Atlas, half: float) -> NeighbourRegions:
    normals = torch.tensor([[1.0], [-1.0]], dtype=F64)
    reach = torch.full((3, 2), half, dtype=F64)
    regions = d.regions
    assert isinstance(regions, NeighbourRegions)
    centres = torch.zeros(3, 1, dtype=F64)
    return NeighbourRegions(nn.Identity(), regions.quantizer, normals=normals, reach=reach, centres=centres)


def test_limited_coordinates() -> None:
    """Arcs of 0.6 on either side of their codes: no draw and no mass beyond; values in the gaps are scored as the
    ends of the arcs, or rejected."""
    d = circle()
    cut = Atlas(d.weights, d.components, regions=limits(d, 0.6))
    x = cut.sample((2000,))
    away = torch.stack([c.transform.inv(x).abs().squeeze(-1) for c in d.components]).amin(0)
    assert float(away.max()) <= 0.6
    gap = torch.tensor([math.cos(0.8), math.sin(0.8)], dtype=F64)
    end = torch.tensor([math.cos(0.6), math.sin(0.6)], dtype=F64)
    torch.testing.assert_close(cut.log_prob(gap), cut.log_prob(end))
    torch.testing.assert_close(cut.project(gap), end)
    parts = [Pushforward(c.base_dist, c.transform, off_manifold="reject") for c in d.components]
    strict = Atlas(d.weights, parts, regions=limits(d, 0.6))
    assert strict.log_prob(gap) == -math.inf and strict.support.check(end)
    n = 30_000
    total = float(strict.log_prob(ring(n)).exp().sum()) * 2 * math.pi / n
    assert total == pytest.approx(1, abs=0.02)
    assert float(strict.responsibilities(gap).sum()) == 0


def test_changed_in_place_and_copies() -> None:
    """The acceptance is remembered until something that it was computed from changes."""
    loc = torch.zeros(1, dtype=F64)
    base = [dist.Normal(loc, 0.5).to_event(1) for _ in range(3)]
    d = circle()
    d = Atlas(
        d.weights,
        [Pushforward(b, c.transform) for b, c in zip(base, d.components, strict=True)],
        regions=d.regions,
    )
    before = d.acceptance().mean
    assert d.acceptance().mean is before or torch.equal(d.acceptance().mean, before)
    loc.add_(1.0)
    after = d.acceptance().mean
    assert bool((after < before - 0.1).all())
    x = ring(9)
    for twin in (copy.deepcopy(d), d.expand((2,)), d.expand((4, 2)).expand((4, 2))):
        torch.testing.assert_close(twin.log_prob(x[0]), d.log_prob(x[0]).expand(twin.batch_shape))
    lines = LinearEmbedding(torch.ones(2, 1, dtype=F64))
    simple = Atlas(d.weights[:1] * 6, [Pushforward(base[0], lines)], regions=NeighbourRegions(
        nn.Identity(), VectorQuantizer(torch.zeros(1, 2, dtype=F64))))  # fmt: skip
    torch.testing.assert_close(pickle.loads(pickle.dumps(simple)).log_prob(x), simple.log_prob(x))


class Nowhere(Regions):
    def forward(self, x: Tensor) -> Tensor:
        inside = torch.zeros(x.shape[:-1] + (3,), dtype=torch.bool)
        inside[..., :2] = True
        return inside


class Wrong(Regions):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(x.shape[:-1] + (2,), dtype=torch.bool)


def remade(**kwargs: Any) -> Atlas:
    d = circle()
    return Atlas(d.weights, d.components, **kwargs)


Q = VectorQuantizer(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
ONE = torch.ones(1, 1)


@pytest.mark.parametrize(
    "make, match",
    [
        (
            lambda: remade(regions=Nowhere(), draws=100).log_prob(ring(3)),
            "none of 100 draws of chart 2 falls into",
        ),
        (lambda: remade(regions=Wrong()).log_prob(ring(3)), r"regions: got a value of shape \(3, 2\)"),
        (lambda: remade(overlap="sum"), "overlap: got 'sum'"),
        (lambda: remade(acceptance=torch.ones(3)), r"acceptance: got shape \(3,\), regions None"),
        (lambda: remade(regions=Wrong(), acceptance=torch.zeros(3)), "acceptance: got shape"),
        (lambda: circle().expand((2,)).mass(), "n: the mass is that of one distribution"),
        (lambda: circle().log_prob(torch.zeros(3, dtype=F64)), r"value: got shape \(3,\)"),
        (lambda: NeighbourRegions(nn.Identity(), Q, 3), "neighbours: got 3; expected at most 2"),
        (lambda: NeighbourRegions(nn.Identity(), Q, normals=ONE), "got some of them"),
        (
            lambda: NeighbourRegions(nn.Identity(), Q, normals=ONE, reach=ONE, centres=ONE),
            r"normals, reach, centres: got shapes \(1, 1\), \(1, 1\) and \(1, 1\); expected \(J, n\), \(2, J\)",
        ),
        (
            lambda: NeighbourRegions(
                nn.Identity(), Q, normals=ONE, reach=-torch.ones(2, 1), centres=torch.zeros(2, 1)
            ),
            "centres: got a point outside",
        ),
    ],
)
def test_bad_input(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.slow
def test_a_region_that_is_hardly_ever_hit() -> None:
    """Bounded: an error, not a hang."""
    d = circle()
    never = Atlas(d.weights, d.components, regions=Nowhere(), acceptance=torch.full((3,), 0.5, dtype=F64))
    with pytest.raises(RuntimeError, match="rejection sampler: .* draws were not accepted"):
        never.sample((50,))
