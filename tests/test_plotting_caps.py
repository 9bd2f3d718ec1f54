"""Caps on a map are where they should be."""

import math

import geoopt
import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot

import pyro_manifold.plotting as plotting
from pyro_manifold.distributions import VonMisesFisher
from pyro_manifold.infer import confidence_cone, credible_ball
from pyro_manifold.ops.lon_lat import from_lon_lat

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _close():
    yield
    pyplot.close("all")


def test_outlines_are_circles_on_the_sphere() -> None:
    """All points of a line are as far from its centre as the radius says, also where it crosses the edge of the map
    or a pole."""
    center = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    ax = plotting.sphere_caps(center, 20.0, unit="degrees", color="k")
    assert len(ax.lines) == 3
    for line, c in zip(ax.lines, center, strict=True):
        lon, lat = (torch.as_tensor(np.asarray(v, dtype=float)) for v in line.get_data())
        ok = lon.isfinite()
        assert int(ok.sum()) > 350 and bool((~ok).any()) == (float(c[0]) < 1)
        cosine = from_lon_lat(lon[ok], lat[ok]) @ c.double()
        torch.testing.assert_close(cosine, torch.full_like(cosine, math.cos(math.radians(20))))
        steps = lon.diff().abs()
        assert float(steps[steps.isfinite()].max()) < math.pi


def test_cones_and_balls() -> None:
    x = VonMisesFisher(torch.tensor([0.0, 0.6, 0.8]), 50.0).sample((100,))
    ax = plotting.sphere_points(x)
    plotting.sphere_caps(*confidence_cone(x), ax)
    plotting.sphere_caps(*credible_ball(geoopt.Sphere(), x, 0.9), ax, linestyle="--")
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--"]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"center: got shape \(2,\)"):
        plotting.sphere_caps(torch.ones(2), 0.1)
    with pytest.raises(
        ValueError, match="radius: got 4.0; expected angles from 0 to half a turn, in radians"
    ):
        plotting.sphere_caps(torch.eye(3)[0], 4.0)
    with pytest.raises(ValueError, match="unit: got 'turns'"):
        plotting.sphere_caps(torch.eye(3)[0], 0.1, unit="turns")
