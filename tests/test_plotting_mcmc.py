"""Pictures of chains: what is drawn is where it should be."""

import geoopt
import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure

import pyro_manifold.plotting as plotting
from pyro_manifold.distributions import VonMisesFisher, WrappedNormal
from pyro_manifold.geometry import geometry
from pyro_manifold.infer import frechet_mean
from pyro_manifold.infer.sbc.calibration import SBCResult

matplotlib.use("Agg")
D = torch.float64
SPHERE, BALL = geoopt.Sphere(), geoopt.PoincareBall(c=torch.tensor(1.0, dtype=D))


@pytest.fixture(autouse=True)
def _close():
    yield
    pyplot.close("all")


def test_sphere_trace_is_the_orthographic_view_from_the_mean():
    """Distance from the centre of the picture = sine of the angle to the mean; the far side is faint; all
    lies in the disk."""
    x = VonMisesFisher(torch.tensor([0.6, 0.0, -0.8], dtype=D), 2.0).sample((3, 40))
    ax = plotting.sphere_trace(x, Figure().subplots())
    cos = x @ frechet_mean(SPHERE, x.flatten(0, 1)).mean
    assert len(ax.collections) == 6
    for i, chain in enumerate(cos):
        for side, (mask, alpha) in enumerate(((chain >= 0, None), (chain < 0, 0.2))):
            dots = ax.collections[2 * i + side]
            drawn = np.sort(np.linalg.norm(dots.get_offsets(), axis=-1))
            assert (
                np.allclose(drawn, (1 - chain[mask] ** 2).sqrt().sort().values, atol=1e-3)
                and dots.get_alpha() == alpha
            )
    shown = np.concatenate([np.hypot(*line.get_data()) for line in ax.lines])
    assert np.nanmax(shown) <= 1 + 1e-9
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["chain 0", "chain 1", "chain 2"]
    assert len(plotting.sphere_trace(x, Figure().subplots(), lines=False).lines) == len(ax.lines) - 6


def test_disk_posterior_circles_hold_their_shares():
    loc = geometry(BALL).chart(torch.tensor([0.8, -0.3], dtype=D))
    x = WrappedNormal(BALL, loc, 0.5).sample((2, 200))
    ax = plotting.disk_posterior(BALL, x, Figure().subplots(), probs=(0.5, 0.9))
    mean = frechet_mean(BALL, x.flatten(0, 1)).mean
    inside = geometry(BALL).dist(mean.expand_as(x), x)
    circles = [line for line in ax.lines if line.get_color() == "black"]
    for p, line in zip((0.5, 0.9), circles, strict=True):
        curve = torch.as_tensor(np.stack(line.get_data(), -1))
        radius = geometry(BALL).dist(mean.expand_as(curve), curve)
        assert float(radius.max() - radius.min()) < 1e-4  # the mean is found to 1e-5
        assert float((inside <= radius.mean()).double().mean()) == pytest.approx(p, abs=0.01)


def test_rank_plots_have_an_axis_for_each_statistic():
    x = geometry(SPHERE).uniform_sample((2, 50), (3,), dtype=D)
    axes = np.ravel(plotting.plot_rank(SPHERE, x))
    assert [ax.get_title().split("\n")[0] for ax in axes if ax.get_title()] == [
        "distance to the mean",
        "v1",
        "v2",
    ]


def test_calibration_band_tells_biased_ranks():
    even = torch.arange(160) % 16
    result = SBCResult({"even": even, "high": (even + 5).clamp(max=15)}, 15)
    axes = plotting.plot_sbc(result)
    assert [ax.get_title(loc="left") for ax in axes[:2]] == ["even", "high  (leaves the band)"]
    with pytest.raises(ValueError, match="axes: got 1, expected 2"):
        plotting.plot_sbc(result, Figure().subplots())


@pytest.mark.parametrize(
    "draw, message",
    [
        (lambda x: plotting.sphere_trace(x[0]), r"x: got shape \(4, 3\), expected \(chains, draws\)"),
        (lambda x: plotting.sphere_trace(x[..., :2]), r"points of the sphere S\^2"),
        (
            lambda x: plotting.disk_posterior(BALL, 0.1 * x[..., :2], probs=(0.5, 1.0)),
            "probs: got .*between 0 and 1",
        ),
        (lambda x: plotting.disk_posterior(SPHERE, x), "manifold"),
    ],
)
def test_bad_arguments(draw, message):
    with pytest.raises(ValueError, match=message):
        draw(geometry(SPHERE).uniform_sample((2, 4), (3,), dtype=D))


def test_matplotlib_aliases() -> None:
    x = torch.nn.functional.normalize(torch.randn(2, 5, 3), dim=-1)
    drawn = plotting.sphere_trace(x, lw=2.0, c="red").collections
    assert all(tuple(p.get_facecolors()[0][:3]) == (1.0, 0.0, 0.0) for p in drawn if len(p.get_offsets()))
    drawn = plotting.disk_posterior(
        geoopt.PoincareBall(), 0.1 * torch.randn(2, 5, 2), lw=2.0, color="red"
    ).collections
    assert drawn[0].get_linewidths()[0] == 2.0
