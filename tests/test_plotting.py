import math
import sys
from typing import Any

import geoopt
import numpy as np
import pytest
import torch

import pyro_manifold.distributions as mdist
import pyro_manifold.plotting as plotting
from pyro_manifold.geometry import geometry
from pyro_manifold.training.dimension import DimensionScan
from pyro_manifold.transforms import LinearEmbedding

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

D = torch.float64


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_ball_and_hyperboloid_land_on_the_same_disk() -> None:
    v = torch.randn(20, 2, dtype=D)
    ball = geoopt.PoincareBall(torch.tensor(2.0, dtype=D))
    lorentz = geoopt.Lorentz(torch.tensor(0.5, dtype=D))
    a, b = (plotting.to_plane(m, geometry(m).chart(v)) for m in (ball, lorentz))
    assert torch.allclose(a, b, atol=1e-12) and torch.allclose(
        a, math.sqrt(2) * geometry(ball).chart(v), atol=1e-12
    )
    flat = geoopt.Euclidean(1)
    assert torch.equal(plotting.to_plane(flat, v), v)


def test_geodesic_of_the_disk_is_a_circular_arc_orthogonal_to_the_boundary() -> None:
    ball = geoopt.PoincareBall(torch.tensor(1.0, dtype=D))
    p, q = torch.tensor([0.6, 0.1], dtype=D), torch.tensor([-0.2, 0.7], dtype=D)
    ax = Figure().subplots()
    plotting.geodesic(ball, p, q, ax, color="red")
    x, y = ax.lines[-1].get_data()
    xy = torch.tensor([list(x), list(y)], dtype=D).T
    assert torch.allclose(xy[0], p, atol=1e-12) and torch.allclose(xy[-1], q, atol=1e-12)
    # |x|^2 - 2 c.x + 1 = 0 is the circle about c that meets the unit circle at right angles
    c = torch.linalg.lstsq(2 * xy, (xy.square().sum(-1) + 1).unsqueeze(-1))
    residual = (2 * xy @ c.solution - (xy.square().sum(-1) + 1).unsqueeze(-1)).abs().max()
    assert residual < 1e-10


def test_longitude_and_latitude_there_and_back() -> None:
    x = torch.randn(200, 3, dtype=D)
    x = torch.cat(
        [x / x.norm(dim=-1, keepdim=True), torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]], dtype=D)]
    )
    torch.testing.assert_close(plotting.from_lon_lat(*plotting.lon_lat(x)), x)
    with pytest.raises(ValueError, match="points of the sphere"):
        plotting.lon_lat(x[:, :2])


def test_latent_axes_grid_and_scatter() -> None:
    ball = geoopt.PoincareBall(torch.tensor(1.0, dtype=D))
    z = geometry(ball).chart(torch.randn(30, 2, dtype=D))
    ax = plotting.latent_axes(ball, spacing=0.5, lines=3)
    assert len(ax.lines) == 14 and len(ax.patches) == 1
    for line in ax.lines:
        assert max(x * x + y * y for x, y in zip(*line.get_data(), strict=True)) <= 1 + 1e-12
    plotting.latent_scatter(ball, z, torch.arange(30) % 3, ax, title="digit")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["0", "1", "2"]
    assert sum(len(c.get_offsets()) for c in ax.collections) == 30
    assert len(plotting.latent_scatter(geoopt.Euclidean(1), z).collections) == 1


def test_sphere_density_is_drawn_in_equal_areas() -> None:
    def log_prob(x: torch.Tensor) -> torch.Tensor:
        return torch.full(x.shape[:-1], -math.log(4 * math.pi))

    ax = plotting.sphere_density(log_prob, points=torch.tensor([[0.0, 0.0, 1.0]]), resolution=20)
    assert ax.name == "mollweide"
    mesh = ax.collections[0]
    assert mesh.get_array().size == 20 * 40
    assert float(mesh.get_array().max()) == pytest.approx(1 / (4 * math.pi), rel=1e-6)
    with pytest.raises(ValueError, match="ax: got a rectilinear projection"):
        plotting.sphere_density(log_prob, Figure().subplots())


