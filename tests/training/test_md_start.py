"""How the M phase starts on manifolds that are rolled up, and what it says of fits that are far from the
rows."""

import math
import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from pyro_manifold.models import ManifoldFlow, ManifoldMixture
from pyro_manifold.training import fit_charts, fit_md, scan_dimension
from pyro_manifold.training.md_floor import local_noise
from pyro_manifold.training.md_unroll import geodesic_coordinates


def helix(n: int) -> Tensor:
    t = 4 * math.pi * (torch.rand(n) - 0.5)
    return torch.stack([t.cos(), t.sin(), t / 6], -1)


def swiss_roll(n: int) -> tuple[Tensor, Tensor]:
    """One turn of a spiral times an interval, in units of 5, and its arc length and height."""
    t, h = 1.5 * math.pi * (1 + 2 * torch.rand(n)), 2 * torch.rand(n)
    length = (t * (1 + t.square()).sqrt() + t.asinh()) / 10
    return torch.stack([t * t.cos() / 5, h, t * t.sin() / 5], -1), torch.stack([length, h], -1)


def torus(n: int) -> Tensor:
    """Radii 2 and 1, uniform in the angles."""
    a, b = 2 * math.pi * torch.rand(2, n)
    return torch.stack([(2 + b.cos()) * a.cos(), (2 + b.cos()) * a.sin(), b.sin()], -1)


def rms(flow: ManifoldFlow, x: Tensor) -> float:
    with torch.no_grad():
        return float(flow.ood_score(x).square().mean().sqrt())


