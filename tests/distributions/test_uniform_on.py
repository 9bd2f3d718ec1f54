"""Uniform distributions on surfaces: against areas in closed form, known marginals and other charts of one surface.
Statistical bounds are 5 standard errors (false alarm 6e-7 each)."""

import math

import pyro
import pytest
import torch
from cases.transforms import circle, injective_flow, ring
from torch import Tensor

import pyro_manifold.distributions as mdist
from pyro_manifold import transforms as mt
from pyro_manifold.geometry import EmbeddedManifold
from pyro_manifold.testing import check_distribution

F64 = torch.float64


def tensor(*x: float) -> Tensor:
    return torch.tensor(x, dtype=F64)


def within_5_se(draws: Tensor, expected: Tensor) -> None:
    error = (draws.mean(0) - expected).abs() / (draws.std(0) / math.sqrt(len(draws)) + 1e-12)
    assert float(error.max()) < 5, f"{float(error.max()):.1f} standard errors off"


def sphere(dim: int) -> mt.Chart:
    """Polar angles: dim 2 or 3."""

    def forward(u: Tensor) -> Tensor:
        parts, sine = [], torch.ones_like(u[..., 0])
        for i in range(dim):
            parts.append(sine * u[..., i].cos())
            sine = sine * u[..., i].sin()
        return torch.stack([*parts, sine], -1)

    def inverse(x: Tensor) -> Tensor:
        angles = [
            torch.atan2(torch.linalg.vector_norm(x[..., i + 1 :], dim=-1), x[..., i]) for i in range(dim - 1)
        ]
        return torch.stack([*angles, torch.atan2(x[..., dim], x[..., dim - 1])], -1)

    return mt.Chart(forward, inverse, dim, dim + 1)


def test_torus() -> None:
    d = mdist.UniformOn(ring(), -math.pi * torch.ones(2, dtype=F64), math.pi * torch.ones(2, dtype=F64))
    torch.testing.assert_close(d.log_volume, tensor(4 * math.pi**2 * 1.4).log()[0], rtol=1e-12, atol=0)
    assert d.volume_error < 1e-12
    torch.manual_seed(0)
    x = d.sample((2000,))
    within_5_se(x, torch.zeros(3, dtype=F64))
    # the angle around the tube has a density proportional to 2 + 0.7 cos b
    within_5_se(d.latent_coordinates(x)[:, 1].cos(), tensor(0.7 / 4)[0])
    within_5_se((x - d.mean).square(), d.variance)
    torch.testing.assert_close(d.log_prob(x[:9]), (-d.log_volume).expand(9))
    assert float(d.entropy()) == pytest.approx(float(d.log_volume))


@pytest.mark.slow
def test_every_check_on_a_torus() -> None:
    def make() -> mdist.UniformOn:
        return mdist.UniformOn(ring(), tensor(-1.0, -2.0), tensor(2.0, 3.0))

    check_distribution(make, {}, skip=("one_graph",))