@pytest.mark.parametrize("projection", ["mollweide", "hammer"])
def test_world_axes_keep_areas_and_put_places_where_they_are(projection: str) -> None:
    ax = plotting.world_axes(projection=projection, spacing=45)
    assert ax.name == projection and len(ax.get_xticks()) == 7 and len(ax.get_yticks()) == 3
    # cells of the graticule: the area on paper over the area on the sphere, to the 1e-3 of matplotlib's own
    # Newton steps
    side = torch.linspace(0, 0.5, 200, dtype=D)
    ratios = []
    for lon, lat in [(0.0, 0.0), (1.0, 0.4), (-3.0, -0.9), (2.6, 1.0)]:
        east, north = torch.full_like(side, lon + 0.5), torch.full_like(side, lat + 0.5)
        back, level = side.flip(0), torch.zeros_like(side)
        outline = [
            (lon + side, level + lat),
            (east, lat + side),
            (lon + back, north),
            (level + lon, lat + back),
        ]
        x, y = ax.transProjection.transform(torch.cat([torch.stack(s, -1) for s in outline]).numpy()).T
        area = 0.5 * abs(float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()))
        ratios.append(area / (0.5 * (math.sin(lat + 0.5) - math.sin(lat))))
    assert ratios == pytest.approx([1.0] * 4, rel=5e-3)
    places = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [0.0, -0.6, 0.8]], dtype=D)
    plotting.sphere_points(places, ax)
    drawn = torch.as_tensor(ax.collections[-1].get_offsets().data)
    expected = [[0, 0], [math.pi / 2, 0], [0, -math.pi / 2], [-math.pi / 2, math.asin(0.8)]]
    assert torch.allclose(drawn, torch.tensor(expected, dtype=D), atol=1e-12)


def test_density_on_a_logarithmic_scale() -> None:
    distribution = mdist.VonMisesFisher(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(50.0))
    ax = plotting.sphere_density(distribution.log_prob, resolution=20, decades=3, projection="hammer")
    values = ax.collections[0].get_array()
    assert ax.name == "hammer" and float(values.max() / values.min()) == pytest.approx(1000, rel=1e-4)
    rows = values.reshape(20, 40)
    assert float(rows[-1].min()) == float(values.max()) and float(rows[0].max()) == float(
        values.min()
    )  # north is up


def test_image_grid_places_every_image() -> None:
    images = torch.arange(5.0).reshape(5, 1, 1).expand(5, 4, 3) / 5
    canvas = plotting.image_grid(images, columns=3, title="five").images[0].get_array()
    assert canvas.shape == (2 * 6, 3 * 5)
    assert [float(canvas[6 * (i // 3) + 2, 5 * (i % 3) + 2]) for i in range(5)] == pytest.approx(
        [0, 0.2, 0.4, 0.6, 0.8]
    )


def test_elbow_is_ringed() -> None:
    ax = plotting.elbow(DimensionScan([0, 1, 2, 3], [2.0, 1.1, 0.05, 0.04]), label="surface")
    line, ring = ax.lines
    assert list(line.get_xydata()[:, 1]) == [2.0, 1.1, 0.05, 0.04] and line.get_label() == "surface"
    assert ring.get_xydata().tolist() == [[2, 0.05]] and ax.get_yscale() == "log"
    assert [t.get_text() for t in ax.texts] == ["n = 2"]


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: plotting.latent_axes(geoopt.Sphere()), "manifold: .* cannot be drawn in the plane"),
        (lambda: plotting.to_plane(geoopt.PoincareBall(), torch.zeros(4, 3)), r"z: got shape \(4, 3\)"),
        (lambda: plotting.latent_axes(geoopt.PoincareBall(), spacing=-1.0), "spacing, lines: got -1.0"),
        (lambda: plotting.image_grid(torch.zeros(3, 4)), r"images: got shape \(3, 4\)"),
        (lambda: plotting.world_axes(projection="lambert"), "projection: got a lambert projection"),
        (lambda: plotting.world_axes(spacing=0.0), "spacing: got 0.0"),
        (lambda: plotting.lon_lat(torch.zeros(4, 2)), r"x: got shape \(4, 2\)"),
        (
            lambda: plotting.latent_scatter(geoopt.PoincareBall(), torch.zeros(4, 2), torch.zeros(3)),
            r"labels: got shape \(3,\)",
        ),
    ],
)
def test_bad_input(call, match) -> None:
    with pytest.raises(ValueError, match=match):
        call()


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        plotting.image_grid(torch.zeros(1, 2, 2))