def caught(call: Callable[[], object]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call()
    return [w for w in seen if issubclass(w.category, UserWarning)]


def test_coordinates_by_lengths_of_paths() -> None:
    """Of a swiss roll they are arc length and height, but for a linear map; of rows of one dimension there
    are not two."""
    torch.manual_seed(0)
    x, exact = swiss_roll(600)
    c, cut = geodesic_coordinates(x, 2) or pytest.fail()
    assert not cut
    torch.testing.assert_close(torch.cov(c.mT), torch.eye(2).double(), rtol=0, atol=0.01)
    exact = (exact - exact.mean(0)).double()
    rest = exact - c @ torch.linalg.lstsq(c, exact).solution
    assert float(rest[:, 0].std()) < 0.03 * float(exact[:, 0].std())
    assert float(rest[:, 1].std()) < 0.45 * float(exact[:, 1].std())  # paths of few rows zigzag
    assert geodesic_coordinates(torch.linspace(0, 1, 50).unsqueeze(-1) * torch.ones(3), 2) is None
    t = 2 * math.pi * torch.rand(300)  # a closed circle is cut somewhere: all angles are there, in order
    c, cut = geodesic_coordinates(torch.stack([t.cos(), t.sin()], -1), 1) or pytest.fail()
    assert cut
    order = t[c[:, 0].argsort()]
    steps = (order.diff() + math.pi).remainder(2 * math.pi) - math.pi
    assert bool((steps > 0).all()) or bool((steps < 0).all())
    two = torch.cat([x[:100], x[:100] + 100])  # pieces far apart are joined, not infinitely far
    c, _ = geodesic_coordinates(two, 2) or pytest.fail()
    assert bool(c.isfinite().all())


def test_a_helix_is_unrolled() -> None:
    """In 180 batches; without the start along the rows it ends where the principal axis is, and says so."""
    torch.manual_seed(0)
    x = helix(600)
    for unroll in (True, False):
        torch.manual_seed(1)
        flow = ManifoldFlow.from_data(x, 1, depth=4, hidden=(64, 64))
        plane = rms(flow, x)
        passes = 30 if unroll else 5
        said = caught(
            partial(fit_md, flow, x, epochs=(passes, 0), lr=1e-2, unroll=unroll, disable_progbar=True)
        )
        if unroll:
            assert rms(flow, x) < 0.1 * plane and said == []
        else:
            assert rms(flow, x) > plane / 3 and "far from the rows" in str(said[-1].message)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_noise_beside_a_surface(unit: float) -> None:
    """Its standard deviation to within a factor of 1.3 where the surface is flat; that of a cloud is not
    known."""
    torch.manual_seed(0)
    for dim, d, noise in ((1, 2, 0.03), (1, 3, 0.05), (2, 3, 0.03), (3, 40, 0.01)):
        x = torch.cat([4 * torch.rand(1500, dim), torch.zeros(1500, d - dim)], -1) + noise * torch.randn(
            1500, d
        )
        assert local_noise(unit * x, dim) / unit / (noise * (d - dim) ** 0.5) == pytest.approx(1, abs=0.3)
    assert local_noise(unit * torus(2000), 2) < 0.05 * unit  # bends within a neighbourhood
    assert math.isnan(local_noise(torch.randn(1500, 3), 2)) and math.isnan(local_noise(torch.randn(4, 3), 2))
    assert local_noise(torch.linspace(0, 1, 100).unsqueeze(-1) * torch.ones(3), 1) < 1e-6


@pytest.mark.parametrize(("dim", "d"), [(1, 2), (1, 3), (2, 3), (3, 6)])
def test_noise_of_few_rows_is_unbiased(dim: int, d: int) -> None:
    """With as few rows as are looked at all neighbourhoods have 4 (n + 1) of them: the plane through them
    takes a quarter of the noise, which the estimate puts back. Over three seeds the ratio was .97 to 1.03."""
    generator, k = torch.Generator().manual_seed(0), 4 * (dim + 1)
    squares = []
    for _ in range(300):
        x = torch.zeros(2 * k, d)
        x[:, :dim] = 4 * torch.rand(2 * k, dim, generator=generator)
        squares.append(local_noise(x + 0.02 * torch.randn(2 * k, d, generator=generator), dim) ** 2)
    assert sum(squares) / 300 == pytest.approx(0.02**2 * (d - dim), rel=0.06)


def test_what_is_said_of_a_fit() -> None:
    """A torus that one chart does not cover is far from the rows; flat rows with noise are not, although no
    line does better."""
    torch.manual_seed(0)
    x = torus(800)
    flow = ManifoldFlow.from_data(x, 2, depth=3, hidden=(8,))
    said = [str(w.message) for w in caught(lambda: fit_md(flow, x, epochs=(3, 0), disable_progbar=True))]
    assert (
        "the manifold is far from the rows: rms distance" in said[-1]
        and "planes through near neighbours is 0.0" in said[-1]
    )
    flat = torch.cat([2 * torch.randn(800, 1), 0.05 * torch.randn(800, 2)], -1)
    flow = ManifoldFlow.from_data(flat, 1, depth=3, hidden=(8,))
    assert caught(lambda: fit_md(flow, flat, epochs=(3, 0), lr=0.03, disable_progbar=True)) == []


def test_warnings_point_at_the_call() -> None:
    torch.manual_seed(0)
    x = torus(300)
    flow = ManifoldFlow.from_data(x, 2, depth=2, hidden=(8,), latent_hidden=(8,))
    mixture = ManifoldMixture.from_data(x, 1, 1, depth=2, hidden=(8,), latent_hidden=(8,))
    small = {"disable_progbar": True, "lr": 1e-5}
    for call in (
        lambda: fit_md(flow, x, epochs=(1, 0), **small),
        lambda: fit_md(flow, x, epochs=1, schedule="simultaneous", **small),
        lambda: fit_charts(mixture, x, rounds=1, epochs=1, **small),
        lambda: scan_dimension(x, [1, 2], epochs=1, **small),
    ):
        said = caught(call)
        assert said and {w.filename for w in said} == {__file__}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "rows, dim, most", [(helix, 1, 0.02), (lambda n: swiss_roll(n)[0], 2, 0.05)], ids=["helix", "swiss roll"]
)
def test_defaults_fit_what_is_rolled_up(
    rows: Callable[[int], Tensor], dim: int, most: float, seed: int
) -> None:
    torch.manual_seed(seed)
    x = rows(2000)
    flow = ManifoldFlow.from_data(x, dim)
    assert caught(lambda: fit_md(flow, x, epochs=(None, 0), seed=seed, disable_progbar=True)) == []
    assert rms(flow, x) < most


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "most"), [(0, 0.5), (1, 0.97)])
def test_a_torus_is_not_found_but_said_so(seed: int, most: float) -> None:
    """Six affine couplings learn slowly how the inverse jumps at a seam. Measured: 0.30 and 0.65, the
    principal plane is 0.71 away."""
    torch.manual_seed(seed)
    x = torus(2000)
    flow = ManifoldFlow.from_data(x, 2)
    plane = rms(flow, x)
    said = caught(lambda: fit_md(flow, x, epochs=(None, 0), seed=seed, disable_progbar=True))
    assert rms(flow, x) < most * plane and "far from the rows" in str(said[-1].message)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_four_charts_fit_a_torus(seed: int) -> None:
    """At defaults; on new rows. The principal plane is 0.71 away, one chart 0.3 at best, for its seam."""
    torch.manual_seed(seed)
    x, new = torus(2000), torus(2000)
    mixture = ManifoldMixture.from_data(x, 2, 4)
    assert caught(lambda: fit_charts(mixture, x, epochs=(None, 0), seed=seed, disable_progbar=True)) == []
    with torch.no_grad():
        assert mixture.ood_score(new).square().mean().sqrt() < 0.065