@pytest.mark.parametrize("dim", [2, 3])
def test_spheres(dim: int) -> None:
    high = tensor(*[math.pi] * (dim - 1), math.pi)
    low = tensor(*[0.0] * (dim - 1), -math.pi)
    d = mdist.UniformOn(sphere(dim), low, high)
    area = {2: 4 * math.pi, 3: 2 * math.pi**2}[dim]
    assert float(d.log_volume.exp()) == pytest.approx(area, rel=1e-11)
    torch.manual_seed(0)
    x = d.sample((4000,))
    within_5_se(x, torch.zeros(dim + 1, dtype=F64))
    within_5_se(
        (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(1), torch.eye(dim + 1, dtype=F64).flatten() / (dim + 1)
    )


def test_box_and_off_the_surface() -> None:
    half = mdist.UniformOn(circle(), tensor(0.0), tensor(math.pi), off_manifold="reject")
    x = tensor(0.0, 1.0), tensor(0.0, -1.0), tensor(0.0, 1.1)
    expected = tensor(-math.log(math.pi), -math.inf, -math.inf)
    torch.testing.assert_close(half.log_prob(torch.stack(x)), expected)
    torch.testing.assert_close(half.log_prob(torch.stack(x[2:])), tensor(-math.inf))
    projected = mdist.UniformOn(circle(), tensor(0.0), tensor(math.pi))
    torch.testing.assert_close(projected.log_prob(x[2]), expected[0])
    ends = torch.stack([tensor(1.0, 0.0), tensor(-1.0, 0.0)])  # on the boundary, to rounding
    assert bool(half.log_prob(ends).isfinite().all())


def test_two_charts_of_one_surface() -> None:
    """The upper half of the sphere by angles and by a graph over the disk: not of equal boxes, so compare areas of
    the same cap as the mean of an indicator."""
    torch.manual_seed(0)
    graph = mt.Chart(
        lambda u: torch.cat([u, (1 - u.square().sum(-1, keepdim=True)).sqrt()], -1),
        lambda x: x[..., :2],
        2,
        3,
    )
    d = mdist.UniformOn(graph, tensor(-0.7, -0.7), tensor(0.7, 0.7))
    x = d.sample((5000,))
    cap = (x[:, 2] > 0.9).double()
    within_5_se(cap, (2 * math.pi * 0.1 / d.log_volume.exp()).to(F64))
    assert d.volume_error < 1e-6


def test_learned_surface() -> None:
    """The volume follows the weights, and log_prob has its derivative."""
    flow = injective_flow().double()
    d = mdist.UniformOn(flow, -1.0, 1.0)
    assert d.low.dtype == F64
    weight = next(p for p in flow.parameters() if p.requires_grad and p.numel() > 1)
    value = d.log_volume
    (g,) = torch.autograd.grad(value, weight)
    step = torch.zeros_like(weight)
    step.view(-1)[0] = 1e-5
    with torch.no_grad():
        ahead, behind = [], []
        for out, sign in ((ahead, 1), (behind, -2)):
            weight.add_(sign * step)
            out.append(d.log_volume)
        weight.add_(step)
    slope = (ahead[0] - behind[0]) / 2e-5
    torch.testing.assert_close(g.view(-1)[0], slope, rtol=1e-5, atol=1e-8)
    x = d.sample((5,))
    torch.testing.assert_close(d.log_prob(x), (-value).expand(5), rtol=0, atol=1e-8)
    (own,) = torch.autograd.grad(d.log_prob(x[0]), weight)
    torch.testing.assert_close(own, -g, rtol=1e-5, atol=1e-7)
    assert d.volume_error < 1e-2
    for p in flow.parameters():
        p.requires_grad_(False)
    first = d.log_volume
    assert d.log_volume is first  # remembered
    with torch.no_grad():
        weight.mul_(1.1)
    assert float((d.log_volume - first).abs()) > 1e-4


def test_embedded_manifold_and_site() -> None:
    surface = EmbeddedManifold(ring(), origin=tensor(0.1, 0.2))
    d = mdist.UniformOn(surface, tensor(-1.0, -1.0), tensor(1.0, 1.0))
    with pyro.plate("n", 4):
        x = pyro.sample("x", d)
    assert x.shape == (4, 3) and d.expand((4,)).log_prob(x).shape == (4,)
    assert isinstance(d.expand((4,)), mdist.UniformOn)


def test_a_missed_peak_raises_the_bound() -> None:
    """A stretch that the nodes do not see: the area is wrong, but proposals meet it, draws are made anew with a
    higher bound, and are right."""
    torch.manual_seed(0)

    def forward(u: Tensor) -> Tensor:
        return torch.cat([u, 40 * torch.exp(-(((u - 0.3017) / 0.02) ** 2))], -1)

    d = mdist.UniformOn(mt.Chart(forward, lambda x: x[..., :1], 1, 2), tensor(0.0), tensor(1.0), nodes=8)
    exact = mdist.UniformOn(d.transform, tensor(0.0), tensor(1.0), nodes=200)
    assert float(d.log_volume) < 0.1 < 4 < float(exact.log_volume)
    u = d.latent_coordinates(d.sample((300,)))[:, 0]
    near = ((u - 0.3017).abs() < 0.01).double()
    log = exact._box.volume(200)
    share = log[2].exp()[((log[1][:, 0] - 0.3017).abs() < 0.01)].sum()
    within_5_se(near, share)


@pytest.mark.parametrize(
    "arguments, match",
    [
        (
            dict(surface=mt.Pad(4, 5), low=0.0, high=1.0),
            "surface: got a map of 4 coordinates, expected at most 3",
        ),
        (
            dict(surface=mt.Pad(1, 2), low=1.0, high=0.0),
            "low: got 1 at .*, expected finite numbers below high",
        ),
        (
            dict(surface=mt.Pad(2, 3), low=torch.zeros(3), high=1.0),
            r"low: got shape \(3,\), expected a number or \(2,\)",
        ),
        (dict(surface=mt.Pad(1, 2), low=0.0, high=1.0, off_manifold="clip"), "off_manifold: got 'clip'"),
    ],
)
def test_errors(arguments: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        mdist.UniformOn(**arguments, validate_args=True)