def test_matplotlib_aliases() -> None:
    """``lw`` is ``linewidth``, ``c`` a colour: in each function that passes style on, on top of its
    defaults."""
    ball = geoopt.PoincareBall()
    z = geometry(ball).chart(torch.randn(6, 2))
    ax = plotting.geodesic(ball, z[0], z[1], lw=3.0, c="red", ls=":")
    line = ax.lines[-1]
    assert (line.get_linewidth(), line.get_color(), line.get_linestyle()) == (3.0, "red", ":")
    points = plotting.latent_scatter(ball, z, lw=2.0, c="red", ec="blue").collections[-1]
    assert points.get_linewidths()[0] == 2.0 and tuple(points.get_facecolors()[0][:3]) == (1.0, 0.0, 0.0)
    points = plotting.latent_scatter(ball, z, torch.tensor([0, 1] * 3), color="red", lw=2.0).collections[-1]
    assert tuple(points.get_facecolors()[0][:3]) == (1.0, 0.0, 0.0)
    x = torch.nn.functional.normalize(torch.randn(6, 3), dim=-1)
    points = plotting.sphere_points(x, c=torch.arange(6.0).numpy(), lw=1.0, cmap="magma").collections[-1]
    assert points.get_array() is not None and points.get_linewidths()[0] == 1.0
    scan = DimensionScan([1, 2, 3], [1.0, 0.1, 0.1])
    assert plotting.elbow(scan, lw=4.0, ms=9).lines[0].get_linewidth() == 4.0


@pytest.mark.parametrize("d", [2, 3])
def test_draws_of_an_atlas(d: int) -> None:
    """As many points as draws; charts on lines at heights 0 and 5 have colours of their own."""
    lines = [LinearEmbedding(torch.eye(d)[:, :1], h * torch.eye(d)[1]) for h in (0.0, 5.0)]
    normal = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(1), 1.0), 1)
    atlas = mdist.Atlas(torch.tensor([0.5, 0.5]), [mdist.Pushforward(normal, g) for g in lines])
    ax = plotting.atlas_draws(atlas, draws=50)
    (points,) = ax.collections
    colour = torch.as_tensor(points.get_array())
    assert len(colour) == 50 and set(colour.tolist()) == {0, 1}
    if d == 2:
        assert torch.equal(torch.as_tensor(points.get_offsets())[:, 1].float(), 5.0 * colour)
    with pytest.raises(ValueError, match="atlas: got points in 4 dimensions"):
        line = LinearEmbedding(torch.eye(4)[:, :1])
        plotting.atlas_draws(mdist.Atlas(torch.ones(1), [mdist.Pushforward(normal, line)]))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: plotting.sphere_density(lambda x: x), r"log_prob: got shape \(.*, 3\) for points"),
        (lambda: plotting.sphere_density(lambda x: 1.0), "log_prob: got float for points"),
        (lambda: plotting.sphere_regions(lambda x: x), r"log_prob: got shape \(.*, 3\) for points"),
        (lambda: plotting.torus_density(lambda x: x), r"log_prob: got shape \(.*, 2\) for points"),
        (lambda: plotting.torus_regions(lambda x: x), r"log_prob: got shape \(.*, 2\) for points"),
        (lambda: plotting.sphere_density(3), "log_prob: got 3, expected a function"),
        (lambda: plotting.sphere_points(np.eye(3)), "x: got a numpy array .*torch.as_tensor"),
        (lambda: plotting.torus_points(np.eye(2)), "x: got a numpy array .*torch.as_tensor"),
        (
            lambda: plotting.to_plane(geoopt.PoincareBall(), 2 * torch.ones(3, 2)),
            "z: got 2, 2 .*points of Poinc",
        ),
        (lambda: plotting.tensor_glyphs(-torch.eye(3).expand(2, 2, 3, 3)), "tensors: got .*Positive"),
    ],
)
def test_what_cannot_be_drawn(call: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
