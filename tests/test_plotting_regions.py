"""Credible regions, tangent fields and maps of the torus: what is drawn is where it should be."""

import math

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.path import Path

import pyro_manifold.plotting as plotting
from pyro_manifold.distributions import VonMisesFisher, WrappedNormal
from pyro_manifold.geometry import Torus

matplotlib.use("Agg")
D = torch.float64


@pytest.fixture(autouse=True)
def _close():
    yield
    pyplot.close("all")


def outlines(ax):
    """The polygons of the contours of a picture, by level, the lowest first."""
    (lines,) = [c for c in ax.collections if isinstance(c, matplotlib.contour.QuadContourSet)]
    return [path.to_polygons() for path in lines.get_paths()]


def test_regions_of_the_sphere_hold_their_shares():
    """For von Mises-Fisher the region is a cap whose height is known: P(z > h) = p for the density k exp(k(z - 1))."""
    k, probs = 20.0, (0.5, 0.9)
    ax = plotting.sphere_regions(
        VonMisesFisher(torch.tensor([1.0, 0.0, 0.0]), k).log_prob, probs=probs, resolution=400
    )
    for p, polygons in zip(sorted(probs, reverse=True), outlines(ax), strict=True):
        lon, lat = np.concatenate(polygons).T
        height = 1 + math.log(1 - p) / k  # as good as exact: exp(-2k) is left out
        assert np.cos(lon) * np.cos(lat) == pytest.approx(np.full(len(lon), height), abs=3e-3)


def test_regions_of_the_torus_hold_their_shares():
    d = WrappedNormal(Torus(), torch.tensor([0.3, -0.5], dtype=D), torch.tensor([0.3, 0.5], dtype=D))
    ax = plotting.torus_regions(d.log_prob, probs=(0.5, 0.9), resolution=300)
    for p, (polygon,) in zip((0.9, 0.5), outlines(ax), strict=True):
        v = (torch.as_tensor(polygon).deg2rad() - torch.tensor([0.3, -0.5])) / torch.tensor([0.3, 0.5])
        assert v.square().sum(-1).numpy() == pytest.approx(np.full(len(v), -2 * math.log(1 - p)), rel=0.02)
        draws = d.sample((4000,)).rad2deg().numpy()
        inside = Path(polygon).contains_points(draws).mean()
        assert abs(inside - p) < 4 * math.sqrt(p * (1 - p) / 4000)  # false alarm 6e-5


def test_shares_outside_0_and_1_are_refused():
    for draw in (plotting.sphere_regions, plotting.torus_regions):
        with pytest.raises(ValueError, match="probs: got .1.0,., expected shares between 0 and 1"):
            draw(lambda x: x[..., 0], probs=(1.0,), resolution=8)


def test_arrows_of_a_rotation_follow_the_parallels():
    """About the north pole, every arrow points east, as long as the parallel is wide."""
    axis = torch.tensor([0.0, 0.0, 1.0])
    ax = plotting.sphere_field(lambda x: torch.linalg.cross(axis.expand_as(x), x), spacing=30.0)
    (arrows,) = [c for c in ax.collections if isinstance(c, matplotlib.quiver.Quiver)]
    assert np.allclose(arrows.V, 0, atol=1e-6) and np.allclose(arrows.U, np.cos(arrows.Y), atol=1e-6)
    with pytest.raises(ValueError, match="spacing: got 0"):
        plotting.sphere_field(lambda x: x, spacing=0.0)


def test_arrows_are_as_long_as_their_vectors():
    pull = torch.tensor([0.6, 0.0, 0.8])

    def field(x):
        return pull - (x @ pull).unsqueeze(-1) * x

    ax = plotting.sphere_field(field, spacing=20.0)
    (arrows,) = [c for c in ax.collections if isinstance(c, matplotlib.quiver.Quiver)]
    x = plotting.from_lon_lat(torch.as_tensor(arrows.X), torch.as_tensor(arrows.Y)).float()
    assert np.allclose(np.hypot(arrows.U, arrows.V), field(x).norm(dim=-1), atol=1e-5)
    # along an arrow in longitude and latitude, the sphere is left in the direction of the vector
    place = torch.as_tensor(np.stack([arrows.X, arrows.Y]), dtype=D)
    step = 1e-6 * torch.as_tensor(np.stack([arrows.U, arrows.V]), dtype=D)
    along = plotting.from_lon_lat(*(place + step)) - plotting.from_lon_lat(*place)
    assert bool((torch.cosine_similarity(along, field(x).to(D), dim=-1) > 1 - 1e-4).all())


def test_torus_density_points_and_field():
    d = WrappedNormal(Torus(), torch.tensor([3.0, 1.0]), torch.tensor([0.3, 0.5]))
    x = torch.tensor([[3.0, 1.0], [4.0, -4.0]])
    ax = plotting.torus_density(d.log_prob, points=x, resolution=60)
    density = ax.collections[0].get_array()
    assert float(density.sum()) * (2 * math.pi / 60) ** 2 == pytest.approx(1, abs=1e-4)  # areas are equal
    row, column = np.unravel_index(density.argmax(), density.shape)  # psi up, phi to the right
    assert (row, column) == (int((180 + math.degrees(1)) / 6), int((180 + math.degrees(3)) / 6))
    drawn = ax.collections[-1].get_offsets()
    wrapped = np.degrees([[3.0, 1.0], [4.0 - 2 * math.pi, 2 * math.pi - 4.0]])
    assert np.allclose(drawn, wrapped, atol=1e-4)
    ax = plotting.torus_field(
        lambda y: torch.stack([y[:, 1], y[:, 0]], -1), Figure().subplots(), spacing=60.0
    )
    (arrows,) = [c for c in ax.collections if isinstance(c, matplotlib.quiver.Quiver)]
    assert len(arrows.U) == 36 and np.allclose(arrows.U, np.radians(arrows.Y), atol=1e-5)
    for call in (
        lambda: plotting.torus_points(x[0]),
        lambda: plotting.torus_field(d.log_prob, spacing=200.0),
    ):
        with pytest.raises(ValueError, match="(x|spacing): got"):
            call()


def test_a_concentrated_trace_is_drawn_close_by():
    x = VonMisesFisher(torch.tensor([0.6, 0.0, -0.8], dtype=D), 1e4).sample((2, 50))
    ax = plotting.sphere_trace(x, Figure().subplots())
    furthest = max(np.abs(c.get_offsets()).max() for c in ax.collections if len(c.get_offsets()))
    assert furthest < ax.get_xlim()[1] < 2 * furthest
    labels = [t.get_text() for t in ax.texts]
    rings = [np.hypot(*line.get_data())[0] for line in ax.lines if len(line.get_xdata()) == 181]
    assert 2 <= len(labels) <= 4
    assert [math.radians(float(t[:-1])) for t in labels] == pytest.approx(np.arcsin(rings).tolist())
    whole = plotting.sphere_trace(x, Figure().subplots(), zoom=False)
    assert whole.get_xlim()[1] >= 1 and not whole.texts
    assert plotting.sphere_trace(x, Figure().subplots(), zoom=30.0).get_xlim()[1] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="zoom: got 120"):
        plotting.sphere_trace(x, zoom=120.0)
